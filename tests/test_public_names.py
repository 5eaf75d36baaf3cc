"""The public names: all there, and loaded only when they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import actors


@pytest.mark.parametrize("name", actors.__all__)
def test_a_public_name_is_there(name: str) -> None:
    assert getattr(actors, name) is not None
    assert name in dir(actors)


def test_an_unknown_name_is_told() -> None:
    with pytest.raises(AttributeError, match="Swimming"):
        _ = actors.Swimming


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("actors", ("ray", "torch", "transformers", "pydantic")),
        ("actors.request.prompt", ("ray", "torch", "transformers")),
        ("actors.scheduling.core", ("ray", "torch", "asyncio", "transformers")),
        ("actors.engines.registry", ("ray", "torch", "transformers")),
        ("actors.front.front", ("torch", "transformers")),
    ],
)
def test_importing_a_part_does_not_load_the_heavy_rest(module: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*(name for name in {absent!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""
