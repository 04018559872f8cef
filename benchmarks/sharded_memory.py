"""How much memory a rank of a sharded training needs at its peak: 2 GB of weights on 1, 2 and 4 ranks.

    python benchmarks/sharded_memory.py [--megabytes 2048] [--ranks 1,2,4] [--json FILE]

From the first line that builds the model to the end of the second step of AdamW, as Linux counts it. What
torch takes by itself is counted before, with a model of a few kilobytes that was trained in the same way.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import torch
from report import Report, memory, parser, seconds_of
from torch import nn
from training import start_on_ranks

from isc_runtime import rng
from isc_runtime.environment import Environment
from isc_runtime.options import ParallelOptions
from isc_runtime.ranks.building import build
from isc_runtime.ranks.group import Group, process_group
from isc_runtime.ranks.parallel import clip_gradients, parallelize

WIDTHS = {8: 1414, 64: 4000}  # of a block, by its MB: of a model of millions of weights, and of billions


class Blocks(nn.Module):
    """Linear layers, one after the other."""

    def __init__(self, number: int, width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(number))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Float (batch, width), and the same again."""
        for block in self.blocks:
            inputs = inputs + block(inputs)
        return inputs


def train(group: Group, number: int, width: int) -> tuple[int, float]:
    """Two steps. Returns the bytes of this rank's weights, gradients and optimizer; and seconds to build."""
    rng.seed_everything(0)
    options, model = ParallelOptions("fsdp"), nn.Module()

    def make() -> None:
        nonlocal model
        model = build(lambda: Blocks(number, width), group, options)

    seconds = seconds_of(make)
    replica = parallelize(model, group, lambda _: torch.zeros(()), options)
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        torch.autograd.backward(replica(torch.randn(1, width)).square().mean())
        clip_gradients(model, 1.0)
        optimizer.step()
    kept = [*model.parameters(), *(one.grad for one in model.parameters())]
    kept += [value for state in optimizer.state.values() for value in state.values()]
    return sum(getattr(one, "to_local", lambda one=one: one)().nbytes for one in kept), seconds


def on_each_rank(megabytes: int, width: int, place: Path) -> None:
    """Measures; the figures are those of the rank that has needed most."""
    with process_group(Environment.read(), 3600, 3600) as group:
        train(group, 2, 64)
        before = memory("VmHWM")
        number = max(1, round(megabytes * 1e6 / (4 * width * (width + 1))))
        kept, seconds = train(group, number, width)
        said = group.gather([memory("VmHWM") - before, kept, before, seconds])
        if group.is_master:
            place.write_text(json.dumps(max(said)))


def main() -> None:
    """Starts itself on each number of ranks, or measures if it was started so."""
    options = parser(__doc__)
    options.add_argument("--megabytes", type=int, default=2048, help="of weights")
    options.add_argument("--ranks", default="1,2,4")
    arguments = options.parse_args()
    if "RESULT" in os.environ:
        on_each_rank(arguments.megabytes, int(os.environ["WIDTH"]), Path(os.environ["RESULT"]))
        return
    report = Report("sharded_memory")
    report.figure("weights, MB", arguments.megabytes)
    for block, width in WIDTHS.items():
        for ranks in map(int, arguments.ranks.split(",")):
            with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
                result = Path(directory) / "result"
                os.environ.update(RESULT=str(result), WIDTH=str(width))
                if start_on_ranks(ranks):
                    sys.exit(f"it failed on {ranks} ranks")
                needed, kept, before, seconds = json.loads(result.read_text())
            name = f"{ranks} rank{'s' if ranks > 1 else ''}, blocks of {block} MB"
            report.figure(f"{name}: weights, gradients and optimizer of a rank, MB", kept / 1e6)
            report.figure(f"{name}: its peak without what torch takes, MB", needed / 1e6)
            report.figure(f"{name}: what torch takes, MB", before / 1e6)
            report.figure(f"{name}: seconds to build the model", seconds)
            report.ratio(f"{name}: peak, against weights, gradients and optimizer", needed / kept, most=1.3)
    report.write(arguments.json)


if __name__ == "__main__":
    main()
