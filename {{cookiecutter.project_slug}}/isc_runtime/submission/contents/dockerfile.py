"""What a build of the image would copy from the project: the sources in the Dockerfile, less .dockerignore.

Their rules are documented at https://docs.docker.com/reference/dockerfile and, for .dockerignore, at
https://docs.docker.com/build/concepts/context.
"""

from __future__ import annotations

import itertools
import json
import os
import posixpath
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from isc_runtime.submission.logical_lines import logical_lines
from isc_runtime.text_files import read_text

# Of a pattern: wildcards, classes of characters, and characters, with a backslash before them or without.
_PARTS = re.compile(r"\*\*/?|\*|\?|\[[^\]]+\]|\\.|.", flags=re.DOTALL)
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::-([^}]*))?\})")
_HERE = re.compile(r"^(?:RUN|COPY|ADD)\s.*<<-?[\"']?(\w+)", re.IGNORECASE)
_PLACE = re.compile(r"/[\w.+@/-]+")  # of a project in the image; no variables


@dataclass(frozen=True)
class Source:
    """Something that the Dockerfile copies out of the project.

    Attributes:
        line: where it says so.
        text: as it is written there, variables replaced.
        target: where it goes in the image, an absolute path; "" if that is not known.
    """

    line: int
    text: str
    target: str = ""

    @property
    def pattern(self) -> str:
        """The path or pattern, from the project's directory."""
        return "/".join(part for part in self.text.split("/") if part not in ("", ".")) or "."

    def exists(self, root: Path) -> bool:
        """Whether there is anything to copy."""
        is_glob = any(character in self.pattern for character in "*?[")
        return (root / self.pattern).exists() or (is_glob and any(root.glob(self.pattern)))


def copied_sources(root: Path) -> list[Source]:
    """The sources of each COPY and ADD, as far as they are in this project and known before the build."""
    variables: dict[str, str] = {}
    sources: list[Source] = []
    directory, end = "", ""
    for number, line in logical_lines(root / "Dockerfile"):
        if end:  # of a here-document, whose lines are no instructions
            end = "" if line == end else end
            continue
        end = match[1] if (match := _HERE.search(line)) else ""
        instruction, *rest = line.split(None, 1)
        words = _words("".join(rest))
        match instruction.upper():
            case "FROM":  # what was copied before is in another image
                directory, sources = "", [replace(source, target="") for source in sources]
            case "ARG" | "ENV":
                variables |= _assigned(words)
            case "WORKDIR":
                directory = _inside(directory, _expanded("".join(rest).strip("\"'"), variables))
            case "COPY" | "ADD":
                expanded = [_expanded(word, variables) for word in words if not word.startswith("--")]
                target = _inside(directory, expanded[-1] if expanded else "")
                is_of_project = not any(word.startswith(("--from", "<<")) for word in words)
                known = [text for text in expanded[:-1] if text and "$" not in text and "://" not in text]
                sources += [Source(number, text, target) for text in known if is_of_project]
    return sources


def place_in_image(root: Path) -> str:
    """The directory that the image has the project in, by its Dockerfile; "" if that does not say it."""
    places = [
        source.target.removesuffix("/launch.sh")
        for source in copied_sources(root)
        if re.fullmatch(expression(source.pattern), "launch.sh")
    ]
    return places[-1] if places else ""


def _inside(directory: str, path: str) -> str:
    """A directory of the image, as seen from another one; "" if it is not known."""
    whole = posixpath.normpath(posixpath.join(directory, path))
    return whole if _PLACE.fullmatch(whole) else ""


def _assigned(words: list[str]) -> dict[str, str]:
    """What ARG or ENV says; the old form of ENV has no `=`."""
    if len(words) == 2 and "=" not in words[0]:
        return {words[0]: words[1]}
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def _expanded(text: str, variables: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda match: _expand(match, variables), text)


def _words(rest: str) -> list[str]:
    """As docker reads them: what is no JSON is for a shell. None where a quote is open: docker says it."""
    try:
        words = json.loads(rest)
    except ValueError:
        words = None
    if isinstance(words, list) and all(isinstance(word, str) for word in words):
        return words
    try:
        return shlex.split(rest)
    except ValueError:
        return []


def _expand(match: re.Match[str], variables: Mapping[str, str]) -> str:
    return variables.get(match[1] or match[2]) or match[3] or match[0]


class DockerIgnore:
    """The rules of a project's .dockerignore; without the file nothing is ignored.

    Attributes:
        unreadable: rules with which docker build ends, and their lines.
    """

    def __init__(self, root: Path) -> None:
        try:
            lines = read_text(root / ".dockerignore").removeprefix("\ufeff").splitlines()
        except (OSError, ValueError):
            lines = []
        numbered = {number: line.strip() for number, line in enumerate(lines, 1) if not line.startswith("#")}
        rules = [rule for rule in numbered.values() if rule]
        self.unreadable = [(number, rule) for number, rule in numbered.items() if not is_pattern(rule)]
        # Those that follow each other and do the same are one expression: a project has thousands of files.
        self._rules = [
            (re.compile("|".join(expression(rule.removeprefix("!")) for rule in alike)), is_out)
            for is_out, alike in itertools.groupby(rules, key=lambda rule: not rule.startswith("!"))
        ]
        self._has_exceptions = not all(is_out for _, is_out in self._rules)

    def ignores(self, path: str) -> bool:
        """Whether a path of the project, with `/` between its parts, is kept out. The last rule wins."""
        ignored = False
        for pattern, is_out in self._rules:
            if is_out != ignored and pattern.fullmatch(path):
                ignored = is_out
        return ignored

    def ignores_all_of(self, folder: str) -> bool:
        """Whether nothing in a folder has to be looked at. An exception may be about any file in it."""
        return not self._has_exceptions and self.ignores(folder)


def copied_files(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """The files that a build would copy, and what they are, in no order. Links are not followed."""
    ignore = DockerIgnore(root)
    sources = re.compile("|".join(expression(source.pattern) for source in copied_sources(root)))
    folders = [""]
    while folders:
        folder = folders.pop()
        for entry in _entries(root / folder):
            path = f"{folder}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                if not ignore.ignores_all_of(path):
                    folders.append(f"{path}/")
            elif sources.fullmatch(path) and not ignore.ignores(path):
                yield path, entry.stat(follow_symlinks=False)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:  # not readable, or gone meanwhile: docker would say so
        return []


def expression(pattern: str) -> str:
    """What a pattern of a Dockerfile or .dockerignore matches, with all that is below it: for `fullmatch`."""
    pattern = "/".join(part for part in pattern.strip().split("/") if part not in ("", "."))
    if not pattern:
        return "(?s:.*)"
    return "".join(map(_as_regex, _PARTS.findall(pattern))) + "(?s:/.*)?"


def is_pattern(text: str) -> bool:
    """Whether docker build can read it. What is no class of characters, as [z-a], is none of its patterns."""
    return not any(part in ("[", "\\") or not _is_class(part) for part in _PARTS.findall(text))


def _as_regex(part: str) -> str:
    if part.startswith("[") and len(part) > 1 and _is_class(part):
        return part.replace("[!", "[\\!")  # Go negates with ^ alone
    meanings = {"**/": "(?s:(?:.*/)?)", "**": "(?s:.*)", "*": "[^/]*", "?": "[^/]"}
    return meanings.get(part) or re.escape(part if part.startswith("[") else part[-1])


def _is_class(part: str) -> bool:
    try:
        return bool(re.compile(part if part.startswith("[") and len(part) > 1 else ""))
    except re.error:
        return False
