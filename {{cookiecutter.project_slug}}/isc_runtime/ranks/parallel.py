"""One model on many ranks: a replica on each of them, or a shard of it on each of them.

What a model keeps in an `nn.ModuleList` are its blocks: they are sharded, recomputed and compiled one by one,
and what is left of the model after them. A model without such a list is a single block.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.options import ParallelOptions
from isc_runtime.ranks.building import build as build
from isc_runtime.ranks.division import blocks, check_shardable
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.replicas import check_trained, exchange_explained, make_replica
from isc_runtime.ranks.sharding import (
    check_model,
    is_sharded_model,
    is_to_be_sharded,
    shard,
)
from isc_runtime.ranks.shards import is_sharded, own_part

NOTHING_COUNTS = -math.inf  # the norm of a gradient of nothing: what is no number at all is NaN or inf

logger = logging.getLogger("train")


def parallelize(
    model: nn.Module, group: Group, first_loss: Callable[[nn.Module], torch.Tensor], options: ParallelOptions
) -> nn.Module:
    """Brings a model to this rank's device, in the way that the options say. All ranks call it.

    Make the optimizer after it: sharding replaces the parameters.

    Args:
        model: with the same weights on all ranks, on the CPU; or what `building.build` made.
        group: the ranks; alone there is nothing to share, and the model is returned as it is.
        first_loss: computes the loss, a scalar, of a batch with the model that it is given.
        options: how.

    Raises:
        RankError: this is no model, or a rank cannot compile, because it has no C++ compiler, or parameters
            have no shape yet.

    Returns:
        What to call instead of the model in training. When sharded it is the model itself, and every rank
        must call it as often as the others, in evaluation too: the shards come together in each call.
    """
    group.each(partial(check_model, model))
    if options.compile:
        group.each(partial(_require_compiler, group.device.type))
    if is_to_be_sharded(options, group):
        if not is_sharded_model(model):  # `building.build` has done it, in less memory
            shard(model, group, options, {})
    else:
        model.to(group.device)
    for block in blocks(model) or [model]:
        if options.checkpoint_activations or options.compile:
            _wrap(block, options.checkpoint_activations)
        if options.compile:
            block.compile()
    if is_sharded_model(model):
        return model
    return make_replica(model, group, first_loss, options.find_unused_parameters)


@contextlib.contextmanager
def part_of_batch(replica: nn.Module, is_last: bool) -> Iterator[None]:
    """Lets the ranks exchange their gradients only once, with the last part of a batch.

    When sharded, each part's are added up, and every rank keeps its shard of the sum: never all of it. What
    is done only once is to add up those of several groups of ranks that have the whole model each.

    Args:
        replica: what `parallelize` returned; its forward pass is inside this block.
        is_last: whether this is the last part.

    Raises:
        IscError: in the batch before some parameters have got no gradient, as they had at the start; or one
            in shards has a hook.
    """
    if is_sharded_model(replica):
        if is_last:  # once a batch: 2 ms for a thousand parameters
            check_shardable(replica)
        replica.set_requires_all_reduce(is_last)  # type: ignore[operator]  # an FSDPModule's
    check_trained(replica)
    with contextlib.ExitStack() as stack:
        if isinstance(replica, DistributedDataParallel) and not is_last:
            stack.enter_context(replica.no_sync())
        with exchange_explained(replica):
            yield


def clip_gradients(model: nn.Module, largest_norm: float, factor: torch.Tensor | float = 1.0) -> torch.Tensor:
    """Multiplies the gradients, then scales them down to a norm, on all ranks alike.

    A collective when the model is sharded.

    Args:
        model: whose gradients these are.
        largest_norm: of what is left.
        factor: what the gradients are multiplied with first; a scalar on their device.

    Returns:
        The norm in between, of the whole gradient, a scalar that is the same on all ranks: not finite if any
        rank's part of the gradient is not, NOTHING_COUNTS if the factor is infinite: divided by a count of 0.
    """
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    # What a sparse gradient says twice of one place is added up: of the sum is the norm.
    norm = _norm_of([one.coalesce()._values() if one.is_sparse else one for one in gradients]) * factor
    coefficient = (largest_norm / (norm + 1e-6)).clamp(max=1.0) * factor
    for gradient in gradients:
        own = own_part(gradient)
        (own._values() if own.is_sparse else own).mul_(coefficient)
    if not isinstance(factor, torch.Tensor):
        return norm if factor != math.inf else torch.full_like(norm, NOTHING_COUNTS)
    return torch.where(factor == math.inf, NOTHING_COUNTS, norm)


def _norm_of(gradients: list[torch.Tensor]) -> torch.Tensor:
    """Of all ranks' shards, and of what each of them has whole: a scalar in a model in shards."""
    shards: list[torch.Tensor] = [gradient for gradient in gradients if is_sharded(gradient)]
    if shards and len(shards) < len(gradients):
        others = [gradient for gradient in gradients if not is_sharded(gradient)]
        both: torch.Tensor = torch.linalg.vector_norm(torch.stack([_norm_of(shards), _norm_of(others)]))
        return both
    norm = nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if is_sharded(norm) else norm


def _require_compiler(device: str) -> None:
    """Torch would say it at the first batch, over a hundred lines.

    The compiler is the one that torch takes: for a CPU $CXX, else g++; or it installs one itself if it is
    told to (torch._inductor.config, `cpp.cxx`). For a GPU Triton compiles what starts its kernels, in C: with
    $CC, else gcc or clang (read in triton/runtime/build.py, and not seen).
    """
    if device == "cuda":
        language, compilers = "C", [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
    else:
        compilers = [os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")]
        language = "C++"
        if "TORCH_INDUCTOR_INSTALL_GXX" in os.environ:
            return
    if not any(map(shutil.which, compilers)):
        raise IscError(
            f"There is no {language} compiler {' or '.join(compilers)} to compile the model with",
            "--compile",
            "Install one (Debian: apt-get install g++; in the Dockerfile too), or train without --compile.",
            ExitCode.UNFIT,
        )


def _wrap(block: nn.Module, is_recomputed: bool) -> None:
    """Lets a function of ours call a block: torch.compile finds nothing to compile where all is torch's own.

    Such are a `partial`, and the forward of an nn.Sequential. The block stays the module it is, and so its
    parameters keep their names; it is bound as a method, so that a copy of the block calls itself.
    """
    if not hasattr(block, "forward_itself"):  # it may be shared anew
        setattr(block, "forward_itself", block.forward)  # noqa: B010  # mypy knows no other way
    block.forward = MethodType(_recomputed if is_recomputed else _called, block)


def _recomputed(block: nn.Module, *inputs: Any, **named: Any) -> Any:
    """Keeps the inputs only, and computes the rest again in the backward pass."""
    forward: Any = block.forward_itself
    return checkpoint(forward, *inputs, use_reentrant=False, **named)


def _called(block: nn.Module, *inputs: Any, **named: Any) -> Any:
    forward: Any = block.forward_itself
    return forward(*inputs, **named)
