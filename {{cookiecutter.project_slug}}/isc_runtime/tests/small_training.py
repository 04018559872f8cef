"""A small training of the runtime's own, on made data: train.py, model.py and data.py are the user's.

    python isc_runtime/tests/small_training.py --epochs 3

It is built like train.py, and uses what the runtime has for a training.
"""

import argparse
import logging
import time
from contextlib import ExitStack

from isc_runtime import options
from isc_runtime.environment import Environment
from isc_runtime.preflight import check_place, open_store
from isc_runtime.ranks.reporting import reported


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=options.positive, default=3)
    parser.add_argument("--batch-size", type=options.positive, default=8, help="on each rank")
    parser.add_argument("--workers", type=options.not_negative, default=0, help="processes that load data")
    parser.add_argument("--pause", type=options.not_negative_float, default=0.0, help="seconds in a batch")
    parser.add_argument("--eval-pause", type=options.not_negative_float, default=0.0, help="the same there")
    options.add_parallel_options(parser)
    options.add_checkpoint_options(parser)
    options.add_distributed_options(parser)
    options.add_device_options(parser)
    parser.add_argument("--local", action="store_true")
    return options.parse(parser)


if __name__ == "__main__":
    arguments = parse_arguments()
    with reported():
        environment = Environment.read(is_local=arguments.local, device=arguments.device)
        check_place(environment)

with reported():
    import torch
    from torch import Tensor, nn
    from torch.nn.functional import cross_entropy
    from torch.utils.data import TensorDataset

    from isc_runtime import rng
    from isc_runtime.checkpointing.checkpointer import Checkpointer
    from isc_runtime.checkpointing.parts import State
    from isc_runtime.checkpointing.run import Run
    from isc_runtime.logs import Scalars, configure_logging
    from isc_runtime.ranks.group import Group, process_group
    from isc_runtime.ranks.interruption import StopRequest
    from isc_runtime.ranks.parallel import build, clip_gradients, parallelize
    from isc_runtime.training import loaders
    from isc_runtime.training.evaluation import Evaluation
    from isc_runtime.training.means import Mean

FEATURES, CLASSES = 8, 4
logger = logging.getLogger("train")


class Network(nn.Module):
    """Scores of CLASSES for float (batch, FEATURES); its blocks can be sharded, recomputed, compiled."""

    def __init__(self, width: int = 32, depth: int = 4) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, 4 * width),
                nn.GELU(),
                nn.Dropout(0.1),
                nn.Linear(4 * width, width),
            )
            for _ in range(depth)
        )
        self.last = nn.Linear(width, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden: Tensor = self.first(inputs)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        scores: Tensor = self.last(hidden)
        return scores


def made_data(count: int, seed: int) -> TensorDataset:
    """Samples whose class is the largest of their first features."""
    inputs = torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(inputs, inputs[:, :CLASSES].argmax(dim=1))


class SmallTraining:
    """What train.py's Trainer is."""

    def __init__(self, arguments: argparse.Namespace, group: Group, scalars: Scalars) -> None:
        self.arguments, self.group, self.scalars = arguments, group, scalars
        data = made_data(100, seed=1)
        pair = loaders.Data(data, made_data(20, seed=2))
        self.sampler = loaders.make_position(pair, arguments.batch_size, seed=0, group=group)
        self.loader = loaders.training_loader(pair, self.sampler, arguments.workers, group.device)
        rng.seed_everything(0)
        how = options.ParallelOptions.of(arguments)
        self.model = build(Network, group, how)
        self.replica = parallelize(self.model, group, self.first_loss, how)
        rng.seed_everything(1 + group.rank)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=5)
        self.metrics = {"best_loss": float("inf")}
        self.evaluation = Evaluation(pair, 4, group)

    def first_loss(self, model: nn.Module) -> Tensor:
        total: Tensor = model(torch.zeros(2, FEATURES, device=self.group.device)).sum()
        return total

    def state(self) -> State:
        names = ("model", "optimizer", "scheduler", "sampler", "metrics", "evaluation")
        return {name: getattr(self, name) for name in names}

    def run(self, checkpointer: Checkpointer) -> None:
        checkpointer.restore()
        while self.sampler.progress.epoch < self.arguments.epochs:
            self.train_epoch(checkpointer)
            loss = self.evaluate(checkpointer)
            self.sampler.next_epoch()
            improved = loss < self.metrics["best_loss"]
            self.metrics["best_loss"] = min(loss, self.metrics["best_loss"])
            self.scalars.add("evaluation/loss", loss, self.sampler.progress.step)
            checkpointer.save(force=improved)
        checkpointer.settle()
        logger.info("Training is complete: best loss %.4f", self.metrics["best_loss"])

    def train_epoch(self, checkpointer: Checkpointer) -> None:
        self.replica.train()
        for inputs, labels in self.loader:
            time.sleep(self.arguments.pause)
            loss = cross_entropy(self.replica(inputs.to(self.group.device)), labels.to(self.group.device))
            torch.autograd.backward(loss)
            clip_gradients(self.model, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.sampler.advance()
            self.scheduler.step()
            progress = self.sampler.progress
            logger.info("step %d: loss %.4f", progress.step, float(loss.detach()))
            self.scalars.add("training/loss", float(loss.detach()), progress.step)
            if checkpointer.is_due(progress.batch - 1) and not self.sampler.is_epoch_done:
                checkpointer.save()
            checkpointer.poll()

    @torch.no_grad()
    def evaluate(self, checkpointer: Checkpointer) -> float:
        self.replica.eval()
        for (inputs, labels), counts in self.evaluation.batches(checkpointer):
            loss = cross_entropy(self.model(inputs.to(self.group.device)), labels.to(self.group.device))
            self.evaluation.add({"loss": Mean(loss * len(labels), len(labels))}, counts)
            logger.info("evaluated a batch after step %d", self.sampler.progress.step)
            time.sleep(self.arguments.eval_pause)
        return self.evaluation.end()["loss"]


def main(arguments: argparse.Namespace, environment: Environment) -> None:
    configure_logging(environment.is_master)
    limits = (arguments.first_timeout, arguments.timeout, arguments.deterministic)
    with process_group(environment, *limits) as group, ExitStack() as stack:
        stop = StopRequest()
        how = options.CheckpointOptions.of(arguments)
        store = open_store(environment, group, options=how)
        scalars = Scalars(environment.log_directory if group.is_master else None)
        stack.callback(scalars.close)
        training = SmallTraining(arguments, group, scalars)
        run = Run(store, group, stop, scalars)
        training.run(stack.enter_context(Checkpointer(run, training, how)))


if __name__ == "__main__":
    with reported():
        main(arguments, environment)
