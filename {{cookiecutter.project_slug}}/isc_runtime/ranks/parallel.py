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

from isc_runtime import rng
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.options import ParallelOptions
from isc_runtime.ranks.buffers import equalize_before_each_pass, is_plain
from isc_runtime.ranks.building import build as build
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.sharding import (
    blocks,
    check_model,
    is_sharded_model,
    is_to_be_sharded,
    shard,
)
from isc_runtime.ranks.shards import is_sharded
from isc_runtime.ranks.untouched import untouched
from isc_runtime.tree import leaves

# The types of buffers that gloo can exchange; others are constants, as a rule, and are equal from the start.
EXCHANGED = {torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64, torch.bfloat16}
EXCHANGED |= {torch.float16, torch.float32, torch.float64, torch.complex64, torch.complex128}
NOTHING_COUNTS = -math.inf  # the norm of a gradient of nothing: what is no number at all is NaN or inf
FROZEN = "frozen_at_the_start"  # attribute of a replica: what was not trained then

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
    return _replicate(model, group, first_loss, options.find_unused_parameters)


@contextlib.contextmanager
def part_of_batch(replica: nn.Module, is_last: bool) -> Iterator[None]:
    """Lets the ranks exchange their gradients only once, with the last part of a batch.

    When sharded, each part's are added up, and every rank keeps its shard of the sum: never all of it. What
    is done only once is to add up those of several groups of ranks that have the whole model each.

    Args:
        replica: what `parallelize` returned; its forward pass is inside this block.
        is_last: whether this is the last part.

    Raises:
        IscError: in the batch before some parameters have got no gradient, as they had at the start.
    """
    if is_sharded_model(replica):
        replica.set_requires_all_reduce(is_last)  # type: ignore[operator]  # an FSDPModule's
    _check_trained(replica)
    with contextlib.ExitStack() as stack:
        if isinstance(replica, DistributedDataParallel) and not is_last:
            stack.enter_context(replica.no_sync())
        with _exchange_explained(replica):
            yield


def _check_after_backward(replica: nn.Module, _: object, output: Any) -> None:
    """A forward hook: the backward pass of this output ends with an error if gradients were not exchanged.

    DDP itself would say it in the next batch, when each rank has taken a step of its own. Here no rank has
    asked for another collective yet, which another rank's gradients would meet.
    """
    if not (torch.is_grad_enabled() and replica.require_backward_grad_sync):
        return

    def check() -> None:
        with _exchange_explained(replica):
            replica._check_reducer_finalized()  # type: ignore[operator]  # DistributedDataParallel's

    def begun(_: object) -> None:
        queue = torch.autograd.Variable._execution_engine.queue_callback
        queue(lambda: queue(check))  # at the end, after DDP's own, which it has yet to put there

    for _, leaf in leaves(output):
        if isinstance(leaf, torch.Tensor) and leaf.requires_grad:
            leaf.register_hook(begun)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _exchange_explained(replica: nn.Module) -> Iterator[None]:
    """Says why gradients were not exchanged where torch would say it in its own words."""
    try:
        yield
    except RuntimeError as error:
        if "find_unused_parameters" not in str(error):
            raise
        known = {id(parameter) for parameter in getattr(replica, FROZEN, ())}
        if any(not one.requires_grad and id(one) not in known for one in replica.parameters()):
            raise IscError(
                "Parameters were frozen after the ranks began to share the model",
                "requires_grad_(False)",
                "Share it anew after that: self.replica = parallelize(self.model, group, self.first_loss, "
                "how); or start with --find-unused-parameters.",
                ExitCode.USAGE,
            ) from None
        raise IscError(
            "In the last batch some parameters got no gradient",
            "the forward pass of the model",
            "If that may be, start with --find-unused-parameters.",
            ExitCode.USAGE,
        ) from None


def _check_trained(replica: nn.Module) -> None:
    """The ranks exchange the gradients of what was trained when they began to share the model."""
    if any(parameter.requires_grad for parameter in getattr(replica, FROZEN, ())):
        raise IscError(
            "Parameters are trained that were frozen when the ranks began to share the model",
            "requires_grad_(True)",
            "Share it anew after that, or their gradients are not exchanged: self.replica = "
            "parallelize(self.model, group, self.first_loss, how).",
            ExitCode.USAGE,
        )


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
        own = gradient.to_local() if is_sharded(gradient) else gradient
        (own._values() if own.is_sparse else own).mul_(coefficient)
    return torch.where(torch.as_tensor(factor, device=norm.device) == math.inf, NOTHING_COUNTS, norm)


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


def _replicate(
    model: nn.Module, group: Group, first_loss: Callable[[nn.Module], torch.Tensor], find_unused: bool
) -> nn.Module:
    """DistributedDataParallel, with its buckets already in the order that they will keep.

    DDP rearranges its buckets after the first backward pass. With more than two ranks that changes the order
    in which gradients are added, and so their last bits: the first step after a resume would not be the step
    that the uninterrupted run took. So the first backward pass is one that does not count. It also shows
    whether there are parameters that get no gradient, for which DDP would wait for ever.
    """
    if group.world_size == 1:
        return model
    generators = rng.capture(group.device)
    others = [name for name, one in model.named_buffers() if not is_plain(one) or one.dtype not in EXCHANGED]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, others)  # type: ignore[no-untyped-call]
    replica = DistributedDataParallel(model, find_unused_parameters=find_unused)
    with untouched(model):
        torch.autograd.backward(first_loss(replica))
        has_buffers = any(True for _ in model.buffers())  # or it makes them in its forward pass
    is_unused = any(one.requires_grad and one.grad is None for one in model.parameters())
    replica.zero_grad()
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    seen = group.gather((is_unused, has_buffers))
    if any(unused for unused, _ in seen) and not find_unused:
        del replica  # with its hooks
        replica = DistributedDataParallel(model, find_unused_parameters=True)  # these keep their buckets
    setattr(replica, FROZEN, frozen)
    replica.register_forward_hook(_check_after_backward)
    replica.broadcast_buffers = False  # torch's way sends those of different sizes into each other
    if any(has for _, has in seen):
        # Once a batch, as torch does it.
        equalize_before_each_pass(replica, group, lambda one: bool(one.require_forward_param_sync), "module")
    rng.restore(generators, group.device)
    return replica
