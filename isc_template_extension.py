"""The Jinja extension of this template: filters for free text, and a check right after each question."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

from cookiecutter.exceptions import FailedHookException
from jinja2 import Environment
from jinja2.ext import Extension
from rich.markup import escape
from rich.prompt import Prompt


class TemplateAnswers(Extension):
    """Puts the filters and checks of `isc_template_answers` into cookiecutter's Jinja environment."""

    def __init__(self, environment: Environment) -> None:
        """Reads the rules anew for each environment.

        `cruft update` renders two versions of the template in one process, one after the other in the same
        directory: an imported module would be the old version's in both.
        """
        super().__init__(environment)
        rules = runpy.run_path(str(Path(__file__).with_name("isc_template_answers.py")))
        self._problem = rules["problem"]
        environment.filters.update(rules["FILTERS"])
        environment.globals.update(rules["GLOBALS"], check_answer=self.check_answer)

    def check_answer(self, question: str, answers: dict[str, Any]) -> str:
        """Asks again on a terminal until the answer is good, and puts that answer into `answers`.

        Raises:
            FailedHookException: the answer is refused and nobody is there to ask. The only exception of which
                cookiecutter prints the message alone.
        """
        if (
            question not in answers
        ):  # replayed: only what the replay lacks is in here, pre_gen checks the rest
            return "replayed"
        while reason := self._problem(question, answers):
            if not _someone_answers():
                raise FailedHookException(reason)
            answers[question] = Prompt.ask(f"  [red]{escape(reason)}[/]\n  {question}")
        return "yes"


def _someone_answers() -> bool:
    """Whether a person is asked. cookiecutter does not tell an extension about --no-input: its frame does."""
    frame = sys._getframe()
    while frame.f_back and frame.f_code.co_name != "prompt_for_config":
        frame = frame.f_back
    return frame.f_locals.get("no_input") is False and sys.stdin.isatty()
