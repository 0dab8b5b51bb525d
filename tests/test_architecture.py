"""The picture of ARCHITECTURE.md, held against what the modules import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import yolo_gradwatch

PACKAGE = Path(yolo_gradwatch.__file__).parent

ALLOWED = {
    "__init__": set(),
    "arrays": {"numpy"},
    "layout": {"numpy"},
    "sample": {"numpy", "layout"},
    "model_layout": {"numpy", "layout"},
    "quantities": {"numpy", "arrays", "layout", "sample"},
    "clipping": {"numpy", "layout", "sample"},
    "outliers": {"numpy", "clipping"},
    "windows": {"numpy", "clipping", "outliers", "quantities", "sample"},
    "event": set(),
    "finding": set(),
    "thresholds": {"tomli"},
    "capture": {"numpy", "torch", "sample"},
    "graph": {"numpy", "layout"},
    "levels": {"numpy", "graph"},
    "rules": {"numpy", "arrays", "clipping", "graph", "layout", "levels"},
    "detect": {"finding", "levels", "rules", "thresholds"},
    "causes": {"graph", "layout"},
    "advice": {"arrays", "causes", "clipping", "detect", "graph", "layout"},
    "findings": {"advice", "clipping", "detect", "finding", "graph", "layout"},
    "diagnosis": {"detect", "findings", "layout", "windows"},
    "evidence": set(),
    "report": {"numpy", "clipping", "thresholds", "typed"},
    "runlog": {"clipping", "event", "evidence", "layout", "quantities", "report", "typed"},
    "disk": set(),
    "typed": set(),
    "writer": {"psutil", "typed"},
    "tables": {"numpy", "pandas", "quantities", "runlog", "windows"},
    "review": {
        *("clipping", "diagnosis", "evidence", "report", "runlog", "tables", "thresholds"),
        *("windows", "writer"),
    },
    "tail": {"review", "runlog", "tables"},
    "summary": {"numpy", "pandas", "detect", "records"},
    "compare": {"numpy", "pandas", "causes", "records", "summary"},
    "timeline": {"numpy"},
    "results": {"numpy"},
    "heatmap": {
        *("numpy", "arrays", "causes", "clipping", "graph", "layout", "results", "runlog"),
        *("timeline",),
    },
    "look": {"matplotlib", "heatmap"},
    "marks": {"numpy", "matplotlib", "heatmap", "look"},
    "strips": {"numpy", "look"},
    "png": {
        *("numpy", "matplotlib", "advice", "heatmap", "look", "marks", "runlog", "strips"),
        "timeline",
    },
    "page_figure": {"numpy", "plotly", "heatmap"},
    "review_text": {"rich", "glyphs", "lines", "live", "records", "summary", "table", "tables"},
    "compare_text": {"rich", "compare", "glyphs", "lines", "review_text", "table"},
    "page": {
        *("numpy", "plotly", "heatmap", "page_figure", "report", "review_text", "runlog"),
        *("summary", "timeline"),
    },
    "follow": {
        *("rich", "causes", "console", "diagnosis", "evidence", "layout", "lines", "live"),
        *("panel", "records", "review", "runlog", "screen", "streams", "table", "tail"),
    },
    "cli_output": {"rich", "typer", "console", "detect", "typed"},
    "cli_options": {"typer", "cli_output", "detect", "review", "summary", "thresholds"},
    "cli_compare": {"typer", "cli_options", "cli_output", "compare", "overview"},
    "cli_review": {
        *("rich", "typer", "cli_options", "cli_output", "console", "follow", "heatmap"),
        *("overview", "page", "plots", "review", "runlog", "summary"),
    },
    "sinks": {"numpy", "records"},
    "live": {"numpy", "graph", "records", "rollup", "telemetry"},
    "glyphs": {"numpy"},
    "lines": {"rich", "advice", "glyphs", "report"},
    "table": {"rich", "glyphs", "lines"},
    "panel": {"numpy", "rich", "glyphs", "lines"},
    "stand_in": {"rich", "console", "streams"},
    "console": {"rich"},
    "streams": {"psutil"},
    "screen": {"rich", "console", "stand_in", "streams"},
    "contract": {"ultralytics", "records"},
    "hooks": set(),
    "training": {"ultralytics", "contract"},
    "ddp": {"torch", "ultralytics", "hooks", "training"},
    "command": {"ultralytics", "ddp"},
    "recorder": {
        *("rich", "console", "contract", "detect", "diagnosis", "disk", "evidence", "glyphs"),
        *("heatmap", "layout", "lines", "live", "panel", "png", "records", "report", "review"),
        *("rollup", "runlog", "screen", "sinks", "streams", "table", "tables", "telemetry"),
        *("thresholds", "writer"),
    },
    "session": {
        *("capture", "contract", "evidence", "hooks", "layout", "recorder", "report", "runlog"),
        "training",
    },
    "launched": {"ddp", "detect", "review", "runlog"},
    "watch": {
        *("ddp", "detect", "launched", "recorder", "report", "session", "thresholds", "training"),
    },
    "faults": {"torch"},
    "shapes": {"PIL"},
    "cli_train": {
        *("rich", "typer", "cli_options", "cli_output", "command", "ddp", "faults", "runlog"),
        *("shapes", "thresholds", "watch"),
    },
    "cli_main": {
        *("typer", "cli_compare", "cli_output", "cli_review", "cli_train", "runlog"),
    },
    "__main__": {"cli_main"},
}
"""Each module and what it imports at run time, the standard library aside."""


def imports_at_run_time(path):
    """Top-level names, and modules of the package, that a file imports outside TYPE_CHECKING."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "yolo_gradwatch":
            names = [f"yolo_gradwatch.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        else:
            continue
        found |= {own_name(name) for name in names}
    known = {*sys.stdlib_module_names, "tomllib", ""}  # tomllib came with Python 3.11
    return found - known


def own_name(name):
    first, _, rest = name.partition(".")
    return rest.partition(".")[0] if first == "yolo_gradwatch" else first


def test_the_picture_holds_every_module():
    assert {path.stem for path in PACKAGE.glob("*.py")} == set(ALLOWED)


@pytest.mark.parametrize("module", ALLOWED)
def test_a_module_imports_what_the_picture_says(module):
    assert imports_at_run_time(PACKAGE / f"{module}.py") == ALLOWED[module]


def test_modules_import_each_other_in_one_direction():
    order, pending = [], {name: needs & set(ALLOWED) for name, needs in ALLOWED.items()}
    while pending:
        free = [name for name, needs in pending.items() if needs <= set(order)]
        assert free, f"in a circle: {sorted(pending)}"
        order += free
        pending = {name: needs for name, needs in pending.items() if name not in free}


@pytest.mark.parametrize("module", ALLOWED)
def test_every_module_stands_in_the_architecture_document(module):
    document = Path(__file__).parents[1] / "ARCHITECTURE.md"
    assert module == "__init__" or f"`{module}`" in document.read_text(encoding="utf-8")


def loaded_after(statement):
    script = f"{statement}; import sys; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_importing_the_package_loads_nothing_heavy():
    heavy = {"torch", "ultralytics", "pandas", "numpy", "rich", "typer"}
    assert not loaded_after("import yolo_gradwatch") & heavy


@pytest.mark.parametrize(
    "statement",
    [
        "from yolo_gradwatch import load_run",
        "from yolo_gradwatch import Thresholds, Report, Finding, Layout",
    ],
)
def test_reading_a_run_loads_neither_torch_nor_ultralytics(statement):
    assert not loaded_after(statement) & {"torch", "ultralytics"}


def test_every_export_is_there_and_nothing_else_is_public():
    assert all(hasattr(yolo_gradwatch, name) for name in yolo_gradwatch.__all__)
    assert set(yolo_gradwatch.__all__) <= set(dir(yolo_gradwatch))
    with pytest.raises(AttributeError, match="no attribute 'Watcher'"):
        _ = yolo_gradwatch.Watcher
