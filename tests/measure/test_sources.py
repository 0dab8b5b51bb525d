"""In which file the classes of a model are defined."""

import inspect
import sys
from types import ModuleType

import fake_trainer
import pytest
from torch import nn

from yolo_gradwatch.measure.layout import dated, watched_at
from yolo_gradwatch.measure.model_layout import read
from yolo_gradwatch.measure.sources import sources


def line_of(kind):
    return inspect.getsourcelines(kind)[1]


def of(model):
    return sources(model.modules())


def test_layout_has_file_and_line_of_custom_classes():
    layout, _ = read(nn.Sequential(fake_trainer.Net(), nn.Conv2d(3, 3, 1)))
    kinds = (fake_trainer.Net, fake_trainer.Block)
    assert layout.sources == tuple(
        (kind.__name__, f"fake_trainer.py:{line_of(kind)}") for kind in kinds
    )


def test_sources_survive_when_a_layout_grows_or_is_cut():
    small, large = read(fake_trainer.Block(1, 1))[0], read(fake_trainer.Net())[0]
    grown = dated(large, small, 5)
    assert max(grown.since) == 5
    assert watched_at(grown, 1).sources == grown.sources == large.sources


def test_ultralytics_classes_are_omitted():
    from ultralytics.nn.modules import C3k2

    assert of(nn.Sequential(C3k2(4, 4))) == ()


@pytest.mark.parametrize("module", ["__main__", "builtins", "somewhere", "", None])
def test_class_created_by_code_has_no_source(module):
    own = type("Own", (nn.Identity,), {"__module__": module})
    assert of(nn.Sequential(own(), fake_trainer.Block(1, 1))) == of(fake_trainer.Block(1, 1))


@pytest.mark.parametrize(
    ("file", "place"),
    [
        ("own.py", ("own.py:2",)),
        ("with space.py", ("with space.py:2",)),
        ("own\x1b[31m.py", ()),
        ("ipykernel_7/3.py", ()),
        ("gone.py", ()),
    ],
)
def test_source_is_a_file_name_without_folders(tmp_path, monkeypatch, file, place):
    path = tmp_path / file
    source = "\nclass Own(nn.Identity):\n    pass\n"
    if file != "gone.py":
        path.parent.mkdir(exist_ok=True)
        path.write_text(source, encoding="utf-8")
    module = ModuleType("somewhere")
    module.__file__ = str(path)
    monkeypatch.setitem(sys.modules, "somewhere", module)
    module.nn = nn
    exec(compile(source, str(path), "exec"), vars(module))  # noqa: S102  # ours
    assert tuple(where for _, where in of(module.Own())) == place


def test_name_of_two_classes_has_no_source():
    other = type("Block", (nn.Identity,), {})
    names = [name for name, _ in of(nn.Sequential(fake_trainer.Net(), other()))]
    assert names == ["Net"]
