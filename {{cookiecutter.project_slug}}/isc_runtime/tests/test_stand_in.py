"""The contract of cycling_utils as this project relies on it, weaknesses included.

It holds for the stand-in and for the real package; which of them is tested, the head of the test log says.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from cycling_utils import AtomicDirectory, atomic_torch_save

from isc_runtime.tests import cycling_utils_choice

LINK = "AtomicDirectory.latest_checkpoint"


def saver(directory: Path, name: str = "AtomicDirectory", keep_last: int = -1) -> AtomicDirectory:
    """A saver as the project makes it."""
    return AtomicDirectory(
        str(directory), is_master=True, name=name, keep_last=keep_last, strategy="mono", device="cpu"
    )


def make(directory: Path, *suffixes: str, latest: str | None = None) -> None:
    """Makes checkpoint directories, each with a file, and the link to the latest."""
    for suffix in suffixes:
        (directory / f"AtomicDirectory_checkpoint_{suffix}").mkdir()
        (directory / f"AtomicDirectory_checkpoint_{suffix}" / "checkpoint.pt").write_bytes(b"state")
    if latest is not None:
        (directory / LINK).symlink_to(directory / f"AtomicDirectory_checkpoint_{latest}")


def suffixes(directory: Path) -> list[str]:
    """Which checkpoint directories there are."""
    prefix = "AtomicDirectory_checkpoint_"
    return sorted(path.name.removeprefix(prefix) for path in directory.iterdir() if not path.is_symlink())


def save(directory: Path, keep_last: int = -1, force_save: bool = False) -> str:
    """A save from beginning to end. Returns the checkpoint's directory."""
    atomic_directory = saver(directory, keep_last=keep_last)
    path: str = atomic_directory.prepare_checkpoint_directory(force_save=force_save)
    atomic_torch_save({"step": 1}, f"{path}/checkpoint.pt")
    atomic_directory.symlink_latest(path)
    return path


class TestAtomicTorchSave:
    def test_saves_what_torch_loads(self, tmp_path: Path) -> None:
        atomic_torch_save({"weights": torch.arange(3)}, str(tmp_path / "checkpoint.pt"))
        loaded = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
        assert loaded["weights"].tolist() == [0, 1, 2]
        assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]

    def test_a_failed_save_keeps_the_old_file_and_leaves_the_temporary_one(self, tmp_path: Path) -> None:
        atomic_torch_save({"step": 1}, str(tmp_path / "checkpoint.pt"))
        with pytest.raises(AttributeError):
            atomic_torch_save({"step": lambda: 2}, str(tmp_path / "checkpoint.pt"))
        assert torch.load(tmp_path / "checkpoint.pt", weights_only=True) == {"step": 1}
        assert (tmp_path / "checkpoint.pt.temp").exists()

    def test_passes_arguments_on_to_torch_save(self, tmp_path: Path) -> None:
        atomic_torch_save({"step": 1}, str(tmp_path / "old.pt"), _use_new_zipfile_serialization=False)
        assert not (tmp_path / "old.pt").read_bytes().startswith(b"PK")


class TestConstructor:
    def test_attributes(self, tmp_path: Path) -> None:
        atomic_directory = AtomicDirectory(str(tmp_path), strategy="mono")
        assert atomic_directory.output_directory == str(tmp_path)
        assert atomic_directory.name == "AtomicDirectory"
        assert atomic_directory.symlink_name == LINK
        assert atomic_directory.strategy == "mono"
        assert atomic_directory.keep_last == -1
        assert atomic_directory.device == "cuda"  # edge 7: CPU runs must say so

    def test_every_process_is_master_with_mono(self, tmp_path: Path) -> None:
        assert AtomicDirectory(str(tmp_path), is_master=False, strategy="mono").is_master

    def test_makes_the_output_directory(self, tmp_path: Path) -> None:
        saver(tmp_path / "new" / "checkpoints")
        assert list((tmp_path / "new" / "checkpoints").iterdir()) == []

    def test_works_beside_a_process_group(self, tmp_path: Path) -> None:
        rendezvous = f"file://{tmp_path}/rendezvous"
        torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=0, world_size=1)
        try:
            assert save(tmp_path) == str(tmp_path / "AtomicDirectory_checkpoint_0")
        finally:
            torch.distributed.destroy_process_group()

    def test_wrong_strategy(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError):
            AtomicDirectory(str(tmp_path), strategy="bogus")

    @pytest.mark.parametrize("strategy", ["sync_any", "sync_all", "async"])
    def test_the_stand_in_refuses_what_it_does_not_imitate(self, tmp_path: Path, strategy: str) -> None:
        if cycling_utils_choice.install() == "real":
            pytest.skip("the real one has it, inside a process group")
        with pytest.raises(NotImplementedError, match=f"only the strategy 'mono', not '{strategy}'"):
            AtomicDirectory(str(tmp_path), strategy=strategy)


class TestPrepare:
    def test_counts_from_the_link(self, tmp_path: Path) -> None:
        assert save(tmp_path) == str(tmp_path / "AtomicDirectory_checkpoint_0")
        assert save(tmp_path, force_save=True) == str(tmp_path / "AtomicDirectory_checkpoint_1_force")
        assert save(tmp_path) == str(tmp_path / "AtomicDirectory_checkpoint_2")

    def test_a_save_without_link_is_repeated_in_an_empty_directory(self, tmp_path: Path) -> None:
        path = Path(saver(tmp_path).prepare_checkpoint_directory())
        (path / "checkpoint.pt.temp").touch()
        assert saver(tmp_path).prepare_checkpoint_directory() == str(path)
        assert list(path.iterdir()) == []

    def test_deletes_what_is_newer_than_the_link(self, tmp_path: Path) -> None:
        make(tmp_path, "0", "1_force", "2", "3_force", "4", "10", latest="2")
        assert saver(tmp_path).prepare_checkpoint_directory().endswith("_3")
        assert suffixes(tmp_path) == ["0", "1_force", "2", "3"]

    def test_deletes_everything_without_a_link(self, tmp_path: Path) -> None:  # edge 4
        make(tmp_path, "0", "1_force", "7")
        (tmp_path / "notes").mkdir()
        assert saver(tmp_path).prepare_checkpoint_directory().endswith("_0")
        assert suffixes(tmp_path) == ["0", "notes"]
        assert list((tmp_path / "AtomicDirectory_checkpoint_0").iterdir()) == []

    @pytest.mark.parametrize("others", [(), ("2",), ("2", "4")])
    def test_fails_and_deletes_nothing_when_the_linked_directory_is_gone(
        self, tmp_path: Path, others: tuple[str, ...]
    ) -> None:  # edge 3
        make(tmp_path, *others, latest="3")
        with pytest.raises(Exception, match="checkpoint"):
            saver(tmp_path).prepare_checkpoint_directory()
        assert suffixes(tmp_path) == list(others)

    @pytest.mark.parametrize("elsewhere", ["/elsewhere", ""])
    def test_looks_at_the_name_in_the_link_only(self, tmp_path: Path, elsewhere: str) -> None:  # edge 2
        make(tmp_path, "3")
        (tmp_path / LINK).symlink_to(Path(elsewhere, "AtomicDirectory_checkpoint_3"))
        assert saver(tmp_path).prepare_checkpoint_directory().endswith("_4")
        assert suffixes(tmp_path) == ["3", "4"]

    @pytest.mark.parametrize(
        ("keep_last", "kept"),
        [
            (-1, ["0", "1", "2_force", "3", "4", "5"]),
            (0, ["0", "1", "2_force", "3", "4", "5"]),
            (3, ["2_force", "3", "4", "5"]),
            (2, ["2_force", "4", "5"]),
            (1, ["2_force", "5"]),
        ],
    )
    def test_keep_last(self, tmp_path: Path, keep_last: int, kept: list[str]) -> None:
        for index in range(6):
            save(tmp_path, keep_last, force_save=index == 2)
        assert suffixes(tmp_path) == kept

    def test_keep_last_1_deletes_the_latest_before_there_is_another(self, tmp_path: Path) -> None:  # edge 9
        save(tmp_path, keep_last=1)
        saver(tmp_path, keep_last=1).prepare_checkpoint_directory()
        assert not (tmp_path / LINK).exists()
        assert (tmp_path / LINK).is_symlink()

    @pytest.mark.parametrize(
        ("stranger", "is_taken"),
        [
            ("run_checkpoint_best_checkpoint_3", True),  # edge 15
            ("run_checkpoint_best_checkpoint_3_force", True),
            ("run_best_checkpoint_3", False),
            ("xrun_checkpoint_3", False),
            ("run_checkpoint_3_tmp", False),
            ("run_checkpoint_x", False),
        ],
    )
    def test_whom_it_takes_for_its_own(self, tmp_path: Path, stranger: str, is_taken: bool) -> None:
        (tmp_path / stranger).mkdir()
        saver(tmp_path, name="run").prepare_checkpoint_directory()
        assert (tmp_path / stranger).exists() is not is_taken

    def test_leaves_files_alone(self, tmp_path: Path) -> None:
        (tmp_path / "AtomicDirectory_checkpoint_5").touch()
        saver(tmp_path).prepare_checkpoint_directory()
        assert suffixes(tmp_path) == ["0", "5"]


class TestSymlinkLatest:
    def test_the_target_is_the_path_as_passed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for target in (str(tmp_path / "absolute"), "relative"):  # edge 2
            saver(tmp_path).symlink_latest(target)
            assert str((tmp_path / LINK).readlink()) == target
        assert [path.name for path in tmp_path.iterdir()] == [LINK]

    def test_the_link_is_made_beside_the_directory(self, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        saver(tmp_path / "checkpoints").symlink_latest(
            str(tmp_path / "other" / "AtomicDirectory_checkpoint_0")
        )
        assert (tmp_path / "other" / LINK).is_symlink()
        assert list((tmp_path / "checkpoints").iterdir()) == []

    def test_fails_for_ever_after_a_death_before_the_rename(self, tmp_path: Path) -> None:  # edge 1
        path = save(tmp_path)
        (tmp_path / f"{LINK}_temp").symlink_to(path)
        following = saver(tmp_path).prepare_checkpoint_directory()
        for _ in range(2):
            with pytest.raises(FileExistsError):
                saver(tmp_path).symlink_latest(following)
        assert str((tmp_path / LINK).readlink()) == path


def test_nothing_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # edge 5
    synced: list[int] = []
    for name in ("fsync", "fdatasync", "sync"):
        monkeypatch.setattr(os, name, lambda *arguments: synced.append(len(arguments)))
    save(tmp_path)
    assert synced == []
