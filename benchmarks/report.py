"""What the benchmarks share: their options, rounds in which the peers take turns, medians, ratios, JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROJECT = ROOT / "{{cookiecutter.project_slug}}"
sys.dont_write_bytecode = True  # what lies in PROJECT is copied into new projects


@dataclass
class Report:
    """Figures of one benchmark.

    Attributes:
        name: of the benchmark.
        figures: what was measured, by name, with the unit in the name.
        ratios: what was compared, each with its target and whether it was met.
    """

    name: str
    figures: dict[str, float] = field(default_factory=dict)
    ratios: dict[str, dict[str, float | bool | None]] = field(default_factory=dict)

    def figure(self, name: str, value: float) -> None:
        """Notes a figure."""
        self.figures[name] = value

    def ratio(self, name: str, value: float, most: float | None = None, least: float | None = None) -> None:
        """Notes a ratio and, where there is one, its target: at most, or at least, so much."""
        has_target = most is not None or least is not None
        met = value <= (value if most is None else most) and value >= (value if least is None else least)
        self.ratios[name] = {
            "ratio": value,
            "at_most": most,
            "at_least": least,
            "met": met if has_target else None,
        }

    def add(self, other: Report) -> None:
        """Takes over what another one holds."""
        self.figures |= other.figures
        self.ratios |= other.ratios

    def show(self) -> None:
        """Prints it for people."""
        for name, value in self.figures.items():
            print(f"{name:64} {value:12.4f}")
        for name, ratio in self.ratios.items():
            most, least = ratio["at_most"], ratio["at_least"]
            target = f"<= {most}" if most is not None else f">= {least}" if least is not None else ""
            verdict = {True: "met", False: "NOT MET"}.get(bool(ratio["met"]), "") if target else ""
            print(f"{name:64} {ratio['ratio']:12.4f}  {target:9} {verdict}")

    def write(self, file: Path | None) -> None:
        """Prints it for people, and writes it for machines if asked to."""
        self.show()
        if file is not None:
            content = {"benchmark": self.name, "machine": machine(), **vars(self)}
            file.write_text(json.dumps(content, indent=1) + "\n")


def parser(documentation: str | None) -> argparse.ArgumentParser:
    """A parser with the option that all benchmarks have."""
    result = argparse.ArgumentParser(description=(documentation or "").partition("\n")[0])
    result.add_argument("--json", type=Path, metavar="FILE", help="where the figures go, for machines")
    return result


def take_turns(peers: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median of what each peer returns; they take turns, so that all meet the same machine.

    Args:
        peers: by name; each measures itself once, in seconds.
        rounds: how often; one more comes first and does not count.
    """
    values: dict[str, list[float]] = {name: [] for name in peers}
    for number in range(rounds + 1):
        for name, measure in peers.items():
            value = measure()
            if number:
                values[name].append(value)
    return {name: statistics.median(measured) for name, measured in values.items()}


def seconds_of(work: Callable[[], object]) -> float:
    """The wall time that `work` takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def memory(name: str) -> int:
    """Bytes of this process, as Linux counts them: VmRSS, VmHWM (at most until now), RssAnon (no file)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(name)))


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    from importlib.metadata import version

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    import torch

    card = {"card": torch.cuda.get_device_name(0)} if torch.cuda.is_available() else {}
    return {
        "date": time.strftime("%Y-%m-%d"),
        **card,
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30),
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "torch": version("torch"),
    }
