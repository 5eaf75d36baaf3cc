"""The built-in model: a tiny Llama that is installed with the package.

Importing this module costs nothing; the model is read only by the engine that loads the directory.
"""

from pathlib import Path


def builtin_model_path() -> Path:
    """Directory of the built-in model in Hugging Face format (weights, tokenizer, chat template, model card)."""
    return Path(__file__).resolve().parent / "model"
