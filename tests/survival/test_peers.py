"""The program behind the README's comparison runs, and what it says has not become untrue."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from strace import needs_strace


@needs_strace
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_the_peers_lose_what_the_readme_says() -> None:
    program = Path(__file__).with_name("peers.py")
    command = [sys.executable, str(program), "--flips", "40", "--cuts", "2"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "the recipe: killed at 1 of 7 system calls it never saves again" in said
    assert "torch.distributed.checkpoint: killed at 9 of 10 its newest cannot be loaded" in said
    assert said.count("2 of 2 power cuts lost a save") == 2
    assert all(int(count) >= 36 for count in re.findall(r"(\d+) of 40 flips loaded", said))
    assert said.count("flips loaded") == 2
