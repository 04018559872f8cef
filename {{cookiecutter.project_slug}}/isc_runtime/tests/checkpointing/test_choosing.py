"""A sharded checkpoint is compared with its checksums by all ranks, and on each node what that node reads."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isc_runtime.checkpointing.on_disk.layout import SET_ASIDE
from isc_runtime.checkpointing.on_disk.manifest import Damaged, Manifest
from isc_runtime.errors import ExitCode
from isc_runtime.options import ParallelOptions
from isc_runtime.ranks.shard_metadata import read_metadata
from isc_runtime.tests.checkpointing.ranks_that_save import Training, on_each_rank
from isc_runtime.tests.processes import Ended, run_forked

SHARDS = ["__0_0.distcp", "__1_0.distcp"]
REST = [".metadata", "checkpoint.pt"]


def save_twice(training: Training) -> None:
    for _ in range(2):
        training.step()
        training.checkpointer.save()
        training.checkpointer.settle()


def restore(training: Training) -> None:
    assert training.checkpointer.restore()
    print(f"step: {training.sampler.progress.step}")


def watched(monkeypatch: pytest.MonkeyPatch, blind_to: str = "") -> None:
    """Each rank says which files it compares; a node other than the first one sees one of them otherwise."""
    verify = Manifest._verify_content

    def say(manifest: Manifest, file: Path, note: Any) -> None:
        print(f"compares: {file.name}")
        if file.name == blind_to and os.environ["GROUP_RANK"] != "0":
            raise Damaged(f"{file.name} is another one")
        verify(manifest, file, note)

    monkeypatch.setattr(Manifest, "_verify_content", say)


def on_ranks(
    directory: Path,
    work: Callable[[Training], None],
    ranks: int = 2,
    parallelism: str | ParallelOptions = "fsdp",
    nodes: int = 1,
) -> list[Ended]:
    """On so many ranks; with several nodes each is on one of its own, as far as it knows."""
    (directory / "there").mkdir(exist_ok=True)

    def run() -> None:
        if nodes > 1:
            os.environ.update(GROUP_RANK=os.environ["RANK"], LOCAL_RANK="0", GROUP_WORLD_SIZE=str(nodes))
        on_each_rank(directory / "there", parallelism, work)

    return run_forked(directory, run, ranks)


def said(ended: Ended, mark: str) -> list[str]:
    return sorted(line.removeprefix(mark) for line in ended.output.splitlines() if line.startswith(mark))


def test_each_rank_compares_what_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_ranks(tmp_path, save_twice)
    watched(monkeypatch)
    one, other = on_ranks(tmp_path, restore)
    assert said(one, "step: ") == said(other, "step: ") == ["2"], (one, other)
    assert said(one, "compares: ") == sorted([*REST, SHARDS[0]])
    assert said(other, "compares: ") == [SHARDS[1]]


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_a_node_compares_what_it_reads_and_others_have_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parallelism: str
) -> None:
    on_ranks(tmp_path, save_twice)
    watched(monkeypatch)
    one, other = on_ranks(tmp_path, restore, parallelism=parallelism, nodes=2)
    assert said(one, "step: ") == said(other, "step: ") == ["2"], (one, other)
    shards = {"ddp": [SHARDS, SHARDS], "fsdp": [SHARDS[:1], SHARDS[1:]]}[parallelism]
    assert said(one, "compares: ") == sorted([*REST, *shards[0]])
    assert said(other, "compares: ") == sorted([*REST, *shards[1]])


def test_a_node_that_sees_another_file_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_ranks(tmp_path, save_twice)
    watched(monkeypatch, blind_to=SHARDS[0])
    ended = on_ranks(tmp_path, restore, parallelism="ddp", nodes=2)
    assert [one.code for one in ended] == [ExitCode.CHECKPOINT] * 2, ended
    assert f"otherwise than another one ({SHARDS[0]} is another one)" in "".join(one.output for one in ended)


@pytest.mark.parametrize(("ranks", "shard"), [(1, SHARDS[1]), (2, SHARDS[1]), (3, SHARDS[0])])
def test_a_damaged_shard_is_found_by_whoever_looks(tmp_path: Path, ranks: int, shard: str) -> None:
    on_ranks(tmp_path, save_twice)
    newest = (tmp_path / "there" / "resume.pth").resolve()
    content = bytearray((newest / shard).read_bytes())
    content[len(content) // 2] ^= 1
    (newest / shard).write_bytes(content)
    for ended in on_ranks(tmp_path, restore, ranks):
        assert said(ended, "step: ") == ["1"], ended.output
    assert [path.name for path in (tmp_path / "there" / SET_ASIDE).glob("*/*")] == [newest.name]
    assert (tmp_path / "there" / "resume.pth").resolve().name.endswith("_1")


def test_when_no_shard_is_good_nothing_is_taken(tmp_path: Path) -> None:
    on_ranks(tmp_path, save_twice)
    for file in (tmp_path / "there").glob(f"*/{SHARDS[1]}"):
        file.write_bytes(bytes(file.stat().st_size))
    ended = on_ranks(tmp_path, restore)
    assert [one.code for one in ended] == [ExitCode.CHECKPOINT] * 2, ended
    assert "There are checkpoints, and none of them can be used" in ended[0].output
    assert f"the content of {SHARDS[1]} does not match its checksum" in ended[0].output


def say_weights(training: Training) -> None:
    weight: Any = training.model.weight
    print(f"weights: {getattr(weight, 'full_tensor', lambda: weight)().tolist()}")


def save_and_say(training: Training) -> None:
    save_twice(training)
    say_weights(training)


def restore_and_say(training: Training) -> None:
    restore(training)
    say_weights(training)


@pytest.mark.parametrize("ranks", [2, 4])
def test_of_several_groups_that_hold_the_model_one_writes_each_part(tmp_path: Path, ranks: int) -> None:
    """And each reads what it needs, on any number of ranks."""
    hybrid = ParallelOptions("fsdp", shard_size=2)
    saved = on_ranks(tmp_path, save_and_say, 4, hybrid)
    restored = on_ranks(tmp_path, restore_and_say, ranks, hybrid)
    weights = [said(ended, "weights: ") for ended in (*saved, *restored)]
    assert weights == [weights[0]] * (4 + ranks)
    assert weights[0]
    newest = (tmp_path / "there" / "resume.pth").resolve()
    files = {path.name: path.stat().st_size for path in newest.iterdir()}
    metadata = read_metadata(newest, files)  # which refuses tensors that have a part twice
    assert len(metadata.state_dict_metadata) == 6  # a weight and a bias, and two moments of each
