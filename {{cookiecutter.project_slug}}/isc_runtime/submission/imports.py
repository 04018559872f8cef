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
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from isc_runtime.python_files import Import, imports_of_others
from isc_runtime.submission.finding import Finding
from isc_runtime.submission.lock import (
    LOCK,
    NEEDED,
    locked_names,
    normalized,
    required_names,
    unconditional_names,
)
from isc_runtime.submission.logical_lines import logical_lines

ROOTS = ("train.py", "model.py", "data.py")
_PIP = re.compile(r"\bpip3?\s+install\s([^&|;]*)")


def check_imports(root: Path, code: dict[Path, ast.Module]) -> Iterator[Finding]:
    """Each import of the training that nothing in the image brings, once.

    Args:
        root: the project.
        code: the files of the training, as `files_of` finds them from ROOTS.
    """
    if not locked_names(root, LOCK):
        return  # it is missing, or names nothing, and that is said already
    beside, is_more = _beside_the_lock(root)
    brought = required_names(root) | beside
    missing: dict[str, Import] = {}
    for imported in imports_of_others(root, code):
        if imported.top not in missing and not _is_brought(imported, brought):
            missing[imported.top] = imported
    for name in list(missing):
        if place := next((path.parent for path in root.glob(f"*/{name}*") if _is_module(path, name)), None):
            what = f"{name} lies in {place.name}/, where Python looks only if it is told to"
            hint = f"If sys.path or PYTHONPATH does that, all is well; what {name} imports is not checked."
            yield Finding(missing.pop(name).where, what, hint, "warning")
    if missing and is_more:
        what = f"{', '.join(missing)} may be missing: the Dockerfile installs by paths or addresses, too"
        yield Finding(next(iter(missing.values())).where, what, "See that it brings them.", "warning")
        return
    if not missing:
        return
    # Those with a condition may not be meant for this machine.
    is_installed = not any(_record(name) is None for name in unconditional_names(root))
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


def _beside_the_lock(root: Path) -> tuple[set[str], bool]:
    """The distributions that the Dockerfile names besides, and whether it installs by path or address."""
    names, is_more = set[str](), False
    for _, line in logical_lines(root / "Dockerfile"):
        for words in _PIP.findall(line):
            for before, word in pairwise(["", *re.sub("[\"']", "", words).split()]):
                if before in ("-r", "--requirement"):
                    names |= locked_names(root, word)
                elif word == "." or "/" in word:
                    is_more |= before in ("-e", "--editable") or not before.startswith("-")
                elif match := re.match(r"\w[\w.-]*", word):
                    names.add(normalized(match[0]))
    return names, is_more


def _is_module(path: Path, name: str) -> bool:
    return path.name == f"{name}.py" or (path.name == name and any(path.rglob("*.py")))


def _is_brought(imported: Import, brought: set[str]) -> bool:
    name = normalized(imported.top)
    if name in brought or any(_holds(_record(other) or "", imported.module) for other in brought):
        return True
    # `cuda` of cuda-bindings, which only Linux with a GPU installs
    return any(other.startswith(f"{name}-") and _record(other) is None for other in brought)


def _missing(imported: Import, owner: str) -> Finding:
    what = f"Nothing in {LOCK} brings {imported.top}" + (f", which comes with {owner}" if owner else "")
    hint = (
        f"Put {owner or 'the distribution that it comes with'} into dependencies in {NEEDED}, and run: "
        f"make lock. If the training can do without it, import it in a try with except ImportError."
    )
    return Finding(imported.where, what, hint)


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
