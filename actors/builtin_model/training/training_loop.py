"""The training loop: a fixed number of steps over rows in a fixed order."""

import ctypes
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from actors.builtin_model.training.network import Network
from actors.builtin_model.training.packing import Rows

SHORT_ROWS_PER_STEP = 12
LONG_STEP_EVERY = 10
LONG_STEPS_BEGIN = 0.5
TARGET_SHARE = 0.68
PEAK_RATE = 3e-3
WARMUP_STEPS = 40
DECAY_BEGINS = 0.4
FINAL_RATE_SHARE = 0.02


@dataclass(frozen=True)
class Progress:
    """How far the training is, and what it cost."""

    step: int
    loss: float
    wall_seconds: float
    cpu_seconds: float


Batch = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, bool], Tensor]


def keep_freed_memory() -> None:
    """Stops glibc from giving every large buffer back to the system: page faults cost a third of the time."""
    mmap_threshold, trim_threshold, one_gigabyte = -3, -1, 1 << 30
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_threshold, one_gigabyte)
        libc.mallopt(trim_threshold, one_gigabyte)
    except (OSError, AttributeError):
        return


def cpu_seconds() -> float:
    """CPU time of this process and of the compilers that it has run."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def is_long_step(step: int, steps: int) -> bool:
    """Whether `step` reads a long row: every tenth one, once the model has learned to copy from short rows."""
    return step >= steps * LONG_STEPS_BEGIN and step % LONG_STEP_EVERY == 0


def count_long_steps(steps: int) -> int:
    """How many of `steps` steps read a long row; all others read `SHORT_ROWS_PER_STEP` short ones."""
    return sum(is_long_step(step, steps) for step in range(steps))


def train(network: Network, short: Rows, long: Rows, steps: int, report: Callable[[Progress], None]) -> float:
    """Trains `network` in place and gives the mean loss of the last steps.

    `report` is called every hundred steps.
    """
    matrices = torch.optim.Muon(
        network.matrices(), lr=PEAK_RATE, momentum=0.95, weight_decay=0.05, adjust_lr_fn="match_rms_adamw", ns_steps=4
    )
    others = torch.optim.AdamW(
        network.other_parameters(), lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.01, fused=True
    )
    compute_loss = _loss_function(network)
    started, average = (time.monotonic(), cpu_seconds()), 0.0
    short_batches, long_batches = _batches(short, SHORT_ROWS_PER_STEP), _batches(long, 1)
    for step in range(steps):
        _set_rate((matrices, others), step, steps)
        one_text = is_long_step(step, steps)
        loss = compute_loss(*next(long_batches if one_text else short_batches), one_text)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in (matrices, others):
            optimizer.step()  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
        average = loss.item() if step == 0 else 0.97 * average + 0.03 * loss.item()
        if step % 100 == 99:
            report(Progress(step + 1, average, time.monotonic() - started[0], cpu_seconds() - started[1]))
    return average


def _loss_function(network: Network) -> Loss:
    def loss(ids: Tensor, positions: Tensor, chosen: Tensor, labels: Tensor, weights: Tensor, one_text: bool) -> Tensor:
        losses = F.cross_entropy(network(ids, positions, chosen, one_text), labels, reduction="none")
        return (losses * weights).sum() / weights.sum()

    # Without a C++ compiler the same code runs uncompiled, at about two thirds of the speed.
    compiler = os.environ.get("CXX") or "g++"
    return torch.compile(loss, dynamic=False) if shutil.which(compiler) else loss


def _batches(rows: Rows, size: int) -> Iterator[Batch]:
    for first in range(0, len(rows.ids), size):
        yield _batch(rows, slice(first, first + size))


def _batch(rows: Rows, chosen: slice) -> Batch:
    """The inputs of one step; the number of predicted tokens is fixed, since compiled shapes are."""
    ids, positions, targets = rows.ids[chosen].long(), rows.positions[chosen].long(), rows.targets[chosen]
    room = int(ids.numel() * TARGET_SHARE)
    said = targets.reshape(-1).nonzero()[:, 0][:room]
    weights = torch.zeros(room)
    weights[: len(said)] = 1.0
    said = torch.cat([said, said.new_ones(room - len(said))])
    return ids, positions, said - 1, ids.reshape(-1)[said], weights


def _set_rate(optimizers: tuple[torch.optim.Optimizer, ...], step: int, steps: int) -> None:
    done = step / steps
    decay = 1.0 if done < DECAY_BEGINS else max(FINAL_RATE_SHARE, (1 - done) / (1 - DECAY_BEGINS))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * min(1.0, (step + 1) / WARMUP_STEPS) * decay
