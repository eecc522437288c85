"""The page of a notebook: its cells, and the outputs of running them."""

import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from traitlets.config import Config

# As nbconvert writes Markdown, with a class for what cells print.
_TEMPLATE = """\
{%- extends 'index.md.j2' -%}
{%- block stream %}
``` {.text .output}
{{ output.text }}
```
{% endblock stream -%}
"""


def page(notebook: Path, place: str) -> dict[str, str | bytes]:
    """Run a notebook; return its page and its pictures, by their places.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell fails.
    """
    cells = nbformat.read(notebook, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        # The kernel is reached through files of this folder, not through a port.
        connection = {"transport": "ipc", "connection_file": f"{folder}/kernel.json"}
        client = NotebookClient(
            cells,
            kernel_name="python3",
            timeout=600,
            coalesce_streams=True,
            config=Config({"ConnectionFileMixin": connection}),
            resources={"metadata": {"path": folder}},
        )
        client.execute(env={**os.environ, "IPYTHONDIR": folder})
    pictures = {"output_files_dir": place.removesuffix(".md")}
    exporter = MarkdownExporter(raw_template=_TEMPLATE)
    markdown, made = exporter.from_notebook_node(cells, pictures)
    used = {name: data for name, data in made["outputs"].items() if name in markdown}
    return {place: markdown, **used}
