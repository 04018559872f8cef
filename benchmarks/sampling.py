"""What it costs one rank of many to find its first batch, at an epoch's start and deep inside of it.

    python benchmarks/sampling.py [--samples 10000000] [--ranks 1024] [--rounds 5] [--json FILE]

Peer: torch's DistributedSampler, which shuffles the whole epoch; a resume with it skips what came before.
"""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from itertools import islice

from report import PROJECT, Report, parser, seconds_of, take_turns
from torch.utils.data import DistributedSampler

sys.path.insert(0, str(PROJECT))

from isc_runtime.position import Progress
from isc_runtime.sampler import ElasticSampler

BATCH_SIZE = 32
RANK = 7


def main() -> None:
    """Measures and prints."""
    options = parser(__doc__)
    options.add_argument("--samples", type=int, default=10_000_000)
    options.add_argument("--ranks", type=int, default=1024)
    options.add_argument("--rounds", type=int, default=5)
    arguments = options.parse_args()
    samples, ranks = arguments.samples, arguments.ranks
    own = samples // ranks
    report = Report("sampling")

    def ours(position: int) -> None:
        sampler = ElasticSampler(samples, BATCH_SIZE, 0, RANK, ranks)
        sampler.progress = Progress(epoch=1, samples=position)
        next(iter(sampler))

    def peer(skipped: int) -> None:
        sampler: DistributedSampler[int] = DistributedSampler(range(samples), ranks, RANK)  # type: ignore[arg-type]
        sampler.set_epoch(1)
        list(islice(sampler, skipped, skipped + BATCH_SIZE))

    at_90_percent = samples * 9 // 10
    peers: dict[str, Callable[[], float]] = {
        "ours, start": lambda: seconds_of(lambda: ours(0)),
        "ours, at 90 %": lambda: seconds_of(lambda: ours(at_90_percent)),
        "peer, start": lambda: seconds_of(lambda: peer(0)),
        "peer, at 90 %": lambda: seconds_of(lambda: peer(own * 9 // 10)),
    }
    seconds = take_turns(peers, arguments.rounds)
    for name, median in seconds.items():
        report.figure(f"{name}, ms", 1e3 * median)
    memory = {name: peak_of(work) for name, work in (("ours", lambda: ours(0)), ("peer", lambda: peer(0)))}
    for name, peak in memory.items():
        report.figure(f"memory of {name}, MB", peak / 1e6)
    report.ratio(
        "start, against DistributedSampler", seconds["ours, start"] / seconds["peer, start"], most=1.0
    )
    at_90 = seconds["ours, at 90 %"] / seconds["peer, start"]
    report.ratio("resume at 90 %, against DistributedSampler's start", at_90, most=1.0)
    report.ratio(
        "memory, against 8 bytes for each of a rank's own samples", memory["ours"] / (8 * own), most=1.0
    )
    report.write(arguments.json)


def peak_of(work: Callable[[], None]) -> int:
    """The most memory that Python and NumPy allocate for it, in bytes."""
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


if __name__ == "__main__":
    main()
