"""A user without root, without a name and without a home trains, is killed, and goes on."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import PROJECT
from isc_runtime.errors import ExitCode
from isc_runtime.tests.cycling_utils_choice import python_path_for_children
from isc_runtime.tests.processes import Ended, Place, rest_of, wait_for
from test_faults import needs_root

USER = 54321  # in no list of users, as in a container that is started with a number
ARGUMENTS = ("--epochs", "100000", "--save-steps", "5", "--log-steps", "1")

pytestmark = needs_root


def entered_as_somebody() -> list[str]:
    """What a command begins with that this user runs; he reaches Python and the project, wherever they are.

    A folder that is closed to him is covered, for these processes alone, and opened for what lies in it.
    """
    needed = [sys.base_prefix, sys.prefix, str(PROJECT), *python_path_for_children()]
    closed = {path: top for path in map(os.path.abspath, needed) if (top := topmost_closed(Path(path)))}
    script = ["set -e"]
    script += [f"exec {number}<{path}" for number, path in enumerate(closed, start=10)]
    script += [f"mount -t tmpfs -o mode=755 tmpfs {top}" for top in sorted(set(closed.values()))]
    for number, path in enumerate(closed, start=10):
        script.append(f"mkdir -p {path}; mount -c --bind /proc/self/fd/{number} {path}; exec {number}<&-")
    script.append(f'exec setpriv --reuid={USER} --regid={USER} --clear-groups --no-new-privs -- "$@"')
    return ["unshare", "--mount", "bash", "-c", "\n".join(script), "bash"]


def topmost_closed(path: Path) -> Path | None:
    """The first folder on the way to `path` that others may not enter."""
    way = [*reversed(path.parents), path]
    return next((one for one in way if not one.stat().st_mode & stat.S_IXOTH), None)


class Somebody:
    """That user, in a folder of his own."""

    def __init__(self, path: Path) -> None:
        self.place = Place(path, variables={"HOME": "/nonexistent"}, script=PROJECT / "train.py")
        os.chown(path, USER, USER)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [*entered_as_somebody(), sys.executable, *arguments]
        return subprocess.Popen(
            command,
            cwd=self.place.path,
            env=self.place.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str) -> Ended:
        process = self.start(*arguments)
        said = rest_of(process)
        return Ended(process.returncode, said)


@pytest.fixture
def somebody() -> Iterator[Somebody]:
    with tempfile.TemporaryDirectory() as path:  # pytest's own is closed to others
        yield Somebody(Path(path))


def test_he_trains_is_killed_and_goes_on(somebody: Somebody) -> None:
    torchrun = ("-m", "isc_runtime", "torchrun", "--standalone", "--nproc-per-node=2")
    process = somebody.start(*torchrun, str(PROJECT / "train.py"), *ARGUMENTS)
    said = wait_for(process, "[COMPLETE]")
    process.kill()
    said += rest_of(process)
    saved = [int(step) for step in re.findall(r"\[COMPLETE\] Checkpoint of step (\d+)", said)]
    assert saved, said
    owners = {path.stat().st_uid for path in somebody.place.checkpoints.rglob("*.pth")}
    assert owners == {USER}
    process = somebody.start(str(PROJECT / "train.py"), *ARGUMENTS)
    said = wait_for(process, "Resumed from")
    assert int(re.findall(r"Resumed from \S+: step (\d+)", said)[0]) >= saved[-1]
    said += wait_for(process, ": loss")
    process.send_signal(signal.SIGTERM)
    said += rest_of(process)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "Traceback" not in said
    listing = somebody.run("-m", "isc_runtime", "checkpoints")
    assert listing.code == 0, listing.output


def test_a_folder_of_root_s_is_refused_before_training(somebody: Somebody) -> None:
    somebody.place.checkpoints.mkdir()
    ended = somebody.run(str(PROJECT / "train.py"), *ARGUMENTS)
    assert ended.code == ExitCode.UNFIT, ended.output
    (error,) = re.findall(r"^ERROR: .*", ended.output, re.MULTILINE)
    assert "Permission denied" in error
    assert "checkpoints" in error
    assert "Traceback" not in ended.output


def test_a_checkpoint_that_only_root_can_read_costs_its_steps_and_is_not_deleted(somebody: Somebody) -> None:
    train = (str(PROJECT / "train.py"), *ARGUMENTS, "--keep-checkpoints", "0")
    first = somebody.start(*train)
    wait_for(first, "step 15: loss")
    first.send_signal(signal.SIGTERM)
    rest_of(first)
    newest = (somebody.place.checkpoints / "resume.pth").resolve()
    os.chown(newest, 0, 0)
    newest.chmod(0o600)
    second = somebody.start(*train)
    said = wait_for(second, "Resumed from")
    second.send_signal(signal.SIGTERM)
    said += rest_of(second)
    assert second.returncode == 128 + signal.SIGTERM, said
    assert re.search(rf"\[DAMAGED\] \S*{newest.name}: .*Permission denied", said), said
    assert list(somebody.place.checkpoints.rglob(newest.name))
