"""What a save of a sharded model costs a training on two ranks, how soon it is on the disk, and a restore.

    python benchmarks/sharded.py [--megabytes 500] [--rounds 7] [--json FILE]

A model with AdamW under FSDP2, half of it on each rank. Peers, in turns with ours, into the same directory:
`async_save`, `save` and `load` of torch.distributed.checkpoint. Its `save` syncs its files, but neither the
directory nor a link to the checkpoint; its `load` verifies nothing. That is on two ranks; then ours alone, of
the same model, on 1, 2 and 4 ranks, each of which has its part of it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from report import Report, memory, parser, seconds_of, take_turns
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from training import Training, save, start_on_ranks

from isc_runtime.checkpointing.saving.state_size import size_of
from isc_runtime.environment import Environment
from isc_runtime.ranks.group import Group, process_group

SAVING, RESTORING = "memory for a save, MB of a rank", "memory for a restore, MB of a rank"
WRITTEN, READ = "written in a save, MB of a rank", "read in a restore, MB of a rank"
# With the limits. Seconds are those of two cores and one disk, which all ranks share.
SCALING = {"held up, ms": None, "restore, ms": None, SAVING: 0.6, RESTORING: 0.6, WRITTEN: 0.55, READ: 0.55}


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
    report.ratio("restore, against load into the same", restore["ours"] / restore["load"], most=1.0)
    return report


def local_parts(training: Training) -> list[Any]:
    """What this rank holds of the model and the optimizer."""
    states = training.optimizer.state.values()
    tensors = [*training.model.parameters(), *(value for state in states for value in state.values())]
    return [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]


def measure_alone(group: Group, directory: Path, megabytes: int, rounds: int) -> Report:
    """Ours, on whatever number of ranks; the memory is that of the rank with most."""
    (directory / "checkpoints").mkdir(exist_ok=True)
    training = Training(directory / "checkpoints", megabytes, group, sharded=True)
    published: list[float] = []

    def saved() -> float:
        group.gather(None)
        held_up, until_published = save(training)
        published.append(until_published)
        return held_up

    def restored() -> float:
        group.gather(None)
        return seconds_of(training.checkpointer.restore)

    saving, restoring = (max(group.gather(extra_memory(work))) for work in (saved, restored))
    written = max(group.gather(bytes_of("wchar", saved)))
    read = max(group.gather(bytes_of("rchar", restored)))
    seconds = take_turns({"held up": saved, "restore": restored}, rounds)
    report = Report("sharded")
    name = f"{group.world_size} rank{'s' if group.world_size > 1 else ''}"
    report.figure(f"{name}: held up, ms", 1e3 * seconds["held up"])
    report.figure(f"{name}: until durable and published, ms", 1e3 * sorted(published)[len(published) // 2])
    report.figure(f"{name}: restore, ms", 1e3 * seconds["restore"])
    report.figure(f"{name}: {SAVING}", saving / 1e6)
    report.figure(f"{name}: {RESTORING}", restoring / 1e6)
    report.figure(f"{name}: {WRITTEN}", written / 1e6)
    report.figure(f"{name}: {READ}", read / 1e6)
    return report


def bytes_of(name: str, work: Callable[[], object]) -> int:
    """Bytes that this process writes (wchar), or reads (rchar), within `work`, as Linux counts its calls."""

    def counted() -> int:
        lines = Path("/proc/self/io").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

    before = counted()
    work()
    return counted() - before


def extra_memory(work: Callable[[], object]) -> int:
    """Bytes that this process takes at its peak within `work`, more than before it."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory("VmRSS")
    work()
    return memory("VmHWM") - before


def main() -> None:
    """Starts itself on two ranks and on more, or measures if it was started so."""
    options = parser(__doc__)
    options.add_argument("--megabytes", type=int, default=500, help="of the state")
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--result", type=Path, help="where a rank notes what it measured; for itself")
    options.add_argument("--alone", action="store_true", help="without peers; for itself")
    arguments = options.parse_args()
    if arguments.result is None:
        start_all(arguments.json)
        return
    warnings.filterwarnings("ignore")  # torch's, about its own use of itself
    place = Path(os.environ["BENCHMARK_DIRECTORY"])
    with process_group(Environment.read(), 600, 600) as group:
        work = measure_alone if arguments.alone else measure
        report = work(group, place, arguments.megabytes, arguments.rounds)
        if group.is_master:
            arguments.result.write_text(json.dumps([report.figures, report.ratios]))


def start_all(file: Path | None) -> None:
    """Beside its peers on two ranks, then alone on 1, 2 and 4."""
    report, command = Report("sharded"), list(sys.argv)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        result = Path(directory) / "result"
        for ranks, more in ((2, []), (1, ["--alone"]), (2, ["--alone"]), (4, ["--alone"])):
            sys.argv = [*command, "--result", str(result), *more]
            if start_on_ranks(ranks):
                sys.exit(f"it failed on {ranks} ranks")
            report.add(Report("sharded", *json.loads(result.read_text())))
    for what, most in SCALING.items():
        # Alone a rank has no shards, and saves as any other training: so two are what four are compared with.
        ratio = report.figures[f"4 ranks: {what}"] / report.figures[f"2 ranks: {what}"]
        report.ratio(f"4 ranks, against 2: {what.partition(',')[0]}", ratio, most=most)
    report.write(file)


if __name__ == "__main__":
    main()
