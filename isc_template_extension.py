"""What this template adds to cookiecutter: filters for text, a check after each question, its version."""

from __future__ import annotations

import functools
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from jinja2 import Environment
from rich.markup import escape
from rich.prompt import Prompt

TEMPLATE = Path(__file__).parent
Refusal = Callable[[str], BaseException]


def prepare(environment: Environment, refused: Refusal) -> None:
    """Puts filters and functions into a Jinja environment of cookiecutter.

    Args:
        environment: where they are put.
        refused: makes the exception that ends a bake with one line.

    Raises:
        refused: a name was given on the command line that is no question of this template.
    """
    rules = runpy.run_path(str(TEMPLATE / "isc_template_answers.py"))
    for name in _given():
        if reason := rules["no_question"](name):
            raise refused(reason)
    environment.filters.update(rules["FILTERS"])
    environment.globals.update(
        check_answer=_Check(environment, rules, refused).check_answer,
        template_version=_version,
        template_directory=lambda: str(_baked_template()),
        bake=_bake,
    )


@functools.cache
def _version() -> str:
    version: str = runpy.run_path(str(TEMPLATE / "isc_template_version.py"))["version"](_baked_template())
    return version


def _baked_template() -> Path:
    """Where the template is that is baked: cookiecutter renders files in a folder of it, and hooks in itself.

    In a program that bakes several templates, this module may be another one's.
    """
    here = Path.cwd()
    return here if (here / "cookiecutter.json").is_file() else here.parent


def _bake() -> dict[str, Any]:
    """What a hook, a process of its own, cannot find out.

    Returns:
        version: the true one. source: what is copied. is_update: `cruft update` and `cruft diff` bake in
        temporary folders, of which nobody needs to hear. is_new: the bake has made the project's folder; else
        all in it may be somebody's (-f). is_kept: what was there was not overwritten (-s).
    """
    baking = _locals_of("cookiecutter", "generate_files") or {}
    return {
        "version": _version(),
        "source": str(_baked_template() / "{{cookiecutter.project_slug}}"),
        "is_update": _is_update(),
        "is_new": baking.get("output_directory_created", False),
        "is_kept": baking.get("skip_if_file_exists", False),
    }


def _is_update() -> bool:
    return any(_locals_of("cruft", command) is not None for command in ("update", "diff"))


def _given() -> dict[str, Any]:
    """The answers on the command line; for an update none: those of cruft are from the day of the bake."""
    for program, function in (("cookiecutter", "cookiecutter"), ("cruft", "create"), ("cruft", "link")):
        given = (_locals_of(program, function) or {}).get("extra_context")
        if isinstance(given, dict):
            return given
    return {}


def _locals_of(program: str, function: str) -> dict[str, Any] | None:
    """The variables of the nearest caller of that name; cookiecutter tells an extension nothing of itself."""
    frame: FrameType | None = sys._getframe()
    while frame:
        if frame.f_code.co_name == function and frame.f_globals.get("__name__", "").startswith(program):
            return frame.f_locals
        frame = frame.f_back
    return None


class _Check:
    def __init__(self, environment: Environment, rules: dict[str, Any], refused: Refusal) -> None:
        self._environment = environment
        self._understood, self._problem = rules["understood"], rules["problem"]
        self._refused = refused

    def check_answer(self, question: str, answers: dict[str, Any]) -> str:
        """Puts what is meant into `answers`; on a terminal it asks again until that is good.

        Raises:
            Refused: it is not, and nobody is there to ask.
        """
        if question not in answers:
            return "replayed"  # only what the replay lacks is in here, pre_gen checks the rest
        answers[question] = self._understood(question, answers[question])
        while reason := self._problem(question, answers, _is_update()):
            asking = _locals_of("cookiecutter", "prompt_for_config") or {}
            if asking.get("no_input") is not False or not sys.stdin.isatty():
                raise self._refused(reason)
            answers[question] = self._ask_again(question, answers, reason, asking["context"])
        return "yes"

    def _ask_again(self, question: str, answers: dict[str, Any], reason: str, context: dict[str, Any]) -> str:
        labels = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))["__prompts__"]
        template = self._environment.from_string(context["cookiecutter"][question])
        default = template.render(cookiecutter=answers)
        is_good = self._problem(question, {**answers, question: default}) is None
        prompt = f"  [red]{escape(reason)}[/]\n  {labels[question]}"
        answer: str = Prompt.ask(prompt, default=default) if is_good else Prompt.ask(prompt)
        understood: str = self._understood(question, answer)
        return understood
