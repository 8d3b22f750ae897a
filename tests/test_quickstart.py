"""The notebook runs as it stands, top to bottom in a fresh kernel; what its text claims, its cells assert."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=nbformat.NO_CONVERT)


def test_quickstart_is_committed_clean(notebook):
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert NOTEBOOK.read_text(encoding="utf-8") == nbformat.writes(notebook) + "\n"
    for cell in notebook.cells:
        assert cell.metadata == {}
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)
        else:
            assert not re.search(r"\d\.\d", cell.source), "numbers are printed by cells"
            for target in re.findall(r"\]\(([^)]+)\)", cell.source):
                assert (NOTEBOOK.parent / target).exists(), target


@pytest.mark.slow
def test_quickstart_runs(notebook):
    NotebookClient(notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": ROOT}}).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    for cell in code:
        assert "Warning" not in "".join(output.text for output in cell.outputs if output.get("name") == "stderr"), (
            cell.id
        )
    drawn = [cell.id for cell in code if any("image/png" in output.get("data", {}) for output in cell.outputs)]
    assert drawn == ["history", "sweep"]
    assert code[-1].outputs[-1].text.endswith("epochs: 1 2 3 4 5\n")
