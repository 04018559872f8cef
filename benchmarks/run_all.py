"""Runs all benchmarks one after the other and writes what they found into benchmarks/README.md.

    python benchmarks/run_all.py [NAME ...]

With names only those are run again. The figures are kept in benchmarks/results/, with the machine that they
were measured on. Let the machine do nothing else meanwhile.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
NAMES = (
    "saving",
    "sharded",
    "sharded_memory",
    "throughput",
    "goodput",
    "start",
    "cycle",
    "overhead",
    "refusal",
    "bakes",
    "sampling",
    "many_ranks",
)
BEGIN, END = "<!-- results: written by run_all.py -->\n", "<!-- end of results -->\n"


def table(result: dict[str, Any]) -> str:
    """The section of one benchmark."""
    name, machine = result["benchmark"], result["machine"]
    title = (HERE / f"{name}.py").read_text().partition("\n")[0].strip('"').rstrip(".")
    lines = [f"## `python benchmarks/{name}.py`: {title[0].lower()}{title[1:]}", ""]
    lines += [
        f"{machine['date']}, {', '.join([*filter(None, [machine.get('card')]), machine['processor']])}, "
        f"{machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"Python {machine['python']}, torch {machine['torch']}.",
        "",
        "| | measured | target | |",
        "|---|---|---|---|",
    ]
    lines += [f"| {what} | {value:.4g} | | |" for what, value in result["figures"].items()]
    for what, ratio in result["ratios"].items():
        least, most = ratio["at_least"], ratio["at_most"]
        target = f"<= {most}" if most is not None else f">= {least}" if least is not None else ""
        verdict = {True: "met", False: "**not met**", None: ""}[ratio["met"]]
        lines.append(f"| **{what}** | **{ratio['ratio']:.4g}** | {target} | {verdict} |")
    return "\n".join(lines) + "\n\n"


def main() -> None:
    """Runs, and writes."""
    RESULTS.mkdir(exist_ok=True)
    for name in sys.argv[1:] or NAMES:
        print(f"\n{name}", flush=True)
        command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(RESULTS / f"{name}.json")]
        if subprocess.run(command, check=False).returncode:
            sys.exit(f"{name} failed: above is why.")
    write_tables()


def write_tables() -> None:
    """Writes all that was ever measured into the README."""
    readme = HERE / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    files = [*(RESULTS / f"{name}.json" for name in NAMES), *sorted(RESULTS.glob("cuda-*.json"))]
    tables = "".join(table(json.loads(file.read_text())) for file in files if file.exists())
    readme.write_text(before + BEGIN + "\n" + tables + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
