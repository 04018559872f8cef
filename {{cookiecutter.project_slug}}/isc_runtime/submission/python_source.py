"""Python files, read and not run, whatever is in them."""

from __future__ import annotations

import ast
import warnings
from pathlib import Path

from isc_runtime.submission.lines import read_bytes


def parse_python(file: Path) -> ast.Module:
    """The syntax tree of a file.

    Raises:
        OSError: it cannot be read.
        SyntaxError: it is no Python; `lineno` says where.
        ValueError: no parser can read it: NUL bytes, too large, nested too deep.
    """
    source = read_bytes(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote the file, and are for whoever runs it
            return ast.parse(source)
    except (RecursionError, MemoryError) as error:  # the latter from the parser's own stack
        raise ValueError("it is nested too deep") from error


def name_of(node: ast.expr) -> str:
    """The last part of a name: `c` of `a.b.c`, `c` of `c`; "" of anything else."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
