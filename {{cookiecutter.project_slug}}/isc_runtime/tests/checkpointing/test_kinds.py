"""What a part had in place of plain dicts it has again, and modules learn which version has saved them."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from typing import Any

import pytest
import torch
from torch import nn

from isc_runtime.checkpointing.checkpointer import Checkpointer
from isc_runtime.checkpointing.kinds import in_own_kinds, versions_of, with_versions
from isc_runtime.checkpointing.parts import State
from isc_runtime.checkpointing.run import Run
from isc_runtime.checkpointing.stores.store import Store
from isc_runtime.logs import Scalars
from isc_runtime.options import CheckpointOptions
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.interruption import StopRequest
from isc_runtime.sampler import ElasticSampler


class Averaging(dict[str, float]):
    """Changes what is put into it, and cannot be copied."""

    def __setitem__(self, key: str, value: float) -> None:
        raise AssertionError

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError


def test_containers_are_of_the_kinds_that_the_code_makes() -> None:
    own = {"a": Counter(x=1), "b": [defaultdict(list, old=[1]), 0], "c": (OrderedDict(), 1), "d": Averaging()}
    saved = {"a": {"y": 2}, "b": [{"new": [3]}, 4, {}], "c": ({"z": 1}, 2), "d": {"v": 1.0}, "e": {"w": 1}}
    made = in_own_kinds(own, saved)
    assert made == saved
    assert (type(made["a"]), type(made["b"][0]), type(made["c"][0])) == (Counter, defaultdict, OrderedDict)
    assert (type(made["d"]), type(made["e"]), made["b"][0]["any"]) == (dict, dict, [])
    assert (saved["b"], own["a"]) == ([{"new": [3]}, 4, {}], Counter(x=1)), "both are as they were"


class Versioned(nn.Linear):
    """As torchvision's MNASNet: it loads nothing of which nobody knows how old it is."""

    _version = 3

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, *others: Any) -> None:
        if metadata.get("version") not in (2, 3):
            raise ValueError(f"version should be 2 or 3, not {metadata.get('version')}")
        self.loaded = metadata["version"]
        super()._load_from_state_dict(state, prefix, metadata, *others)


def test_a_module_learns_by_which_version_its_state_was_saved() -> None:
    model = nn.Sequential(Versioned(1, 1), nn.ReLU(), nn.BatchNorm1d(1))
    plain = {name: value.clone() for name, value in model.state_dict().items()}
    versions = versions_of({"model": model.state_dict(), "metrics": {}, "other": plain})
    assert versions == {"model": {"0": {"version": 3}, "2": {"version": 2}}}
    for noted, expected in [(None, 3), (versions["model"], 3), ({"0": {"version": 2}}, 2)]:
        model.load_state_dict(with_versions(in_own_kinds(model.state_dict(), plain), noted))
        assert model[0].loaded == expected
    with pytest.raises(ValueError, match="not 1"):
        model.load_state_dict(with_versions(in_own_kinds(model.state_dict(), plain), {}))


class Counts:
    """Counts by name, as whoever counts does."""

    def __init__(self) -> None:
        self.seen, self.losses = Counter[int](), defaultdict[int, list[int]](list)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "losses": self.losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen, self.losses = state["seen"], state["losses"]


class Training:
    """A warm-up and then steps, a model that asks for its version, and counts."""

    def __init__(self, store: Store, group: Group) -> None:
        torch.manual_seed(0)
        self.model, self.counts = Versioned(2, 1), Counts()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        schedulers = torch.optim.lr_scheduler
        then = schedulers.MultiStepLR(self.optimizer, [1, 3])
        warm_up = schedulers.LinearLR(self.optimizer, 0.1, total_iters=4)
        self.scheduler = schedulers.SequentialLR(self.optimizer, [warm_up, then], [4])
        self.sampler = ElasticSampler(64, 4)
        run = Run(store, group, StopRequest(), Scalars(None))
        self.checkpointer = Checkpointer(run, self, CheckpointOptions())

    def state(self) -> State:
        names = ("model", "optimizer", "scheduler", "sampler", "counts")
        return {name: getattr(self, name) for name in names}

    def rates(self, number: int) -> list[float]:
        """Of so many steps."""
        rates = []
        for _ in range(number):
            step = self.sampler.progress.step
            self.counts.seen[step] += 1
            self.counts.losses[step].append(step)
            self.optimizer.step()
            self.scheduler.step()
            self.sampler.advance()
            rates.append(float(self.optimizer.param_groups[0]["lr"]))
        return rates


def test_a_training_goes_on_with_what_is_more_than_a_dict(store: Store, group: Group) -> None:
    first = Training(store, group)
    first.checkpointer.restore()
    first.rates(2)
    first.checkpointer.save()
    first.checkpointer.settle()
    second = Training(store, group)
    assert second.checkpointer.restore()
    assert second.model.loaded == 3
    assert second.rates(6) == first.rates(6)
    assert (second.counts.seen, second.counts.losses) == (first.counts.seen, first.counts.losses)
