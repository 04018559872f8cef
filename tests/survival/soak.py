"""The soak: what is drawn at random, twice as often as in CI, and what takes minutes.

    python tests/survival/soak.py [--times 2]

What came out goes to soak.md beside this file, which is committed: with the day, the commit and the counts.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).parent
REPORT = HERE / "soak.md"
TESTS = [
    *("test_soak.py", "test_exits.py", "test_frozen_every_call.py", "test_damage.py", "test_forks.py"),
    *("test_exact.py::test_random_kills", "test_power_cut.py", "test_preemption.py"),
    "test_sharded.py::test_random_kills",
    "test_sharded.py::test_asked_to_stop",
    "test_sharded.py::test_all_damage_is_found",
    "test_sharded.py::test_what_was_acknowledged_survives_a_power_cut",
]


def main() -> int:
    """Runs it; writes the report, whatever came out."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--times", type=int, default=2, help="as many trials as in CI, times this")
    times = options.parse_args().times
    if times < 2:
        options.error("--times 1 is what `make survival` does")
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()
    with tempfile.TemporaryDirectory() as place:
        results = Path(place) / "results.xml"
        begun = time.monotonic()
        command = [sys.executable, "-m", "pytest", "-q", "-rs", "--numprocesses=3", "--dist=worksteal"]
        command += [f"--junitxml={results}", "-o", "junit_logging=system-out"]
        code = subprocess.run(
            [*command, *(str(HERE / test) for test in TESTS)],
            env={**os.environ, "SOAK": str(times)},
            check=False,
        ).returncode
        minutes = (time.monotonic() - begun) / 60
        REPORT.write_text(report(ElementTree.parse(results).getroot(), commit, times, minutes))
    print(f"The report is in {REPORT}")
    return code


def report(results: ElementTree.Element, commit: str, times: int, minutes: float) -> str:
    """What came out, as a page.

    Args:
        results: as pytest writes them for Jenkins.
        commit: that was tried.
        times: as many trials as in CI, times this.
        minutes: that it took.
    """
    cases = list(results.iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    lines = sorted({line for case in cases for line in said_by(case)})
    passed = len(cases) - len(failed) - len(skipped)
    return "\n".join(
        [
            "# The last soak\n",
            f"`make soak` on {datetime.now(timezone.utc):%Y-%m-%d}, commit {commit}, trials times {times}; "
            f"Linux {platform.release()}, {os.cpu_count()} cores, {minutes:.0f} minutes.\n",
            f"{passed} tests passed, {len(failed)} failed, {len(skipped)} were skipped.\n",
            *(f"- failed: {case.get('classname')}::{case.get('name')}" for case in failed),
            *(f"- {line}" for line in lines),
            "",
        ]
    )


def said_by(case: ElementTree.Element) -> list[str]:
    """The lines that a test printed."""
    output = "".join(part.text or "" for part in case.iter("system-out"))
    return [line.strip() for line in output.splitlines() if line.strip() and not line.startswith("---")]


if __name__ == "__main__":
    sys.exit(main())
