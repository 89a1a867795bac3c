"""Executes the notebooks of examples/ in kernels of their own.

    python tests/notebooks.py           those that are committed, anew, with their own parameters

Needs nbclient and ipykernel.
"""

import re
import tempfile
from pathlib import Path

import nbclient
import nbformat

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = ("quickstart", "own_data")
# What TensorFlow says on stderr when it starts, whatever TF_CPP_MIN_LOG_LEVEL is.
_LOG = re.compile(r"^(WARNING: All log messages before|[IWE]\d{4} \d\d:).*\n?", re.MULTILINE)


def execute(name, folder, **parameters):
    """The notebook with its outputs, executed in `folder`.

    Args: name, one of `NAMES`; folder, working directory; parameters, other values for the cell
        tagged "parameters", set in a cell after it as papermill does.
    Raises: nbclient.exceptions.CellExecutionError where a cell does.
    """
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", 4)
    if parameters:
        (index,) = (
            index
            for index, cell in enumerate(notebook.cells)
            if "parameters" in cell.metadata.get("tags", ())
        )
        values = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
        notebook.cells.insert(index + 1, nbformat.v4.new_code_cell(values))
    return nbclient.NotebookClient(
        notebook,
        timeout=1800,  # seconds a cell
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
    ).execute()


def text(notebook, stream="stdout"):
    """What the cells of a notebook printed."""
    return "".join(
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.output_type == "stream" and output.name == stream
    )


def _clean(notebook):
    """Leaves out of the outputs the framework's log, and of pictures that are there as PNG and as
    JPEG the large one; of the metadata what is of this machine."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":
                output.text = _LOG.sub("", output.text)
            if "image/jpeg" in output.get("data", ()):
                output.data.pop("image/png", None)
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("text") != ""]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


if __name__ == "__main__":
    for name in NAMES:
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(name, folder)
        _clean(notebook)
        nbformat.write(notebook, EXAMPLES / f"{name}.ipynb")
        print(f"examples/{name}.ipynb")
