"""Which version of the template this is: what a project records, and updates start from."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

# Of a repository around this one: set when this runs below a git hook.
FOREIGN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY")


def version(template: Path) -> str:
    """The released number, or the next one with `.dev+` and the commit, as Python's packages have it.

    Args:
        template: the folder of the template: a clone, or what was in an archive of one.
    """
    number: str = json.loads((template / "cookiecutter.json").read_text(encoding="utf-8"))[
        "_template_version"
    ]
    described = _described(template)
    if described == f"v{number}":
        return number
    commit = re.search(r"(?:^|-g)([0-9a-f]{7,})((?:-dirty)?)$", described)
    return f"{number}.dev+{commit[1][:7]}{commit[2].replace('-', '.')}" if commit else f"{number}.dev+unknown"


def _described(template: Path) -> str:
    """As `git describe` has it: `v1.2.0`, `v1.2.0-5-g1234567`, `1234567`; `-dirty` if it was changed."""
    if not (template / ".git").exists():
        # `git archive`, which makes the archives to download, has put both in: see .gitattributes.
        recorded = (template / "isc_template_commit.txt").read_text(encoding="utf-8").split()
        return recorded[-1] if recorded else ""
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    command = ["git", "describe", "--tags", "--match=v[0-9]*", "--always", "--dirty", "--abbrev=7"]
    try:
        return subprocess.check_output(
            command, cwd=template, env=environment, stderr=subprocess.DEVNULL, text=True
        ).strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or no commit
        return ""
