"""A tensor of the last batch's graph is named if the next one goes on with it, and not if it is made anew."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isc_runtime.checkpointing import carried
from isc_runtime.checkpointing.carried import Carried


class Recurrent(nn.Module):
    """Holds the graph of each batch; detached is what the next one goes on with, or nothing of it."""

    def __init__(self, goes_on: bool) -> None:
        super().__init__()
        self.goes_on = goes_on
        self.cell, self.last = nn.LSTM(2, 2), nn.Linear(2, 1)
        self.state: tuple[Tensor, Tensor] | None = None
        self.features, self.loss = torch.zeros(1), torch.zeros(())

    def forward(self, inputs: Tensor) -> Tensor:
        before = self.state
        if before is not None:
            before = (before[0].detach(), before[1].detach()) if self.goes_on else None
        self.features, self.state = self.cell(inputs, before)
        scores: Tensor = self.last(self.features)
        self.loss = scores.mean()
        return scores


def found(
    monkeypatch: pytest.MonkeyPatch,
    goes_on: bool,
    own: frozenset[int] = frozenset(),
    is_compiled: bool = False,
) -> list[str]:
    """What is named in three batches, each with a save, and with hooks of the user's besides."""
    monkeypatch.setattr(carried, "_is_anything_compiled", lambda: is_compiled)
    names: list[str] = []
    model, carrying = Recurrent(goes_on), Carried(names.append)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        torch.autograd.backward(model(torch.ones(3, 1, 2)).sum())
        optimizer.step()
        values: Any = [(name, getattr(model, name)) for name in ("state", "features", "loss")]
        assert model.state is not None
        places = {model.state[0].data_ptr(), model.state[1].data_ptr()} if own else set[int]()
        carrying.saved(values, frozenset(places), [model, optimizer])
        optimizer.register_step_pre_hook(lambda *_: None)
    optimizer.step()
    assert not any(module._forward_pre_hooks for module in model.modules())
    return names


def test_what_goes_on_is_named_once_after_each_save(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(monkeypatch, goes_on=True) == ["state", "state"]
    assert found(monkeypatch, goes_on=False) == []
    assert found(monkeypatch, goes_on=True, own=frozenset([1])) == [], "it is saved"
    assert found(monkeypatch, goes_on=True, is_compiled=True) == []


def test_whatever_is_compiled_is_known() -> None:
    counters: Any = importlib.import_module("torch._dynamo.utils").counters
    before = dict(counters["frames"])
    counters["frames"].clear()
    try:
        assert not carried._is_anything_compiled()
        torch.compile(lambda value: value + 1, backend="eager")(torch.ones(1))
        assert carried._is_anything_compiled()
    finally:
        counters["frames"].update(before)


def test_what_is_compiled_meanwhile_is_compiled() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def count(graph: torch.fx.GraphModule, _: object) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    importlib.import_module("torch._dynamo.utils").counters["frames"].clear()
    model, layers = Recurrent(goes_on=True), nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    optimizer, carrying = torch.optim.SGD(model.parameters(), lr=0.1), Carried(lambda _: None)
    model(torch.ones(3, 1, 2))
    carrying.saved([("state", model.state)], frozenset(), [model, layers, optimizer])
    assert layers._forward_pre_hooks
    layers.compile(backend=count)
    layers(torch.ones(1, 2))
    assert ["linear" in str(node.target) for graph in graphs for node in graph.graph.nodes].count(True) == 1
    optimizer.step()
    assert layers(torch.ones(1, 2)).shape == (1, 2)
    assert len(graphs) == 1
    torch._dynamo.reset()


def test_what_takes_another_way_with_hooks_gets_none() -> None:
    model = nn.ModuleList([nn.TransformerEncoderLayer(4, 1, 4), nn.Linear(2, 2)])
    assert {type(module) for module in carried._hooked(model)} == {nn.ModuleList, nn.Linear}
