"""What the usual recipe and torch.distributed.checkpoint lose, where the tests hold us to lose nothing.

    python tests/survival/peers.py [--flips 400] [--cuts 10]

The recipe is that of cycling_utils: `atomic_torch_save` into a new directory, then the link to it. Needs
strace, and root to mount a file system whose power it cuts.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter

from conftest import CHOSEN
from strace import attach, mutating_calls
from test_power_cut import FILE_SYSTEMS, Disk
from trainee import fork

Tell = Callable[[str], None]
SIZE = 2**18  # values of the state, 1 MB: some of the damage hits its weights, some what is around them


def state_of(step: int) -> dict[str, Any]:
    """A state whose every value is the step."""
    return {"weights": torch.full((SIZE,), float(step))}


class Recipe:
    """cycling_utils, used as its documentation shows."""

    def __init__(self, directory: Path) -> None:
        from cycling_utils import AtomicDirectory, atomic_torch_save  # conftest has chosen which

        self.directory, self.write = directory, atomic_torch_save
        self.saver = AtomicDirectory(str(directory), is_master=True, strategy="mono")

    def save(self, step: int) -> None:
        """Saves, and makes it the latest."""
        path = self.saver.prepare_checkpoint_directory()
        self.write(state_of(step), Path(path) / "checkpoint.pt")
        self.saver.symlink_latest(path)

    def load(self, step: int) -> float:
        """The step of the latest, which should be `step` or a later one."""
        return self.newest()

    def newest(self) -> float:
        """The step of what a restart goes on from: the link's."""
        latest = self.directory / self.saver.symlink_name / "checkpoint.pt"
        return step_in(torch.load(latest, weights_only=True))


class Distributed:
    """torch.distributed.checkpoint, which syncs its files; a directory for each save."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def save(self, step: int) -> None:
        """Saves into a new directory."""
        writer = FileSystemWriter(self.directory / f"step-{step:06}")
        state_dict_saver.save(state_of(step), storage_writer=writer, no_dist=True)

    def load(self, step: int) -> float:
        """The step in the directory of this step."""
        state = state_of(-1)
        reader = FileSystemReader(self.directory / f"step-{step:06}")
        state_dict_loader.load(state, storage_reader=reader, no_dist=True)
        return step_in(state)

    def newest(self) -> float:
        """The step of what a restart goes on from: that of the newest directory."""
        return self.load(max(int(path.name.rpartition("-")[2]) for path in self.directory.glob("step-*")))


PEERS: dict[str, Callable[[Path], Recipe | Distributed]] = {
    "the recipe": Recipe,
    "torch.distributed.checkpoint": Distributed,
}


class SpoiledError(Exception):
    """What was loaded is not what was saved."""


def step_in(state: dict[str, Any]) -> float:
    """The step that all values name; an error if they do not name one."""
    lowest, highest = (float(value) for value in state["weights"].aminmax())
    if lowest != highest:
        raise SpoiledError("values of two steps, or damaged ones")
    return lowest


@dataclass
class Kills:
    """What a kill at each system call of a save leaves behind.

    Attributes:
        calls: at so many there was a kill.
        stuck: after so many of them it can never save again.
        unreadable: after so many of them the newest cannot be loaded.
    """

    calls: int
    stuck: int = 0
    unreadable: int = 0


def count_kills(name: str, directory: Path) -> Kills:
    """Kills a second save at each of its system calls, and looks at what is left."""
    first = directory / "whole"
    calls = mutating_calls(killed_save(name, first, ""), first)
    kills = Kills(len(calls))
    for number, call in enumerate(calls):
        place = directory / str(number)
        killed_save(name, place, f"{call.name}:signal=KILL:when={call.number}")
        try:
            PEERS[name](place).newest()
        except (Exception, CheckpointException):
            kills.unreadable += 1

        def save_again(tell: Tell, place: Path = place) -> None:
            PEERS[name](place).save(3)
            tell("saved")

        attempt = fork(save_again, directory / "log")
        kills.stuck += not attempt.said()
        attempt.wait()
    return kills


def killed_save(name: str, place: Path, inject: str) -> Path:
    """A second save under strace. Returns the trace."""
    place.mkdir()
    reading, writing = os.pipe()

    def work(tell: Tell) -> None:
        peer = PEERS[name](place)
        peer.save(1)
        tell(str(os.getpid()))
        os.read(reading, 1)
        peer.save(2)

    child = fork(work, place.with_suffix(".log"))
    trace = place.with_suffix(".trace")
    strace = attach(int(os.read(child.says, 20)), trace, inject)
    os.write(writing, b"g")
    child.wait()
    strace.wait()
    for descriptor in (reading, writing, child.says):
        os.close(descriptor)
    return trace


def count_flips(name: str, directory: Path, flips: int) -> int:
    """How many flipped bits are loaded as if nothing was wrong."""
    peer = PEERS[name](directory)
    peer.save(1)
    (file,) = (path for path in directory.rglob("*") if path.suffix in (".pt", ".distcp") and path.is_file())
    whole, chance, accepted = file.read_bytes(), random.Random(name), 0
    for _ in range(flips):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        file.write_bytes(damaged)
        with contextlib.suppress(Exception, CheckpointException):  # whatever it says: it has noticed
            load_whatever(peer)
            accepted += 1
    return accepted


def load_whatever(peer: Recipe | Distributed) -> None:
    """Loads, and does not look at the values: a training could not either."""
    with contextlib.suppress(SpoiledError):
        peer.load(1)


def count_cuts(name: str, directory: Path, cuts: int) -> int:
    """After how many power cuts a save that had returned is lost, or cannot be loaded."""
    disk, lost = Disk(directory, FILE_SYSTEMS["ext4"]), 0
    chance = random.Random(name)
    try:
        for number in range(cuts):
            place = disk.mount_point / str(number)

            def save_for_ever(tell: Tell, place: Path = place) -> None:
                place.mkdir()
                peer, step = PEERS[name](place), 0
                while True:
                    step += 1
                    peer.save(step)
                    tell(str(step))

            child = fork(save_for_ever, directory / "log")
            begun = os.read(child.says, 10).decode()
            time.sleep(chance.uniform(0.1, 0.8))
            disk.cut_power()
            child.kill()
            acknowledged = int((begun + "\n".join(child.said())).split()[-1])
            child.wait()
            disk.unmount()
            disk.mount()
            try:
                lost += PEERS[name](place).load(acknowledged) < acknowledged
            except (Exception, CheckpointException):  # the latter is none: whatever it is, nothing is loaded
                lost += 1
    finally:
        disk.close()
    return lost


def main() -> None:
    """Counts and prints."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--flips", type=int, default=400)
    options.add_argument("--cuts", type=int, default=10)
    arguments = options.parse_args()
    if os.geteuid():
        sys.exit("It cuts the power of a file system, which needs root to be mounted.")
    warnings.filterwarnings("ignore")  # torch's, about a single process
    logging.disable()
    print(f"cycling_utils: {CHOSEN}")
    for name in PEERS:
        with tempfile.TemporaryDirectory() as place:
            flips, cuts, kills = (Path(place) / folder for folder in ("flips", "cuts", "kills"))
            for folder in (flips, cuts, kills):
                folder.mkdir()
            print(f"{name}: {count_flips(name, flips, arguments.flips)} of {arguments.flips} flips loaded")
            lost = count_cuts(name, cuts, arguments.cuts)
            print(f"{name}: {lost} of {arguments.cuts} power cuts lost a save")
            found = count_kills(name, kills)
            print(f"{name}: killed at {found.stuck} of {found.calls} system calls it never saves again")
            print(f"{name}: killed at {found.unreadable} of {found.calls} its newest cannot be loaded")


if __name__ == "__main__":
    main()
