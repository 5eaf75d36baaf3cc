"""Every notebook runs from top to bottom."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.ray
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel then draws into the notebook, as it does for a person
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=150, kernel_name="python3", resources={"metadata": {"path": os.getcwd()}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    plots = [base64.b64decode(output.data["image/png"]) for output in outputs if "image/png" in output.get("data", {})]
    assert plots, "the notebook shows a plot"
    assert all(plot.startswith(PNG_SIGNATURE) and len(plot) > 2000 for plot in plots)


def test_there_is_a_notebook() -> None:
    assert NOTEBOOKS
