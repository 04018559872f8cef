"""What a save costs a training, how soon it is on the disk, and what a restore costs, against its peers.

    python benchmarks/saving.py [--megabytes 500] [--rounds 9] [--directory DIR] [--json FILE]

One process, a model with AdamW. Peers, in turns with ours, all into the same directory: cycling_utils'
`atomic_torch_save` by its documented recipe (`torch.save` to a temporary file, rename); `async_save` of
torch.distributed.checkpoint; a copy of all tensors into memory that is there already; `torch.save` and fsync.

Ours copies the weights while the next batch is computed; its optimizer's step waits for what is left of that.
So it is measured with batches of 50 ms that leave the CPU idle, and with a step that follows at once.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import torch
from report import Report, memory, parser, seconds_of, take_turns
from torch.distributed.checkpoint.state_dict_saver import async_save
from training import Training, add_place, place_to_save, save

from isc_runtime.checkpointing.on_disk.durable import sync_directory, sync_file
from isc_runtime.checkpointing.saving.state_size import size_of
from isc_runtime.checkpointing.saving.unchanged import differ, samples_of


def tensors(state: Any) -> list[torch.Tensor]:
    """All tensors in a state."""
    if isinstance(state, torch.Tensor):
        return [state]
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return [tensor for part in parts for tensor in tensors(part)]


def measure_saves(training: Training, directory: Path, rounds: int, report: Report) -> None:
    state = training.state_dicts()
    published: list[float] = []
    buffers = [torch.empty_like(tensor, device="cpu") for tensor in tensors(state)]

    def ours() -> float:
        return save(training)[0]

    def ours_without_a_batch() -> float:
        held_up, until_published = save(training, until_step=0.0)
        published.append(until_published)
        return held_up

    def recipe() -> float:
        temporary, file = directory / "recipe.temp", directory / "recipe"

        def work() -> None:
            torch.save(state, temporary)
            temporary.replace(file)

        return seconds_of(work)

    def asynchronous() -> float:
        begun = time.perf_counter()
        future: Any = async_save(state, checkpoint_id=directory / "dcp")
        held_up = time.perf_counter() - begun
        getattr(future, "upload_completion", future).result()  # a save that waits for nobody
        return held_up

    def copy() -> float:
        pairs = list(zip(buffers, tensors(state), strict=True))
        return seconds_of(lambda: [buffer.copy_(tensor) for buffer, tensor in pairs])

    def sampled() -> float:
        """What it costs to see changes that torch does not count."""
        return seconds_of(lambda: differ(samples_of(tensors(state))))

    def synced() -> float:
        file = directory / "synced"

        def work() -> None:
            torch.save(state, file)
            sync_file(file)
            sync_directory(directory)

        return seconds_of(work)

    peers = {
        **{"ours": ours, "at once": ours_without_a_batch, "recipe": recipe, "async_save": asynchronous},
        **{"copy": copy, "sampled": sampled, "synced": synced},
    }
    held_up = take_turns({name: rested(peer) for name, peer in peers.items()}, rounds)
    until_published = statistics.median(published[1:])
    report.figure("state, MB", size_of(state) / 1e6)
    report.figure("held up by ours, ms", 1e3 * held_up["ours"])
    report.figure("samples of all values, taken and compared, ms", 1e3 * held_up["sampled"])
    report.figure("held up by ours if the next step follows at once, ms", 1e3 * held_up["at once"])
    report.figure("held up by atomic_torch_save's recipe, ms", 1e3 * held_up["recipe"])
    report.figure("held up by async_save, ms", 1e3 * held_up["async_save"])
    report.figure("one copy of the state, ms", 1e3 * held_up["copy"])
    report.figure("until durable and published, ms", 1e3 * until_published)
    report.figure("torch.save and fsync, ms", 1e3 * held_up["synced"])
    report.ratio("held up, against the recipe", held_up["ours"] / held_up["recipe"], most=0.06)
    report.ratio("held up, against async_save", held_up["ours"] / held_up["async_save"], most=0.25)
    report.ratio("held up, against one copy", held_up["ours"] / held_up["copy"], most=2.0)
    report.ratio(
        "until published, against torch.save and fsync", until_published / held_up["synced"], most=1.1
    )


def rested(peer: Any) -> Any:
    """The peer, begun when the disk has nothing left to do."""

    def run() -> float:
        os.sync()
        return float(peer())

    return run


def measure_memory(training: Training, report: Report) -> None:
    """The most memory that a save takes beside the state: in the first one, and in a later one."""
    size = size_of(training.state_dicts())
    snapshot = training.checkpointer.equipment.snapshot
    snapshot.__init__(training.group.device)  # type: ignore[misc]  # as if none had been taken
    before = of_no_file()
    peaks = [peak_of(lambda: save(training)) - before for _ in range(3)]
    for number, peak in zip(("first", "second", "third"), peaks, strict=True):
        report.figure(f"extra memory in the {number} save, MB", peak / 1e6)
    report.ratio("extra memory, against the state", max(peaks) / size, most=1.1)


def of_no_file() -> int:
    """Bytes of memory that no file stands behind; what is pinned for a GPU counts as shared."""
    return memory("RssAnon") + memory("RssShmem")


def peak_of(work: Any) -> int:
    """The most memory that no file stands behind, in bytes, while `work` is done."""
    peaks, ended = [of_no_file()], threading.Event()

    def watch() -> None:
        while not ended.wait(0.002):
            peaks.append(of_no_file())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        ended.set()
        watcher.join()
    return max(peaks)


def measure_restore(training: Training, rounds: int, report: Report) -> None:
    save(training)
    payload = training.checkpointer.store.entries()[-1].payload

    def load() -> float:
        return seconds_of(lambda: torch.load(payload, map_location="cpu", weights_only=True))

    def load_into() -> float:
        def work() -> None:
            state = torch.load(payload, map_location="cpu", weights_only=True)
            training.model.load_state_dict(state["model"])
            training.optimizer.load_state_dict(state["optimizer"])

        return seconds_of(work)

    def ours() -> float:
        return seconds_of(training.checkpointer.restore)

    seconds = take_turns({"ours": ours, "load_into": load_into, "load": load}, rounds)
    report.figure("restore, every byte verified, ms", 1e3 * seconds["ours"])
    report.figure("torch.load, ms", 1e3 * seconds["load"])
    report.figure("torch.load, into model and optimizer, ms", 1e3 * seconds["load_into"])
    report.ratio(
        "restore, against torch.load into the same", seconds["ours"] / seconds["load_into"], most=1.15
    )
    report.ratio("restore, against torch.load alone", seconds["ours"] / seconds["load"])


def main() -> None:
    """Measures and prints."""
    options = parser(__doc__)
    add_place(options)
    options.add_argument("--rounds", type=int, default=9)
    arguments = options.parse_args()
    report = Report("saving")
    with place_to_save(arguments.directory) as directory:
        (directory / "checkpoints").mkdir()
        training = Training(directory / "checkpoints", arguments.megabytes)
        measure_memory(training, report)
        measure_saves(training, directory, arguments.rounds, report)
        measure_restore(training, arguments.rounds, report)
    report.write(arguments.json)


if __name__ == "__main__":
    main()
