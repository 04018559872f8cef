"""What an update of the template left for a person: conflicts, old modules, imports of what has moved.

`cruft update` changes a project by a patch. Where the project has changed the same lines, git leaves both,
or puts what it could not change into a file NAME.rej, and cruft ends with 0 all the same. And the project's
own code goes on importing modules by names that they no longer have.
"""

from __future__ import annotations

import ast
import os
import re
import stat
import symtable
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from isc_runtime.python_files import parse_python
from isc_runtime.submission.contents.dockerfile import DockerIgnore
from isc_runtime.submission.contents.version_control import GitFiles
from isc_runtime.submission.finding import Finding
from isc_runtime.text_files import read_bytes, read_text

# What each module that has moved is called now. An old name stays here for good: projects skip versions.
MOVED = {
    # since 0.2.0
    "isc_runtime.artifact_store": "isc_runtime.checkpointing.stores.artifact_store",
    "isc_runtime.checkpoint": "isc_runtime.checkpointing.checkpointer",
    "isc_runtime.credentials": "isc_runtime.submission.contents.credentials",
    "isc_runtime.distributed": "isc_runtime.ranks.group",
    "isc_runtime.dockerfile": "isc_runtime.submission.contents.dockerfile",
    "isc_runtime.durable": "isc_runtime.checkpointing.on_disk.manifest",
    "isc_runtime.entries": "isc_runtime.checkpointing.on_disk.entries",
    "isc_runtime.entry": "isc_runtime.ranks.reporting",
    "isc_runtime.export": "isc_runtime.checkpointing.on_disk.export",
    "isc_runtime.finding": "isc_runtime.submission.finding",
    "isc_runtime.image": "isc_runtime.submission.contents.image",
    "isc_runtime.interruption": "isc_runtime.ranks.interruption",
    "isc_runtime.inventory": "isc_runtime.checkpointing.on_disk.inventory",
    "isc_runtime.launch_command": "isc_runtime.submission.command.launch_command",
    "isc_runtime.launch_file": "isc_runtime.submission.launch_file",
    "isc_runtime.launch_schema": "isc_runtime.submission.launch_schema",
    "isc_runtime.lines": "isc_runtime.submission.logical_lines",
    "isc_runtime.listing": "isc_runtime.checkpointing.on_disk.inventory_report",
    "isc_runtime.loading": "isc_runtime.checkpointing.loading",
    "isc_runtime.local_store": "isc_runtime.checkpointing.stores.local_store",
    "isc_runtime.lock": "isc_runtime.submission.lock",
    "isc_runtime.outcomes": "isc_runtime.checkpointing.save_log",
    "isc_runtime.parallel": "isc_runtime.ranks.parallel",
    "isc_runtime.project": "isc_runtime.submission.project",
    "isc_runtime.rehearsal.judgement": "isc_runtime.rehearsal.cycle_findings",
    "isc_runtime.rehearse": "isc_runtime.rehearsal.command_line",
    "isc_runtime.saving": "isc_runtime.checkpointing.saving.save",
    "isc_runtime.sharded_save": "isc_runtime.checkpointing.saving.shard_writer",
    "isc_runtime.shards": "isc_runtime.ranks.shards",
    "isc_runtime.snapshot": "isc_runtime.checkpointing.saving.snapshot",
    "isc_runtime.state_size": "isc_runtime.checkpointing.saving.state_size",
    "isc_runtime.store": "isc_runtime.checkpointing.stores.store",
    "isc_runtime.torchrun": "isc_runtime.ranks.launching.torchrun",
    "isc_runtime.version_control": "isc_runtime.submission.contents.version_control",
    "isc_runtime.watch": "isc_runtime.ranks.watch",
    "tests.cycling_utils_choice": "isc_runtime.tests.cycling_utils_choice",
    "tests.fallible_ranks": "isc_runtime.tests.ranks.fallible_ranks",
    "tests.processes": "isc_runtime.tests.processes",
}

_OLD_HOMES = re.compile(rb"isc_runtime|tests")  # to parse what names none of them would take long
# The three lines that git writes around what met, in their order.
_CONFLICT = [re.compile(line, re.MULTILINE) for line in (rb"^<{7} ", rb"^={7}\r?$", rb"^>{7} ")]
LARGE = 2**20  # bytes: an update leaves its conflicts in text that a person has written
MOST_READ = 2**26  # bytes of all files but Python's
BLOCK = 2**12  # bytes that a small file counts as: it has to be opened
_BEGINNING = 1024  # bytes, in which what is no text has a NUL, as git looks for it
_READ = (".toml", ".json", ".yml", ".yaml", ".ini", ".cfg", ".sh")  # by programs; others may show an example
_OURS = b"<<<<<<< ours"  # how `git apply --3way` marks one, and so `cruft update`


def check_update(root: Path, git: GitFiles) -> Iterator[Finding]:
    """All that an update left behind in a project.

    Args:
        root: its directory.
        git: what git has or would take of it.
    """
    for old, new in MOVED.items():
        if old.startswith("isc_runtime.") and (root / _file(old)).is_file():
            hint = f"If it holds a change of yours, make that in {_file(new)}; then: git rm -f {_file(old)}"
            yield Finding(_file(old), f"It is {_file(new)} now, and an update left the old file", hint)
    here, texts = set(_files(root)), list[str]()
    for path in sorted(here | git.all):
        if path.endswith(".rej") and (root / path).is_file():
            hint = f"Change {path.removesuffix('.rej')} by hand as it says, then delete it."
            yield Finding(path, "An update could not make the changes that are in this file", hint)
        elif path.endswith(".py"):
            yield from _check_python(root, path)
        elif "/" not in path or path in (git.all or here):
            texts.append(path)
    yield from _check_texts(root, texts)


def _check_texts(root: Path, paths: list[str]) -> Iterator[Finding]:
    """Folders of many files are data, and come last, in case that there is too much to read."""
    many = Counter(path.rpartition("/")[0] for path in paths)
    unread = MOST_READ
    for path in sorted(paths, key=lambda path: (many[path.rpartition("/")[0]], path)):
        size = _size(root / path)
        unread -= max(size, BLOCK) if size <= LARGE else 0
        if unread < 0:
            break
        if size <= LARGE:
            yield from _check_text(root, path)


def conflict(text: bytes) -> int | None:
    """The number of the first line in which two changes met and git left both, if there is one."""
    if b"<<<<<<< " not in text:  # most texts: a tenth of the time
        return None
    starts, end = [], 0
    for line in _CONFLICT:
        found = line.search(text, end)
        if found is None:
            return None
        starts.append(found.start())
        end = found.end()
    return text.count(b"\n", 0, starts[0]) + 1


def _file(module: str) -> str:
    return f"{module.replace('.', '/')}.py"


def _files(root: Path) -> Iterator[str]:
    """The project's files, without what is not its own: environments, data, what a run or a tool made."""
    ignore = DockerIgnore(root)
    for folder, folders, names in os.walk(root):
        inside = Path(folder).relative_to(root)
        folders[:] = [
            name
            for name in sorted(folders)
            if name != ".git"
            and not ignore.ignores_all_of((inside / name).as_posix())
            and not Path(folder, name, "pyvenv.cfg").is_file()
        ]
        yield from ((inside / name).as_posix() for name in sorted(names))


def _check_text(root: Path, path: str) -> Iterator[Finding]:
    """A file that is no Python: a conflict in it is all that an update can have left."""
    try:
        text = (root / path).read_bytes()
    except OSError:
        return  # what cannot be read was not written by an update
    is_example = not path.endswith(_READ) and "/" in path and _OURS not in text
    if b"\0" not in text[:_BEGINNING] and not is_example and (line := conflict(text)) is not None:
        yield _conflict_at(path, line)


def _check_python(root: Path, path: str) -> Iterator[Finding]:
    try:
        text = read_bytes(root / path)
    except (OSError, ValueError):
        return
    if (line := conflict(text)) is not None:
        yield _conflict_at(path, line)
    elif not path.startswith("isc_runtime/") and _OLD_HOMES.search(text):
        yield from _check_imports(root, path)


def _conflict_at(path: str, line: int) -> Finding:
    hint = "Keep what is right, and delete the lines that begin with <<<<<<<, ======= and >>>>>>>."
    return Finding(f"{path}:{line}", "Two changes of the same lines met here, and git left both", hint)


def _size(file: Path) -> int:
    """In bytes; too large for a text of a person's if it is no file, but a link or a pipe."""
    try:
        known = file.lstat()
    except OSError:  # git has it, and somebody has deleted it
        return LARGE + 1
    return known.st_size if stat.S_ISREG(known.st_mode) else LARGE + 1


def _check_imports(root: Path, path: str) -> Iterator[Finding]:
    try:
        nodes = list(ast.walk(parse_python(root / path)))
    except (OSError, SyntaxError, ValueError):
        return  # what Python cannot read imports nothing; of train.py, model.py and data.py it is said
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from _check_modules(root, path, node)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from _check_names(root, path, node, node.module)


def _check_modules(root: Path, path: str, node: ast.Import) -> Iterator[Finding]:
    """import isc_runtime.distributed as d"""
    for alias in node.names:
        if new := _new_name(root, alias.name):
            written = ast.unparse(ast.Import([ast.alias(new, alias.asname)]))
            rest = "" if alias.asname else f" And {new} wherever {alias.name} is written."
            yield _moved(path, node.lineno, alias.name, f"Write: {written}.{rest}")


def _check_names(root: Path, path: str, node: ast.ImportFrom, module: str) -> Iterator[Finding]:
    """from isc_runtime.distributed import Group; from isc_runtime import rng, distributed"""
    if new := _new_name(root, module):
        hints = [_rewritten(home, names) for home, names in _homes(root, new, node.names).items()]
        yield _moved(path, node.lineno, module, " ".join(hints))
    for alias in node.names:
        if new := _new_name(root, f"{module}.{alias.name}"):
            parent, _, name = new.rpartition(".")
            used_as = alias.asname or alias.name
            imported = ast.alias(name, None if used_as == name else used_as)
            written = ast.unparse(ast.ImportFrom(parent, [imported], 0))
            yield _moved(path, alias.lineno, f"{module}.{alias.name}", f"Write: {written}.")


def _homes(root: Path, new: str, names: list[ast.alias]) -> dict[str | None, list[ast.alias]]:
    """The names by the module that has them now: most often the one that has moved, None if there is none."""
    homes: dict[str | None, list[ast.alias]] = {}
    there = _names_in(root / _file(new))
    for alias in names:
        is_there = there is None or alias.name in there or alias.name == "*"
        homes.setdefault(new if is_there else _only_home(root, alias.name), []).append(alias)
    return homes


def _only_home(root: Path, name: str) -> str | None:
    """The one module of the runtime that has this name, if there is one."""
    old = {_file(module) for module in MOVED}  # an update may have left them
    files = [file.relative_to(root) for file in sorted((root / "isc_runtime").rglob("*.py"))]
    own = [file for file in files if "tests" not in file.parts and file.as_posix() not in old]
    homes = [file for file in own if name in (_names_in(root / file) or ())]
    return ".".join(homes[0].with_suffix("").parts) if len(homes) == 1 else None


def _rewritten(new: str | None, names: list[ast.alias]) -> str:
    if new is None:
        gone = " or ".join(alias.name for alias in names)
        return f"Nothing is called {gone} any more: see the template's CHANGELOG.md."
    return f"Write: {ast.unparse(ast.ImportFrom(new, names, 0))}."


def _new_name(root: Path, module: str) -> str | None:
    """What a module is called now, unless it still is, or is one of the project's own."""
    new = MOVED.get(module)
    is_own = module.startswith("tests.") and (root / _file(module)).is_file()
    return None if is_own else new


def _names_in(file: Path) -> set[str] | None:
    """What a module itself defines at its top; None if that cannot be known."""
    try:
        table = symtable.symtable(read_text(file), str(file), "exec")
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None
    symbols = table.get_symbols()
    return {symbol.get_name() for symbol in symbols if symbol.is_assigned()}


def _moved(path: str, line: int, module: str, hint: str) -> Finding:
    return Finding(f"{path}:{line}", f"It imports {module}, which is {MOVED[module]} now", hint)
