"""What the training imports and no requirement brings is found before the image is built."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path

import pytest

from isc_runtime.python_files import files_of
from isc_runtime.submission import imports
from isc_runtime.submission.finding import Finding
from isc_runtime.submission.imports import ROOTS, check_imports

PROJECT = Path(__file__).resolve().parents[3]
NEEDED = """[project]
dependencies = ["numpy", "scikit-learn", "torch==2.13.0", "tomli; python_version < '3.11'"]
"""
LOCK = "numpy==2.4.6\npillow==13.0.0\nscikit_learn==1.9.1\ntorch==2.13.0\nnvidia-x==1.0\nprotobuf==7.36.2\n"

BROUGHT = {
    "standard library": "import json, xml.etree.ElementTree as tree\nfrom os import path",
    "same name": "import numpy as np\nfrom torch.nn import functional",
    "another name": "from sklearn.datasets import load_digits\nfrom PIL import Image\nimport sklearn",
    "without a hash": "from cycling_utils import AtomicDirectory",
    "with a condition": "import tomli",
    "a namespace of several": "from google.protobuf import message",
    "only on other machines": "import nvidia.cublas",
    "the runtime's": "from isc_runtime.checkpointing.checkpointer import Checkpointer",
    "beside it": "import helper\nfrom package import part\nfrom package.deep import deeper",
    "for type checkers": "if TYPE_CHECKING:\n    import yaml\nelse:\n    import json",
    "optional": "try:\n    import yaml\nexcept ImportError:\n    yaml = None\nelse:\n    import yaml.loader",
    "optional, in a tuple": "try:\n    import yaml\nexcept (ValueError, ModuleNotFoundError):\n    import y",
    "suppressed": "import contextlib\nwith contextlib.suppress(ImportError):\n    import yaml",
    "of some versions": "import sys\nif sys.version_info < (3, 9):\n    import yaml",
    "where it is": "from importlib.util import find_spec\nif find_spec('yaml'):\n    import yaml",
    "no Python": "import (",
}
MISSING = {
    "at the top": "import yaml",
    "from": "from yaml.loader import Loader",
    "in a function": "def load():\n    if True:\n        import yaml",
    "in a with": "with open('x') as f:\n    import yaml",
    "in a try of something else": "try:\n    import yaml\nexcept OSError:\n    pass",
    "in a finally": "try:\n    pass\nexcept ImportError:\n    pass\nfinally:\n    import yaml",
    "in a match": "match 1:\n    case 1:\n        import yaml",
    "under a condition of another kind": "import sys\nif sys.argv:\n    pass\nelse:\n    import yaml",
    "otherwise than for type checkers": "if TYPE_CHECKING:\n    pass\nelse:\n    import yaml",
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of a few lines."""
    texts = {
        "pyproject.toml": NEEDED,
        "requirements.lock": LOCK,
        "requirements-cycling-utils.txt": "cycling_utils @ git+https://github.com/x/y.git@0\n",
        "train.py": "import model\n",
        "helper.py": "import json\n",
        "package/part.py": "from . import other\n",
        "package/other.py": "",
        "package/deep/deeper.py": "from ..other import x\n",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def found(root: Path, text: str) -> list[Finding]:
    (root / "model.py").write_text(text)
    return list(check_imports(root, files_of(root, ROOTS)))


@pytest.mark.parametrize("text", BROUGHT.values(), ids=BROUGHT)
def test_what_is_brought(root: Path, text: str) -> None:
    assert found(root, text) == []


@pytest.mark.parametrize("text", MISSING.values(), ids=MISSING)
def test_what_nothing_brings(root: Path, text: str) -> None:
    """PyYAML is wherever these tests run, for pre-commit: the training works here, and not in the image."""
    finding, *others = found(root, text)
    assert others == []
    assert finding.severity == "error"
    assert finding.where.startswith("model.py:")
    assert finding.what == "Nothing in requirements.lock brings yaml, which comes with PyYAML"
    assert finding.hint.startswith("Put PyYAML into dependencies in pyproject.toml, and run: make lock. ")
    assert "except ImportError" in finding.hint


def test_what_is_not_installed_either(root: Path) -> None:
    finding, *others = found(root, "import json\nimport no_such_thing\nimport no_such_thing.part")
    assert (finding.severity, finding.where, others) == ("error", "model.py:2", [])
    assert "brings no_such_thing" in finding.what
    assert "Put the distribution that it comes with into dependencies in pyproject.toml" in finding.hint


def test_where_nothing_is_installed_names_are_compared(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "distribution", nothing)
    monkeypatch.setattr(importlib.metadata, "distributions", list)
    imports._record.cache_clear()
    finding, *others = found(root, "import torch\nimport sklearn\nimport h5py")
    imports._record.cache_clear()
    assert (finding.severity, finding.where, others) == ("warning", "model.py:2", [])
    assert finding.what.startswith("sklearn, h5py may be missing in requirements.lock")
    assert "Check again" in finding.hint


def nothing(name: str) -> None:
    raise importlib.metadata.PackageNotFoundError(name)


def test_the_projects_own_modules_are_followed(root: Path) -> None:
    (root / "package" / "other.py").write_text("import helper\nimport datasets\n")
    (root / "helper.py").write_text("\n\nimport h5py\nimport model\n")
    (root / "unused.py").write_text("import pandas\n")
    (root / "datasets").mkdir()  # data, and no module
    findings = found(root, "from package import part")
    assert sorted(finding.where for finding in findings) == ["helper.py:3", "package/other.py:2"]


def test_a_namespace_that_somebody_else_has_too(root: Path) -> None:
    finding, *others = found(root, "from google.cloud import storage")
    assert "brings google" in finding.what
    assert others == []


def test_this_project_brings_what_it_imports(tmp_path: Path) -> None:
    for name in ("train.py", "model.py", "data.py", "pyproject.toml", "requirements.lock", "isc_runtime"):
        copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy
        copy(PROJECT / name, tmp_path / name)
    assert list(check_imports(tmp_path, files_of(tmp_path, ROOTS))) == []


@pytest.mark.parametrize(
    "line",
    [
        "pip install --no-cache-dir 'Left_Pad[x]>=1' b",
        "cd /x && uv pip install -r more.txt",
        "pip3 install left-pad==1",
    ],
)
def test_what_the_dockerfile_installs_besides_is_brought(root: Path, line: str) -> None:
    (root / "Dockerfile").write_text(f"FROM x\nRUN {line} && ls\n")
    (root / "more.txt").write_text("left-pad==1\n")
    assert found(root, "import left_pad") == []
    assert [finding.severity for finding in found(root, "import yaml")] == ["error"]


@pytest.mark.parametrize("words", [".", "-e ./libs/mine", "git+https://a.b/c.git"])
def test_nobody_knows_what_a_path_or_an_address_brings(root: Path, words: str) -> None:
    (root / "Dockerfile").write_text(f"FROM x\nRUN pip install --index-url https://a.b/ {words}\n")
    (finding,) = found(root, "import yaml")
    assert (finding.severity, finding.where) == ("warning", "model.py:1")
    assert "yaml may be missing" in finding.what


@pytest.mark.parametrize("file", ["src/mine.py", "lib/mine/part.py"])
def test_a_module_in_a_folder_that_python_is_told_of(root: Path, file: str) -> None:
    (root / file).parent.mkdir(parents=True)
    (root / file).touch()
    (finding,) = found(root, "import mine")
    assert (finding.severity, finding.where) == ("warning", "model.py:1")
    assert finding.what.startswith(f"mine lies in {file.partition('/')[0]}/")


def test_without_a_lock_nothing_is_said_twice(root: Path) -> None:
    (root / "requirements.lock").unlink()
    assert found(root, "import yaml") == []
