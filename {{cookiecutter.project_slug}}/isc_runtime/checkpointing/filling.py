"""Fills a part of a training with its state: as it was saved, and so that nothing depends on the file."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from isc_runtime.tree import Path, mapped

COMPUTED = ("fused", "foreach", "capturable")  # of an optimizer's settings those that change no result


class Stateful(Protocol):
    """What can be part of a checkpoint: a module, an optimizer, a scheduler, a GradScaler, ..."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


def fill(part: Stateful, state: dict[str, Any], is_mapped: bool) -> None:
    """Loads a state into a part.

    Args:
        part: no dict.
        state: of a checkpoint.
        is_mapped: whether its tensors are mapped from a file.

    Raises:
        ValueError: a schedule has not as many functions as it had.
        Exception: whatever its `load_state_dict` raises.
    """
    if is_mapped:
        state = _independent(part, state)
    if isinstance(part, Optimizer):
        state = _computed_as_now(part, state)
    if isinstance(part, LRScheduler):
        _check_functions(getattr(part, "lr_lambdas", None), state.get("lr_lambdas"))
    part.load_state_dict(state)


def _check_functions(own: Any, saved: Any) -> None:
    """Torch would fail with a number, or not before the next step."""
    if isinstance(own, list) and isinstance(saved, list) and len(own) != len(saved):
        raise ValueError(f"it had functions for {len(saved)} groups of parameters, and has {len(own)}")


def types_of_weights(parts: Mapping[str, Any], loaded: Mapping[str, Any]) -> dict[int, torch.dtype]:
    """The types that parameters had when a checkpoint was made, by their identity."""
    modules = [(loaded.get(name, {}), part) for name, part in parts.items() if isinstance(part, nn.Module)]
    return {
        id(parameter): state[key].dtype
        for state, module in modules
        for key, parameter in module.named_parameters(remove_duplicate=False)
        if isinstance(state.get(key), Tensor)
    }


@contextlib.contextmanager
def exact_optimizers(weights: Mapping[int, torch.dtype] | None) -> Iterator[None]:
    """Within it the state of any optimizer is loaded as it was saved, also of those that others hold.

    Torch's own `load_state_dict` gives each tensor but `step` the type of its parameter: float32 weights that
    an optimizer keeps of bf16 ones would be rounded, codes of 8 bits become numbers. And of a text it makes
    the name of a generator. And it makes new groups: who holds the old ones, an optimizer that wraps this one
    or a schedule of the user's, would change a rate that nobody asks for.

    Args:
        weights: the types that parameters had. What had the same one follows them to another one. None: of
            another program, whose types torch's own rule makes right.
    """
    original = Optimizer.load_state_dict

    def load(self: Optimizer, state_dict: dict[str, Any]) -> None:
        given: list[dict[str, Any]] = []  # what other hooks have made of it
        before = dict(vars(self))

        def correct(_: Optimizer) -> None:
            _keep_objects(self, before)
            if weights is not None:
                _as_saved(self, given[0], weights)

        noted = self.register_load_state_dict_pre_hook(lambda _, state: given.append(state))
        loaded = self.register_load_state_dict_post_hook(correct, prepend=True)
        try:
            original(self, state_dict)
        finally:
            noted.remove()
            loaded.remove()

    Optimizer.load_state_dict = load  # type: ignore[method-assign]
    try:
        yield
    finally:
        Optimizer.load_state_dict = original  # type: ignore[method-assign]


def _keep_objects(optimizer: Optimizer, before: Mapping[str, Any]) -> None:
    """Puts what was loaded into the groups and the state that were there."""
    now, groups, state = vars(optimizer), before.get("param_groups"), before.get("state")
    if isinstance(groups, list) and groups is not now["param_groups"]:
        for group, loaded in zip(groups, now["param_groups"], strict=True):
            group.clear()
            group.update(loaded)
        now["param_groups"] = groups
    if isinstance(state, dict) and state is not now["state"]:
        state.clear()
        state.update(now["state"])
        now["state"] = state


def _as_saved(optimizer: Optimizer, saved: dict[str, Any], weights: Mapping[int, torch.dtype]) -> None:
    numbers = (number for group in saved["param_groups"] for number in group["params"])
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    for number, parameter in zip(numbers, parameters, strict=True):
        if number in saved["state"]:
            own = _exact(saved["state"][number], optimizer.state[parameter], weights.get(id(parameter)))
            optimizer.state[parameter] = own


def _exact(saved: Any, loaded: Any, weight: torch.dtype | None) -> Any:
    """A value of a state as it was saved, where torch has put it."""
    if isinstance(saved, Tensor):
        is_right = saved.dtype in (loaded.dtype, weight)
        return loaded if is_right else saved.to(loaded.device)
    if isinstance(saved, dict):  # where a step is counted, is torch's business
        return {
            key: loaded[key] if key == "step" else _exact(value, loaded[key], weight)
            for key, value in saved.items()
        }
    if type(saved) in (list, tuple):
        return type(saved)(_exact(*pair, weight) for pair in zip(saved, loaded, strict=True))
    return saved


def _independent(part: Stateful, state: dict[str, Any]) -> dict[str, Any]:
    """A state that does not depend on the file: what is no module keeps what it is given.

    An optimizer of torch's moves it to where its parameters are. If that is a GPU, all that stays here is
    the scalars in which it counts steps.
    """
    if isinstance(part, nn.Module):
        return _independent_of_module(part, state)
    if not isinstance(part, Optimizer) or type(part).load_state_dict is not Optimizer.load_state_dict:
        return copy.deepcopy(state)
    if any(parameter.is_cpu for group in part.param_groups for parameter in group["params"]):
        return copy.deepcopy(state)

    def own(_: Path, node: Any) -> Any:
        return node.clone() if isinstance(node, Tensor) and not node.dim() else node

    independent: dict[str, Any] = mapped(state, own)
    return independent


def _independent_of_module(module: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """Torch copies parameters and buffers. An extra state is kept as it is given, and so may be whatever a
    module loads by a method of its own."""
    named = (module.named_parameters, module.named_buffers)
    copied = {key for each in named for key, _ in each(remove_duplicate=False)}
    loading = [f"{name}." if name else "" for name, part in module.named_modules() if _loads_itself(part)]
    independent = copy.copy(state)  # with the metadata of a foreign one
    for key, value in state.items():
        if key not in copied or key.startswith(tuple(loading)):
            independent[key] = copy.deepcopy(value)
    return independent


def _loads_itself(module: nn.Module) -> bool:
    methods = (getattr(type(module), name) for name in ("load_state_dict", "_load_from_state_dict"))
    return not all(method.__module__.partition(".")[0] == "torch" for method in methods)


def _computed_as_now(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state, with what belongs to this run and not to the training: how a step is computed.

    One that holds others may have a state of any form, and one of another kind is named by torch itself.
    """
    saved = state.get("param_groups")
    if not isinstance(saved, list) or len(saved) != len(optimizer.param_groups):
        return state
    pairs = zip(saved, optimizer.param_groups, strict=True)
    groups = [{**group, **{name: own[name] for name in COMPUTED if name in own}} for group, own in pairs]
    return {**state, "param_groups": groups}
