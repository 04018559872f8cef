"""Does the image install everything that the training imports?

What is imported is read from train.py, model.py, data.py and the modules of the project that these import;
nothing is run. What a distribution brings is read from its own metadata, where it is installed. (Lists of all
distributions and their modules exist, but they are old, have 77 MB, or do not know scikit-learn.) Where the
requirements are not installed, names alone are compared, and what that cannot tell is a warning.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from isc_runtime.submission.finding import Finding
from isc_runtime.submission.lock import COMMIT, LOCK, NEEDED, normalized, required_names, unconditional_names
from isc_runtime.submission.python_source import name_of, parse_python

ROOTS = ("train", "model", "data")
RUNTIME = "isc_runtime"  # the template's: its requirements are the template's, too
_KNOWN = sys.stdlib_module_names | {RUNTIME}
# An `if` that asks for one of these: what it imports is needed only somewhere.
_CONDITIONS = frozenset({"TYPE_CHECKING", "version_info", "platform", "find_spec"})
_FORGIVEN = frozenset({"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})
_STATEMENTS = (ast.stmt, ast.excepthandler, ast.match_case)


@dataclass(frozen=True)
class Import:
    """An import that must succeed.

    Attributes:
        module: the dotted name.
        where: file and line.
    """

    module: str
    where: str

    @property
    def top(self) -> str:
        """The first part of the name."""
        return self.module.partition(".")[0]


def check_imports(root: Path) -> Iterator[Finding]:
    """Each import of the training that nothing in the image brings, once.

    Args:
        root: the project.
    """
    if not required_names(root, LOCK):
        return  # it is missing, and that is said already
    brought = required_names(root, NEEDED, LOCK, COMMIT)
    missing: dict[str, Import] = {}
    for imported in needed_imports(root):
        if imported.top not in missing and not _is_brought(imported, brought):
            missing[imported.top] = imported
    if not missing:
        return
    # Those with a condition may not be meant for this machine.
    is_installed = not any(_record(name) is None for name in unconditional_names(root, NEEDED))
    unclear = []
    for imported in missing.values():
        owner = _owner(imported.module)
        if owner or is_installed:
            yield _missing(imported, owner)
        else:
            unclear.append(imported)
    if unclear:
        names = ", ".join(imported.top for imported in unclear)
        what = f"{names} may be missing in {LOCK}: not all of it is installed here, so names were compared"
        yield Finding(unclear[0].where, what, "Check again with the Python that trains here.", "warning")


def _is_brought(imported: Import, brought: set[str]) -> bool:
    name = normalized(imported.top)
    if name in brought or any(_holds(_record(other) or "", imported.module) for other in brought):
        return True
    # `cuda` of cuda-bindings, which only Linux with a GPU installs
    return any(other.startswith(f"{name}-") and _record(other) is None for other in brought)


def _missing(imported: Import, owner: str) -> Finding:
    what = f"Nothing in {LOCK} brings {imported.top}" + (f", which comes with {owner}" if owner else "")
    hint = (
        f"Put {owner or 'the distribution that it comes with'} into {NEEDED}, and run: make lock. "
        f"If the training can do without it, import it in a try with except ImportError."
    )
    return Finding(imported.where, what, hint)


def needed_imports(root: Path) -> Iterator[Import]:
    """What train.py, model.py and data.py, and the project's modules that they import, import of others."""
    waiting = [Path(f"{name}.py") for name in ROOTS]
    seen: set[Path] = set()
    while waiting:
        file = waiting.pop(0)
        if file in seen or not (root / file).is_file():
            continue
        seen.add(file)
        try:
            tree = parse_python(root / file)
        except (OSError, SyntaxError, ValueError):
            continue  # of the three it is said elsewhere
        for node in sorted(_required(tree.body), key=lambda node: node.lineno):
            for module in _modules(node, file):
                top = module.partition(".")[0]
                if top != RUNTIME and _is_local(root, top):
                    waiting += _files(module)
                elif top not in _KNOWN:
                    yield Import(module, f"{file.as_posix()}:{node.lineno}")


def _is_local(root: Path, top: str) -> bool:
    return (root / f"{top}.py").is_file() or any((root / top).glob("*.py"))


def _modules(node: ast.Import | ast.ImportFrom, file: Path) -> list[str]:
    """All that could be modules in an import: of `from a import b` both a and a.b."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    package = list(file.parts[:-1])
    base = package[: len(package) - node.level + 1] if node.level else []
    parts = [*base, *([node.module] if node.module else [])]
    return [".".join([*parts, alias.name]) for alias in node.names if parts]


def _files(module: str) -> list[Path]:
    parts = module.split(".")
    paths = [Path(*parts[:length]) for length in range(1, len(parts) + 1)]
    return [file for path in paths for file in (path.with_suffix(".py"), path / "__init__.py")]


def _required(statements: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports in statements, without those that are allowed to fail or are for type checkers."""
    waiting: list[ast.AST] = [*statements]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.Try) and any(_forgives(handler.type) for handler in node.handlers):
            waiting += node.finalbody
        elif isinstance(node, ast.If) and (asked := _asks(node.test)):
            waiting += node.orelse if asked == "TYPE_CHECKING" else []
        elif not (isinstance(node, ast.With) and any(_suppresses(item.context_expr) for item in node.items)):
            for _, value in ast.iter_fields(node):
                parts = value if isinstance(value, list) else []
                waiting += [part for part in parts if isinstance(part, _STATEMENTS)]


def _suppresses(manager: ast.expr) -> bool:
    return isinstance(manager, ast.Call) and name_of(manager.func) == "suppress"


def _forgives(caught: ast.expr | None) -> bool:
    kinds = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return any(kind is None or name_of(kind) in _FORGIVEN for kind in kinds)


def _asks(test: ast.expr) -> str:
    names = (name_of(node) for node in ast.walk(test) if isinstance(node, ast.expr))
    return next((name for name in names if name in _CONDITIONS), "")


@functools.cache
def _record(distribution: str) -> str | None:
    """The list of an installed distribution's files, a line each; None if it is not installed."""
    import importlib.metadata  # it takes as long to import as all of this to run

    try:
        return importlib.metadata.distribution(distribution).read_text("RECORD") or ""
    except importlib.metadata.PackageNotFoundError:
        return None


def _holds(record: str, module: str) -> bool:
    """Whether a module is among the files of a distribution. Several may share a namespace, as google."""
    path = ""
    for part in module.split("."):
        path += re.escape(part)
        if re.search(rf"^{path}(\.|/__init__\.)", record, re.MULTILINE):
            return True
        if not re.search(rf"^{path}/", record, re.MULTILINE):
            return False
        path += "/"
    return True


def _owner(module: str) -> str:
    """The distribution, installed here, that a module comes with; "" if there is none."""
    import importlib.metadata

    for distribution in importlib.metadata.distributions():
        if _holds(distribution.read_text("RECORD") or "", module):
            return str(distribution.metadata["Name"])
    return ""
