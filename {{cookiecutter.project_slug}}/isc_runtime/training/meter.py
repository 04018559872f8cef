"""How fast a rank trains, what it waits for, and what memory it takes."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from isc_runtime.log_options import LogOptions
from isc_runtime.position import Position
from isc_runtime.ranks.group import Group

WARM_UP = 3  # batches of a start that are not profiled: they allocate, compile, choose
ROWS = 8  # of the operations that took the most time
END = object()
PAGES = Path("/proc/self/statm")

logger = logging.getLogger("train")


class Meter:
    """How fast batches are trained on.

    Args:
        position: where the training is.
        group: the ranks.
        options: what is to be told.
    """

    def __init__(self, position: Position, group: Group, options: LogOptions) -> None:
        self._position = position
        self._group = group
        self._options = options
        self._batches_in_all = 0  # of this start
        self._operations = options.batch_flops  # of a batch on this rank, once they are known
        self._profile: profile | None = None
        self._since: float | None = None  # when the time began that is not counted yet
        self._begin()

    def _begin(self) -> None:
        self._seconds = self._waited = 0.0
        self._samples = self._counted = 0

    def over(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yields these batches; what lies between two of them is how one is trained on."""
        batches = iter(batches)
        self._since = time.monotonic()
        try:
            while (batch := self._next(batches)) is not END:
                self._batches_in_all += 1
                self._counted += 1
                self._samples += self._position.own_samples * self._group.world_size
                with self._operations_counted():
                    yield batch
                self._end_profile_if_due()
        except GeneratorExit:  # the loop was left after this batch
            self._end_profile_if_due()
            raise
        finally:  # an evaluation may follow, which is no training
            self._seconds += time.monotonic() - self._since
            self._since = None

    def _next(self, batches: Iterator[Any]) -> Any:
        self._begin_profile_if_due()
        begun = time.monotonic()
        batch = next(batches, END)
        self._waited += time.monotonic() - begun
        return batch

    def look(self) -> dict[str, float]:
        """How it went since the last look, for a line of the log; called while a batch is trained on.

        Returns:
            Samples a second of all ranks, the share of its time that this rank waited for data, the memory
            that it took, and its MFU if that was asked for.
        """
        now = time.monotonic()
        seconds = max(1e-9, self._seconds + now - (now if self._since is None else self._since))
        values = {
            "samples_per_second": self._samples / seconds,
            "data_wait": self._waited / seconds,
            "memory_gb": memory_of(self._group.device) / 1e9,
        }
        if self._options.flops and self._operations is not None:
            values["mfu"] = self._operations * self._counted / seconds / self._options.flops
        self._since = None if self._since is None else now
        self._begin()
        return values

    @contextlib.contextmanager
    def _operations_counted(self) -> Iterator[None]:
        """Around the first batch: how many operations it takes."""
        # torch.compile leaves alone for good what it meets while somebody counts.
        if self._options.flops is None or self._operations is not None or self._options.compile:
            yield
            return
        counter = FlopCounterMode(display=False)
        try:
            with counter:
                yield
        except GeneratorExit:  # the loop was left after this batch
            self._note(counter)
            raise
        self._note(counter)

    def _note(self, counter: FlopCounterMode) -> None:
        self._operations = float(counter.get_total_flops())
        logger.info("[FLOPS] A batch takes %.4g floating point operations on a rank", self._operations)

    def _begin_profile_if_due(self) -> None:
        is_asked = self._options.profile_steps and self._group.is_master
        if is_asked and self._batches_in_all == WARM_UP and self._profile is None:
            gpu = [ProfilerActivity.CUDA] if self._group.device.type == "cuda" else []
            self._profile = profile(activities=[ProfilerActivity.CPU, *gpu])
            self._profile.start()
            self._profiled_from = self._position.progress.step

    def _end_profile_if_due(self) -> None:
        if self._profile is None or self._batches_in_all < WARM_UP + self._options.profile_steps:
            return
        seen, self._profile = self._profile, None
        seen.stop()
        directory = self._group.environment.log_directory
        file = directory / f"profile_of_step_{self._profiled_from}.pt.trace.json"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            seen.export_chrome_trace(str(file))
        except (OSError, RuntimeError) as error:  # a trace is not worth a training
            logger.warning("[PROFILE] %s was not written (%s)", file, error)
            return
        longest = "self_cuda_time_total" if self._group.device.type == "cuda" else "self_cpu_time_total"
        table = seen.key_averages().table(sort_by=longest, row_limit=ROWS, max_name_column_width=40)
        words = (self._options.profile_steps, self._profiled_from)
        logger.info("[PROFILE] %d batches after step %d, for chrome://tracing or Perfetto: %s", *words, file)
        logger.info("[PROFILE] What took the most time:\n%s", table)


def memory_of(device: torch.device) -> float:
    """Bytes: of a GPU the most that tensors took since the last call, else what this process holds."""
    if device.type == "cuda":
        most = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return most
    if device.type == "mps":  # not seen: no Mac was at hand
        return torch.mps.current_allocated_memory()
    try:
        return int(PAGES.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):  # macOS
        return 0.0
