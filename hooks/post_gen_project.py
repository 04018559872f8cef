"""Checks what was written with the project's own check, makes it a git repository, says what to do next.

The answers arrive as JSON in a raw string, in which a quote is always escaped, so that no answer can end the
string and become code.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
from pathlib import Path

# cookiecutter leaves the rendered hook in the temporary directory for ever.
Path(__file__).unlink()

ANSWERS = json.loads(r"""{{ cookiecutter | tojson }}""")
PROJECT = Path.cwd()

NEXT_STEPS = """
Created {name}. Next steps:
  cd {directory}
  {git}python3 -m venv .venv && . .venv/bin/activate && make setup
  python train.py
  make test
  isc train experiment.isc
{warnings}"""


def check() -> list[str]:
    """The findings of the project's own check that are no obstacle.

    Raises:
        SystemExit: an obstacle. cookiecutter then removes the project.
    """
    # Instead of the temporary directory, in which anybody may have put a json.py.
    sys.path[0] = str(PROJECT)
    sys.dont_write_bytecode = True
    from isc_runtime.submission import project

    findings = project.check(PROJECT)
    errors = [str(finding) for finding in findings if finding.severity == "error"]
    if errors:
        sys.exit("\n".join(["The template wrote a project that does not pass its own check:", *errors]))
    return [str(finding) for finding in findings]


def make_repository() -> bool:
    """Makes the project a git repository of its own with all of it staged. Returns whether it did.

    Not under cruft, whose updates need the folder as it was written. No commit: it could want a passphrase.
    """
    if "_commit" in ANSWERS:
        return False
    # Set when this runs below a git hook, where they would point to the repository of that hook.
    foreign = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    environment = {name: value for name, value in os.environ.items() if name not in foreign}

    def git(*arguments: str) -> int:
        silent = subprocess.DEVNULL
        return subprocess.call(["git", *arguments], env=environment, stdout=silent, stderr=silent)

    try:
        # 1: inside a repository that does not ignore this folder, so the project belongs to that one.
        if git("check-ignore", "--quiet", ".") == 1:
            return False
        return git("init", "--quiet", "--initial-branch=main") == 0 and git("add", "--all") == 0
    except OSError:  # no git, or none that can be run: the project is good without
        return False


def main() -> None:
    """Checks, makes the repository, prints the next steps."""
    staged: list[bool] = []
    git = threading.Thread(target=lambda: staged.append(make_repository()))
    git.start()
    try:
        warnings = check()
    finally:  # when it fails, cookiecutter removes the folder: nothing may be writing there any more
        git.join()
    commit = f"git commit -m 'Start from isc-template {ANSWERS['_template_version']}'"
    # The shell is where cookiecutter was started, unless something changed the directory without telling it.
    here = Path(os.environ.get("PWD", os.sep)) == PROJECT.parent
    steps = NEXT_STEPS.format(
        name=PROJECT.name,
        directory=shlex.quote(PROJECT.name if here else str(PROJECT)),
        git=f"{commit}\n  " if staged == [True] else "",
        warnings="\n  ".join(["\nBefore you submit:", *warnings]) + "\n" if warnings else "",
    )
    print(steps)


if __name__ == "__main__":
    main()
