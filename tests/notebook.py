"""Runs the notebook of a tutorial."""

from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


def run_notebook(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the notebook beside a page in a folder, and return it with what it printed; skip where nbclient is missing."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    document = nbformat.read(page.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(document)
    nbclient.NotebookClient(document, timeout=3000, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    return document
