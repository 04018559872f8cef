"""The archive of what was is what the history gives, and all that was in it is known."""

from __future__ import annotations

import tarfile

import pytest

from baking import ROOT, run
from isc_runtime.submission.update import MOVED
from make_fixture import ARCHIVE, COMMITS, PROJECT, content


@pytest.mark.parametrize("state", COMMITS)
def test_it_is_what_the_history_gives(state: str) -> None:
    if run("git", "cat-file", "-e", f"{COMMITS[state]}^{{commit}}", cwd=ROOT).returncode:
        pytest.skip("this clone has no such commit: it is shallow")
    archived = {}
    with tarfile.open(ARCHIVE) as tar:
        for member in tar:
            top, _, name = member.name.partition("/")
            if top == state and (file := tar.extractfile(member)) is not None:
                archived[name] = (member.mode, file.read())
    assert archived == content(COMMITS[state])


@pytest.mark.parametrize("state", COMMITS)
def test_every_module_of_then_is_there_or_known_to_have_moved(state: str) -> None:
    with tarfile.open(ARCHIVE) as tar:
        prefix = f"{state}/project/"
        names = [name.removeprefix(prefix) for name in tar.getnames() if name.startswith(prefix)]
    modules = [name for name in names if name.startswith("isc_runtime/") and name.endswith(".py")]
    assert len(modules) > 20
    lost = {
        name.removesuffix(".py").replace("/", ".")
        for name in modules
        if not (ROOT / PROJECT / name).is_file()
    }
    assert lost <= MOVED.keys()


def test_the_archive_is_small() -> None:
    assert ARCHIVE.stat().st_size < 400_000
