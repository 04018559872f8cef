"""Python files, read and not run, whatever is in them."""

from __future__ import annotations

import ast
import functools
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from isc_runtime.text_files import read_bytes

RUNTIME = "isc_runtime"  # the template's: what it needs is the template's, too
_KNOWN = sys.stdlib_module_names | {RUNTIME}
# An `if` that asks for one of these: what it imports is needed only somewhere.
_CONDITIONS = frozenset({"TYPE_CHECKING", "version_info", "platform", "find_spec"})
_FORGIVEN = frozenset({"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})
_STATEMENTS = (ast.stmt, ast.excepthandler, ast.match_case)
_filtering = threading.Lock()  # the filters of warnings are those of the whole process


def parse_python(file: Path) -> ast.Module:
    """The syntax tree of a file; the same one for the same text, so it is only to be read.

    Raises:
        OSError: it cannot be read.
        SyntaxError: it is no Python; `lineno` says where.
        ValueError: no parser can read it: NUL bytes, too large, nested too deep.
    """
    return _parsed(read_bytes(file))


@functools.lru_cache(maxsize=64)
def _parsed(source: bytes) -> ast.Module:
    try:
        with _filtering, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote the file, and are for whoever runs it
            try:
                return ast.parse(source)
            except SystemError:  # a miscount of CPython's: https://github.com/python/cpython/issues/106905
                return ast.parse(source)
    except (RecursionError, MemoryError) as error:  # the latter from the parser's own stack
        raise ValueError("it is nested too deep") from error


def name_of(node: ast.expr) -> str:
    """The last part of a name: `c` of `a.b.c`, `c` of `c`; "" of anything else."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


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


def files_of(root: Path, first: Iterable[str], *, forgiven: bool = False) -> dict[Path, ast.Module]:
    """Python files, and those of the project that they import, whose paths are within the project.

    Args:
        root: the project.
        first: names of files in it. What cannot be read, or is no Python, imports nothing.
        forgiven: whether imports count, too, that are allowed to fail.
    """
    waiting = [Path(name) for name in first]
    found: dict[Path, ast.Module] = {}
    while waiting:
        file = waiting.pop(0)
        if file in found or not (root / file).is_file():
            continue
        try:
            found[file] = parse_python(root / file)
        except (OSError, SyntaxError, ValueError):
            found[file] = ast.Module([], [])
        for module, _ in _imported(file, found[file], forgiven):
            if _is_local(root, module):
                waiting += _files(module)
    return found


def imports_of_others(root: Path, files: dict[Path, ast.Module]) -> Iterator[Import]:
    """What these files of a project must be able to import of others, Python's own modules left out."""
    for file, tree in files.items():
        for module, line in _imported(file, tree, forgiven=False):
            if not _is_local(root, module) and module.partition(".")[0] not in _KNOWN:
                yield Import(module, f"{file.as_posix()}:{line}")


def _imported(file: Path, tree: ast.Module, forgiven: bool) -> Iterator[tuple[str, int]]:
    every = (node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))
    for node in sorted(every if forgiven else _required(tree.body), key=lambda node: node.lineno):
        for module in _modules(node, file):
            yield module, node.lineno


def _is_local(root: Path, module: str) -> bool:
    """Whether it lies on this disk, which does not say that the image and git have it, too."""
    top = module.partition(".")[0]
    if top == RUNTIME:
        return False
    is_top = (root / f"{top}.py").is_file() or any((root / top).glob("*.py"))
    return is_top or any((root / file).is_file() for file in _files(module))


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
