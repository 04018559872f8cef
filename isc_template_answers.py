"""What this template accepts as answers, and how free text gets into the files it writes.

The one place for these rules, standard library only: `isc_template_extension` applies them right after each
question, `hooks/pre_gen_project.py` once more, because cookiecutter does not ask again for replayed answers.
"""

from __future__ import annotations

import difflib
import fnmatch
import json
import keyword
import re
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# What holds for launch files is said once, in the project: a file that imports nothing of it.
_PROJECT = Path(__file__).parent / "{{cookiecutter.project_slug}}"
_LAUNCH_KEYS = runpy.run_path(str(_PROJECT / "isc_runtime" / "submission" / "launch_keys.py"))
COMPUTE_MODES: tuple[str, ...] = _LAUNCH_KEYS["COMPUTE_MODES"]
MOST_GPUS: int = _LAUNCH_KEYS["MOST_GPUS"]
LICENSES = ("MIT", "BSD-3-Clause", "Apache-2.0", "Proprietary")
CHOICES = {"compute_mode": COMPUTE_MODES, "license": LICENSES}
LONGEST_SLUG = 50
LONGEST_NAME = 100
LONGEST_AUTHOR = 200

# A folder of that name would shadow the package for whatever runs beside it, and installers refuse a project
# that depends on itself, or whose tools do. Here are those that are imported or installed by another name.
PACKAGES = frozenset(
    {"absl", "cycling_utils", "google", "grpc", "importlinter", "pil", "pip", "sklearn", "xdist", "yaml"}
)
OWN_MODULES = frozenset({"data", "isc_runtime", "model", "tests", "train"})
WINDOWS_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
)
CACHES = frozenset({"__pycache__", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache"})
LEFTOVERS = CACHES | {".venv", "build", "checkpoints", "rehearsals", "runs"}

_SLUG = re.compile(r"[a-z]([a-z0-9_-]*[a-z0-9])?")
_SURROGATE = re.compile("[\ud800-\udfff]")
_JINJA = re.compile("{[{%#]")


Rule = Callable[[str, Mapping[str, Any]], str | None]


def _text(longest: int) -> Rule:
    def rule(value: str, _answers: Mapping[str, Any]) -> str | None:
        if _SURROGATE.search(value):
            return "is not valid UTF-8. Type it again, in a terminal set to UTF-8"
        if not any(character.isprintable() and not character.isspace() for character in value):
            return "is blank. Write at least one visible character"
        if found := _JINJA.search(value):
            return f"holds {found[0]}, which a later `cruft update` would run as Jinja. Leave it out"
        return f"has {len(value)} characters. Use at most {longest}" if len(value) > longest else None

    return rule


def _slug(value: str, answers: Mapping[str, Any]) -> str | None:
    if reason := _slug_form(value, answers):
        return reason
    owner = _owner(value)
    return f"is the name of {owner}. Choose another, such as {value}-experiment" if owner else None


def _slug_form(value: str, _answers: Mapping[str, Any]) -> str | None:
    if not _SLUG.fullmatch(value):
        return (
            "is not a plain name. Use lower-case letters, digits, - and _, with a letter first"
            " and a letter or digit last"
        )
    if len(value) > LONGEST_SLUG:
        return f"has {len(value)} characters. Use at most {LONGEST_SLUG}"
    return None


def _owner(slug: str) -> str | None:
    """Who has this name already; a dash counts as an underscore, as it does for pip and import."""
    name = slug.replace("-", "_")
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        return "a Python keyword"
    if name in sys.stdlib_module_names or name == "test":
        return "a module of Python's standard library"
    if name in PACKAGES | _listed(_PROJECT / "requirements.lock") | _asked_for(_PROJECT / "pyproject.toml"):
        return "a package that the project uses"
    if name in _listed(Path(__file__).parent / "constraints-dev.txt"):
        return "a package that the project's tools use"
    if name in OWN_MODULES:
        return "a part of the generated project"
    return "a device on Windows" if name in WINDOWS_DEVICES else None


def _listed(lock: Path) -> set[str]:
    """The distributions of which a file has the versions, as they would be imported."""
    return set(map(_plain, re.findall(r"^([\w.-]+)==", lock.read_text(encoding="utf-8"), re.MULTILINE)))


def _asked_for(pyproject: Path) -> set[str]:
    """The distributions that a project asks for, and its extras; Python 3.10 has no tomllib."""
    head = pyproject.read_text(encoding="utf-8").partition("\n[tool.")[0]
    names = re.findall(r'^(?:    |([\w-]+) = \[)"([\w.-]+)', head, re.MULTILINE)
    return {_plain(name) for pair in names for name in pair if name}


def _plain(name: str) -> str:
    return re.sub("[-.]", "_", name).lower()


def _project_id(value: str, _answers: Mapping[str, Any]) -> str | None:
    if value == "" or re.fullmatch(_LAUNCH_KEYS["PROJECT_ID"], value):
        return None
    return "is not an ISC project id. Copy it from Control Plane (prj-...-YYMMDD), or leave it empty for now"


def _dataset_id(value: str, _answers: Mapping[str, Any]) -> str | None:
    if re.fullmatch(_LAUNCH_KEYS["DATASET_ID"], value):
        return None
    return "is not an ISC dataset id. Copy it from Control Plane (uds-...-YYMMDD)"


def _gpus(value: str, _answers: Mapping[str, Any]) -> str | None:
    # What may be refused in one of the modes the project's own check says, with its source: one rule, there.
    if not re.fullmatch("[1-9][0-9]?", value) or int(value) > MOST_GPUS:
        return f"is not a number of GPUs. Give a whole number from 1 to {MOST_GPUS}"
    return None


def _one_of(*choices: str) -> Rule:
    def rule(value: str, _answers: Mapping[str, Any]) -> str | None:
        return None if value in choices else f"is not one of the choices. Use {', '.join(choices)}"

    return rule


RULES: dict[str, Rule] = {
    "project_name": _text(LONGEST_NAME),
    "project_slug": _slug,
    "author": _text(LONGEST_AUTHOR),
    "isc_project_id": _project_id,
    "dataset_id": _dataset_id,
    "compute_mode": _one_of(*CHOICES["compute_mode"]),
    "gpus": _gpus,
    "license": _one_of(*CHOICES["license"]),
}


def understood(question: str, value: Any) -> Any:
    """The choice that is meant by its number in the menu, or by its name in whatever case; else `value`."""
    choices = CHOICES.get(question, ())
    names = {name: choice for n, choice in enumerate(choices, 1) for name in (str(n), choice.casefold())}
    return names.get(value.strip().casefold(), value) if isinstance(value, str) else value


def no_question(name: str) -> str | None:
    """What is wrong with giving an answer to `name`, in one line; `None` when it is a question.

    Names that begin with an underscore are settings of cookiecutter, not answers.
    """
    if name in RULES or name.startswith("_"):
        return None
    close = difflib.get_close_matches(name.casefold(), RULES, 1)
    hint = f"Did you mean {close[0]}?" if close else f"It asks for {', '.join(RULES)}."
    return f"{json.dumps(name)} is no question of this template. {hint}"


def problem(question: str, answers: Mapping[str, Any], is_update: bool = False) -> str | None:
    """What is wrong with the answer to `question`, in one line with the cure; `None` when it is good.

    Args:
        question: one of RULES.
        answers: to all questions so far.
        is_update: the project has its name already, whoever has taken that since.
    """
    value = answers.get(question)
    if not isinstance(value, str):
        return f"{question}: the answer has to be text. Give {question} one value, in quotes."
    rule = _slug_form if is_update and question == "project_slug" else RULES[question]
    reason = rule(value, answers)
    # ASCII, so that it can be printed on any terminal and no control character of the answer reaches it.
    shown = json.dumps(value if len(value) <= 60 else f"{value[:60]}...")
    return reason and f"{question}: {shown} {reason}."


def slug_for(slugified_name: str) -> str:
    """A slug that is accepted, as close as can be to a name that cookiecutter's `slugify` made plain."""
    slug = slugified_name[: LONGEST_SLUG - len("-experiment")].strip("-")
    if not slug:
        return "experiment"
    if not slug[0].isalpha():
        slug = f"experiment-{slug}"
    return f"{slug}-experiment" if _owner(slug) else slug


def one_line(text: str) -> str:
    """`text` with every run of white space and control characters turned into one blank."""
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", text).strip()


# JSON leaves these as they are, but TOML forbids DEL, YAML forbids or folds the others, and the bidirectional
# overrides would let a name reorder the line that it stands in.
_NEEDS_ESCAPE = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff]")


def quoted_text(text: str) -> str:
    """`text` as it has to be written between double quotes in TOML, JSON and YAML alike.

    Without the quotes, so that the unrendered file, quotes around the expression, is valid too. Not in ASCII:
    JSON writes an emoji as a surrogate pair, which TOML refuses.
    """
    escaped = json.dumps(text, ensure_ascii=False)[1:-1]
    return _NEEDS_ESCAPE.sub(lambda match: f"\\u{ord(match[0]):04x}", escaped)


def markdown_text(text: str) -> str:
    """`text` as a line of Markdown that reads as it was typed, wherever it stands: no markup, no HTML."""
    escaped = re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", one_line(text))
    # Elsewhere in a line these are plain; at its start they begin a list, a rule or an underlined heading.
    return re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", escaped)


def leftovers(template: Path) -> list[str]:
    """What tools have left in the generated project's folder: it would be copied into each new project."""
    found = sorted(
        path.relative_to(template)
        for path in template.glob("{{cookiecutter.project_slug}}/**/*")
        if path.name in LEFTOVERS and path.is_dir()
    )
    return [f"{path}: left by a tool in the template. Remove it there with `make clean`." for path in found]


def in_the_way(source: Path, project: Path, copied: Sequence[str], is_kept: bool) -> list[str]:
    """What of a folder that was there before would be lost, and nobody has said that it may be.

    Args:
        source: the folder of the template that is baked.
        project: the folder into which it is.
        copied: patterns of what is copied and not rendered: cookiecutter overwrites that in spite of -s.
        is_kept: whether it was told to keep what is there (-s).
    """
    names = sorted(original.relative_to(source) for original in source.rglob("*"))
    if is_kept:
        names = [name for name in names if _matches(name, copied)]
    links = [name for name in names if (project / name).is_symlink()]
    lost = [name for name in names if is_kept and _differ(source / name, project / name)]
    cure = "Make the project elsewhere, and take over what you want."
    if links:
        return [f"{_some(links)}: cookiecutter would write through this link. {cure}"]
    return (
        [f"-s would not keep {_some(lost)}: cookiecutter keeps only what it renders. {cure}"] if lost else []
    )


def _matches(name: Path, patterns: Sequence[str]) -> bool:
    parts = [str(part) for part in (name, *name.parents)]
    return any(fnmatch.filter(parts, pattern) for pattern in patterns)


def _differ(ours: Path, theirs: Path) -> bool:
    return ours.is_file() and theirs.is_file() and ours.read_bytes() != theirs.read_bytes()


def _some(names: Sequence[Path]) -> str:
    return ", ".join(map(str, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


FILTERS: dict[str, Callable[[str], str]] = {
    "markdown_text": markdown_text,
    "one_line": one_line,
    "quoted_text": quoted_text,
    "slug_for": slug_for,
}
