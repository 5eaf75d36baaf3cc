"""Puts the stand-in in place before any test module imports the engine."""

import tests.engines.exllamav2.standin  # noqa: F401
