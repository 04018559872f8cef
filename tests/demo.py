"""`make demo`: bakes a project into build/, trains it, kills it half-way, runs it again, and rehearses it.

It is the real thing: cookiecutter, the generated train.py on real data, SIGKILL. Exit code 0 only if the
second run resumed from the first one's checkpoint and ended, and if the rehearsal found the project ready.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
PROJECT = BUILD / "isc-experiment"
SHOWN = re.compile(r"No checkpoint|Resumed|epoch \d+ of|\[COMPLETE\]|is complete")
HALF_WAY = "epoch 7 of"


def bake() -> None:
    """Writes the project that all default answers give."""
    shutil.rmtree(PROJECT, ignore_errors=True)
    BUILD.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "cookiecutter", str(ROOT), "--no-input", "--output-dir", str(BUILD)]
    print("$ cookiecutter . --no-input --output-dir build", flush=True)
    if subprocess.run(command, check=False).returncode:
        sys.exit("The project was not written: above is why.")


def train(kill_at: str | None = None) -> tuple[int, str]:
    """Runs train.py and shows its main lines; kills it with SIGKILL at the line that holds `kill_at`.

    Returns:
        Its exit code, negative if a signal ended it, and what it said.
    """
    print("\n$ cd build/isc-experiment && python train.py", flush=True)
    environment = {name: value for name, value in os.environ.items() if name != "LOSSY_ARTIFACT_PATH"}
    process = subprocess.Popen(
        [sys.executable, "train.py"], cwd=PROJECT, env=environment, stdout=subprocess.PIPE, text=True
    )
    said = ""
    assert process.stdout is not None
    for line in process.stdout:
        said += line
        if SHOWN.search(line):
            print(f"  {line}", end="", flush=True)
        if kill_at is not None and kill_at in line:
            process.send_signal(signal.SIGKILL)
            print(f"  --- kill -9 {process.pid} ---", flush=True)
            kill_at = None
    return process.wait(), said


def rehearse() -> None:
    """Shows a short rehearsal of the project."""
    options = [] if importlib.util.find_spec("cycling_utils") else ["--stand-in"]
    options += ["--cycles", "2", "--", "--epochs", "4"]
    print(f"\n$ cd build/isc-experiment && python -m isc_runtime rehearse {shlex.join(options)}", flush=True)
    command = [sys.executable, "-m", "isc_runtime", "rehearse", *options]
    if subprocess.run(command, cwd=PROJECT, check=False).returncode:
        sys.exit("The project is not ready: above is why.")


def main() -> None:
    """The demonstration, and whether it showed what it should."""
    bake()
    code, first = train(kill_at=HALF_WAY)
    if code != -signal.SIGKILL:
        sys.exit(f"The first run ended by itself, with exit code {code}:\n{first[-2000:]}")
    saved = max(map(int, re.findall(r"\[COMPLETE\] Checkpoint of step (\d+)", first)))
    code, second = train()
    resumed = re.search(r"Resumed from .*: step (\d+)", second)
    if code != 0 or resumed is None or int(resumed[1]) < saved:
        sys.exit(f"The second run did not go on at step {saved}; exit code {code}:\n{second[-2000:]}")
    print(f"\nKilled after the checkpoint of step {saved}, resumed at step {resumed[1]}: no saved step lost.")
    rehearse()
    print(f"The project is yours to look at: cd {shlex.quote(os.path.relpath(PROJECT))}")


if __name__ == "__main__":
    main()
