"""Runs the notebooks from top to bottom and saves their outputs in the files.

    python notebooks/run.py            all of them, about 10 minutes on 4 cores
    python notebooks/run.py demo       some, by name

The outputs should not depend on the machine, so output to stderr (messages of libraries about CPUs and GPUs) is left
out.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from mrcnn.io import replacing

FOLDER = Path(__file__).resolve().parent
# Pictures are saved in the notebook, even if the environment sets another matplotlib backend.
ENVIRONMENT = {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "TF_CPP_MIN_LOG_LEVEL": "3"}
SECONDS = 1800  # time limit of a cell


def execute(path, **environment):
    """Runs a notebook.

    Args:
        path: Path of the .ipynb file, which is not modified.
        **environment: Environment variables for its kernel, e.g. NOTEBOOK_STEPS="2" for shorter training.

    Returns:
        nbformat.NotebookNode, with the outputs of this run.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell failed; the message has the cell and its traceback.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    resources = {"metadata": {"path": str(Path(path).parent)}}
    client = NotebookClient(notebook, timeout=SECONDS, record_timing=False, resources=resources)
    client.execute(env={**os.environ, **ENVIRONMENT, **environment})
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _joined([o for o in cell.outputs if o.get("name") != "stderr"])
    return notebook


def _joined(outputs):
    """Joins printed text that arrived in several parts."""
    joined = []
    for output in outputs:
        if joined and output.output_type == "stream" == joined[-1].output_type:
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="name", help="names without .ipynb (default: all)")
    names = parser.parse_args(arguments).names or sorted(path.stem for path in FOLDER.glob("*.ipynb"))
    for name in names:
        start, path = time.perf_counter(), FOLDER / f"{name}.ipynb"
        notebook = execute(path)
        with replacing(path) as unfinished:
            nbformat.write(notebook, unfinished)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
