"""What `make cuda` needs beside Python and a CUDA build of torch: said in one line if it is missing."""

from __future__ import annotations

import sys
from importlib.util import find_spec

NEEDED = {
    **{name: name for name in ("torch", "numpy", "pytest", "xxhash", "rich", "tensorboard", "safetensors")},
    "sklearn": "scikit-learn",
}

missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
if missing:
    sys.exit(f"make cuda needs {', '.join(missing)} in {sys.executable}. Install it, or set CUDA_PYTHON.")
