"""What a save of a sharded model costs a training on two ranks, how soon it is on the disk, and a restore.

    python benchmarks/sharded.py [--megabytes 500] [--rounds 7] [--json FILE]

A model with AdamW under FSDP2, half of it on each rank. Peers, in turns with ours, into the same directory:
`async_save`, `save` and `load` of torch.distributed.checkpoint. Its `save` syncs its files, but neither the
directory nor a link to the checkpoint; its `load` verifies nothing.
"""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from report import Report, parser, seconds_of, take_turns
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from training import Training, save, start_on_two_ranks

from isc_runtime.checkpointing.saving.state_size import size_of
from isc_runtime.environment import Environment
from isc_runtime.ranks.group import Group, process_group


def measure(group: Group, directory: Path, megabytes: int, rounds: int) -> Report:
    """Runs on each rank; the figures are the master's."""
    (directory / "checkpoints").mkdir(exist_ok=True)
    training = Training(directory / "checkpoints", megabytes, group, sharded=True)
    dcp_directory = directory / "dcp"

    def alike(work: Callable[[], float]) -> Callable[[], float]:
        """Begun on all ranks together, when the disk has nothing left to do, and without old files."""

        def run() -> float:
            if group.is_master:
                shutil.rmtree(dcp_directory, ignore_errors=True)
                os.sync()
            group.gather(None)
            return work()

        return run

    published: list[float] = []

    def ours() -> float:
        held_up, until_published = save(training)
        published.append(until_published)
        return held_up

    def asynchronous() -> float:
        future: Any = None

        def begin() -> None:
            nonlocal future
            future = state_dict_saver.async_save(training.state_dicts(), checkpoint_id=dcp_directory)

        held_up = seconds_of(begin)
        getattr(future, "upload_completion", future).result()
        return held_up

    def synchronous() -> float:
        return seconds_of(lambda: state_dict_saver.save(training.state_dicts(), checkpoint_id=dcp_directory))

    saving = {"ours": ours, "async_save": asynchronous, "save": synchronous}
    held_up = take_turns({name: alike(peer) for name, peer in saving.items()}, rounds)
    until_published = sorted(published)[len(published) // 2]
    synchronous()  # what `load` is to load

    def restored() -> float:
        return seconds_of(training.checkpointer.restore)

    def loaded() -> float:
        def work() -> None:
            state = training.state_dicts()
            state_dict_loader.load(state, checkpoint_id=dcp_directory)
            training.model.load_state_dict(state["model"])
            training.optimizer.load_state_dict(state["optimizer"])

        group.gather(None)
        return seconds_of(work)

    restore = take_turns({"ours": restored, "load": loaded}, rounds)
    report = Report("sharded")
    report.figure("state of both ranks, MB", 2 * size_of(local_parts(training)) / 1e6)
    report.figure("held up by ours, ms", 1e3 * held_up["ours"])
    report.figure("held up by async_save, ms", 1e3 * held_up["async_save"])
    report.figure("until durable and published, ms", 1e3 * until_published)
    report.figure("save, ms", 1e3 * held_up["save"])
    report.figure("restore, every byte verified, ms", 1e3 * restore["ours"])
    report.figure("load, into model and optimizer, ms", 1e3 * restore["load"])
    report.ratio("held up, against async_save", held_up["ours"] / held_up["async_save"], most=0.25)
    report.ratio("until published, against save", until_published / held_up["save"], most=1.1)
    report.ratio("restore, against load into the same", restore["ours"] / restore["load"], most=1.15)
    return report


def local_parts(training: Training) -> list[Any]:
    """What this rank holds of the model and the optimizer."""
    states = training.optimizer.state.values()
    tensors = [*training.model.parameters(), *(value for state in states for value in state.values())]
    return [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]


def main() -> None:
    """Starts itself on two ranks, or measures if it was started so."""
    options = parser(__doc__)
    options.add_argument("--megabytes", type=int, default=500, help="of the state")
    options.add_argument("--rounds", type=int, default=7)
    arguments = options.parse_args()
    if "LOCAL_RANK" not in os.environ:
        sys.exit(start_on_two_ranks())
    warnings.filterwarnings("ignore")  # torch's, about its own use of itself
    place = Path(os.environ["BENCHMARK_DIRECTORY"])
    with process_group(Environment.read(), 600, 600) as group:
        report = measure(group, place, arguments.megabytes, arguments.rounds)
        if group.is_master:
            report.write(arguments.json)


if __name__ == "__main__":
    main()
