"""All ways to get the template: versions of cookiecutter and Python, archives, clones with CRLF line ends.

With real programs, each in an environment that uv makes and keeps for the next time.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from baking import BIN, IDENTITY, ROOT, files, git, run

CACHE = os.environ.get(
    "UV_CACHE_DIR", str(Path.home() / ".cache" / "uv")
)  # the tests have a home of their own
PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
TOO_OLD = ("1.7.3", "2.1.1", "2.2.3")
RECENT = ("2.3.1", "2.6.0", "")  # the last one is the newest
TOO_OLD_PYTHONS = ("3.8", "3.9")
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


@cache
def interpreter(version: str) -> Path:
    """A Python of this version; the test is skipped where there is none. None is downloaded."""

    def candidates() -> Iterator[Path]:
        yield from (Path(found) for found in [shutil.which(f"python{version}")] if found)
        yield from sorted(PYENV.glob(f"{version}.*/bin/python"))
        found = run(BIN / "uv", "python", "find", "--no-python-downloads", version, cwd=ROOT)
        yield from (Path(line) for line in found.stdout.splitlines())

    code = f"import sys; sys.exit('{version}' != '%d.%d' % sys.version_info[:2])"
    for candidate in candidates():
        if subprocess.run([candidate, "-c", code], capture_output=True, check=False).returncode == 0:
            return candidate
    pytest.skip(f"there is no Python {version} on this machine")


def get(
    template: Path, place: Path, version: str = "", python: str = "3.11", program: str = "cookiecutter"
) -> subprocess.CompletedProcess[str]:
    """Bakes in `place` with this version of cookiecutter (empty: the newest), on this Python."""
    wanted = f"cookiecutter=={version}" if version else "cookiecutter"
    source = ("--from", wanted) if program == "cookiecutter" else ("--with", wanted)
    command = {"cookiecutter": ["cookiecutter"], "cruft": ["cruft", "create"]}[program]
    uv = (BIN / "uv", "tool", "run", "--no-python-downloads", "--python", interpreter(python), *source)
    for name in ("home", "tmp"):
        (place / name).mkdir()
    return run(
        *uv, *command, "--no-input", template, cwd=place, UV_CACHE_DIR=CACHE, PWD=str(place),
        HOME=str(place / "home"), TMPDIR=str(place / "tmp"), UV_NO_PROGRESS="1",
    )  # fmt: skip


def lines(result: subprocess.CompletedProcess[str]) -> list[str]:
    """What was said, without what uv says of installing."""
    text = result.stdout + result.stderr
    installs = ("Downloading ", "Downloaded ", "Installed ", "warning: ")
    return [line for line in text.splitlines() if line and not line.lstrip().startswith(installs)]


def refused(result: subprocess.CompletedProcess[str], place: Path) -> str:
    """The one line with which a bake was refused; nothing was written."""
    assert result.returncode == 1
    assert {path.name for path in place.iterdir()} == {"home", "tmp"}
    (line,) = lines(result)
    return line


@pytest.mark.parametrize("version", TOO_OLD)
def test_a_cookiecutter_that_is_too_old_is_refused_in_one_line(
    template: Path, tmp_path: Path, version: str
) -> None:
    line = refused(get(template, tmp_path, version), tmp_path)
    assert "uvx" in line, "what to do"
    assert re.search("needs[ _]cookiecutter[ _]2[._]3[ _]or[ _]newer", line)
    if version != TOO_OLD[0]:
        assert f"this is {version}. Run: uvx cookiecutter --no-input {template}" in line


@pytest.mark.parametrize("program", ["cookiecutter", "cruft"])
@pytest.mark.parametrize("python", TOO_OLD_PYTHONS)
def test_a_python_that_is_too_old_is_refused_in_one_line(
    template: Path, tmp_path: Path, python: str, program: str
) -> None:
    """With the newest release that there is for it."""
    line = refused(get(template, tmp_path, python=python, program=program), tmp_path)
    command = "cruft create" if program == "cruft" else program
    assert f"needs Python 3.10 or newer, and this is {python}. Run: uvx --python 3.12 {command}" in line


@pytest.mark.parametrize("version", RECENT)
def test_cookiecutter_2_3_and_newer_write_the_same_project(
    template: Path, tmp_path: Path, project: Path, version: str
) -> None:
    assert_same(get(template, tmp_path, version), tmp_path, project)


@pytest.mark.parametrize("python", PYTHONS)
def test_python_3_10_and_newer_write_the_same_project(
    template: Path, tmp_path: Path, project: Path, python: str
) -> None:
    result = get(template, tmp_path, python=python)
    assert_same(result, tmp_path, project)
    found = [line for line in lines(result) if line.startswith("  experiment.isc:")]
    # 3.10 has no parser for TOML: what was not checked is said, and what to install.
    assert ("Install tomli" in found[0]) == (python == "3.10")


@pytest.mark.parametrize("python", [version for version in PYTHONS if version != "3.11"])
def test_cruft_on_other_pythons(template: Path, tmp_path: Path, python: str) -> None:
    result = get(template, tmp_path, python=python, program="cruft")
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "isc-experiment" / ".cruft.json").is_file()


def test_an_archive_writes_the_same_project(template: Path, tmp_path: Path, project: Path) -> None:
    """As GitHub makes it. cookiecutter unpacks it without any permissions, and it has no history."""
    archive = tmp_path / "isc-template-main.zip"
    git("archive", "--format=zip", "--prefix=isc-template-main/", "-o", str(archive), "HEAD", cwd=template)
    place = tmp_path / "place"
    place.mkdir()
    assert_same(get(archive, place), place, project, linked=False)


def test_a_clone_with_windows_line_ends_writes_the_same_project(
    template: Path, tmp_path: Path, project: Path
) -> None:
    """Even if what keeps such line ends out of a clone is not there."""
    bare = tmp_path / "bare"
    git("clone", "-q", str(template), str(bare), cwd=tmp_path)
    for file in bare.rglob(".gitattributes"):
        file.write_text("isc_template_commit.txt export-subst\n")
    git(*IDENTITY, "commit", "-q", "--all", "--message=No line ends are set", cwd=bare)
    windows = tmp_path / "windows"
    git("clone", "-q", "--config=core.autocrlf=true", str(bare), str(windows), cwd=tmp_path)
    assert b"\r\n" in (windows / "{{cookiecutter.project_slug}}" / "launch.sh").read_bytes()

    place = tmp_path / "place"
    place.mkdir()
    result = get(windows, place)
    assert result.returncode == 0, result.stdout + result.stderr
    baked = files(place / "isc-experiment")
    commit = git("rev-parse", "--short=7", "HEAD", cwd=windows).strip()
    ours = git("rev-parse", "--short=7", "HEAD", cwd=template).strip()
    for name, path in files(project).items():
        if name not in (".cruft.json", ".gitattributes"):
            expected = path.read_bytes().replace(ours.encode(), commit.encode())
            assert baked[name].read_bytes() == expected, name


def assert_same(
    result: subprocess.CompletedProcess[str], place: Path, project: Path, linked: bool = True
) -> None:
    """The project is, byte for byte and bit for bit, that of the newest cookiecutter from a clone."""
    assert result.returncode == 0, result.stdout + result.stderr
    baked, expected = files(place / "isc-experiment"), files(project)
    if not linked:
        del expected[".cruft.json"]
    assert baked.keys() == expected.keys()
    for name, path in expected.items():
        assert baked[name].read_bytes() == path.read_bytes(), name
        assert baked[name].stat().st_mode == path.stat().st_mode, name
