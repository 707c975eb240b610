"""The notebooks run from top to bottom with files of the repository, and contain their outputs in a small size."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from notebooks.run import execute

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
PICTURES = {  # at least so many in each
    "demo": 3,
    "train_shapes": 3,
    "inspect_data": 17,
    "inspect_model": 20,
    "inspect_weights": 4,
    "custom_dataset": 4,
}
STEPS = "1"  # of an epoch, here; as committed they have 50
MOST_BYTES = 1_000_000
MOST_LINES = 15  # of code in a cell
PICTURE_TYPES = {"image/png", "image/jpeg"}
OWN_PATHS = re.compile(r"/(?:work|home|root|Users|tmp)/|[A-Z]:\\")


def pictures(notebook):
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    return [output for output in outputs if PICTURE_TYPES & set(output.get("data", {}))]


def committed(name):
    return json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))


def code_cells(name):
    return [cell for cell in committed(name)["cells"] if cell["cell_type"] == "code"]


def test_all_notebooks_are_tested():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(PICTURES)


@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURES)
def test_a_notebook_runs(name):
    notebook = execute(NOTEBOOKS / f"{name}.ipynb", NOTEBOOK_STEPS=STEPS)
    assert len(pictures(notebook)) >= PICTURES[name]


@pytest.mark.parametrize("name", PICTURES)
def test_the_outputs_are_there_and_small(name):
    assert len(pictures(committed(name))) >= PICTURES[name]
    assert (NOTEBOOKS / f"{name}.ipynb").stat().st_size < MOST_BYTES


@pytest.mark.parametrize("name", PICTURES)
def test_the_outputs_are_those_of_one_run_without_errors(name):
    cells = code_cells(name)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]


@pytest.mark.parametrize("name", PICTURES)
def test_no_absolute_paths_in_notebooks(name):
    notebook = committed(name)
    texts = [line for cell in notebook["cells"] for line in cell["source"]]
    for output in (output for cell in code_cells(name) for output in cell["outputs"]):
        texts += output.get("text", [])
        texts += [line for kind, lines in output.get("data", {}).items() if kind not in PICTURE_TYPES for line in lines]
    assert not [line for line in texts if OWN_PATHS.search(line)]


@pytest.mark.parametrize("name", PICTURES)
def test_cells_are_short_and_settings_come_first(name):
    first = code_cells(name)[0]["source"]
    assert first[0].startswith("# Change this cell.")
    for cell in code_cells(name):
        lines = [line for line in cell["source"] if line.strip() and not line.lstrip().startswith("#")]
        assert len(lines) <= MOST_LINES, "".join(lines)
