"""What an import lacks begins where the training is, and what is asked for explicitly holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from isc_runtime.checkpointing.importing import Wishes, import_checkpoint
from isc_runtime.ranks.group import Group
from isc_runtime.tests.checkpointing.test_asked import Asking


def imported(directory: Path, group: Group) -> None:
    """A training by the usual recipe without a scheduler, with settings of its own, after 4 steps."""
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.7, weight_decay=0.3)
    torch.autograd.backward(model(torch.ones(2)))
    optimizer.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 4}
    torch.save(state, directory / "old.pt")
    import_checkpoint(directory / "old.pt", directory / "checkpoints", False, Wishes())


def test_a_schedule_that_is_not_in_it_is_put_where_the_training_is(
    tmp_path: Path, group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    imported(tmp_path, group)
    training = Asking(tmp_path / "checkpoints", group, "--learning-rate", "0.8")
    assert training.checkpointer.restore()
    assert training.setting == pytest.approx((0.8 * 0.5**4, 0.3)), "the rate is the command's, halved 4 times"
    assert "optimizer 0 weight_decay: 0.3, not 0.5" in caplog.text
    training.step()
    assert training.setting[0] == pytest.approx(0.8 * 0.5**5)


def test_what_is_asked_for_explicitly_wins(
    tmp_path: Path, group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    imported(tmp_path, group)
    training = Asking(tmp_path / "checkpoints", group, "--weight-decay", "0.1")
    with training.checkpointer as checkpointer:
        assert checkpointer.restore()
        assert training.setting == pytest.approx((0.1 * 0.5**4, 0.1))
        assert "Asked for explicitly, and taken over: --weight-decay 0.1" in caplog.text
        training.step()
        checkpointer.save()
    caplog.clear()
    again = Asking(tmp_path / "checkpoints", group, "--weight-decay", "0.1")
    assert again.checkpointer.restore()
    assert again.setting == pytest.approx((0.1 * 0.5**5, 0.1))
    assert "[RESUME]" not in caplog.text
    assert "[IMPORT]" not in caplog.text
