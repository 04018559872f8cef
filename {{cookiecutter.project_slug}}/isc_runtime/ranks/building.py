"""A model of which each rank keeps a part, built without a rank that ever holds all of it.

The model is built as always, by the same code and with the same random numbers, so its weights are the same
on any number of ranks, and the same as without shards. But as soon as the next parameter is filled, a
parameter keeps this rank's rows only, and gives its memory back: a rank needs its own part and one parameter.

What a parameter is filled with may not depend on another one that is gone by then: such a model is built
whole on each rank first, and the log says why.
"""

from __future__ import annotations

import ctypes
import gc
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from isc_runtime import rng
from isc_runtime.errors import IscError
from isc_runtime.options import ParallelOptions
from isc_runtime.ranks.division import check_shardable
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.sharding import Part, check_model, is_to_be_sharded, shard

LEAST = 2**16  # bytes; smaller parameters stay whole until the model is sharded
MMAP_THRESHOLD = -3  # of mallopt(3): what is larger is a mapping of its own, which ends when it is freed
ATEN = torch.ops.aten
# They make another view of a tensor, or a new one of its form, and read no value.
NO_VALUES = {ATEN.detach, ATEN.alias, ATEN.view, ATEN.empty_like, ATEN.zeros_like, ATEN.ones_like}
NO_VALUES |= {ATEN.full_like, ATEN.rand_like, ATEN.randn_like, ATEN.randint_like, ATEN.new_empty}
NO_VALUES |= {ATEN.new_zeros, ATEN.new_ones, ATEN.new_full}
# What gives all values of its first argument anew, whatever they were.
FILLING = {ATEN.uniform_, ATEN.normal_, ATEN.zero_, ATEN.fill_, ATEN.copy_, ATEN.exponential_, ATEN.random_}
FILLING |= {ATEN.bernoulli_, ATEN.log_normal_, ATEN.cauchy_, ATEN.geometric_}
SCALING = {ATEN.mul_, ATEN.div_}  # by a number: exact, so that a part becomes what it is in the whole

logger = logging.getLogger("train")


def build(
    make: Callable[[], nn.Module], group: Group, options: ParallelOptions, bf16: bool = False
) -> nn.Module:
    """Makes the model; with `--parallelism fsdp` every rank gets its part of it, on its device.

    All ranks call it, with the same random numbers.

    Args:
        make: returns the model, on the CPU.
        group: the ranks; alone there is nothing to share.
        options: how it is spread.
        bf16: whether a sharded model computes in bf16; autocast around it has no effect then.

    Raises:
        RankError: it cannot be made on some rank, or not be spread over so many.
    """
    if not is_to_be_sharded(options, group):
        return group.each(make)
    part = group.each(lambda: Part.of(options, group))
    generators = rng.capture(torch.device("cpu"))
    model, rows, reason = group.each(partial(_build_in_parts, make, part.index, part.number))
    if reason := next(filter(None, group.gather(reason)), ""):
        logger.warning("[FSDP] The whole model is built on each rank first: %s", reason)
        del model
        rng.restore(generators, torch.device("cpu"))
        model, rows = group.each(make), {}
    assert model is not None
    group.each(partial(check_model, model))
    shard(model, group, options, rows, bf16)
    return model


Built = tuple[nn.Module | None, Mapping[int, Tensor], str]


def _build_in_parts(make: Callable[[], nn.Module], index: int, number: int) -> Built:
    """A model whose large parameters are on the meta device, the rows of each that are this rank's, by its
    id, and nothing; or no model, and why it cannot be built so."""
    return_memory_at_once()
    mode = PartwiseBuild(index, number)
    try:
        with mode:
            model = make()
        if not mode.reason:
            check_model(model)
            check_shardable(model)
        rows = mode.take_parts(model)
    except Exception as error:
        is_partial = any(known.rows is not None for known in mode._known.values())
        if not mode.reason and (isinstance(error, IscError) or not is_partial):
            raise
        # A print, or numpy, has found no values, and asked nobody; the user's own error comes again.
        mode.reason = mode.reason or f"in parts it ends with {type(error).__name__}: {error}"
    # Whatever became of the error on its way through other code.
    return (None, {}, mode.reason) if mode.reason else (model, rows, "")


class CannotBuildInParts(RuntimeError):
    """Ends the building of a model, which begins again in another way."""


@dataclass(eq=False)
class _Parameter:
    """A parameter in building, and whatever shares its memory.

    Attributes:
        name: for people.
        shape: of it.
        dtype: of it.
        storage: its memory.
        rows: this rank's, while the rest is given back; None while it is whole.
    """

    name: str
    shape: torch.Size
    dtype: torch.dtype
    storage: torch.UntypedStorage
    rows: Tensor | None = None

    def is_all_of(self, tensor: object) -> bool:
        """Whether a tensor, which shares its memory, has all of its values."""
        return (
            isinstance(tensor, Tensor)
            and (tensor.numel(), tensor.dtype) == (self.shape.numel(), self.dtype)
            and tensor.is_contiguous()
        )

    def give_back(self, index: int, number: int) -> None:
        """Keeps one of so many parts."""
        whole = torch.empty(0, dtype=self.dtype).set_(self.storage).view(self.shape)
        size = -(-self.shape[0] // number)
        self.rows = whole[size * index : size * (index + 1)].clone()
        self.storage.resize_(0)

    def take_again(self) -> None:
        """Makes room for all of it; its values are to be written."""
        self.rows = None
        self.storage.resize_(self.shape.numel() * self.dtype.itemsize)


class PartwiseBuild(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own are not
    """While it is entered, new parameters keep a part of their rows only, but for the one in work.

    Args:
        index: of the part that is kept.
        number: of parts into which the rows are divided, as torch.chunk divides them.

    Attributes:
        reason: why a model cannot be built so; empty if it can.
    """

    def __init__(self, index: int, number: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reason = ""
        self._part = index, number
        self._known: dict[int, _Parameter] = {}  # by the address of its storage
        self._whole: list[_Parameter] = []
        self._hook: Any = None

    def __enter__(self) -> PartwiseBuild:
        self._hook = register_module_parameter_registration_hook(self._register)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        self._hook.remove()

    def _register(self, module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        """Called by torch when a module gets a parameter."""
        if type(parameter) is nn.Parameter:
            with _disable_current_modes():
                self._note(parameter, f"{type(module).__name__}.{name}")

    def _note(self, tensor: Tensor, name: str) -> None:
        """From now on a tensor's memory comes and goes, if nothing else depends on it."""
        if tensor.device.type != "cpu" or tensor.layout is not torch.strided or not tensor.dim():
            return
        storage = tensor.untyped_storage()
        is_known = storage._cdata in self._known
        is_all = tensor.storage_offset() == 0 and tensor.is_contiguous() and storage.nbytes() == tensor.nbytes
        # What numpy, a file or another process shares with it cannot be given back: torch says so.
        if not is_known and is_all and storage.resizable() and tensor.nbytes >= LEAST:
            known = self._known[storage._cdata] = _Parameter(name, tensor.shape, tensor.dtype, storage)
            self._whole.append(known)
            self._give_back_but([known])

    def _give_back_but(self, touched: list[_Parameter]) -> None:
        for known in [known for known in self._whole if known not in touched and known.storage.resizable()]:
            known.give_back(*self._part)
            self._whole.remove(known)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Called by torch with each operation on tensors."""
        kwargs, operation = kwargs or {}, func.overloadpacket
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        touched = [known for tensor in tensors if (known := self._parameter_of(tensor)) is not None]
        gone = [known for known in touched if known.rows is not None]
        if not touched or operation in NO_VALUES:
            return func(*args, **kwargs)
        if operation is ATEN.clone:
            return self._clone(func, touched[0], args, kwargs)
        if gone:
            first = tensors[0]  # what an operation changes comes first
            is_alone = len(gone) == 1 and self._parameter_of(first) is gone[0] and gone[0].is_all_of(first)
            if is_alone and operation in SCALING and all(other.dim() == 0 for other in tensors[1:]):
                func(gone[0].rows, *args[1:], **kwargs)
                return first
            if not (is_alone and operation in FILLING and gone[0].storage.resizable()):
                raise self._refusal(func, gone[-1])
        self._give_back_but(touched)
        for known in gone:
            known.take_again()
            self._whole.append(known)
        return func(*args, **kwargs)

    def _parameter_of(self, tensor: Tensor) -> _Parameter | None:
        if tensor.device.type != "cpu" or tensor.layout is not torch.strided:
            return None
        return self._known.get(tensor.untyped_storage()._cdata)

    def _clone(self, func: Any, known: _Parameter, args: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
        """What a deep copy of a module is made of: its parameters are not registered."""
        if known.rows is None:
            copied: Tensor = func(*args, **options)
            self._note(copied, known.name)
            return copied
        if args[0].shape != known.shape or not known.is_all_of(args[0]):
            raise self._refusal(func, known)
        copied = torch.empty_like(args[0])
        storage, rows = copied.untyped_storage(), known.rows.clone()
        storage.resize_(0)
        self._known[storage._cdata] = replace(known, storage=storage, rows=rows)
        return copied

    def _refusal(self, func: Any, known: _Parameter) -> CannotBuildInParts:
        self.reason = (
            f"{func} needs all of {known.name}, after another parameter was filled. If each is filled when "
            "it is made, or later all of it anew, a rank needs no more than its part."
        )
        return CannotBuildInParts(self.reason)

    def take_parts(self, model: nn.Module) -> dict[int, Tensor]:
        """Puts parameters on the meta device in place of those of which only some rows are here.

        Returns:
            These rows, by the id of the new parameter.

        Raises:
            CannotBuildInParts: something else holds one of the old ones, or a view of it.
        """
        rows = self._replace(model)
        gc.collect()  # what the model has thrown away
        for known in self._known.values():
            # A parameter that lives on elsewhere, a view of it, or memory that numpy has seen.
            is_held = torch._C._storage_Use_Count(known.storage._cdata) > 1 or not known.storage.resizable()
            if known.rows is not None and is_held:
                self.reason = f"not only modules of the model hold {known.name}, a view or a copy of it"
                raise CannotBuildInParts(self.reason)
        self._known, self._whole = {}, []
        return rows

    def _replace(self, model: nn.Module) -> dict[int, Tensor]:
        rows: dict[int, Tensor] = {}
        new: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}  # and the old one, by the id of that
        for module in model.modules():
            for name, old in list(module._parameters.items()):
                known = None if old is None else self._parameter_of(old)
                if old is None or known is None or known.rows is None:
                    continue
                if old.shape[0] != known.shape[0] or not known.is_all_of(old):
                    self.reason = f"{type(module).__name__}.{name} is a view of {known.name}"
                    raise CannotBuildInParts(self.reason)
                meta = nn.Parameter(torch.empty_like(old, device="meta"), old.requires_grad)
                vars(meta).update(vars(old))
                meta, _ = new.setdefault(id(old), (meta, old))
                rows[id(meta)] = known.rows.view(-1, *old.shape[1:])
                setattr(module, name, meta)
        return rows


def return_memory_at_once() -> None:
    """From now on the system has what is freed. glibc would keep it between the parts that stay, too small
    for what comes next, and has a rank need several times its share."""
    choose = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's own
    if choose is not None:
        choose(MMAP_THRESHOLD, LEAST)
