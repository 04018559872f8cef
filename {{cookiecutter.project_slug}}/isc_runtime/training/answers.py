"""What the functions of model.py and data.py have returned: can train.py go on with it?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.training.means import Best, Mean, Means

LOSS = "loss"  # the mean that is minimised


def loss_of(means: Means) -> Mean:
    """The loss among what `batch_loss` has returned; its count is a number, or a scalar.

    Raises:
        IscError: that is something else, or its loss cannot be minimised.
    """
    _check_means(means, "batch_loss", f'a dict with a Mean called "{LOSS}"', LOSS)
    loss = means[LOSS]
    if not isinstance(loss.total, Tensor) or (torch.is_grad_enabled() and not loss.total.requires_grad):
        raise IscError(
            f'batch_loss returned a "{LOSS}" whose total has no gradient: {described(loss.total)}',
            "model.py",
            "The total must be the differentiable sum itself: not its item(), not detached, not computed "
            "under no_grad, and of parameters that are trained.",
            ExitCode.USAGE,
        )
    count = loss.count
    if isinstance(count, Tensor | np.ndarray):
        count = torch.as_tensor(count).detach().reshape(())
    return replace(loss, count=count)


def check_scores(means: Means) -> None:
    """Refuses what `batch_scores` has returned if it is no dict of Means. Raises IscError."""
    _check_means(means, "batch_scores", "a dict of Means")


def check_best(best: Best, means: Means) -> None:
    """Refuses scores that do not say what is best. Raises IscError."""
    if not isinstance(best, Best):
        raise IscError(
            f"BEST is {described(best)}",
            "model.py",
            'It must be a Best: Best("loss", more_is_better=False).',
            ExitCode.USAGE,
        )
    if best.name not in means:
        raise IscError(
            f'batch_scores returned {described(means)}, and BEST names "{best.name}"',
            "model.py",
            "Let BEST name one of them. What a batch has nothing of has a count of 0.",
            ExitCode.USAGE,
        )


def described(value: Any) -> str:
    """What it is, for people."""
    if value is None:
        return "nothing (None)"
    if isinstance(value, type):
        return f"the class {value.__name__} itself"
    if isinstance(value, Tensor | np.ndarray):
        return f"a {type(value).__name__} of shape {list(value.shape)}"
    if isinstance(value, Mapping):
        return f"a dict of {_named(value)}" if value else "an empty dict"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    article = "an" if type(value).__name__[0] in "AEIOUaeiou" else "a"
    return f"{article} {type(value).__name__}"


def _named(names: Iterable[object]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _check_means(means: Any, function: str, expected: str, *names: str) -> None:
    hint = f'It must return {expected}: {{"{(*names, "name")[0]}": Mean(total, count)}}.'
    if not isinstance(means, Mapping) or not set(names) <= means.keys():
        raise IscError(f"{function} returned {described(means)}", "model.py", hint, ExitCode.USAGE)
    for name, mean in means.items():
        if not isinstance(mean, Mean):
            what = f'{function} returned a "{name}" that is {described(mean)}'
            raise IscError(what, "model.py", hint, ExitCode.USAGE)
        for value in (mean.total, mean.count):
            _check_is_number(value, f'{function} returned a "{name}"')


def _check_is_number(value: Any, what: str) -> None:
    if isinstance(value, Tensor | np.ndarray):
        is_number = math.prod(value.shape) == 1
    else:
        is_number = isinstance(value, int | float | np.number)
    if not is_number:
        raise IscError(
            f"{what} whose total or count is not one number but {described(value)}",
            "model.py",
            'Sum over the batch: cross_entropy(..., reduction="sum"), or .sum().',
            ExitCode.USAGE,
        )
