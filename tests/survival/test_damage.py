"""A thousand damages: each is found before a tensor is used, and the newest good checkpoint taken."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import SOAK
from isc_runtime.checkpointing.on_disk.entries import Entry
from isc_runtime.checkpointing.stores.store import Store
from isc_runtime.errors import ExitCode, IscError
from trainee import KINDS, Trainee, uninterrupted

TRIALS = 500 * SOAK  # of each kind of store
SAVES = 3

Chance = random.Random


def flip_bits(entry: Entry, chance: Chance) -> None:
    for _ in range(chance.choice([1, 1, 1, 8])):
        file = chance.choice([entry.payload, entry.payload, entry.payload, entry.manifest])
        content = bytearray(file.read_bytes())
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        file.write_bytes(content)


def truncate(entry: Entry, chance: Chance) -> None:
    file = chance.choice([entry.payload, entry.manifest])
    os.truncate(file, chance.randrange(file.stat().st_size))


def zero_a_page(entry: Entry, chance: Chance) -> None:
    content = bytearray(entry.payload.read_bytes())
    first = chance.randrange(0, len(content) - 512, 512)
    if not any(content[first : first + 512]):
        content[0] ^= 1  # it was zero already
    content[first : first + 512] = bytes(512)
    entry.payload.write_bytes(content)


def delete(entry: Entry, chance: Chance) -> None:
    chance.choice([entry.payload, entry.manifest]).unlink()


def append(entry: Entry, chance: Chance) -> None:
    with chance.choice([entry.payload, entry.manifest]).open("ab") as stream:
        stream.write(chance.randbytes(chance.randint(1, 5000)))


def make_a_directory(entry: Entry, chance: Chance) -> None:
    file = chance.choice([entry.payload, entry.manifest])
    file.unlink()
    file.mkdir()


DAMAGES: list[Callable[[Entry, Chance], None]] = [
    *(flip_bits, flip_bits, flip_bits),
    *(truncate, zero_a_page, delete, append, make_a_directory),
]


def damage_link(store: Store, chance: Chance) -> None:
    """Points it nowhere, at an old one, or away; or makes a stale temporary one."""
    link = store.directory / store.link_name
    target = chance.choice(
        ["nowhere", str(store.entries()[0].path), "/elsewhere/AtomicDirectory_checkpoint_9"]
    )
    link.unlink()
    if chance.random() < 0.7:
        link.symlink_to(target)
    if chance.random() < 0.3:
        link.with_name(link.name + "_temp").symlink_to(target)


@pytest.fixture(scope="module", params=KINDS)
def good(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A store with three good checkpoints, of steps 1, 2 and 3."""
    directory = tmp_path_factory.mktemp("good") / "checkpoints"
    directory.mkdir()
    trainee = Trainee(request.param, directory, keep_checkpoints=0)
    with trainee.checkpointer as checkpointer:
        for _ in range(SAVES):
            trainee.train()
            checkpointer.save()
    return request.param, directory


def test_all_damage_is_found(
    good: tuple[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kind, original = good
    none_left = 0
    for trial in range(TRIALS):
        caplog.clear()
        chance = Chance(f"{kind} {trial}")
        directory = tmp_path / str(trial)
        shutil.copytree(original, directory, symlinks=True)
        store = Trainee(kind, directory, keep_checkpoints=0).store
        newest_good = damage(store, chance)
        trainee = Trainee(kind, directory, keep_checkpoints=0)
        if newest_good == 0:
            none_left += 1
            with pytest.raises(IscError, match="none of them can be used") as raised:
                trainee.checkpointer.restore()
            assert raised.value.exit_code == ExitCode.CHECKPOINT
        else:
            trainee.checkpointer.restore()
            assert trainee.step == newest_good, caplog.text
            assert trainee.fingerprint() == uninterrupted(trainee.step)
        trainee.checkpointer.equipment.close(wait=True)
        if newest_good < SAVES:
            assert "[DAMAGED]" in caplog.text or "[REPAIR]" in caplog.text
        shutil.rmtree(directory)
    print(f"{kind}: {TRIALS} damages, all found; in {none_left} none was left, and that was said")
    assert none_left


def damage(store: Store, chance: Chance) -> int:
    """Damages the newest, the newest two or all, and perhaps the link; returns the newest good step."""
    entries = store.entries()
    count = chance.choice([0, 1, 1, 1, 1, 2, 2, 3])
    good = list(range(1, len(entries) + 1 - count))
    for entry in entries[len(good) :]:
        chance.choice(DAMAGES)(entry, chance)
    if count == 0 and chance.random() < 0.3:  # the newest and the oldest change places: each is whole
        newest, oldest = entries[-1].payload, entries[0].payload
        content = newest.read_bytes()
        newest.write_bytes(oldest.read_bytes())
        oldest.write_bytes(content)
        good = [2]
    elif count == 0 or chance.random() < 0.3:
        damage_link(store, chance)
    return max(good, default=0)
