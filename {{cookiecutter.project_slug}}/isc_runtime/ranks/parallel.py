"""One model on many ranks: a replica on each of them, or a shard of it on each of them.

What a model keeps in an `nn.ModuleList` are its blocks: they are sharded, recomputed and compiled one by one,
and what is left of the model after them. A model without such a list is a single block.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.utils.checkpoint import checkpoint

from isc_runtime import rng
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.options import ParallelOptions
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.shards import is_expanded, is_sharded
from isc_runtime.ranks.untouched import untouched

# The types of buffers that gloo can exchange; others are constants, as a rule, and are equal from the start.
EXCHANGED = {torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64, torch.bfloat16}
EXCHANGED |= {torch.float16, torch.float32, torch.float64, torch.complex64, torch.complex128}
FROZEN = "frozen_at_the_start"  # attribute of a replica: what was not trained then

logger = logging.getLogger("train")


def parallelize(
    model: nn.Module, group: Group, first_loss: Callable[[nn.Module], torch.Tensor], options: ParallelOptions
) -> nn.Module:
    """Brings a model to this rank's device, in the way that the options say. All ranks call it.

    Make the optimizer after it: sharding replaces the parameters.

    Args:
        model: with the same weights on all ranks, on the CPU.
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
    group.each(partial(_check_model, model))
    if options.compile:
        group.each(partial(_require_compiler, group.device.type))
    sharded = options.parallelism == "fsdp" and group.world_size > 1
    if not sharded:
        model.to(group.device)
    for block in blocks(model) or [model]:
        if options.checkpoint_activations or options.compile:
            _wrap(block, options.checkpoint_activations)
        if options.compile:
            block.compile()
    if sharded:
        return _shard(model, group)
    return _replicate(model, group, first_loss, options.find_unused_parameters)


def blocks(model: nn.Module) -> list[nn.Module]:
    """The members of the model's outermost module lists; none if it has no list."""
    found: list[nn.Module] = []
    for child in model.children():
        found += list(child) if isinstance(child, nn.ModuleList) else blocks(child)
    return found


@contextlib.contextmanager
def part_of_batch(replica: nn.Module, is_last: bool) -> Iterator[None]:
    """Lets the ranks exchange their gradients only once, with the last part of a batch.

    Args:
        replica: what `parallelize` returned; its forward pass is inside this block.
        is_last: whether this is the last part.

    Raises:
        IscError: in the batch before some parameters have got no gradient, as they had at the start.
    """
    set_sync = getattr(replica, "set_requires_gradient_sync", None)  # an FSDPModule's
    if set_sync is not None:
        set_sync(is_last)
    _check_trained(replica)
    with contextlib.ExitStack() as stack:
        if isinstance(replica, DistributedDataParallel) and not is_last:
            stack.enter_context(replica.no_sync())
        try:
            yield
        except RuntimeError as error:
            if "find_unused_parameters" not in str(error):
                raise
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
        rank's part of the gradient is not.
    """
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    norm = (norm.full_tensor() if is_sharded(norm) else norm) * factor
    coefficient = (largest_norm / (norm + 1e-6)).clamp(max=1.0) * factor
    for gradient in gradients:
        (gradient.to_local() if is_sharded(gradient) else gradient).mul_(coefficient)
    return norm


def _check_model(model: nn.Module) -> None:
    """Neither an optimizer nor another rank can do with a parameter that waits for its first input."""
    if not isinstance(model, nn.Module):
        said = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise IscError(
            f"build_model returned {said}, and not an nn.Module",
            "model.py",
            "Let it return the model itself, made: return Network().",
            ExitCode.USAGE,
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise IscError(
            f"The model has no parameter that is trained: {type(model).__name__}",
            "build_model in model.py",
            "Keep its parts in attributes that are modules, an nn.ModuleList and not a list; freeze not all.",
            ExitCode.USAGE,
        )
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if lazy := [name for name, tensor in tensors.items() if is_lazy(tensor)]:
        raise IscError(
            f"The model has lazy modules, whose parameters have no shape yet ({lazy[0]})",
            "build_model in model.py",
            "Give them their sizes, or call the model once in build_model.",
            ExitCode.USAGE,
        )


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


def _shard(model: nn.Module, group: Group) -> nn.Module:
    """Leaves this rank its part of each parameter. FSDP2 moves it to the device, block by block."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard  # a second, for those who shard

    if not blocks(model):
        logger.warning(
            "[FSDP] %s has no nn.ModuleList: it is sharded as one block, and each rank holds all of it while "
            "it computes. Put its layers into an nn.ModuleList.",
            type(model).__name__,
        )
    mesh = init_device_mesh(group.device.type, (group.world_size,))
    for block in blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)

    def before(module: nn.Module, _: object) -> None:  # as DistributedDataParallel does, and FSDP2 does not
        if module.training:
            equalize_buffers([module], group)

    model.register_forward_pre_hook(before)
    return model


@torch.no_grad()
def equalize_buffers(modules: Iterable[nn.Module], group: Group) -> None:
    """Gives the buffers of modules the values that they have on the first rank: running statistics, say.

    A collective. A checkpoint holds the first rank's, so a resume does the same.
    """
    if group.world_size == 1:
        return
    found = {id(buffer): buffer for module in modules for buffer in module.buffers()}  # shared ones once
    buffers = [buffer for buffer in found.values() if _is_plain(buffer)]
    if not buffers:
        return
    # As bytes, of whatever type: one collective, and gloo does not know all types.
    values = group.broadcast(torch.cat([buffer.reshape(-1).view(torch.uint8) for buffer in buffers]))
    begin = 0
    for buffer in buffers:
        own = values[begin : begin + buffer.nbytes].clone()  # where a value of this type may begin
        buffer.copy_(own.view(buffer.dtype).view(buffer.shape))
        begin += buffer.nbytes


def _is_plain(buffer: torch.Tensor) -> bool:
    """Whether its values lie in memory one by one, so that others can take their places."""
    is_other = buffer.layout is not torch.strided or buffer.is_nested or buffer.is_quantized
    return not (is_other or is_expanded(buffer))


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
    others = [name for name, one in model.named_buffers() if not _is_plain(one) or one.dtype not in EXCHANGED]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, others)  # type: ignore[no-untyped-call]
    replica = DistributedDataParallel(model, find_unused_parameters=find_unused)
    with untouched(model):
        torch.autograd.backward(first_loss(replica))
    is_unused = any(one.requires_grad and one.grad is None for one in model.parameters())
    replica.zero_grad()
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    if any(group.gather(is_unused)) and not find_unused:
        del replica  # with its hooks
        replica = DistributedDataParallel(model, find_unused_parameters=True)  # these keep their buckets
    setattr(replica, FROZEN, frozen)
    rng.restore(generators, group.device)
    return replica
