"""Notebooks that tests execute."""

import nbformat
from nbconvert.preprocessors import ExecutePreprocessor


def executed(cells: list[str]) -> nbformat.NotebookNode:
    """A notebook of these cells, with what they show."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    ExecutePreprocessor(timeout=120, kernel_name="python3").preprocess(notebook)
    return notebook
