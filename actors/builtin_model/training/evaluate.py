"""Measures a model directory and writes its card: `python -m actors.builtin_model.training.evaluate`."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, StrictUndefined

from actors.builtin_model import builtin_model_path
from actors.builtin_model.training.evaluation import evaluate_long_prompts, evaluate_tasks
from actors.builtin_model.training.export import READABLE_BY_ALL
from actors.builtin_model.training.greedy import GreedyModel

CARD_TEMPLATE = Path(__file__).parent / "model_card.md.jinja"
LENGTHS = [512, 1024, 2048, 4096]
EXAMPLES = [
    "What is 2+3?",
    "Reply in JSON with name and age",
    "Max is 5 years old. Reply in JSON with name and age.",
    "What is the capital of France?",
    "Tell me a story about a fox.",
]


def measure(model: GreedyModel, asked: int, asked_long: int) -> dict[str, Any]:
    """Everything that the model card says about what the model can do."""
    return {
        "examples": [(question, model.ask(question).text) for question in EXAMPLES],
        "tasks": evaluate_tasks(model, asked),
        "long_prompts": evaluate_long_prompts(model, LENGTHS, asked_long),
        "lengths": LENGTHS,
        "asked_long": asked_long,
    }


def write_card(directory: Path, measured: dict[str, Any]) -> str:
    """Writes README.md of the model directory from the measurements and the report of the training."""
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    template = environment.from_string(CARD_TEMPLATE.read_text(encoding="utf-8"))
    training = json.loads((directory / "training_report.json").read_text(encoding="utf-8"))
    size = (directory / "model.safetensors").stat().st_size
    card = template.render(training=training, size=size, **measured)
    path = directory / "README.md"
    path.write_text(card + "\n", encoding="utf-8")
    path.chmod(READABLE_BY_ALL)
    return card


def main() -> None:
    """Measures and writes the card."""
    parser = argparse.ArgumentParser(description="Measure a model directory and write its model card.")
    parser.add_argument("--model", type=Path, default=builtin_model_path())
    parser.add_argument("--asked", type=int, default=50, help="prompts per task")
    parser.add_argument("--asked-long", type=int, default=20, help="prompts per task and length")
    options = parser.parse_args()
    torch.set_num_threads(1)
    measured = measure(GreedyModel(options.model), options.asked, options.asked_long)
    print(write_card(options.model, measured))


if __name__ == "__main__":
    main()
