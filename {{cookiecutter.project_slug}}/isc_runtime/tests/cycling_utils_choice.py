"""Which cycling_utils the tests meet: the real one where it can be imported, else the stand-in.

With CYCLING_UTILS=real in the environment only the real one will do.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from pathlib import Path

STAND_IN = Path(__file__).resolve().parent / "stand_in"


@functools.cache
def install() -> str:
    """Makes `import cycling_utils` work in this process. Returns "real" or "stand-in".

    Raises:
        RuntimeError: CYCLING_UTILS=real asks for the real one, and it is not there.
    """
    is_required = os.environ.get("CYCLING_UTILS") == "real"
    try:
        module = importlib.import_module("cycling_utils")
    except Exception as error:  # RuntimeError, for one, when torchvision was built for another torch
        if is_required:
            raise RuntimeError(
                f"CYCLING_UTILS=real, and cycling_utils cannot be imported: {error}"
            ) from error
        sys.path.insert(0, str(STAND_IN))
        importlib.import_module("cycling_utils")
        return "stand-in"
    if not Path(module.__file__ or "").is_relative_to(STAND_IN):
        return "real"
    if is_required:
        raise RuntimeError(
            f"CYCLING_UTILS=real, and the stand-in comes first: take {STAND_IN} off PYTHONPATH"
        )
    return "stand-in"


def python_path_for_children() -> list[str]:
    """What PYTHONPATH of a process that a test starts must hold, for it to import the same one.

    Our own PYTHONPATH is part of it: the real one may be there. As absolute paths, since that process may
    work in another directory.
    """
    own = os.environ.get("PYTHONPATH")
    inherited = [os.path.abspath(entry) for entry in own.split(os.pathsep)] if own else []  # noqa: PTH100  # "" too
    return [str(STAND_IN), *inherited] if install() == "stand-in" else inherited
