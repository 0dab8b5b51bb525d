"""Import costs and public names; import-linter checks the imports between rooms."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import REPOSITORY

import yolo_gradwatch

PACKAGE = Path(yolo_gradwatch.__file__).parent


def test_architecture_document_is_short_and_names_every_room():
    document = (REPOSITORY / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert len(document.splitlines()) < 150
    rooms = [path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()]
    assert len(rooms) == 8
    assert all(f"`{room}/`" in document for room in rooms)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda one: one.stem)
def test_modules_have_at_most_300_lines_and_classes_150(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    classes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)]
    assert not [one.name for one in classes if one.end_lineno - one.lineno >= 150]


def test_all_dataclasses_but_the_collecting_ones_are_frozen():
    text = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    loose = re.findall(r"^@dataclass(?!\(frozen=True).*\nclass (\w+)", text, re.MULTILINE)
    assert sorted(loose) == ["Transfer", "_Readings", "_Reported", "_Waiting"]


def loaded_after(statement):
    script = f"{statement}; import sys; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_package_import_loads_nothing_heavy():
    heavy = {"torch", "ultralytics", "pandas", "numpy", "rich", "typer"}
    assert not loaded_after("import yolo_gradwatch") & heavy


@pytest.mark.parametrize(
    "statement",
    [
        "from yolo_gradwatch import load_run",
        "from yolo_gradwatch import Thresholds, Report, Finding, Layout",
    ],
)
def test_loading_a_run_imports_neither_torch_nor_ultralytics(statement):
    assert not loaded_after(statement) & {"torch", "ultralytics"}


def test_recorder_and_outputs_import_neither_torch_nor_ultralytics():
    loaded = loaded_after("import yolo_gradwatch.watch.assembly")
    assert not loaded & {"torch", "ultralytics"}


def test_all_exports_exist_and_other_names_raise():
    assert all(hasattr(yolo_gradwatch, name) for name in yolo_gradwatch.__all__)
    assert set(yolo_gradwatch.__all__) <= set(dir(yolo_gradwatch))
    with pytest.raises(AttributeError, match="no attribute 'Watcher'"):
        _ = yolo_gradwatch.Watcher
