"""Execute examples/quickstart.ipynb in a temporary folder and store its outputs.

python scripts/execute_quickstart.py
"""

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

PATH = Path(__file__).parents[1] / "examples" / "quickstart.ipynb"


def main() -> None:
    """Execute and store the notebook, without the cells' execution times."""
    notebook = nbformat.read(PATH, nbformat.NO_CONVERT)
    with tempfile.TemporaryDirectory(prefix="quickstart-") as folder:
        NotebookClient(
            notebook,
            timeout=600,
            coalesce_streams=True,
            record_timing=False,
            resources={"metadata": {"path": folder}},
        ).execute()
    nbformat.write(notebook, PATH)
    print(f"{PATH}: {PATH.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
