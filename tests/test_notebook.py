"""docs/notebook.ipynb, run from the first cell to the last in a kernel of Jupyter, as a reader does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parent.parent / "docs" / "notebook.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_it_says(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, 4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "outputs are stripped in the repository"
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    client.execute()
    shown: list[list[dict[str, Any]]] = [
        [{"text": output.get("text", ""), **output.get("data", {})} for output in cell.outputs]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    _, made, mask, vectors, frame, row, wrong, tree = shown
    assert "application/vnd.jupyter.widget-view+json" in made[0], "the bar of progress"
    assert any("6 images done, 0 of them failed" in each.get("text/html", "") for each in made)
    assert made[-1]["text/html"].count('<img src="data:image/jpeg;base64,') == 6
    assert "['mask', 'photograph', 'eigenvectors']" in mask[0]["text"]
    for pictures in (mask, vectors, tree):
        assert "image/png" in pictures[-1]
    assert "<table" in frame[0]["text/html"]
    assert "of the pixels, in the box [" in row[0]["text"]
    assert "has no image 'cofee.png'; did you mean 'coffee.png'?" in wrong[0]["text"]
    assert "'leaves_mean': 6.0" in tree[0]["text"]
    assert not any(
        output.get("output_type") == "error" for cell in notebook.cells for output in cell.get("outputs", [])
    )
