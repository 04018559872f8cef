"""Restores what archives and Windows lose, checks the project, makes it a git repository, says what is next.

The answers arrive as JSON in a raw string, in which a quote is always escaped, so that no answer can end the
string and become code.
"""

from __future__ import annotations

import contextlib
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
FOREIGN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in FOREIGN}

NEXT_STEPS = """
Created {name}. Next steps:
  {steps}
{notes}"""
NO_LINK = """
Not linked to the template, so that cruft finds no updates: {reason}.
To link it, in the project: uvx cruft link <address of the template>  # the template's README.md, Get it
"""


class NoLink(Exception):
    """Why the project cannot be linked to the template."""


def restore() -> None:
    """Gives the files the bit and the line ends that an archive or a clone on Windows has not.

    Only those that are the template's byte by byte: what is rendered has its line ends, and where the folder
    was there before (-f, -s) everything else may be somebody's work. Nothing is written through a link.
    """
    source = Path(BAKE["source"])
    for original in source.rglob("*"):
        path = PROJECT / original.relative_to(source)
        if not original.is_file() or path.resolve() != path or not path.is_file():
            continue
        if (data := path.read_bytes()) != original.read_bytes():
            continue
        if b"\r\n" in data:
            path.write_bytes(data.replace(b"\r\n", b"\n"))
        mode = path.stat().st_mode
        if path.suffix == ".sh" and mode & 0o111 != 0o111:
            with contextlib.suppress(OSError):  # a file system without bits; `bash launch.sh` needs none
                path.chmod(mode | 0o111)


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

    # git is told of it meanwhile; and what a person's own settings keep out of it is no obstacle.
    findings = project.check(PROJECT, GitFiles())
    errors = [str(finding) for finding in findings if finding.severity == "error"]
    if errors:
        sys.exit("\n".join(["The template wrote a project that does not pass its own check:", *errors]))
    return [str(finding) for finding in findings]


def git(*arguments: str, cwd: Path = PROJECT) -> tuple[int, str]:
    """The exit code of git, and what it says; 127 if none can be run: the project is good without."""
    command = ["git", *arguments]
    try:
        done = subprocess.run(
            command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError:
        return 127, "it is not installed"
    return done.returncode, (done.stderr if done.returncode else done.stdout).strip()


def link() -> str:
    """Writes what `cruft` would have written, so that it can update what cookiecutter has made.

    Returns:
        Why it did not; nothing if it did, or there is one that was to be kept.
    """
    file = PROJECT / ".cruft.json"
    if UNDER_CRUFT or (BAKE["is_kept"] and file.exists()):
        return ""
    try:
        address, commit, checkout = origin_of(Path(TEMPLATE))
        if file.is_symlink():
            raise NoLink(".cruft.json is a symbolic link to another file")
    except NoLink as reason:
        return str(reason)
    answers = {name: answer for name, answer in ANSWERS.items() if not name.startswith("_")}
    context = {"cookiecutter": {**answers, "_template": address, "_commit": commit}}
    state = {"template": address, "commit": commit, "checkout": checkout, "context": context}
    text = json.dumps({**state, "directory": None}, ensure_ascii=False, indent=2)
    file.write_text(f"{text}\n", encoding="utf-8")
    return ""


def origin_of(template: Path) -> tuple[str, str, str | None]:
    """Where the template can be had: address, commit, and what to follow there if not its default branch.

    Raises:
        NoLink: nobody knows.
    """
    if not (template / ".git").exists():
        raise NoLink("what came as an archive or a copy does not say where it is from")
    if ".dirty" in BAKE["version"]:
        raise NoLink("the template has changes that are not committed")
    code, commit = git("rev-parse", "HEAD", cwd=template)
    if code:
        raise NoLink(f"git does not read the template ({commit.partition(os.linesep)[0]})")
    places = ("for-each-ref", "--format=%(refname:lstrip=3)", f"--contains={commit}", "refs/remotes/origin")
    branches = git(*places, cwd=template)[1].split()
    code, origin = git("config", "--get", "remote.origin.url", cwd=template)
    asked = ANSWERS.get("_checkout")  # of cookiecutter --checkout
    # In a folder cookiecutter checks out nothing, whatever is asked for.
    checkout = asked if asked and git("rev-parse", f"{asked}^0", cwd=template) == (0, commit) else None
    if code or not branches:
        return str(template), commit, checkout
    if not checkout and "HEAD" not in branches:  # it is on no default branch
        here = git("branch", "--show-current", cwd=template)[1]
        checkout = here if here in branches else branches[0]
    return public(origin, template), commit, checkout


def public(address: str, template: Path) -> str:
    """The address of a remote without a password, as it is seen from anywhere.

    Raises:
        NoLink: it cannot be told what of it is a password.
    """
    if re.match("https?://", address):
        address = re.sub("^(https?://)[^/@]*@", r"\1", address)
        if "@" in address:
            raise NoLink("there is an @ in the address of the template, which may be part of a password")
    is_path = "://" not in address and ":" not in address.partition("/")[0]
    return str((template / address).resolve()) if is_path else address


def make_repository() -> list[str]:
    """Makes the project a git repository of its own, and stages it; returns the command that commits it.

    It commits nothing: that could want a passphrase. Under cruft the command does it all, for cruft has one
    more file to write. Where the folder was there before, git is left alone: not all in it is ours.
    """
    commit = f"git commit -m 'Start from isc-template {BAKE['version']}'"
    # 1: inside a repository that does not ignore this folder, so the project belongs to that one.
    ignored = git("check-ignore", "--quiet", ".")[0]
    if not BAKE["is_new"]:
        return []
    if UNDER_CRUFT:
        begin = "" if ignored == 1 else "git init --quiet --initial-branch=main && "
        return [] if ignored == 127 else [f"{begin}git add . && {commit}"]
    if ignored == 1 or git("init", "--quiet", "--initial-branch=main")[0] or git("add", "--all")[0]:
        return []
    return [commit]


def main() -> None:
    """Restores, checks, and unless it is an update makes the repository and prints the next steps."""
    restore()
    if BAKE["is_update"]:
        check()
        return
    unlinked: list[str] = []
    commit: list[str] = []

    def record() -> None:
        unlinked.append(link())
        commit.extend(make_repository())

    repository = threading.Thread(target=record)
    repository.start()
    try:  # in a folder that was there before, what is wrong may be what was there: a step says it
        warnings = check() if BAKE["is_new"] else []
    finally:  # when it fails, cookiecutter removes the folder: nothing may be writing there any more
        repository.join()
    notes = "\n  ".join(["\nBefore you submit:", *warnings]) + "\n" if warnings else ""
    notes += "".join(NO_LINK.format(reason=reason) for reason in unlinked if reason)
    say(NEXT_STEPS.format(name=PROJECT.name, steps="\n  ".join(steps(commit)), notes=notes))


def steps(commit: list[str]) -> list[str]:
    """What to type next, a line each."""
    # The shell is where cookiecutter was started, unless something changed the directory without telling it.
    here = Path(os.environ.get("PWD", os.sep)) == PROJECT.parent
    directory = shlex.quote(PROJECT.name if here else str(PROJECT))
    environment = "uv venv --seed" if shutil.which("uv") else "python3 -m venv .venv"
    found = [f"cd {directory}", *commit, f"{environment} && . .venv/bin/activate && make setup"]
    found += [] if BAKE["is_new"] else ["make check  # the folder was there before: is it a project now?"]
    found += ["python train.py", "make test", "make rehearse"]
    return [*found, "make submit  # in a container of the ISC: README.md, Submit to the ISC"]


def say(text: str) -> None:
    """Prints, as far as it can be printed: if this hook failed, cookiecutter would remove a good project."""
    if sys.stdout is None:
        return
    # Not through Python's own buffer, which would fail once more at the end.
    rest = text.encode(sys.stdout.encoding, "backslashreplace")
    with contextlib.suppress(OSError):
        while rest:
            rest = rest[os.write(sys.stdout.fileno(), rest) :]


if __name__ == "__main__":
    main()
