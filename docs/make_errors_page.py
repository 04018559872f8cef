"""Writes errors.md: every exit code, and every error with its cure, read from the code.

python docs/make_errors_page.py
"""

from __future__ import annotations

import ast
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "{{cookiecutter.project_slug}}"
RUNTIME = PROJECT / "isc_runtime"
PAGE = Path(__file__).with_name("errors.md")
OPEN = "…"  # what is known only when it happens

sys.path.insert(0, str(PROJECT))

from isc_runtime.errors import ExitCode  # noqa: E402
from isc_runtime.explanation.cuda import CUDA_CAUSES  # noqa: E402
from isc_runtime.explanation.python import PYTHON_CAUSES  # noqa: E402

ARGUMENTS = ("what", "where", "hint", "exit_code")
BEGINNING = f"""# Errors

Every exit code, and what is said with it: what is wrong, and what to do. `{OPEN}` stands for what is known
only when it happens: a path, a rank, a number. Written by `docs/make_errors_page.py`, from the code; a test
holds that it is current. In the logs of an experiment `python -m isc_runtime explain LOG` finds the line.

An error is one line, `ERROR: what is wrong: where. What to do.`, and the process ends with its code. A run
that was asked to stop saves and ends with 128 + the signal's number; 137 is SIGKILL, and nothing was said.
"""


def page() -> str:
    """The page as it should be."""
    found: dict[ExitCode, dict[str, str]] = {code: {} for code in ExitCode}
    for file in files():
        for code, what, hint in errors_in(file):
            found[code].setdefault(what, hint)
    parts = [BEGINNING]
    for code, meaning in meanings().items():
        parts.append(f"## {code.value}: {meaning}\n")
        if found[code]:
            parts.append(table(found[code]))
    parts += [
        "## What Python, torch and CUDA say\n",
        "A traceback, and the code is 1. `explain` knows these.\n",
    ]
    causes = {cause.meaning: cause.to_do for cause in (*PYTHON_CAUSES, *CUDA_CAUSES)}
    return "\n".join([*parts, table({braces(what): braces(hint) for what, hint in causes.items()})])


def table(rows: dict[str, str]) -> str:
    """What is wrong, and what to do."""
    lines = [f"| {cell(what)} | {cell(hint)} |" for what, hint in sorted(rows.items())]
    return "\n".join(["| what is wrong | what to do |", "|---|---|", *lines, ""])


def cell(text: str) -> str:
    """A text that Markdown shows as it is."""
    return re.sub(r"([|<>*_`])", r"\\\1", " ".join(text.split()))


def braces(text: str) -> str:
    """`{name}`, which a fact replaces, as what is open."""
    return re.sub(r"(\{\w+\})+", OPEN, text)


def files() -> list[Path]:
    """The runtime's modules, and what of the user's raises errors of ours."""
    runtime = [file for file in sorted(RUNTIME.rglob("*.py")) if "tests" not in file.parts]
    return [*runtime, *(PROJECT / name for name in ("train.py", "model.py", "data.py"))]


def meanings() -> dict[ExitCode, str]:
    """Each exit code with the comment beside it."""
    text = (RUNTIME / "errors.py").read_text()
    found = re.findall(r"^    ([A-Z]+) = \d+(?:  # (.*))?$", text, flags=re.MULTILINE)
    return {ExitCode[name]: comment or "the training is complete" for name, comment in found}


def errors_in(file: Path) -> Iterator[tuple[ExitCode, str, str]]:
    """The errors that a module raises: code, what is wrong, what to do."""
    tree = ast.parse(file.read_text())
    inner: dict[ast.Call, ast.AST] = {}  # each call, and the innermost function that it stands in
    for scope in ast.walk(tree):
        if isinstance(scope, ast.Module | ast.FunctionDef):
            inner |= {node: scope for node in ast.walk(scope) if isinstance(node, ast.Call)}
    for call, scope in inner.items():
        if getattr(call.func, "id", "") == "IscError":
            given = dict(zip(ARGUMENTS, call.args, strict=False))
            given |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
            names = {**strings(tree), **strings(scope, call.lineno)}
            what, hint = (text_of(given.get(name), names) for name in ("what", "hint"))
            code = re.search(
                r"ExitCode\.([A-Z]+)", ast.unparse(given["exit_code"]) if "exit_code" in given else ""
            )
            if what != OPEN:  # else it is passed on, and said where it is made
                yield ExitCode[code[1]] if code else ExitCode.UNFIT, what, hint


def strings(scope: ast.AST, before: float = math.inf) -> dict[str, ast.expr]:
    """What names stand for in a function or module, in the line `before`."""
    found: dict[str, ast.expr] = {}
    nodes = [node for node in ast.walk(scope) if isinstance(node, ast.Assign) and node.lineno <= before]
    for node in sorted(nodes, key=lambda node: node.lineno):
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=False))
            found |= {name.id: value for name, value in pairs if isinstance(name, ast.Name)}
    return found


def text_of(node: ast.expr | None, names: dict[str, ast.expr], depth: int = 0) -> str:
    """A text as it will be said, as far as the code tells."""
    if node is None:
        return ""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        parts = [text_of(part, names, depth) for part in node.values]
        return re.sub(f"{OPEN}{OPEN}+", OPEN, "".join(parts))
    if isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.Name) and node.value.id.isupper():
        return text_of(node.value, names, depth)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return text_of(node.left, names, depth) + text_of(node.right, names, depth)
    if isinstance(node, ast.IfExp):
        return " / ".join(dict.fromkeys(text_of(one, names, depth) for one in (node.body, node.orelse)))
    if isinstance(node, ast.Name) and node.id in names and depth < 5:
        return text_of(names[node.id], names, depth + 1)
    return OPEN


if __name__ == "__main__":
    PAGE.write_text(page())
