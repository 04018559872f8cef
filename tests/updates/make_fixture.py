"""Makes templates.tar.xz anew: the template as it was, and a project rendered from it, out of this history.

    .venv/bin/python tests/updates/make_fixture.py

Needs a clone with all of the history; the tests need only the archive. Of the template it holds what renders
a project (its tests, benchmarks and documents are left out); of the project all but LICENSE, which holds the
year in which it was rendered.
"""

from __future__ import annotations

import io
import lzma
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ARCHIVE = Path(__file__).with_name("templates.tar.xz")

# There is no tag. All that CHANGELOG.md lists after 0.1.0 was added behind the first of these commits: at it
# [Unreleased] was empty, and its child makes the first change that is listed there. Until the wings, which
# are 0.2.0, cookiecutter.json went on saying 0.1.0: projects of that name come from any commit up to the
# second of these, the last before the wings. It could shard, which the first could not.
COMMITS = {
    "0.1.0": "10f8678c00e6a094631f7209e9c7bb8c8e4d8ec5",
    "0.1.0-last": "d2d0871a351bf97ff21e709102b15fa3a4deae9b",
}
RENDERED_BY = ("cookiecutter.json", "hooks", "isc_template_answers.py", "isc_template_extension.py")
PROJECT = "{{cookiecutter.project_slug}}"
LEFT_OUT = {"LICENSE"}


def content(commit: str) -> dict[str, tuple[int, bytes]]:
    """Mode and bytes of each file of the archive that comes of a commit: template/... and project/..."""
    git = ("git", "archive", "--format=tar", commit, *RENDERED_BY, PROJECT)
    archive = subprocess.run(git, cwd=ROOT, capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(place / "template", filter="data")
        (place / "config.yaml").write_text(f"cookiecutters_dir: {place}/clones\nreplay_dir: {place}/replay\n")
        # In a process and a folder of its own: it must import its own extension, and not the present one.
        options = ("--no-input", "--accept-hooks", "no", "--config-file", place / "config.yaml")
        command: list[str | Path] = [sys.executable, "-B", "-m", "cookiecutter", place / "template", *options]
        subprocess.run([*command, "--output-dir", place / "output"], cwd=place, check=True)
        (project,) = (place / "output").iterdir()
        files = {f"template/{name}": file for name, file in _files(place / "template").items()}
        files |= {f"project/{name}": file for name, file in _files(project).items() if name not in LEFT_OUT}
    return files


def _files(folder: Path) -> dict[str, tuple[int, bytes]]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {
        path.relative_to(folder).as_posix(): (
            0o755 if path.stat().st_mode & 0o100 else 0o644,
            path.read_bytes(),
        )
        for path in paths
    }


def pack(archive: Path) -> None:
    """Writes the archive: the same bytes whenever and by whomever it is made, with the same liblzma."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for state, commit in COMMITS.items():
            for name, (mode, data) in content(commit).items():
                entry = tarfile.TarInfo(f"{state}/{name}")
                entry.mode, entry.size = mode, len(data)
                tar.addfile(entry, io.BytesIO(data))
    archive.write_bytes(lzma.compress(packed.getvalue(), preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    pack(ARCHIVE)
    print(f"{ARCHIVE}: {ARCHIVE.stat().st_size} bytes", file=sys.stderr)
