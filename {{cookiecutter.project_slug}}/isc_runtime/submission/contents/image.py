"""Is the project ready to become an image: what is missing, what is too much?"""

from __future__ import annotations

import stat
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from isc_runtime.sizes import readable_size
from isc_runtime.submission.contents.dockerfile import DockerIgnore, copied_files, copied_sources
from isc_runtime.submission.finding import Finding

MOST_BYTES = 25 * 10**9  # "treat 25 GB as the limit", for all of a container: https://docs.strongcompute.com
MOST_FILES = 200_000  # looking at more takes longer than anybody wants to wait
MANY_BYTES = 50 * 10**6  # of one file or folder
SOME_DATA = 10**6
DATA_SUFFIXES = frozenset(
    {
        *(
            ".arrow",
            ".bin",
            ".ckpt",
            ".csv",
            ".gz",
            ".h5",
            ".hdf5",
            ".idx",
            ".jsonl",
            ".lmdb",
            ".npy",
            ".npz",
        ),
        *(".parquet", ".pkl", ".pt", ".pth", ".safetensors", ".tar", ".tfrecord", ".tgz", ".zip", ".zst"),
    }
)
KEEP_OUT = "Name it in .dockerignore"


@dataclass(frozen=True)
class Content:
    """What the image takes from the project.

    Attributes:
        files: their paths in the project, with their sizes in bytes.
        is_complete: False if there are more than MOST_FILES.
        links: those of the files that are links: the image takes them as they are.
    """

    files: dict[str, int]
    is_complete: bool = True
    links: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())


def image_content(root: Path) -> Content:
    """Looks up what a build of the image would copy from a project."""
    files: dict[str, int] = {}
    links = []
    for path, known in copied_files(root):
        if len(files) == MOST_FILES:
            return Content(files, is_complete=False)
        files[path] = known.st_size
        if stat.S_ISLNK(known.st_mode):
            links.append(path)
    return Content(dict(sorted(files.items())), links=tuple(sorted(links)))


def check_image(root: Path, content: Content) -> Iterator[Finding]:
    """All that is wrong with it.

    Args:
        root: the project.
        content: what the image takes from it.
    """
    yield from _check_sources(root)
    yield from _check_data(content)
    if not content.is_complete:
        what = f"More than {MOST_FILES} files would be copied into the image; only these were looked at"
        yield Finding(".dockerignore", what, "Name in it what the training does not need.", "warning")
    if content.size > MOST_BYTES:
        taken, room = readable_size(content.size), readable_size(MOST_BYTES)
        what = f"{taken} would be copied into the image, and a container has room for {room} in all"
        yield Finding(".dockerignore", what, "Name in it what the training does not need.")


def _check_sources(root: Path) -> Iterator[Finding]:
    ignore = DockerIgnore(root)
    for line, rule in ignore.unreadable:
        hint = "Write \\ before a [ or \\ that is meant as it is; in [a-z] the smaller comes first."
        yield Finding(f".dockerignore:{line}", f"{rule} is no pattern that docker build can read", hint)
    for source in copied_sources(root):
        where = f"Dockerfile:{source.line}"
        if not source.exists(root):
            hint = "Make it, or take it out of the line: docker build fails without it."
            yield Finding(where, f"There is no {source.text} to copy", hint)
        elif source.pattern != "." and ignore.ignores(source.pattern):
            hint = "Take it out there, or out of this line: docker build fails without it."
            yield Finding(where, f"The file .dockerignore keeps {source.text} out", hint)


def _check_data(content: Content) -> Iterator[Finding]:
    """Data, checkpoints and what else is large: one finding for each entry of the project's folder."""
    total: dict[str, int] = defaultdict(int)
    data: dict[str, int] = defaultdict(int)
    for path, size in content.files.items():
        top = path.partition("/")[0]
        total[top] += size
        if PurePosixPath(path).suffix.lower() in DATA_SUFFIXES:
            data[top] += size
    for top in total:
        if top == ".git":
            what = f"The history, {readable_size(total[top])}, would be copied into the image"
            yield Finding(top, what, f"{KEEP_OUT}: it may hold what was deleted for a reason.", "warning")
        elif data[top] >= SOME_DATA or total[top] >= MANY_BYTES:
            what = f"{readable_size(total[top])} of what looks like data would be copied into the image"
            yield Finding(top, what, f"{KEEP_OUT}: datasets are mounted at /data/<id>.", "warning")
