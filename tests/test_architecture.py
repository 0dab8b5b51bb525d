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
    "summary": {"numpy", "pandas", "detect", "layout", "quantities"},
    "compare": {"numpy", "pandas", "arrays", "causes", "layout"},
    "timeline": {"numpy"},
    "results": {"numpy"},
    "heatmap": {
        *("numpy", "arrays", "causes", "clipping", "graph", "layout", "results", "runlog"),
        *("timeline",),
    },
    "look": {"matplotlib", "heatmap"},
    "marks": {"numpy", "matplotlib", "heatmap", "look"},
    "strips": {"numpy", "look"},
    "plots": {
        *("numpy", "matplotlib", "advice", "heatmap", "look", "marks", "runlog", "strips"),
        "timeline",
    },
    "page": {"numpy", "plotly", "heatmap", "overview", "report", "runlog", "summary"},
    "columns": {"rich"},
    "overview": {
        *("rich", "arrays", "board", "columns", "compare", "console", "summary", "windows"),
    },
    "follow": {
        *("rich", "board", "causes", "clipping", "console", "diagnosis", "evidence"),
        *("layout", "review", "runlog", "screen", "tables", "windows"),
    },
    "usage": {"rich", "typer", "console", "detect", "thresholds", "typed"},
    "cli_runs": {"rich", "typer", "console", "review", "summary", "usage"},
    "cli_compare": {"typer", "cli_runs", "compare", "overview", "runlog", "usage"},
    "cli_review": {
        *("rich", "typer", "cli_runs", "console", "follow", "heatmap", "overview"),
        *("page", "plots", "review", "runlog", "summary", "thresholds", "usage"),
    },
    "sinks": {"numpy", "layout"},
    "board": {"numpy", "arrays", "clipping", "graph", "layout", "sample"},
    "console": {"numpy", "rich", "advice", "report"},
    "screen": {"psutil", "rich", "console"},
    "contract": {"ultralytics", "clipping"},
    "trainer": {"ultralytics", "contract"},
    "processes": {"torch", "ultralytics", "trainer"},
    "yolo_command": {"ultralytics", "processes"},
    "recorder": {
        *("rich", "board", "clipping", "console", "contract", "detect", "diagnosis", "disk"),
        *("event", "evidence", "heatmap", "layout", "plots", "report", "review", "runlog"),
        *("screen", "sinks", "tables", "thresholds", "windows", "writer"),
    },
    "session": {
        *("capture", "contract", "evidence", "model_layout", "recorder", "report", "runlog"),
        *("trainer",),
    },
    "launched": {"detect", "processes", "review", "runlog"},
    "watch": {
        *("detect", "launched", "processes", "recorder", "report", "session", "thresholds"),
        "trainer",
    },
    "faults": {"torch"},
    "demo": {"PIL", "faults", "trainer"},
    "cli": {
        *("rich", "typer", "cli_compare", "cli_review", "demo", "faults", "processes", "runlog"),
        *("thresholds", "usage", "watch", "yolo_command"),
    },
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


def imported_at_once(path):
    """Packages that a file imports as soon as it is imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.partition(".")[0])
    return found


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


def test_torch_is_loaded_by_two_modules_and_ultralytics_by_none():
    loaded = {path.stem: imported_at_once(path) for path in PACKAGE.glob("*.py")}
    assert {name for name, found in loaded.items() if "torch" in found} == {"capture", "faults"}
    assert {name for name, found in loaded.items() if "ultralytics" in found} == set()


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
