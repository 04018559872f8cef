"""What a picture is drawn from."""

from __future__ import annotations

from pathlib import Path

from isc_runtime.rehearsal.plot import read_curves


def test_text_among_the_scalars_is_no_curve(tmp_path: Path) -> None:
    """A start leaves a note of what it is beside its losses."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_text("run", "commit 0", 0)
        writer.add_scalar("training/loss", 2.0, 1)
    name, curves = read_curves(tmp_path)
    assert name == "training/loss"
    assert [(curve.steps, curve.values) for curve in curves] == [([1], [2.0])]
