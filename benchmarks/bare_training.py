"""What people write without this template: DistributedDataParallel and `torch.load`.

    torchrun --nproc-per-node=2 bare_training.py CHECKPOINT --max-steps N [--save-steps N] [--device cuda]

The project's own model and data come from PYTHONPATH.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import optim
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, DistributedSampler

from data import load_data
from model import batch_loss, build_model


def main() -> None:
    """Trains, says each step, saves at the end."""
    options = argparse.ArgumentParser()
    options.add_argument("checkpoint", type=Path)
    options.add_argument("--max-steps", type=int)
    options.add_argument("--save-steps", type=int, default=0, help="0 saves at the end only")
    options.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    arguments = options.parse_args()
    device = torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if arguments.device == "cuda" else "cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    training_data, _ = load_data(None, Path("/data"))
    torch.manual_seed(0)
    model = DistributedDataParallel(build_model().to(device))
    optimizer = optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    sampler: DistributedSampler[object] = DistributedSampler(training_data)
    loader = DataLoader(training_data, batch_size=32, sampler=sampler)
    step = 0
    if arguments.checkpoint.exists():
        state = torch.load(arguments.checkpoint, map_location=device, weights_only=True)
        model.module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    while step < arguments.max_steps:
        for batch in loader:
            optimizer.zero_grad()
            loss = batch_loss(model, tree_map(lambda tensor: tensor.to(device), batch))["loss"]
            torch.autograd.backward(loss.total / loss.count)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            if dist.get_rank() == 0:
                print(f"step {step}: {float(loss.total / loss.count)}", flush=True)
            is_due = arguments.save_steps and step % arguments.save_steps == 0
            if dist.get_rank() == 0 and (is_due or step == arguments.max_steps):
                state = {"model": model.module.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save({**state, "step": step}, arguments.checkpoint)
            if step == arguments.max_steps:
                break
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
