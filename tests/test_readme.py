"""The README's Python is run as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.ray
def test_the_first_example_writes_text() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", python_blocks()[0]],
        capture_output=True,
        text=True,
        timeout=150,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "there was" in done.stdout


@pytest.mark.parametrize("number", range(len(python_blocks())))
def test_every_example_is_valid_python(number: int) -> None:
    compile(python_blocks()[number], f"README block {number}", "exec")
