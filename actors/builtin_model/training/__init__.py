"""Trains the built-in model from text that it generates itself: `python -m actors.builtin_model.training`."""
