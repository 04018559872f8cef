"""A model of which every rank holds a shard: the same function, the same names, the same gradients."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel

from isc_runtime.checkpointing.members import classes_of
from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.options import ParallelOptions
from isc_runtime.ranks.building import build
from isc_runtime.ranks.group import Group, process_group
from isc_runtime.ranks.parallel import clip_gradients, parallelize, part_of_batch
from isc_runtime.ranks.rank_error import RankError
from isc_runtime.ranks.shards import ShardedTensors, distribute, is_sharded, separate
from isc_runtime.ranks.weights import unlike_weights
from isc_runtime.tests.processes import run_forked
from isc_runtime.tests.small_training import CLASSES, FEATURES, Network

WIDTH = 132  # so that weights are large enough to be built in parts
PARTS = 2  # of a batch


def sharded(group: Group, size: int | None = None, bf16: bool = False) -> nn.Module:
    """A network without dropout."""
    options = ParallelOptions("fsdp", shard_size=size)
    torch.manual_seed(3)
    model = build(lambda: Network(WIDTH, depth=2), group, options, bf16)
    return parallelize(model, group, lambda _: torch.zeros(()), options).eval()


def batch(ranks: int) -> tuple[Tensor, Tensor]:
    """Inputs and labels of all ranks together, `PARTS` samples for each."""
    torch.manual_seed(4)
    return torch.randn(PARTS * ranks, FEATURES), torch.arange(PARTS * ranks) % CLASSES


def whole_gradients(ranks: int) -> tuple[dict[str, Tensor], Tensor]:
    """Those of a model that is not sharded, by name, clipped; and their norm before."""
    torch.manual_seed(3)
    model = Network(WIDTH, depth=2).eval()
    inputs, labels = batch(ranks)
    torch.autograd.backward(cross_entropy(model(inputs), labels))
    norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}, norm


def take_batch(model: nn.Module, group: Group) -> list[bool]:
    """Puts the gradient of the batch of all ranks into the parameters, part by part.

    Returns:
        For each part whether the gradients of all parameters were in shards after it.
    """
    inputs, labels = batch(group.world_size)
    seen = []
    for part in range(PARTS):
        own = slice(PARTS * group.rank + part, PARTS * group.rank + part + 1)
        with part_of_batch(model, is_last=part == PARTS - 1):
            loss = cross_entropy(model(inputs[own]), labels[own]) / PARTS
        torch.autograd.backward(loss)
        seen.append(all(is_sharded(value.grad) for value in model.parameters()))
    return seen


def on_each(work: Callable[[Group], None]) -> Callable[[], None]:
    """What each rank does."""

    def run() -> None:
        logging.basicConfig(level=logging.INFO, force=True)
        with process_group(Environment.read(), 60, 60) as group:
            work(group)
        print("came to its end")

    return run


def run(directory: Path, work: Callable[[Group], None], ranks: int = 2) -> list[str]:
    """Runs `work` on so many ranks; returns what they said."""
    ended = run_forked(directory, on_each(work), ranks)
    assert all(one.code == 0 and one.output.endswith("came to its end\n") for one in ended), ended
    return [one.output for one in ended]


@pytest.mark.parametrize(("ranks", "size"), [(2, None), (4, 2)])
def test_parts_of_a_batch_and_clipping(tmp_path: Path, ranks: int, size: int | None) -> None:
    """On any mesh the gradient is that of all samples, and no rank ever holds all of it."""

    def work(group: Group) -> None:
        model = sharded(group, size)
        seen = take_batch(model, group)
        assert seen == [size is None, True]  # between groups of ranks they are added up once, at the end
        norm = clip_gradients(model, 0.5)
        expected, expected_norm = whole_gradients(ranks)
        torch.testing.assert_close(norm, expected_norm)
        parameters: dict[str, Any] = dict(model.named_parameters())
        for name, parameter in parameters.items():
            assert is_sharded(parameter.grad)
            torch.testing.assert_close(parameter.grad.full_tensor(), expected[name])
            assert parameter.to_local().numel() <= -(-parameter.shape[0] // 2) * parameter[0].numel()

    run(tmp_path, work, ranks)


def test_a_state_in_shards_and_back(tmp_path: Path) -> None:
    def work(group: Group) -> None:
        model = sharded(group)
        assert classes_of({"model": model}) == classes_of({"model": Network()})
        state = {"model": model.state_dict()}
        whole = {name: value.full_tensor() for name, value in state["model"].items()}
        marked, tensors = separate(state)
        assert tensors.keys() == {f"model.{name}" for name in whole}
        assert separate(marked)[1] == {}
        again = distribute({"model": whole}, ShardedTensors({"model": model}))["model"]
        assert all(torch.equal(again[name].to_local(), state["model"][name].to_local()) for name in whole)
        wrapper = SimpleNamespace(param_groups=[{"params": list(model.parameters())}], state_dict=dict)
        kept = {"wrapper": {"slow": list(whole.values()), "other": torch.zeros(3)}}
        found = distribute(kept, ShardedTensors({"model": model, "wrapper": wrapper}, was_whole=True))
        assert all(map(is_sharded, found["wrapper"]["slow"]))
        assert not is_sharded(found["wrapper"]["other"])
        found = distribute(kept, ShardedTensors({"model": model, "wrapper": wrapper}))
        assert not any(map(is_sharded, found["wrapper"]["slow"]))  # they were whole beside shards
        sums_of_rows = {"row_var": torch.zeros(WIDTH, 1), "step": torch.zeros(())}
        rows = {"adafactor": {"state": {0: sums_of_rows}, "other": torch.zeros(3)}}
        parts = {"adafactor": torch.optim.Adafactor(model.parameters())}
        found = distribute(rows, ShardedTensors(parts, was_whole=True))["adafactor"]
        of_first = found["state"][0]
        assert [*map(is_sharded, (of_first["row_var"], of_first["step"], found["other"]))] == [
            True,
            False,
            False,
        ]
        assert of_first["row_var"].to_local().shape == (WIDTH, 1)

    run(tmp_path, work)


def kept_casts(model: nn.Module, inputs: Tensor, context: Any) -> int:
    """Bytes of bf16 casts of the blocks' weights that are kept for the backward pass."""
    shapes = {value.shape for value in model.get_submodule("blocks").parameters() if value.dim() > 1}
    shapes |= {torch.Size(reversed(shape)) for shape in shapes}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.dtype == torch.bfloat16 and tensor.shape in shapes:
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with context, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(inputs)
    assert output.dtype == (torch.float32 if hasattr(model, "forward_in_any") else torch.bfloat16)
    return sum(storage.nbytes() for storage in kept.values())


def test_bf16_keeps_no_cast_weights_and_adds_up_in_float32(tmp_path: Path) -> None:
    """Whether autocast is around it, as in train.py, or not."""

    def work(group: Group) -> None:
        inputs, _ = batch(group.world_size)
        cast = torch.autocast("cpu", torch.bfloat16)
        assert kept_casts(sharded(group), inputs, cast) > 0  # as it is without FSDP2's own way
        for context in (cast, contextlib.nullcontext()):
            assert kept_casts(sharded(group, bf16=True), inputs, context) == 0
        model = sharded(group, bf16=True)
        take_batch(model, group)
        clip_gradients(model, 0.5)
        expected, _ = whole_gradients(group.world_size)
        for name, parameter in model.named_parameters():
            assert (parameter.dtype, parameter.grad.dtype) == (torch.float32, torch.float32)  # type: ignore[union-attr]
            gradient = parameter.grad.full_tensor()  # type: ignore[union-attr]
            assert (gradient - expected[name]).norm() < 0.05 * expected[name].norm() + 1e-4, name
            assert not torch.equal(gradient, gradient.bfloat16().float())

    run(tmp_path, work)


def test_a_model_without_blocks_is_sharded_with_a_warning(tmp_path: Path) -> None:
    def work(group: Group) -> None:
        model = nn.Sequential(nn.Linear(FEATURES, CLASSES))
        parallelize(model, group, lambda _: torch.zeros(()), ParallelOptions("fsdp"))

    for said in run(tmp_path, work):
        assert "Sequential has no nn.ModuleList" in said


class Block(nn.Module):
    """A residual block, which may share its layer."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.scale = nn.Parameter(torch.ones(WIDTH))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + torch.tanh(self.layer(inputs)) * self.scale


class Tied(nn.Module):
    """Parts of it share parameters, or are called several times, or have no dimension.

    Args:
        kind: which.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, CLASSES)
        layers = [nn.Linear(WIDTH, WIDTH) for _ in range(3)]
        self.middle, self.scale = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.tensor(0.5))
        if kind == "weights":  # of blocks, and of a block and the rest
            layers[2].weight, self.middle.weight = layers[0].weight, layers[1].weight
            self.last.weight.data = self.last.weight.data.t().contiguous().t()
        if kind == "modules":
            self.middle, layers[1] = layers[2], layers[0]
        self.blocks = nn.ModuleList(Block(layer) for layer in layers)
        for name, value in ("bias", 0.1), ("count", 3):
            self.blocks[1].register_parameter(name, nn.Parameter(torch.tensor(value), requires_grad=False))
        if kind == "blocks":
            again = nn.ModuleList([self.blocks[0], self.blocks[0]])
            self.blocks = nn.ModuleList([again, nn.ModuleDict({"a": self.blocks[1]}), self.blocks[0]])

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        hidden = self.middle(hidden)
        for block in (block for one in self.blocks for block in members(one)):
            hidden = block(hidden)
        scores: Tensor = self.last(hidden) * self.scale
        return scores


def members(module: nn.Module) -> list[nn.Module]:
    return [module] if isinstance(module, Block) else list(module.children())


def test_what_is_shared_or_has_no_dimension_gets_the_gradient_of_all(tmp_path: Path) -> None:
    """Norm and gradients are those of the model that is not sharded, and so are the weights after a step."""

    def compare(group: Group, kind: str, is_recomputed: bool) -> None:
        torch.manual_seed(3)
        whole = Tied(kind)
        inputs, labels = batch(group.world_size)
        torch.autograd.backward(cross_entropy(whole(inputs), labels))
        expected_norm = nn.utils.clip_grad_norm_(whole.parameters(), 0.5)
        torch.manual_seed(3)
        options = ParallelOptions("fsdp", checkpoint_activations=is_recomputed)
        model = build(lambda: Tied(kind), group, options)
        parallelize(model, group, lambda _: torch.zeros(()), options)
        take_batch(model, group)
        torch.testing.assert_close(clip_gradients(model, 0.5), expected_norm)
        for one in (whole, model):
            torch.optim.SGD(one.parameters(), lr=1.0).step()
        expected, found = dict(whole.named_parameters()), dict(model.named_parameters())
        assert found.keys() == expected.keys()
        for name, value in found.items():
            assert is_sharded(value) == bool(value.dim()), (kind, name)
            own = value.full_tensor() if is_sharded(value) else value
            torch.testing.assert_close(own, expected[name], msg=f"{kind} {name}")
        assert model.state_dict().keys() == whole.state_dict().keys()
        assert unlike_weights({"model": model}, group) is None

    def work(group: Group) -> None:
        compare(group, "weights", is_recomputed=False)
        for kind in ("weights", "modules", "blocks"):
            compare(group, kind, is_recomputed=True)

    run(tmp_path, work)


def test_what_cannot_be_sharded_is_refused_in_a_sentence(tmp_path: Path) -> None:
    def work(group: Group) -> None:
        mixed = Network(WIDTH, depth=2)
        mixed.get_submodule("blocks.1.1").bfloat16()
        options = ParallelOptions("fsdp")
        with pytest.raises(
            RankError, match=r"blocks\.1\.0\.\w+ is torch.float32, blocks\.1\.1\.\w+ is torch.bf"
        ):
            build(lambda: mixed, group, options)
        model = sharded(group)
        block = model.get_submodule("blocks.0")
        for copied in (partial(AveragedModel, model), partial(copy.deepcopy, block)):
            with pytest.raises(IscError, match=r"cannot be copied: a (Network|Sequential)") as error:
                copied()
            assert error.value.exit_code == ExitCode.USAGE

    run(tmp_path, work)
