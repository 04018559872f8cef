"""What the environment variables say."""

from __future__ import annotations

from pathlib import Path

import pytest

from isc_runtime.environment import LOCAL_LOG_DIRECTORY, Environment
from isc_runtime.errors import IscError

TORCHRUN = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "GROUP_RANK": "1"}


def test_lossy_artifact_path_means_isc_mode() -> None:
    assert not Environment.read({}).isc_mode
    assert Environment.read({"LOSSY_ARTIFACT_PATH": "/logs"}).isc_mode


def test_the_log_directory_is_the_lossy_artifact_or_local() -> None:
    assert Environment.read({"LOSSY_ARTIFACT_PATH": "/logs"}).log_directory == Path("/logs")
    assert Environment.read({}).log_directory == LOCAL_LOG_DIRECTORY


@pytest.mark.parametrize("name", ["CHECKPOINT_ARTIFACT_PATH", "OUTPUT_PATH"])
def test_either_variable_names_the_checkpoint_directory(name: str) -> None:
    environment = Environment.read({"LOSSY_ARTIFACT_PATH": "/logs", name: "/mnt/checkpoints"})
    assert environment.checkpoint_variable() == (name, Path("/mnt/checkpoints"))


def test_both_variables_may_name_one_directory_in_two_ways(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    environment = Environment.read(
        {"CHECKPOINT_ARTIFACT_PATH": str(tmp_path), "OUTPUT_PATH": str(tmp_path / "link")}
    )
    assert environment.checkpoint_variable() == ("CHECKPOINT_ARTIFACT_PATH", tmp_path)


@pytest.mark.parametrize(
    ("variables", "what", "where"),
    [
        ({}, "No environment variable says", "CHECKPOINT_ARTIFACT_PATH or OUTPUT_PATH"),
        ({"OUTPUT_PATH": ""}, "set but empty", "OUTPUT_PATH"),
        ({"LOSSY_ARTIFACT_PATH": "", "OUTPUT_PATH": "/a"}, "set but empty", "LOSSY_ARTIFACT_PATH"),
        ({"CHECKPOINT_ARTIFACT_PATH": "/a", "OUTPUT_PATH": "/b"}, "different", "OUTPUT_PATH=/b"),
    ],
)
def test_a_checkpoint_directory_that_is_not_clear_is_an_error(
    variables: dict[str, str], what: str, where: str
) -> None:
    with pytest.raises(IscError) as raised:
        Environment.read(variables).checkpoint_variable()
    assert what in raised.value.what
    assert where in raised.value.where
    assert raised.value.hint


def test_torchrun_gives_the_ranks() -> None:
    environment = Environment.read(TORCHRUN)
    assert (environment.rank, environment.local_rank, environment.world_size) == (3, 1, 4)
    assert environment.node_rank == 1
    assert not environment.is_master


def test_without_torchrun_rank_is_the_nodes_rank_of_an_old_isc() -> None:
    environment = Environment.read({"RANK": "1"})
    assert (environment.rank, environment.world_size) == (0, 1)


@pytest.mark.parametrize("value", ["", "one", "-1", "1.5"])
def test_a_rank_that_is_no_number_is_an_error(value: str) -> None:
    with pytest.raises(IscError, match=r"not a number: RANK=.*torchrun"):
        Environment.read({**TORCHRUN, "RANK": value})
