"""Restores what archives and Windows lose, checks the project, makes it a git repository, says what is next.

The answers arrive as JSON in a raw string, in which a quote is always escaped, so that no answer can end the
string and become code.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path

# cookiecutter leaves the rendered hook in the temporary directory for ever.
Path(__file__).unlink()

TEMPLATE, BAKE, ANSWERS = json.loads(r"""{{ [template_directory(), bake(), cookiecutter] | tojson }}""")
PROJECT = Path.cwd()
UNDER_CRUFT = "_commit" in ANSWERS
# Set when this runs below a git hook, where they would point to the repository of that hook.
FOREIGN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in FOREIGN}

NEXT_STEPS = """
Created {name}. Next steps:
  {steps}
{warnings}"""


def restore() -> None:
    """Gives the files the bit and the line ends that an archive or a clone on Windows has not.

    What is copied and not rendered has the line ends of the template's own files.
    """
    for path in PROJECT.rglob("*"):
        if path.is_file() and b"\r\n" in (data := path.read_bytes()):
            path.write_bytes(data.replace(b"\r\n", b"\n"))
    for script in PROJECT.glob("*.sh"):
        script.chmod(script.stat().st_mode | 0o111)


def check() -> list[str]:
    """The findings of the project's own check that are no obstacle.

    Raises:
        SystemExit: an obstacle. cookiecutter then removes the project.
    """
    # Instead of the temporary directory, in which anybody may have put a json.py.
    sys.path[0] = str(PROJECT)
    sys.dont_write_bytecode = True
    from isc_runtime.submission import project
    from isc_runtime.submission.contents.version_control import GitFiles

    # git is being told of the project meanwhile; and what a user's own settings keep out of it is no obstacle.
    findings = project.check(PROJECT, GitFiles())
    errors = [str(finding) for finding in findings if finding.severity == "error"]
    if errors:
        sys.exit("\n".join(["The template wrote a project that does not pass its own check:", *errors]))
    return [str(finding) for finding in findings]


def git(*arguments: str, cwd: Path = PROJECT) -> tuple[int, str]:
    """The exit code of git, and what it says; 127 if none can be run: the project is good without."""
    command = ["git", *arguments]
    try:
        done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    except OSError:
        return 127, ""
    return done.returncode, done.stdout.strip()


def link() -> None:
    """Writes what `cruft` would have written, so that it can update what cookiecutter has made.

    Only if the commit is known, and where it can be had: an archive has no address.
    """
    template = Path(TEMPLATE)
    if not (template / ".git").exists() or ".dirty" in BAKE["version"]:
        return
    code, commit = git("rev-parse", "HEAD", cwd=template)
    if code:
        return
    address = str(template)
    if git("for-each-ref", "--count=1", f"--contains={commit}", "refs/remotes/origin", cwd=template)[1]:
        origin = git("config", "--get", "remote.origin.url", cwd=template)[1]
        address = re.sub("//[^/@]*@", "//", origin)  # without a password
    answers = {name: answer for name, answer in ANSWERS.items() if not name.startswith("_")}
    context = {"cookiecutter": {**answers, "_template": address, "_commit": commit}}
    state = {"template": address, "commit": commit, "checkout": None, "context": context, "directory": None}
    text = json.dumps(state, ensure_ascii=False, indent=2)
    (PROJECT / ".cruft.json").write_text(f"{text}\n", encoding="utf-8")


def make_repository() -> list[str]:
    """Makes the project a git repository of its own, and stages it; returns the command that commits it.

    It commits nothing: that could want a passphrase. Under cruft the command does it all, for cruft has one
    more file to write.
    """
    commit = f"git commit -m 'Start from isc-template {BAKE['version']}'"
    # 1: inside a repository that does not ignore this folder, so the project belongs to that one.
    ignored = git("check-ignore", "--quiet", ".")[0]
    if UNDER_CRUFT:
        begin = "" if ignored == 1 else "git init --quiet --initial-branch=main && "
        return [] if ignored == 127 else [f"{begin}git add . && {commit}"]
    link()
    if ignored == 1 or git("init", "--quiet", "--initial-branch=main")[0] or git("add", "--all")[0]:
        return []
    return [commit]


def main() -> None:
    """Restores, checks, and unless it is an update makes the repository and prints the next steps."""
    restore()
    if BAKE["is_update"]:
        check()
        return
    commit: list[str] = []
    repository = threading.Thread(target=lambda: commit.extend(make_repository()))
    repository.start()
    try:
        warnings = check()
    finally:  # when it fails, cookiecutter removes the folder: nothing may be writing there any more
        repository.join()
    # The shell is where cookiecutter was started, unless something changed the directory without telling it.
    here = Path(os.environ.get("PWD", os.sep)) == PROJECT.parent
    directory = shlex.quote(PROJECT.name if here else str(PROJECT))
    environment = "uv venv --seed" if shutil.which("uv") else "python3 -m venv .venv"
    steps = [f"cd {directory}", *commit, f"{environment} && . .venv/bin/activate && make setup"]
    steps += ["python train.py", "make test", "make rehearse"]
    steps += ["make submit  # in a container of the ISC: README.md, Submit to the ISC"]
    found = "\n  ".join(["\nBefore you submit:", *warnings]) + "\n" if warnings else ""
    print(NEXT_STEPS.format(name=PROJECT.name, steps="\n  ".join(steps), warnings=found))


if __name__ == "__main__":
    main()
