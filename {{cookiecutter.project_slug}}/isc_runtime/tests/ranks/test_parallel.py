"""A model on many ranks, or with less memory: the same function, the same names, the same gradients."""

from __future__ import annotations

import copy
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.options import ParallelOptions
from isc_runtime.ranks.buffers import equalize_buffers
from isc_runtime.ranks.division import blocks
from isc_runtime.ranks.group import Group, process_group
from isc_runtime.ranks.parallel import (
    NOTHING_COUNTS,
    _require_compiler,
    clip_gradients,
    parallelize,
    part_of_batch,
)
from isc_runtime.ranks.rank_error import RankError
from isc_runtime.ranks.reporting import reported
from isc_runtime.ranks.shards import ShardedTensors
from isc_runtime.tests.processes import run_forked
from isc_runtime.tests.small_training import CLASSES, FEATURES, Network

ALONE = Group(Environment(), torch.device("cpu"))
INPUTS, LABELS = torch.randn(4, FEATURES), torch.arange(CLASSES)


def first_loss(model: nn.Module) -> torch.Tensor:
    loss: torch.Tensor = model(INPUTS).sum()
    return loss


def gradients(options: ParallelOptions) -> dict[str, torch.Tensor]:
    """Of one batch, by name; dropout included."""
    torch.manual_seed(1)
    model = Network()
    replica = parallelize(model, ALONE, first_loss, options)
    torch.manual_seed(2)
    torch.autograd.backward(cross_entropy(replica(INPUTS), LABELS))
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def test_recomputing_activations_changes_nothing() -> None:
    plain = gradients(ParallelOptions())
    recomputed = gradients(ParallelOptions(checkpoint_activations=True))
    assert plain.keys() == recomputed.keys() == dict(Network().named_parameters()).keys()
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)


def without_blocks() -> nn.Module:
    """A model without a module list: it is a single block."""
    return nn.Sequential(nn.Linear(FEATURES, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))


@pytest.mark.parametrize("make", [Network, without_blocks])
def test_recomputing_keeps_less_for_the_backward_pass(make: Callable[[], nn.Module]) -> None:
    def kept(options: ParallelOptions) -> int:
        bytes_kept = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal bytes_kept
            bytes_kept += tensor.nbytes
            return tensor

        model = parallelize(make(), ALONE, first_loss, options)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            model(INPUTS)
        return bytes_kept

    assert kept(ParallelOptions(checkpoint_activations=True)) < kept(ParallelOptions()) / 2


def test_the_members_of_the_outermost_module_lists_are_the_blocks() -> None:
    inner = nn.ModuleList([nn.Linear(1, 1), nn.ModuleDict({"b": nn.Sequential(nn.ReLU())})])
    last = nn.Linear(1, 1)  # which is there twice
    model = nn.Sequential(nn.Linear(1, 1), nn.ModuleDict({"a": nn.ModuleList([inner, last, last])}))
    assert [type(block) for block in blocks(model)] == [nn.Linear, nn.Sequential, nn.Linear]
    assert blocks(nn.Sequential(nn.Linear(1, 1), nn.ReLU())) == []


class Varying(nn.Module):
    """A layer that only some batches use, and running statistics; and, if it is asked for, a layer that none
    of them uses."""

    def __init__(self, has_unused: bool = False) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, CLASSES), nn.Linear(CLASSES, CLASSES)
        self.unused = nn.Linear(1, 1) if has_unused else None
        self.norm = nn.BatchNorm1d(CLASSES)
        self.uses_last = True

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.norm(self.first(inputs))
        return hidden + self.last(hidden) if self.uses_last else hidden


def train_varying(has_unused: bool, find_unused: bool) -> None:
    """On each of two ranks: a batch whose layers all get gradients, one that leaves one out, one more."""
    with reported(), process_group(Environment.read(), 60, 60) as group:
        torch.manual_seed(3)
        model = Varying(has_unused)
        replica = parallelize(model, group, first_loss, ParallelOptions(find_unused_parameters=find_unused))
        for step in range(3):
            model.uses_last = step != 1
            with part_of_batch(replica, is_last=True):
                loss = replica(torch.randn(4, FEATURES) + group.rank).square().mean()
            torch.autograd.backward(loss)
            assert (model.last.weight.grad is None) == (step == 1)
            gradients = group.gather([value.grad for value in model.parameters() if value.grad is not None])
            if has_unused or find_unused:  # else DDP has not even exchanged those that there are
                assert all(map(torch.equal, *gradients))
            replica.zero_grad()
        print("trained")


@pytest.mark.parametrize("options", [(True, False), (False, True)], ids=["seen at the start", "said"])
def test_parameters_without_a_gradient_are_no_failure(tmp_path: Path, options: tuple[bool, bool]) -> None:
    for ended in run_forked(tmp_path, lambda: train_varying(*options)):
        assert (ended.code, ended.output.splitlines()[-1]) == (0, "trained"), ended.output


def test_that_the_parameters_without_a_gradient_vary_has_to_be_said(tmp_path: Path) -> None:
    ended = run_forked(tmp_path, lambda: train_varying(False, False))
    assert {end.code for end in ended} == {ExitCode.USAGE}, ended
    assert any("got no gradient" in end.output for end in ended)
    assert any("start with --find-unused-parameters" in end.output for end in ended)


LeavesOut = Callable[[Group, Varying], None]


def train_without(leaves_out: LeavesOut, find_unused: bool = False, parts: int = 1) -> None:
    """Two batches; in the second one a layer gets no gradient on some rank. No step is taken with it."""
    with reported(), process_group(Environment.read(), 60, 60) as group:
        torch.manual_seed(3)
        model = Varying()
        replica = parallelize(model, group, first_loss, ParallelOptions(find_unused_parameters=find_unused))
        for step in range(2):
            if step:
                leaves_out(group, model)
            for part in range(parts):
                with part_of_batch(replica, is_last=part == parts - 1):
                    loss = replica(torch.randn(4, FEATURES) + group.rank).square().mean()
                torch.autograd.backward(loss)
            group.sum(torch.ones(()))  # the other rank's gradients must not meet it
            gradients = group.gather([value.grad for value in model.parameters() if value.grad is not None])
            assert all(map(torch.equal, *gradients))
            print(f"step {step}")
            replica.zero_grad()


def leave_out(_: Group, model: Varying) -> None:
    model.uses_last = False


def leave_out_on_one_rank(group: Group, model: Varying) -> None:
    model.uses_last = group.rank == 0


def freeze(_: Group, model: Varying) -> None:
    model.last.requires_grad_(False)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize(
    ("leaves_out", "said"),
    [
        (leave_out, r"some parameters got no gradient.*--find-unused-parameters\."),
        (leave_out_on_one_rank, r"rank 1 .*some parameters got no gradient"),
        (
            freeze,
            r"were frozen after the ranks began to share.*parallelize\(.*or start with --find",
        ),
    ],
)
def test_no_step_is_taken_with_gradients_that_were_not_exchanged(
    tmp_path: Path, leaves_out: LeavesOut, said: str, parts: int
) -> None:
    """DDP itself says it in the next forward pass: after the step, and never in the last batch."""
    ended = run_forked(tmp_path, lambda: train_without(leaves_out, parts=parts))
    assert {end.code for end in ended} == {ExitCode.USAGE}, ended
    assert not any("step 1" in end.output for end in ended)
    assert any(re.search(said, end.output) for end in ended), ended


class Aside(Varying):
    """Returns also what no loss is made of."""

    def forward(self, inputs: torch.Tensor) -> Any:
        values = super().forward(inputs)
        return (values, values.mean()) if self.training else values


def train_aside() -> None:
    with reported(), process_group(Environment.read(), 60, 60) as group:
        model = Aside()
        replica = parallelize(model, group, lambda one: one(INPUTS)[0].sum(), ParallelOptions())
        for uses in (True, False):
            model.uses_last = uses
            values, _ = replica(torch.randn(4, FEATURES) + group.rank)
            torch.autograd.backward(values.square().mean())
            print(f"used: {uses}")


def test_an_output_that_no_loss_is_made_of_hides_nothing(tmp_path: Path) -> None:
    for ended in run_forked(tmp_path, train_aside):
        assert ended.code == ExitCode.USAGE, ended
        assert "used: True" in ended.output
        assert "used: False" not in ended.output


@pytest.mark.parametrize("leaves_out", [leave_out, leave_out_on_one_rank, freeze])
def test_what_gets_no_gradient_and_was_said_to_is_exchanged(tmp_path: Path, leaves_out: LeavesOut) -> None:
    for ended in run_forked(tmp_path, lambda: train_without(leaves_out, find_unused=True, parts=2)):
        assert (ended.code, ended.output.splitlines()[-1]) == (0, "step 1"), ended.output


class Heads(nn.Module):
    """Two outputs without a common trunk, and a temperature that is returned."""

    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critic = nn.Linear(1, 1), nn.Linear(1, 1)
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.actor(x) * self.temperature, self.critic(x), self.temperature


def train_heads() -> None:
    with process_group(Environment.read(), 60, 60) as group:
        model = Heads()
        replica = parallelize(model, group, lambda one: sum(one(torch.ones(1, 1))).sum(), ParallelOptions())
        for _ in range(3):
            model.zero_grad()
            actor, critic, _ = replica(torch.full((1, 1), 1.0 + group.rank))
            torch.autograd.backward(actor.sum())
            torch.autograd.backward(critic.square().sum())
        assert len(set(group.gather(float(model.critic.weight.grad)))) == 1, "it was exchanged"  # type: ignore[arg-type]
        assert not model.temperature._backward_hooks


def test_each_output_may_have_a_backward_pass_of_its_own(tmp_path: Path) -> None:
    assert [ended.code for ended in run_forked(tmp_path, train_heads)] == [0, 0]


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_buffers_are_the_first_rank_s(tmp_path: Path, parallelism: str) -> None:
    """At each forward pass in training, whatever is trained how; and when all ranks ask for it."""

    def work() -> None:
        with process_group(Environment.read(), 60, 60) as group:
            model = Varying()
            replica = parallelize(model, group, first_loss, ParallelOptions(parallelism))
            for _ in range(2):
                replica(torch.randn(4, FEATURES) + group.rank)  # each rank has statistics of its own now
            seen = group.gather([buffer.clone() for buffer in model.buffers()])
            model.norm.register_forward_pre_hook(lambda *_: seen.append([*map(torch.clone, model.buffers())]))
            replica(torch.randn(4, FEATURES))
            assert not all(map(torch.equal, *seen[:2]))
            assert all(map(torch.equal, seen[0], seen[2]))
            mine = group.gather([buffer.clone() for buffer in model.buffers()])
            equalize_buffers([model, model], group)
            assert all(map(torch.equal, mine[0], model.buffers()))

    for ended in run_forked(tmp_path, work):
        assert ended.code == 0, ended.output


def test_lazy_modules_are_refused() -> None:
    with pytest.raises(RankError, match=r"lazy modules.*\(0\.weight\): build_model .*Give them") as error:
        parallelize(nn.Sequential(nn.LazyLinear(1)), ALONE, first_loss, ParallelOptions())
    assert error.value.exit_code == ExitCode.USAGE


def test_alone_there_is_nothing_to_share() -> None:
    model = Network()
    assert parallelize(model, ALONE, first_loss, ParallelOptions("fsdp")) is model
    assert not ShardedTensors({"model": model})


def test_compiling_keeps_the_names_of_the_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", sys.executable)  # any program: nothing is compiled before the first call
    names = list(Network().state_dict())
    model = parallelize(Network(), ALONE, first_loss, ParallelOptions(compile=True))
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("is_recomputed", [False, True])
def test_blocks_are_compiled_be_they_recomputed_or_torch_s_own(
    is_recomputed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch compiles nothing, and says nothing, of an nn.Sequential or of a partial."""
    graphs = []

    def count(graph: torch.fx.GraphModule, _: object) -> Any:
        graphs.append(graph)
        return graph.forward

    compile_module = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda block: compile_module(block, backend=count))
    monkeypatch.setenv("CXX", sys.executable)  # the backend needs none
    torch._dynamo.reset()
    options = ParallelOptions(compile=True, checkpoint_activations=is_recomputed)
    model = parallelize(Network().eval(), ALONE, first_loss, options)
    torch.autograd.backward(first_loss(model))
    torch._dynamo.reset()
    assert any("linear" in str(node.target) for graph in graphs for node in nodes_of(graph))


def test_a_copy_of_a_model_calls_itself() -> None:
    """An average of the weights is one."""
    model = parallelize(Network().eval(), ALONE, first_loss, ParallelOptions(checkpoint_activations=True))
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
        block, own = (one.get_submodule("blocks.0") for one in (copied, model))
        assert not block(torch.ones(1, 32)).any()
        assert own(torch.ones(1, 32)).any()


def nodes_of(graph: torch.fx.GraphModule) -> list[torch.fx.Node]:
    """Of a graph and of those within it."""
    return [node for part in graph.modules() for node in getattr(part, "graph", torch.fx.Graph()).nodes]


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RankError, match=r"no C\+\+ compiler no-such-compiler .*without --compile") as error:
        parallelize(Network(), ALONE, first_loss, ParallelOptions(compile=True))
    assert error.value.exit_code == ExitCode.UNFIT


@pytest.mark.parametrize(
    ("there", "wanted"), [("g++", "gcc or clang"), ("gcc", ""), ("clang", ""), ("mycc", "")]
)
def test_a_gpu_needs_a_compiler_for_c(monkeypatch: pytest.MonkeyPatch, there: str, wanted: str) -> None:
    """Triton compiles with it what starts its kernels."""
    monkeypatch.delenv("CC", raising=False)
    if there == "mycc":
        monkeypatch.setenv("CC", there)
    monkeypatch.setattr(shutil, "which", lambda name: name if name == there else None)
    if not wanted:
        _require_compiler("cuda")
        return
    with pytest.raises(IscError, match=f"no C compiler {wanted} .*apt-get install g"):
        _require_compiler("cuda")


def train_thawed(is_shared_anew: bool) -> None:
    with reported(), process_group(Environment.read(), 60, 60) as group:
        torch.manual_seed(3)
        model = Network()
        model.first.requires_grad_(False)
        replica = parallelize(model, group, first_loss, ParallelOptions())
        for step in range(2):
            with part_of_batch(replica, is_last=True):
                loss = replica(torch.randn(4, FEATURES) + group.rank).square().mean()
            torch.autograd.backward(loss)
            gradients = group.gather([value.grad for value in model.parameters() if value.grad is not None])
            assert all(map(torch.equal, *gradients))
            assert (model.first.weight.grad is None) == (step == 0)
            replica.zero_grad()
            model.first.requires_grad_(True)
            if is_shared_anew:
                replica = parallelize(model, group, first_loss, ParallelOptions())
        print("trained")


def test_what_was_frozen_is_trained_once_the_model_is_shared_anew(tmp_path: Path) -> None:
    for ended in run_forked(tmp_path, lambda: train_thawed(is_shared_anew=True)):
        assert (ended.code, ended.output.splitlines()[-1]) == (0, "trained"), ended.output


def test_what_was_frozen_and_is_not_shared_is_said(tmp_path: Path) -> None:
    """Each rank would train it by itself, and nobody would notice."""
    ended = run_forked(tmp_path, lambda: train_thawed(is_shared_anew=False))
    assert {end.code for end in ended} == {ExitCode.USAGE}, ended
    assert any("trained that were frozen" in end.output and "anew" in end.output for end in ended)


@pytest.mark.parametrize("factor", [1.0, torch.tensor(0.25)])
def test_the_norm_of_a_sparse_gradient_is_that_of_its_sum(factor: Any) -> None:
    """Of a word that comes twice it has two parts."""
    gradients = []
    for is_sparse in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(5, 3, sparse=is_sparse), nn.Linear(3, 1))
        torch.autograd.backward(model(torch.tensor([1, 1, 4])).square().sum())
        norm = clip_gradients(model, 0.01, factor)
        found = [each.grad for each in model.parameters() if each.grad is not None]
        gradients.append([norm, *(each.to_dense() for each in found)])
    torch.testing.assert_close(*gradients)


def test_a_count_of_nothing_is_told_from_what_is_not_finite() -> None:
    model = nn.Linear(2, 1)
    torch.autograd.backward(model(torch.ones(1, 2)).sum())
    nothing = torch.ones(()) / torch.zeros(())
    assert float(clip_gradients(model, 1.0, nothing)) == NOTHING_COUNTS
    assert float(clip_gradients(model, 1.0)) != NOTHING_COUNTS
