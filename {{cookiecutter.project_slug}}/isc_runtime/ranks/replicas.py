"""A replica of the model on each rank: their gradients are exchanged, or an error says why they are not."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils import _pytree

from isc_runtime import rng
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.buffers import equalize_before_each_pass, is_plain
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.untouched import untouched
from isc_runtime.tree import Path, children, leaves, mapped, nodes

# The types that gloo can exchange; buffers and frozen parameters of others are constants, as a rule, and are
# equal from the start.
EXCHANGED = {torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64, torch.bfloat16}
EXCHANGED |= {torch.float16, torch.float32, torch.float64, torch.complex64, torch.complex128}
FROZEN = "frozen_at_the_start"  # attribute of a replica: what was not trained then


def make_replica(
    model: nn.Module, group: Group, first_loss: Callable[[nn.Module], torch.Tensor], find_unused: bool
) -> nn.Module:
    """DistributedDataParallel, with its buckets already in the order that they will keep.

    DDP rearranges its buckets after the first backward pass. With more than two ranks that changes the order
    in which gradients are added, and so their last bits: the first step after a resume would not be the step
    that the uninterrupted run took. So the first backward pass is one that does not count. It also shows
    whether there are parameters that get no gradient, for which DDP would wait for ever.

    Raises:
        IscError: the loss is computed without a call of the replica, or asks it for what only the model has.
    """
    if group.world_size == 1:
        return model
    generators = rng.capture(group.device)
    others = [name for name, one in model.named_buffers() if not is_plain(one) or one.dtype not in EXCHANGED]
    frozen = [(name, one) for name, one in model.named_parameters() if not one.requires_grad]
    others += [name for name, one in frozen if one.dtype not in EXCHANGED]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, others)  # type: ignore[no-untyped-call]
    replica = DistributedDataParallel(model, find_unused_parameters=find_unused)
    reached: set[Path] = set()
    with untouched(model), _first_pass(replica, reached):
        torch.autograd.backward(first_loss(replica))
        has_buffers = any(True for _ in model.buffers())  # or it makes them in its forward pass
    is_unused = any(one.requires_grad and one.grad is None for one in model.parameters())
    replica.zero_grad()
    seen = group.gather((is_unused, has_buffers))
    if any(unused for unused, _ in seen) and not find_unused:
        _check_is_seen(reached, "")
        del replica  # with its hooks
        replica = DistributedDataParallel(model, find_unused_parameters=True)  # these keep their buckets
    setattr(replica, FROZEN, [parameter for _, parameter in frozen])
    replica.register_forward_hook(partial(_check_after_backward, reached))
    replica.broadcast_buffers = False  # torch's way sends those of different sizes into each other
    if any(has for _, has in seen):
        # Once a batch, as torch does it.
        equalize_before_each_pass(replica, group, lambda one: bool(one.require_forward_param_sync), "module")
    rng.restore(generators, group.device)
    return replica


@contextlib.contextmanager
def exchange_explained(replica: nn.Module) -> Iterator[None]:
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
        is_looked_for = getattr(replica, "find_unused_parameters", False)
        raise IscError(
            "In the last batch some parameters got no gradient",
            "the forward pass of the model",
            "Torch looked for them, and did not find them in what the model returned: let it return tensors, "
            "or tuples, lists, dicts or dataclasses."
            if is_looked_for
            else "If that may be, start with --find-unused-parameters.",
            ExitCode.USAGE,
        ) from None


def check_trained(replica: nn.Module) -> None:
    """The ranks exchange the gradients of what was trained when they began to share the model."""
    if any(parameter.requires_grad for parameter in getattr(replica, FROZEN, ())):
        raise IscError(
            "Parameters are trained that were frozen when the ranks began to share the model",
            "requires_grad_(True)",
            "Share it anew after that, or their gradients are not exchanged: self.replica = "
            "parallelize(self.model, group, self.first_loss, how).",
            ExitCode.USAGE,
        )


@contextlib.contextmanager
def _first_pass(replica: nn.Module, reached: set[Path]) -> Iterator[None]:
    """Around the first loss and its backward pass: notes what they reach. Raises IscError."""
    calls: list[None] = []
    hooks = [
        replica.module.register_forward_hook(_make_known),  # type: ignore[union-attr]  # a module
        replica.register_forward_hook(lambda *_: calls.append(None)),
        replica.register_forward_hook(partial(_note_reached, reached)),
    ]
    hint = (
        "On several ranks gradients are exchanged of what that model returns when it is called: call it, and "
        "not what is in it, and let its forward do what is wanted, told by an argument."
    )
    try:
        yield
    except AttributeError as error:
        if f"'{type(replica).__name__}' object has no attribute" not in str(error):
            raise
        what = f"The model that batch_loss is given wraps yours: {error}"
        more = " A value that yours holds is in getattr(model, 'module', model)."
        raise IscError(what, "batch_loss in model.py", hint + more, ExitCode.USAGE) from None
    finally:
        for hook in hooks:
            hook.remove()
    if not calls:
        what = "The loss was computed without a call of the model that batch_loss is given"
        raise IscError(what, "batch_loss in model.py", hint, ExitCode.USAGE)


def _make_known(_: nn.Module, __: object, output: Any) -> None:
    """A forward hook: has torch look into dataclasses that a model returns, as into dicts. Else it would wait
    for the parameters of an output that no loss is made of."""
    for _path, node in nodes(output):
        kind: type[Any] = type(node)
        if dataclasses.is_dataclass(kind) and kind not in _pytree.SUPPORTED_NODES:
            _pytree.register_pytree_node(kind, _parts_of, _with_parts)


def _parts_of(node: Any) -> tuple[list[Any], Any]:
    found = children(node) or []
    return [part for _, part in found], (node, [name for name, _ in found])


def _with_parts(parts: Any, context: Any) -> Any:
    node, names = context
    values = dict(zip(names, parts, strict=True))
    return mapped(node, lambda path, one: values[path[0]] if len(path) == 1 else one)


def _graphs_in(output: Any) -> dict[Path, torch.Tensor]:
    """The tensors that a model has computed; a parameter that it returns is none."""
    return {path: leaf for path, leaf in leaves(output) if isinstance(leaf, torch.Tensor) and leaf.grad_fn}


def _check_is_seen(graphs: Collection[Path], kind: str) -> None:
    """Torch looks for what gets no gradient from what a model returns. Raises IscError."""
    if not graphs:
        raise IscError(
            f"Some parameters may get no gradient; torch cannot tell which from what the model returns{kind}",
            "forward in model.py",
            "Let it return tensors, or tuples, lists, dicts or dataclasses of them, and make other objects "
            "from these in batch_loss.",
            ExitCode.USAGE,
        )


def _note_reached(reached: set[Path], replica: nn.Module, _: object, output: Any) -> None:
    """A forward hook: notes which outputs the backward pass reaches. Raises IscError: torch finds none."""
    if replica.find_unused_parameters and torch.is_grad_enabled():
        _check_is_seen(_graphs_in(output).keys(), f", a {type(output).__name__}")
    for path, tensor in _graphs_in(output).items():
        tensor.register_hook(partial(lambda path, _: reached.add(path), path))  # type: ignore[no-untyped-call]


def _check_after_backward(reached: set[Path], replica: nn.Module, _: object, output: Any) -> None:
    """A forward hook: the backward pass of this output ends with an error if gradients were not exchanged.

    DDP itself would say it in the next batch, when each rank has taken a step of its own. Here no rank has
    asked for another collective yet, which another rank's gradients would meet. Several outputs may have a
    backward pass each: the last one that reaches what was reached with the first batch is the end.
    """
    if not (torch.is_grad_enabled() and replica.require_backward_grad_sync):
        return

    def check() -> None:
        with exchange_explained(replica):
            replica._check_reducer_finalized()  # type: ignore[operator]  # DistributedDataParallel's

    tensors = _graphs_in(output)
    missing = reached.intersection(tensors)

    def begun(path: Path, _: object) -> None:
        missing.discard(path)
        if missing:
            return
        queue = torch.autograd.Variable._execution_engine.queue_callback
        queue(lambda: queue(check))  # at the end, after DDP's own, which it has yet to put there

    for path, tensor in tensors.items():
        tensor.register_hook(partial(begun, path))  # type: ignore[no-untyped-call]
