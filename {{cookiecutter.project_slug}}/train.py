"""Trains what model.py and data.py say, on a laptop or on the ISC, and goes on where it was interrupted.

    python train.py                                     # alone, on the digits that scikit-learn ships
    torchrun --nproc-per-node=2 train.py                # two processes on this machine
    python train.py --dataset-id ID --data-root DIR     # Fashion-MNIST's files in DIR/ID
    isc train experiment.isc                            # on the ISC, through launch.sh

Yours to change; one model with one loss needs no change. Run it again after an interruption: it resumes.
"""

import argparse
import logging
import math
from functools import partial
from pathlib import Path
from typing import Any

from data import check_data, load_data
from isc_runtime import options
from isc_runtime.environment import Environment
from isc_runtime.preflight import check_place, open_store
from isc_runtime.ranks.reporting import reported


def parse_arguments(command_line: list[str] | None = None) -> argparse.Namespace:
    parser = options.make_parser(__doc__)
    add = parser.add_argument_group("data").add_argument
    add("--dataset-id", help="a dataset of the ISC; without one the digits of scikit-learn")
    add("--data-root", type=Path, default=Path("/data"), help="the directory of the datasets")
    add("--workers", type=options.not_negative, default=0, help="processes that load data")
    add = parser.add_argument_group("training").add_argument
    add("--epochs", type=options.positive, default=15, help="how often all samples are seen")
    add("--max-steps", type=options.positive, help="steps after which the training ends, if it has not yet")
    add("--max-seconds", type=options.positive_float, help="the same in seconds, over all resumes")
    add("--model", help="a name in MODELS in model.py; the first one by default")
    add("--batch-size", type=options.positive, default=32, help="samples of a step on each rank")
    add("--accumulate", type=options.positive, default=1, help="parts of a batch, to fit memory")
    add("--learning-rate", type=options.positive_float, default=3e-3, help="after the warm-up")
    add("--warmup-epochs", type=options.positive_float, default=1.0, help="epochs of rising learning rate")
    add("--weight-decay", type=options.not_negative_float, default=0.01, help="of AdamW")
    add("--clip-norm", type=options.positive_float, default=1.0, help="largest norm of a gradient")
    add("--max-skipped", type=options.positive, default=5, help="steps in a row that may be not finite")
    add("--eval-steps", type=options.not_negative, default=0, help="evaluate every N steps, besides epochs")
    add("--eval-batch-size", type=options.positive, default=512, help="samples at once in evaluation")
    add("--seed", type=options.seed, default=0, help="of weights, dropout and the order of the data")
    add("--no-amp", action="store_true", help="compute in float32 where bf16 would do")
    options.add_runtime_options(parser)
    return options.parse(parser, command_line)


begun: tuple[argparse.Namespace, Environment] | None = None
if __name__ == "__main__":
    arguments = parse_arguments()
    with reported():  # stage 1, before torch is imported: what is wrong here is said at once
        environment = Environment.read(is_local=arguments.local, device=arguments.device)
        check_place(environment)
        check_data(arguments.dataset_id, arguments.data_root)
        begun = arguments, environment

with reported():  # what cannot be imported on one rank ends them all
    import torch
    from torch import Tensor, nn, optim

    from isc_runtime import rng
    from isc_runtime.checkpointing.checkpointer import Checkpointer
    from isc_runtime.checkpointing.parts import State
    from isc_runtime.checkpointing.run import Run
    from isc_runtime.logs import Scalars, Show, configure_logging, progress_bar
    from isc_runtime.ranks.group import Group, process_group
    from isc_runtime.ranks.interruption import StopRequest
    from isc_runtime.ranks.parallel import build, clip_gradients, parallelize, part_of_batch
    from isc_runtime.record import recorded
    from isc_runtime.training import answers, loaders
    from isc_runtime.training.batches import parts_of, to_device
    from isc_runtime.training.evaluation import Evaluation
    from isc_runtime.training.guard import StepGuard
    from isc_runtime.training.means import Totals
    from isc_runtime.training.steps import take_step
    from model import BEST, batch_loss, batch_scores, build_model

BEST_SO_FAR = f"best_{BEST.name}"
logger = logging.getLogger("train")


class Trainer:
    """A training: what it consists of, and how it proceeds. All ranks do the same, each on its own data."""

    def __init__(self, arguments: argparse.Namespace, group: Group) -> None:
        self.arguments, self.group = arguments, group
        self.data = group.each(partial(loaders.load, load_data, arguments.dataset_id, arguments.data_root))
        self.sampler = loaders.make_position(self.data, arguments.batch_size, arguments.seed, group)
        self.loader = loaders.training_loader(self.data, self.sampler, arguments.workers, group.device)
        self.meter = loaders.Meter(self.sampler, group, options.LogOptions.of(arguments))
        rng.seed_everything(arguments.seed)
        self.use_amp = group.has_bf16 and not arguments.no_amp
        how = options.ParallelOptions.of(arguments)
        self.model = build(partial(build_model, arguments.model), group, how, self.use_amp)
        self.replica = parallelize(self.model, group, self.first_loss, how)  # trained: on all ranks alike
        rng.seed_everything(arguments.seed + 1 + group.rank)  # equal weights, but each rank its own dropout
        self.optimizer = optim.AdamW(
            self.model.parameters(), lr=arguments.learning_rate, weight_decay=arguments.weight_decay
        )
        self.scheduler = optim.lr_scheduler.LambdaLR(self.optimizer, self.learning_rate_factor)
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=False)  # fp16 needs it
        self.metrics: dict[str, Any] = {BEST_SO_FAR: BEST.worst, "evaluated_step": 0}
        self.evaluation = Evaluation(self.data, arguments.eval_batch_size, group)
        self.guard = StepGuard(self.model, self.metrics, arguments.max_skipped)

    def state(self) -> State:
        """What a checkpoint holds, besides the random number generators; asked at each save."""
        names = ["model", "optimizer", "scheduler", "sampler", "metrics"]
        names += ["evaluation", "scaler"] if self.scaler.is_enabled() else ["evaluation"]
        return {name: getattr(self, name) for name in names} | self.data.parts()

    def first_loss(self, model: nn.Module) -> Tensor:
        """The loss of the batch that the training begins with."""
        batch = to_device(loaders.example_batch(self.data, self.sampler), self.group.device)
        part, _ = next(parts_of(batch, self.arguments.accumulate))
        with self.autocast():
            return answers.loss_of(batch_loss(model, part)).total

    def learning_rate_factor(self, step: int) -> float:
        """Warm-up, then half a cosine, over the samples seen: right for any number of ranks."""
        epochs, most = self.arguments.epochs, self.arguments.max_steps or math.inf
        done = max(self.sampler.epochs_done / epochs, self.sampler.progress.step / most)
        warm_up = min(1.0, 0.01 + done * epochs / self.arguments.warmup_epochs)
        return float(warm_up * (1 + math.cos(math.pi * min(1.0, done))) / 2)

    def is_complete(self, checkpointer: Checkpointer) -> bool:
        """Whether enough was trained."""
        progress, most = self.sampler.progress, self.arguments.max_steps or math.inf
        return progress.epoch >= self.arguments.epochs or progress.step >= most or checkpointer.is_time_up

    def is_evaluation_due(self, checkpointer: Checkpointer) -> bool:
        """At the end of an epoch and of the training, and in between if that was asked for."""
        step, every = self.sampler.progress.step, self.arguments.eval_steps
        is_due = self.sampler.is_epoch_done or self.is_complete(checkpointer) or self.evaluation.is_under_way
        return bool(is_due or (every and step % every == 0)) and self.metrics["evaluated_step"] != step

    def run(self, checkpointer: Checkpointer, scalars: Scalars) -> None:
        """Trains to the end, from wherever the checkpoint has put it."""
        checkpointer.restore()
        progress, arguments = self.sampler.progress, self.arguments
        if self.is_complete(checkpointer):
            logger.info("It is done at step %d: raise --epochs, --max-steps or --max-seconds", progress.step)
        if progress.step == 0:  # what would end the first evaluation ends the start
            with self.guard.untouched(), self.autocast():
                self.evaluation.try_out(partial(batch_scores, self.model), BEST)
        total = loaders.steps_in_all(self.sampler, arguments.epochs, arguments.max_steps)
        with progress_bar(self.group.is_master, total, progress.step) as show:
            while True:
                if self.is_evaluation_due(checkpointer):
                    self.evaluate(checkpointer, scalars)
                elif self.sampler.is_epoch_done:  # a stream's end is known after its last batch was evaluated
                    self.sampler.next_epoch()
                if self.is_complete(checkpointer):
                    break
                self.train(checkpointer, scalars, show)
        checkpointer.settle()
        logger.info("Training is complete: best %s %.4f", BEST.name, self.metrics[BEST_SO_FAR])

    def train(self, checkpointer: Checkpointer, scalars: Scalars, show: Show) -> None:
        """Trains to the next evaluation."""
        self.replica.train()
        for batch in self.meter.over(self.loader):
            totals = Totals(self.group)
            norm = self.train_batch(to_device(batch, self.group.device), totals)
            self.sampler.advance()
            self.scheduler.step()
            done = self.sampler.progress.batch
            if done % self.arguments.log_steps == 0:
                self.log(totals, norm, scalars, show)
            if self.is_evaluation_due(checkpointer):  # it ends with a save
                break
            if checkpointer.is_due(done - 1):
                checkpointer.save()
            checkpointer.poll()
        else:
            self.sampler.check_epoch_is_done()
        checkpointer.poll()

    def train_batch(self, batch: Any, totals: Totals) -> Tensor:
        """One step of the optimizer. Returns the norm of the gradient of all ranks."""
        self.guard.remember()
        norm = self.gradients(batch, totals)
        if self.guard.allows(norm, self.sampler.progress.step + 1, self.scaler, self.optimizer):
            take_step(self.optimizer, partial(self.gradients, batch), self.group)
        self.scaler.update()
        return norm

    def gradients(self, batch: Any, totals: Totals) -> Tensor:
        """Puts the gradient of the batch's mean loss over all ranks into the parameters; returns its norm."""
        self.optimizer.zero_grad()
        samples, count = self.sampler.own_samples, torch.zeros((), device=self.group.device)
        for part, is_last in parts_of(batch, self.arguments.accumulate):
            with part_of_batch(self.replica, is_last), self.autocast():
                means = batch_loss(self.replica, part)
                mean = answers.loss_of(means)
                loss = self.scaler.scale(mean.total / samples)
            # A loss that is not finite, on whatever rank, makes the gradients NaN on all of them.
            torch.autograd.backward(loss, 1 + (loss - loss).detach())
            totals.add(means)
            count += mean.count
        self.scaler.unscale_(self.optimizer)
        # The ranks' gradients are averaged; what is wanted is their sum over what all of them count.
        factor = samples * self.group.world_size / self.group.sum(count)
        return clip_gradients(self.model, self.arguments.clip_norm, factor)

    def autocast(self) -> torch.autocast:
        """Half the precision, where `use_amp` says so."""
        return torch.autocast(self.group.device.type, torch.bfloat16, enabled=self.use_amp)

    @torch.no_grad()
    def evaluate(self, checkpointer: Checkpointer, scalars: Scalars) -> None:
        """Looks at the held-out data, each rank at its part of them, and saves."""
        model = self.model.eval()
        for batch, counts in self.evaluation.batches(checkpointer):  # from where it was interrupted
            with self.autocast():
                self.evaluation.add(batch_scores(model, to_device(batch, self.group.device)), counts)
        means, step, where = self.evaluation.end(), self.sampler.progress.step, "within the epoch"
        if self.sampler.is_epoch_done:
            self.sampler.next_epoch()
            where = f"epoch {self.sampler.progress.epoch} of {self.arguments.epochs}"
        scalars.report("evaluation", f"{where}: held-out", means | self.guard.look(), step)
        before, self.metrics["evaluated_step"] = self.metrics[BEST_SO_FAR], step
        self.metrics[BEST_SO_FAR] = BEST.better_of(before, means)
        checkpointer.save(force=self.metrics[BEST_SO_FAR] != before)

    def log(self, totals: Totals, norm: Tensor, scalars: Scalars, show: Show) -> None:
        """One dense line, and the same for TensorBoard."""
        progress, values = self.sampler.progress, totals.over_ranks() | self.guard.look() | self.meter.look()
        values |= {"gradient_norm": float(norm), "learning_rate": self.optimizer.param_groups[0]["lr"]}
        where = f"epoch {progress.epoch + 1} batch {progress.batch} step {progress.step}:"
        show(progress.step, scalars.report("training", where, values, progress.step))


def main(arguments: argparse.Namespace, environment: Environment) -> None:
    """Brings up what a training needs, and takes it down again, whatever happens."""
    configure_logging(environment.is_master)
    limits = (arguments.first_timeout, arguments.timeout, arguments.deterministic)
    with process_group(environment, *limits) as group, recorded(arguments, environment) as scalars:
        stop, how = StopRequest(), options.CheckpointOptions.of(arguments)
        # Stage 2: the ranks know each other now, and what is wrong on one of them ends them all.
        store = open_store(environment, group, options=how)
        trainer = Trainer(arguments, group)
        with Checkpointer(Run(store, group, stop, scalars), trainer, how) as checkpointer:
            trainer.run(checkpointer, scalars)


if begun:
    with reported():
        main(*begun)
