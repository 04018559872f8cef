"""Trains an image classifier, on a laptop or on the ISC, and goes on where it was interrupted.

    python train.py                                     # alone, on the digits that scikit-learn ships
    torchrun --nproc-per-node=2 train.py                # two processes on this machine
    python train.py --dataset-id ID --data-root DIR     # Fashion-MNIST's files in DIR/ID
    isc train experiment.isc                            # on the ISC, through launch.sh

Run the same command again after an interruption: it resumes by itself. This file is yours to change.
"""

import argparse
import logging
import math
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from data import check_data, load_data
from isc_runtime import options
from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.preflight import check_place, open_store
from isc_runtime.ranks.entry import reported


def parse_arguments(command_line: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument_group("data").add_argument
    add("--dataset-id", help="a dataset of the ISC; without one the digits of scikit-learn")
    add("--data-root", type=Path, default=Path("/data"), help="the directory of the datasets")
    add("--workers", type=options.not_negative, default=0, help="processes that load data")
    add = parser.add_argument_group("training").add_argument
    add("--epochs", type=options.positive, default=15, help="how often all samples are seen")
    add("--model", default="convnet", help="a name in MODELS in model.py")
    add("--batch-size", type=options.positive, default=32, help="samples of a step on each rank")
    add(
        "--accumulate", type=options.positive, default=1, help="parts that a batch is split in, to fit memory"
    )
    add("--learning-rate", type=options.positive_float, default=3e-3, help="after the warm-up")
    add("--warmup-epochs", type=options.positive_float, default=1.0, help="epochs of rising learning rate")
    add("--weight-decay", type=options.not_negative_float, default=0.01, help="of AdamW")
    add("--clip-norm", type=options.positive_float, default=1.0, help="largest norm of a gradient")
    add("--max-skipped", type=options.positive, default=5, help="steps in a row that may be not finite")
    add("--seed", type=options.seed, default=0, help="of weights, dropout and the order of the data")
    add("--no-amp", action="store_true", help="compute in float32 where bf16 would do")
    add("--log-steps", type=options.positive, default=20, help="batches between two log lines")
    options.add_parallel_options(parser)
    options.add_checkpoint_options(parser)
    options.add_distributed_options(parser)
    return parser.parse_args(command_line)


if __name__ == "__main__":
    # Stage 1, before torch is imported: what is wrong here is said at once, and not after seconds.
    arguments = parse_arguments()
    with reported():
        environment = Environment.read()
        check_place(environment)
        check_data(arguments.dataset_id, arguments.data_root)

with reported():  # what cannot be imported on one rank ends them all
    import torch
    from torch import Tensor
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader, Subset

    from isc_runtime import rng
    from isc_runtime.checkpointing.checkpointer import Checkpointer, Run
    from isc_runtime.logs import Scalars, configure_logging, progress_bar
    from isc_runtime.ranks.group import Group, process_group
    from isc_runtime.ranks.interruption import StopRequest, prepare_worker
    from isc_runtime.ranks.parallel import clip_gradients, parallelize, part_of_batch
    from isc_runtime.sampler import ElasticSampler, ReplayableDataset, even_share
    from model import build_model

Show = Callable[[int, str], None]
EVALUATION_BATCH_SIZE = 512
logger = logging.getLogger("train")


class Trainer:
    """A training: what it consists of, and how it proceeds. All ranks do the same, each on its own data."""

    def __init__(self, arguments: argparse.Namespace, group: Group) -> None:
        self.arguments = arguments
        self.group = group
        load = partial(load_data, arguments.dataset_id, arguments.data_root)
        self.training_data, self.held_out = group.each(load)  # an error on one rank ends them all
        rng.seed_everything(arguments.seed)
        self.model = group.each(partial(build_model, arguments.model))
        example = torch.stack([self.training_data[0][0]] * 2).to(group.device)
        how = options.ParallelOptions.of(arguments)
        self.replica = parallelize(self.model, group, example, how)  # what is trained: on all ranks alike
        rng.seed_everything(arguments.seed + 1 + group.rank)  # equal weights, but each rank its own dropout
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=arguments.learning_rate, weight_decay=arguments.weight_decay
        )
        self.sampler = ElasticSampler(
            len(self.training_data), arguments.batch_size, arguments.seed, group.rank, group.world_size
        )
        self.loader = DataLoader(
            ReplayableDataset(self.training_data),
            batch_sampler=self.sampler,
            num_workers=arguments.workers,
            worker_init_fn=prepare_worker,
            persistent_workers=arguments.workers > 0,
            generator=torch.Generator(),  # its own: the default one would draw from the training's
            pin_memory=group.device.type == "cuda",
        )
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self.learning_rate_factor)
        self.metrics: dict[str, Any] = {"best_accuracy": 0.0, "skipped": 0, "skipped_in_a_row": 0}
        self.use_amp = group.device.type == "cuda" and torch.cuda.is_bf16_supported() and not arguments.no_amp

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds, besides the random number generators; asked at each save."""
        return {
            name: getattr(self, name) for name in ("model", "optimizer", "scheduler", "sampler", "metrics")
        }

    def learning_rate_factor(self, step: int) -> float:
        """Warm-up, then half a cosine, over the samples seen: right for any number of ranks."""
        epochs_done = self.sampler.progress.epoch + self.sampler.progress.samples / self.sampler.length
        warm_up = min(1.0, 0.01 + epochs_done / self.arguments.warmup_epochs)
        return float(warm_up * (1 + math.cos(math.pi * min(1.0, epochs_done / self.arguments.epochs))) / 2)

    def run(self, checkpointer: Checkpointer, scalars: Scalars) -> None:
        """Trains to the last epoch, from wherever the checkpoint has put it."""
        checkpointer.restore()
        epochs, done = self.arguments.epochs, self.sampler.progress.step
        with progress_bar(self.group.is_master, done + self.sampler.batches_left(epochs), done) as show:
            while self.sampler.progress.epoch < epochs:
                self.train_epoch(checkpointer, scalars, show)
                accuracy = self.evaluate(checkpointer)
                self.sampler.next_epoch()
                improved = accuracy > self.metrics["best_accuracy"]
                self.metrics["best_accuracy"] = max(accuracy, self.metrics["best_accuracy"])
                progress = self.sampler.progress
                logger.info(f"epoch {progress.epoch} of {epochs}: held-out accuracy {accuracy:.4f}")
                scalars.add("evaluation/accuracy", accuracy, progress.step)
                checkpointer.save(force=improved)  # the save of the epoch's last batch, evaluation included
        checkpointer.settle()
        logger.info("Training is complete: best accuracy %.4f", self.metrics["best_accuracy"])

    def train_epoch(self, checkpointer: Checkpointer, scalars: Scalars, show: Show) -> None:
        """Trains on what is left of the epoch."""
        self.replica.train()
        for batch, (images, labels) in enumerate(self.loader, start=self.sampler.progress.batch):
            loss, norm = self.train_batch(images.to(self.group.device), labels.to(self.group.device))
            self.sampler.advance()
            self.scheduler.step()
            if (batch + 1) % self.arguments.log_steps == 0:
                self.log(loss, norm, scalars, show)
            if checkpointer.is_due(batch) and self.sampler.progress.samples < self.sampler.length:
                checkpointer.save()
            checkpointer.poll()

    def train_batch(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the optimizer. Returns this rank's loss and the norm of the gradient of all."""
        total = torch.zeros((), device=self.group.device)
        image_parts = images.chunk(self.arguments.accumulate)
        label_parts = labels.chunk(self.arguments.accumulate)
        for number, (part, part_labels) in enumerate(zip(image_parts, label_parts, strict=True), start=1):
            with part_of_batch(self.replica, is_last=number == len(image_parts)), self.autocast():
                loss = cross_entropy(self.replica(part), part_labels) * len(part_labels) / len(labels)
            # A loss that is not finite, on whatever rank, makes the gradients NaN on all of them.
            torch.autograd.backward(loss, 1 + (loss - loss).detach())
            total += loss.detach()
        norm = clip_gradients(self.model, self.arguments.clip_norm)
        self.step_if_finite(norm)
        self.optimizer.zero_grad()
        return total, norm

    def autocast(self) -> torch.autocast:
        """bf16 where the device has it."""
        return torch.autocast(self.group.device.type, torch.bfloat16, enabled=self.use_amp)

    def step_if_finite(self, norm: Tensor) -> None:
        """Takes the step, or skips it: the norm is the same on all ranks, and so is what they do."""
        if norm.isfinite():
            self.optimizer.step()
            self.metrics["skipped_in_a_row"] = 0
            return
        self.metrics["skipped"] += 1
        self.metrics["skipped_in_a_row"] += 1
        where = f"step {self.sampler.progress.step + 1}"
        logger.warning(f"{where} is skipped, its loss or gradient is not finite: {self.metrics}")
        if self.metrics["skipped_in_a_row"] >= self.arguments.max_skipped:
            raise IscError(
                f"{self.arguments.max_skipped} steps in a row were not finite",
                where,
                "Lower --learning-rate or look at the data; the last checkpoint is from before it.",
                ExitCode.DIVERGED,
            )

    @torch.no_grad()
    def evaluate(self, checkpointer: Checkpointer) -> float:
        """The share of held-out samples that are classified right; each rank looks at its part of them."""
        self.replica.eval()
        # All ranks call the model equally often: in each call the shards of a sharded one come together.
        own, counted = even_share(len(self.held_out), self.group.rank, self.group.world_size)
        loader = DataLoader(Subset(self.held_out, own), EVALUATION_BATCH_SIZE, generator=torch.Generator())
        right = torch.zeros((), device=self.group.device)
        for images, labels in loader:
            with self.autocast():
                scores = self.model(images.to(self.group.device))
            hits = scores.argmax(dim=1) == labels.to(self.group.device)
            right += hits[:counted].sum()
            counted -= len(hits)
            checkpointer.poll()
        return float(self.group.sum(right)) / len(self.held_out)

    def log(self, loss: Tensor, norm: Tensor, scalars: Scalars, show: Show) -> None:
        """One dense line, and the same for TensorBoard."""
        progress = self.sampler.progress
        mean_loss = float(self.group.sum(loss.clone())) / self.group.world_size
        rate = float(self.scheduler.get_last_lr()[0])
        text = f"loss {mean_loss:.4f}  norm {float(norm):.3f}  rate {rate:.2e}"
        logger.info("epoch %d batch %d step %d: %s", progress.epoch + 1, progress.batch, progress.step, text)
        show(progress.step, f"loss {mean_loss:.4f}")
        for name, value in {"loss": mean_loss, "gradient_norm": float(norm), "learning_rate": rate}.items():
            scalars.add(f"training/{name}", value, progress.step)


def main(arguments: argparse.Namespace, environment: Environment) -> None:
    """Brings up what a training needs, and takes it down again, whatever happens."""
    configure_logging(environment.is_master)
    limits = (arguments.first_timeout, arguments.timeout)
    with process_group(environment, *limits) as group, ExitStack() as stack:
        stop = StopRequest()  # from here on there is something to save
        # Stage 2: the ranks know each other now, and what is wrong on one of them ends them all.
        store = open_store(environment, group, arguments.keep_checkpoints)
        trainer = Trainer(arguments, group)
        scalars = Scalars(environment.log_directory if group.is_master else None)
        stack.callback(scalars.close)
        run = Run(store, group, stop, scalars)
        how = options.CheckpointOptions.of(arguments)
        checkpointer = stack.enter_context(Checkpointer(run, trainer.state, how))
        trainer.run(checkpointer, scalars)


if __name__ == "__main__":
    with reported():
        main(arguments, environment)
