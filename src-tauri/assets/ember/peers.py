"""Training in several processes on one machine, each with its own rows: two processes of one thread use two cores better
than one process of two, because most of a small model's step does not split well. Used by train.py and train_mtp.py.
"""
import os
import sys
import subprocess

import torch
import torch.distributed as dist


def start(count, meeting_point):
    """Runs this script `count` times with the same arguments; -> this process's number, 0 for the one that was started.

    `meeting_point` is a file that does not exist yet; the processes find each other through it.
    """
    if count == 1:
        return 0
    rank = int(os.environ.get("EMBER_RANK", "0"))
    if rank == 0:
        meeting_point.unlink(missing_ok=True)
        for other in range(1, count):
            subprocess.Popen([sys.executable, *sys.argv], env=os.environ | {"EMBER_RANK": str(other)})
    dist.init_process_group("gloo", init_method=f"file://{meeting_point.resolve()}", rank=rank, world_size=count)
    return rank


def average_gradients(weights):
    """Every process goes on with the mean of all gradients, and so with the same weights."""
    if not dist.is_initialized():
        return
    weights = list(weights)
    flat = torch.cat([weight.grad.flatten() for weight in weights])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for weight, mean in zip(weights, flat.split([weight.numel() for weight in weights])):
        weight.grad.copy_(mean.view_as(weight))


def average(number):
    """The mean of a number over all processes, so that they agree on the time and on when to stop."""
    if not dist.is_initialized():
        return number
    held = torch.tensor([number], dtype=torch.float64)
    dist.all_reduce(held)
    return held.item() / dist.get_world_size()
