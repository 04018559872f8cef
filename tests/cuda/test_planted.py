"""Faults that are planted on purpose, each of which must be found, named, or make no difference."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import PROJECT
from isc_runtime.checkpointing.filling import fill
from isc_runtime.checkpointing.saving import pinned
from isc_runtime.checkpointing.saving.fingerprint import fingerprint
from isc_runtime.checkpointing.saving.pinned import ALIGNED, PinnedMemory
from isc_runtime.checkpointing.saving.save import Equipment
from isc_runtime.checkpointing.saving.snapshot import Snapshot, deferrable
from isc_runtime.checkpointing.stores.local_store import LocalStore
from isc_runtime.environment import DEVICE, Environment
from isc_runtime.errors import ExitCode
from isc_runtime.options import ParallelOptions
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.parallel import parallelize
from isc_runtime.tests.processes import Place
from isc_runtime.tests.small_training import Network
from isc_runtime.tests.waits import Copies
from isc_runtime.training import fusing
from isc_runtime.training.fusing import fuse

HERE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
LARGE = 2**24 if HERE.type == "cuda" else 2**20  # values of the tensors that are copied
SAVES = 200 if HERE.type == "cuda" else 20
BEGIN = """
import os, sys
sys.path.insert(0, {project!r})
from isc_runtime.environment import Environment
from isc_runtime.ranks.reporting import reported
with reported():
    {before}
    import torch
    from isc_runtime.ranks.group import process_group
    environment = Environment.read(device={device!r})
    with process_group(environment, 60, 60) as group:
        {work}
"""


def ended(directory: Path, work: str, ranks: int = 1, before: str = "pass") -> Any:
    """How a small script ends, on one rank or on several."""
    script = directory / "script.py"
    script.write_text(BEGIN.format(project=str(PROJECT), before=before, work=work, device=HERE.type))
    return Place(directory, script=script, variables={DEVICE: HERE.type}).run(ranks=ranks)


def torn_copies(snapshot_: Snapshot, is_held: bool) -> int:
    """Saves large tensors, overwrites them at once as a step does, and counts the copies that are no good."""
    weights = [torch.zeros(LARGE, device=HERE, requires_grad=True) for _ in range(2)]
    optimizer = torch.optim.SGD(weights)
    torn = 0
    for number in range(SAVES):
        with torch.no_grad():
            for weight in weights:
                weight.fill_(float(number))
        taken = snapshot_.take({"weights": weights}, deferrable([optimizer], []))
        background = threading.Timer(0.001, snapshot_.complete)
        background.start()
        if is_held:
            snapshot_.wait_until_copied()
        with torch.no_grad():
            for weight in weights:
                weight.fill_(-1.0)
        background.join()
        torn += any(not bool((tensor == number).all()) for tensor in taken["weights"])
    return torn


@pytest.mark.anywhere
def test_the_race_between_copy_and_step_is_seen_without_the_wait_and_not_with_it() -> None:
    assert torn_copies(Snapshot(HERE), is_held=True) == 0
    assert torn_copies(Snapshot(HERE), is_held=False) > 0, "nothing was raced: this test cannot fail"


@pytest.mark.anywhere
def test_a_copy_that_was_torn_is_not_saved() -> None:
    weights = torch.zeros(LARGE, device=HERE, requires_grad=True)
    snapshot_ = Snapshot(HERE)
    snapshot_.take({"weights": weights}, deferrable([torch.optim.SGD([weights])], []))
    with torch.no_grad():
        weights.fill_(1.0)
    snapshot_.complete()
    assert snapshot_.is_torn()


@pytest.mark.anywhere
def test_frozen_weights_are_copied_until_they_are_known_and_again_when_they_change_all_the_same() -> None:
    module, snapshot_ = nn.Module(), Snapshot(HERE)
    weight = nn.Parameter(torch.randn(LARGE, device=HERE), requires_grad=False)
    module.weight = weight
    copied, torn = [], []
    for save in range(8):
        if save in (4, 6):
            weight.data[-1].add_(1)  # which torch does not count
        expected = weight.detach().cpu()
        with Copies() as copies:
            taken = snapshot_.take(dict(module.state_dict()), deferrable([], [module]))
        snapshot_.complete()
        copied.append(copies.bytes >= weight.nbytes)
        torn.append(snapshot_.is_torn())
        assert torn[-1] or torch.equal(taken["weight"], expected)
    assert copied[0]
    assert not any(copied[2:5])
    assert copied[6], "it changes, and cannot be compared any more"
    assert torn == [False] * 4 + [True] + [False] * 3


@pytest.mark.anywhere
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_a_fingerprint_is_the_same_on_all_devices(dtype: torch.dtype) -> None:
    tensor = (torch.randn(2**22 + 3) * 100).to(dtype)
    assert torch.equal(fingerprint(tensor), fingerprint(tensor.to(HERE)).cpu())


def test_two_ranks_on_one_gpu_are_named(tmp_path: Path) -> None:
    end = ended(
        tmp_path,
        "group.sum(torch.ones(1, device=group.device))",
        ranks=2,
        before='os.environ["LOCAL_RANK"] = "0"',
    )
    assert end.code == ExitCode.UNFIT, end.output
    assert "Two ranks use the same GPU" in end.output
    assert "Duplicate GPU detected" in end.output, "NCCL's own words belong to it"


@pytest.mark.anywhere
@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.gpus(2))])
def test_an_assertion_on_the_device_ends_with_our_code(tmp_path: Path, ranks: int) -> None:
    work = """values, index = torch.ones(4, device=group.device), torch.tensor([99], device=group.device)
        print(float(values[index].sum()))"""
    end = ended(tmp_path, work, ranks=ranks)
    assert end.code in (ExitCode.FAILED, ExitCode.PEER), (end.code, end.output)  # and not 134
    assert "assert" in end.output or "out of bounds" in end.output


@pytest.mark.anywhere
@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.gpus(2))])
def test_no_memory_on_one_rank_ends_all_with_its_reason(tmp_path: Path, ranks: int) -> None:
    work = """if group.rank == group.world_size - 1:
            torch.empty(2**50, device=group.device)
        group.gather(None)"""
    end = ended(tmp_path, work, ranks=ranks)
    assert end.code in (ExitCode.FAILED, ExitCode.PEER), (end.code, end.output)
    assert "memory" in end.output


@pytest.mark.anywhere
def test_each_thread_uses_the_device_of_its_rank(tmp_path: Path) -> None:
    last = torch.device("cuda", torch.cuda.device_count() - 1) if HERE.type == "cuda" else HERE
    equipment = Equipment(LocalStore(tmp_path, Group(Environment(), last)), Group(Environment(), last))
    threads = (equipment.writer, equipment.copier, equipment.snapshot._copiers)
    current = torch.cuda.current_device if HERE.type == "cuda" else lambda: None
    used = [thread.submit(current).result() for thread in threads]
    equipment.close(wait=True)
    assert used == [last.index] * 3


@pytest.mark.gpus(2)
def test_a_thread_without_that_would_use_the_first_gpu() -> None:
    torch.cuda.set_device(1)
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.cuda.current_device()))
    thread.start()
    thread.join()
    torch.cuda.set_device(0)
    assert found == [0], "torch has changed: the threads need not be told any more"


def made_state() -> dict[str, Tensor]:
    """Sizes that a power of two fits badly."""
    return {str(size): torch.randn(size, device=HERE) for size in (3, 70_000, 1_100_000, LARGE // 2 + 5000)}


def test_pinned_memory_is_as_large_as_the_state() -> None:
    state, snapshot_ = made_state(), Snapshot(HERE)
    before = torch.cuda.host_memory_stats().get("allocated_bytes.current", 0)
    copies = snapshot_.take(state)
    snapshot_.complete()
    size = sum(tensor.nbytes for tensor in state.values())
    memory = snapshot_._pinned._memory
    assert memory is not None
    assert size <= len(memory) <= size + ALIGNED * len(state)
    assert all(copy.is_pinned() for copy in copies.values())
    assert all(torch.equal(copies[name], tensor.cpu()) for name, tensor in state.items())
    assert torch.cuda.host_memory_stats().get("allocated_bytes.current", 0) == before, "torch's own took none"


def test_what_cannot_be_pinned_is_saved_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(address: int, size: int) -> None:
        raise RuntimeError("planted")

    state, snapshot_ = made_state(), Snapshot(HERE)
    snapshot_._pinned = PinnedMemory(refuse)
    copies = snapshot_.take(state)
    snapshot_.complete()
    assert "could not be pinned (planted)" in caplog.text
    assert not any(copy.is_pinned() for copy in copies.values())
    assert all(torch.equal(copies[name], tensor.cpu()) for name, tensor in state.items())


def test_memory_that_is_there_can_be_pinned_and_a_wrong_address_cannot() -> None:
    memory = torch.empty(2**20, dtype=torch.uint8)
    pinned.register(memory.data_ptr(), memory.nbytes)
    assert memory.is_pinned()
    with pytest.raises(RuntimeError, match="cudaHostRegister"):
        pinned.register(0, 4096)


@pytest.mark.anywhere
@pytest.mark.parametrize("is_recomputed", [False, True])
def test_as_many_graphs_are_compiled_with_recomputation_as_without(is_recomputed: bool) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    group, model = Group(Environment(), HERE), Network()
    options = ParallelOptions(compile=True, checkpoint_activations=is_recomputed)
    replica = parallelize(model, group, lambda model: model(torch.zeros(2, 8, device=HERE)).sum(), options)
    for _ in range(3):
        torch.autograd.backward(replica(torch.randn(4, 8, device=HERE)).sum())
    stats = torch._dynamo.utils.counters["stats"]
    assert stats["unique_graphs"] == 1, dict(stats)  # the four blocks are alike
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.anywhere
def test_a_checkpoint_of_an_optimizer_that_was_not_fused_goes_on_fused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fusing, "FUSED_ON", {HERE.type})

    def trained(steps: int, model: nn.Module, optimizer: torch.optim.Optimizer, is_fused: bool) -> None:
        for number in range(steps):
            torch.manual_seed(number)
            optimizer.zero_grad()
            torch.autograd.backward(model(torch.randn(8, 4, device=HERE)).square().mean())
            if is_fused:
                fuse(optimizer)
            optimizer.step()

    model = nn.Linear(4, 4).to(HERE)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    trained(3, model, optimizer, is_fused=False)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    assert not saved[1]["param_groups"][0]["fused"]
    again = nn.Linear(4, 4).to(HERE)
    resumed = torch.optim.AdamW(again.parameters(), 0.1)
    fuse(resumed)
    again.load_state_dict(saved[0])
    fill(resumed, saved[1], is_mapped=True)
    assert resumed.param_groups[0]["fused"] is True
    trained(3, model, optimizer, is_fused=False)
    trained(3, again, resumed, is_fused=True)
    assert {state["step"].device.type for state in resumed.state.values()} == {HERE.type}
    torch.testing.assert_close(again.weight, model.weight)


def test_what_the_gpu_waits_for_is_counted() -> None:
    weights = torch.zeros(LARGE, device=HERE, requires_grad=True)
    snapshot_ = Snapshot(HERE)
    for _ in range(2):  # the first one makes memory
        snapshot_.take({"weights": weights}, deferrable([torch.optim.SGD([weights])], []))
        snapshot_.wait_until_copied()
        snapshot_.complete()
        torch.cuda.synchronize()
        waited = snapshot_.gpu_waited()
    assert 0 < waited < 5, "the copy takes milliseconds, and the step came at once"


def test_a_captured_step_is_not_put_off(tmp_path: Path) -> None:
    """A graph that is replayed calls no hook: nothing would wait for the copy."""
    from isc_runtime.checkpointing.saving.step_hold import StepHold

    weight = nn.Parameter(torch.ones(8, device=HERE))
    optimizer = torch.optim.AdamW([weight], capturable=True, foreach=False)
    weight.grad = torch.ones_like(weight)
    hold = StepHold(Snapshot(HERE), lambda _: None, lambda: None)
    hold.watch([optimizer])
    optimizer.step()
    assert weight.data_ptr() in hold.over([optimizer])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    graph.replay()
    assert hold.over([optimizer]) == {}


def test_batches_ahead_are_right_while_memory_is_used_again() -> None:
    """Each batch is large, and its memory is filled anew as soon as it is free."""
    from isc_runtime.training.ahead import ahead

    def batches() -> Any:
        for number in range(100):
            yield torch.full((2**22,), float(number)).pin_memory()

    for number, batch in enumerate(ahead(batches(), HERE)):
        total = batch
        for _ in range(20):
            total = total * 1.0  # keeps the GPU busy
        assert float(total.mean()) == number
