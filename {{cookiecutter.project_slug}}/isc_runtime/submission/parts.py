"""What a project consists of: is it here, is there anything in it, and do the image and a clone have it?

What runs here is what lies on this disk. The ISC has what the image copies, or what git brings: nothing of
what .dockerignore or .gitignore keep out, and of a link out of the project the link alone.
"""

from __future__ import annotations

import itertools
import posixpath
import shlex
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from isc_runtime.python_files import RUNTIME
from isc_runtime.submission.contents.dockerfile import DockerIgnore
from isc_runtime.submission.contents.image import Content
from isc_runtime.submission.contents.version_control import GitFiles, ignoring_rule
from isc_runtime.submission.finding import Finding, Severity
from isc_runtime.submission.logical_lines import logical_lines
from isc_runtime.text_files import read_bytes

EXPECTED = {
    "experiment.isc": "what `isc train` submits",
    "launch.sh": "what every node runs",
    "Dockerfile": "the image's recipe",
    ".dockerignore": "what the image must not hold",
    "requirements.lock": "what the image installs",
    "requirements-cycling-utils.txt": "what the image installs besides",
    "train.py": "the training",
    "model.py": "the model",
    "data.py": "the data",
    "isc_runtime/": "the template's part of the project",
    "tests/": "the project's tests",
    "README.md": "what people read first",
    "pyproject.toml": "its name, what it needs, and the settings of its tools",
}
# What the ISC would make of one with nothing in it.
NOTHING = {
    "launch.sh": "it would end with 0 at once, which the ISC calls completed",
    "Dockerfile": "there would be no image",
    ".dockerignore": "the image would take secrets and data",
    "requirements.lock": "the image would have no torch",
    "requirements-cycling-utils.txt": "the image would have no cycling_utils",
    "README.md": "nobody knows what it is",
    "pyproject.toml": "nobody knows what the image has to install",
}
OTHERWISE = "the training would fail"
# What `submit` looks for in a container, and the training does not.
FOR_SUBMIT = ("experiment.isc", "Dockerfile", ".dockerignore", "tests", "README.md", "pyproject.toml")
DISPENSABLE = ("tests/", "README.md")  # a container does without, where .dockerignore says so
CODE = "code of the training"
OPTIONS = "options of the training"
NAMED = "named by the command"  # weights, say, which somebody may copy into a container
KINDS = {
    **dict.fromkeys((".py", ".sh"), CODE),
    **dict.fromkeys((".json", ".toml", ".yaml", ".yml"), OPTIONS),
}
BESIDE = "train.toml"  # which train.py reads without being told; somebody may mean it for this machine alone
MOUNTED = "/data/"  # datasets: the ISC has them at the same place
MOST_LINKS = 40  # one after the other: Linux follows no more


def check_parts(root: Path, code: Iterable[str], image: Content, git: GitFiles) -> Iterator[Finding]:
    """Everything that is wrong with the parts of a project.

    Args:
        root: the project.
        code: what the training and its command need besides, as paths in the project.
        image: what the image takes from it.
        git: what git has or would take.
    """
    ignore = DockerIgnore(root)
    expected = {
        name: purpose
        for name, purpose in EXPECTED.items()
        if name not in DISPENSABLE or not ignore.ignores(name.rstrip("/"))
    }
    for name, purpose in expected.items():
        yield from _check_expected(root / name, name, purpose)
    if not image.files and any(logical_lines(root / "Dockerfile")):
        what = f"It copies nothing of this project into the image: {OTHERWISE}"
        yield Finding("Dockerfile", what, "Write in it: COPY . .")
    parts = {name.rstrip("/"): purpose for name, purpose in expected.items() if (root / name).exists()}
    parts |= {path: KINDS.get(PurePosixPath(path).suffix, NAMED) for path in code if path not in parts}
    parts |= dict.fromkeys(_runtime(root, image, git), EXPECTED[f"{RUNTIME}/"])
    yield from _Takers(root, image, git).check(parts)


def _check_expected(path: Path, name: str, purpose: str) -> Iterator[Finding]:
    hint = f"Bring it back, from git or a newly generated project: it is {purpose}."
    if not (path.is_dir() if name.endswith("/") else path.is_file()):
        yield Finding(name, "It is missing", hint)
        return
    try:
        is_empty = not any(path.iterdir()) if path.is_dir() else not _has_content(path)
    except (OSError, ValueError) as error:
        if path.suffix not in (".isc", ".py", ".toml"):  # whoever reads these says it, too
            yield Finding(name, f"It cannot be read ({error})", hint)
        return
    if is_empty:
        yield Finding(name, f"There is nothing in it: {NOTHING.get(name, OTHERWISE)}", hint)


def _has_content(file: Path) -> bool:
    """Whether there is more in a file than blanks and comments. Raises OSError, ValueError: not readable."""
    content = read_bytes(file)
    if file.suffix == ".md":
        return bool(content.strip())
    if file.suffix not in (".sh", ".py"):  # bash takes any, and Python what it declares
        content.decode("utf-8")
    return any(line.strip() and not line.lstrip().startswith(b"#") for line in content.splitlines())


def _runtime(root: Path, image: Content, git: GitFiles) -> list[str]:
    """Modules of the runtime that only one of image and git has."""
    start, tests = f"{RUNTIME}/", f"{RUNTIME}/tests/"
    both = [
        {path for path in paths if path.endswith(".py") and path.startswith(start)}
        for paths in (image.files, git.all)
    ]
    only = sorted(both[0] ^ both[1]) if all(both) else []  # if none: it is said of the folder
    return [path for path in only if not path.startswith(tests) and (root / path).is_file()]


@dataclass(frozen=True)
class _Takers:
    """The image and git.

    Attributes:
        root: the project.
        image: what the image takes from it.
        git: what git has or would take.
    """

    root: Path
    image: Content
    git: GitFiles

    def check(self, parts: dict[str, str]) -> Iterator[Finding]:
        """What they do not take.

        Args:
            parts: what they must take, and what each is.
        """
        there: dict[str, str] = {}  # and the links on the way to them
        leaving: dict[str, str] = {}
        for path, purpose in parts.items():
            within, out = _way(self.root, path)
            there |= {step: there.get(step, purpose) for step in within}
            leaving |= out
        yield from itertools.starmap(self._leaving, leaving.items())
        links: dict[str, str] = {}
        for link in self.image.links:
            for last, target in _way(self.root, link)[1].items():
                if last not in leaving:
                    links[link] = target
        others = [link for link, target in links.items() if not f"{target}/".startswith(MOUNTED)]
        yield from (self._leaving_image(link, more, links[link]) for link, more in _by_top(others))
        if self.image.files and self.image.is_complete:
            missing = [path for path in there if not _takes(self.image.files, path)]
            yield from (self._not_in_image(path, more, there[path]) for path, more in _by_top(missing))
        if self.git.all:  # otherwise git does not look after this project
            missing = [path for path in there if not _takes(self.git.all, path)]
            submodules = {path: found for path in missing if (found := self._submodule(path))}
            once = {submodule: path for path, submodule in submodules.items()}
            yield from itertools.starmap(_in_submodule, once.items())
            others = [path for path in missing if path not in submodules]
            yield from (self._not_in_git(path, more, there[path]) for path, more in _by_top(others))

    def _submodule(self, path: str) -> str:
        """The submodule that a path lies in, or in one of that one; "" if in none."""
        folders = map(str, PurePosixPath(path).parents)
        return next((folder for folder in folders if folder in self.git.tracked), "")

    def _leaving_image(self, link: str, more: str, target: str) -> Finding:
        more = more.replace(", nor", ", as")
        what = f"It is a link to {target}{more}, and the image gets the link, which leads nowhere there"
        hint = "Put a copy of what it leads to in its place, or name it in .dockerignore."
        return Finding(link, what, hint, "warning")

    def _leaving(self, link: str, target: str) -> Finding:
        what = f"It is a link to {target}, and the image and a clone get the link, which leads nowhere there"
        is_inside = Path(target).is_relative_to(self.root)
        hint = "Make it a relative one." if is_inside else "Put a copy of what it leads to in its place."
        return Finding(link, what, hint)

    def _not_in_image(self, path: str, more: str, purpose: str) -> Finding:
        what = f"The image does not take it{more}, and in a container {self._effect(path)}: it is {purpose}"
        if DockerIgnore(self.root).ignores(path) or (self.root / path).is_dir():
            hint = "change the rule in .dockerignore that keeps it out"
            hint += ", or move it to another folder." if purpose in (CODE, OPTIONS, NAMED) else "."
        else:
            hint = "copy it in the Dockerfile: COPY . . takes all that .dockerignore does not keep out."
        return Finding(path, what, self._hint(path, hint), _severity(path, purpose))

    def _not_in_git(self, path: str, more: str, purpose: str) -> Finding:
        folders = [str(folder) for folder in PurePosixPath(path).parents][:-1]
        inner = next((folder for folder in folders if (self.root / folder / ".git").exists()), None)
        what = f"Git does not take it{more}, and in a clone {self._effect(path)}: it is {purpose}"
        if inner is not None:
            hint = f"delete {inner}/.git, which makes another repository of it, and add it to this one."
        elif rule := ignoring_rule(self.root, path):
            hint = (
                f"change the rule that keeps it out, {rule}, or run: git add --force -- {shlex.quote(path)}"
            )
        else:
            hint = f"run: git add -- {shlex.quote(path)}"
        return Finding(path, what, self._hint(path, hint), _severity(path, purpose))

    def _effect(self, path: str) -> str:
        """What it is like where it is not."""
        if module := self._hidden(path):
            return f"Python takes {module}, which this one hides here"
        if path == BESIDE:
            return "the training has other options"
        return "`submit` refuses" if path in FOR_SUBMIT else "the training fails"

    def _hint(self, path: str, hint: str) -> str:
        if module := self._hidden(path):
            return f"Rename {module} or the folder beside it; or {hint}"
        return f"{hint[0].upper()}{hint[1:]}"

    def _hidden(self, path: str) -> str:
        """The module that a package hides, as data/ does data.py; "" if there is none."""
        folder, _, name = path.rpartition("/")
        return f"{folder}.py" if name == "__init__.py" and (self.root / f"{folder}.py").is_file() else ""


def _severity(path: str, purpose: str) -> Severity:
    return "warning" if path == BESIDE or purpose == NAMED else "error"


def _in_submodule(submodule: str, path: str) -> Finding:
    what = f"It lies in a submodule, {submodule}, which git clone leaves empty: the training fails"
    return Finding(path, what, "Clone with --recurse-submodules.", "warning")


def _takes(files: Collection[str], path: str) -> bool:
    """Whether a file is among these, or something in a folder."""
    return path in files or any(file.startswith(f"{path}/") for file in files)


def _by_top(paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The first path in each folder of the project, and how many more there are: one rule keeps out many."""
    for top, some in itertools.groupby(sorted(paths), key=lambda path: path.partition("/")[0]):
        first, *others = some
        yield first, f", nor {len(others)} more in {top}" if others else ""


def _way(root: Path, path: str) -> tuple[list[str], dict[str, str]]:
    """What has to be there for a path to be: the links on its way, and what they lead to.

    Returns:
        Paths in the project, with the last one that is known; and the link that leads out of it, if there is
        one, with what it says. An absolute one leads out of any other place of this project.
    """
    steps: list[str] = []
    for _ in range(MOST_LINKS):
        way = [*map(str, reversed(PurePosixPath(path).parents)), path]
        link = next((step for step in way[1:] if (root / step).is_symlink()), None)
        if link is None:
            return [*steps, path], {}
        steps.append(link)
        target = str((root / link).readlink())
        path = posixpath.normpath(f"{PurePosixPath(link).parent}/{target}{path[len(link) :]}")
        if Path(target).is_absolute() or path.partition("/")[0] == "..":
            return steps, {link: target}
    return steps, {}
