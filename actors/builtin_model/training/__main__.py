"""Trains the built-in model and writes its directory: `python -m actors.builtin_model.training --out DIR`."""

import argparse
import platform
import time
from pathlib import Path

import torch

from actors.builtin_model import builtin_model_path
from actors.builtin_model.training.corpus import long_rows, short_documents
from actors.builtin_model.training.export import export_model, write_json
from actors.builtin_model.training.network import Network, Shape
from actors.builtin_model.training.packing import pack_long_rows, pack_short_rows
from actors.builtin_model.training.tokenizer import CONTEXT_LENGTH, train_tokenizer
from actors.builtin_model.training.training_loop import (
    SHORT_ROWS_PER_STEP,
    Progress,
    count_long_steps,
    cpu_seconds,
    keep_freed_memory,
    train,
)

SEED = 20
STEPS = 2350
THREADS = 2


def _print_progress(progress: Progress) -> None:
    print(
        f"step {progress.step} loss {progress.loss:.4f}"
        f" wall {progress.wall_seconds:.0f}s cpu {progress.cpu_seconds:.0f}s",
        flush=True,
    )


def _machine() -> str:
    """The name of the CPU where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    """Generates the text, trains, and writes the model with a short report of what the training took."""
    parser = argparse.ArgumentParser(description="Train the built-in model from generated text.")
    parser.add_argument("--out", type=Path, default=builtin_model_path(), help="the model directory to write")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the text and of the weights")
    options = parser.parse_args()

    started = time.monotonic()
    keep_freed_memory()
    torch.set_num_threads(THREADS)
    torch.manual_seed(options.seed)
    tokenizer = train_tokenizer(options.seed)
    long_count = count_long_steps(options.steps)
    short_count = (options.steps - long_count) * SHORT_ROWS_PER_STEP
    short = pack_short_rows(tokenizer, short_documents(options.seed + 1), short_count)
    long = pack_long_rows(tokenizer, long_rows(options.seed + 2, CONTEXT_LENGTH), long_count)
    print(f"packed {short_count} short and {long_count} long rows in {time.monotonic() - started:.0f}s", flush=True)

    network = Network(Shape())
    loss = train(network, short, long, options.steps, _print_progress)
    export_model(network, tokenizer, options.out)
    report = {
        "seed": options.seed,
        "steps": options.steps,
        "tokens": short.ids.numel() + long.ids.numel(),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "final_loss": round(loss, 4),
        "torch": torch.__version__,
        "machine": _machine(),
        "threads": THREADS,
        "wall_seconds": round(time.monotonic() - started),
        "cpu_seconds": round(cpu_seconds()),
    }
    write_json(options.out / "training_report.json", report)
    print(report)


if __name__ == "__main__":
    main()
