"""The JSON that describes a run: written and read back, across format versions."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import pytest
from damages import GONE, part, spoil
from hypothesis import given
from mangled import mangled_json
from places import DATA
from shown import epoch_of
from torch import nn
from values import LAWS, LAYOUT, put_meta

from yolo_gradwatch import Thresholds
from yolo_gradwatch.measure import model_layout
from yolo_gradwatch.measure.clipping import CLIP_NORM, EpochClipping
from yolo_gradwatch.measure.event import Event, EventKind
from yolo_gradwatch.measure.kept import Kept
from yolo_gradwatch.measure.optimizer import Group, Optimizer
from yolo_gradwatch.runs import process
from yolo_gradwatch.runs.meta import Meta, RunOptions, encoded, read_meta
from yolo_gradwatch.runs.schema import META_FILE, FormatError

VERSION_2 = DATA / "version-2"
FULL = Meta(
    status="interrupted",
    process=process.own(),
    versions={"torch": "2.9.1"},
    options=RunOptions(
        interval=3, stop_on=("dead",), training={"clip": 2.5, "fitted": {"epochs": 7}, "box": None}
    ),
    thresholds=Thresholds(spike=2.0, dead_windows=4),
    layout=replace(
        LAYOUT,
        inside=(("SiLU",), (), ("Sigmoid", "Upsample")),
        edges=(("model.0", "model.1"), ("model.1", "model.2")),
        since=(1,) * len(LAYOUT.modules),
        attentions=("model.1",),
        sources=(("Block", "blocks.py:19"),),
    ),
    last_step=99,
    events=tuple(Event(step, kind) for step, kind in enumerate(get_args(EventKind))),
    epochs=(epoch_of(owners={"model.1": 0.5, "model.2": 1.0}), EpochClipping(2, scale=65536.0)),
    optimizer=Optimizer(
        "AdamW",
        groups=(Group(0.01, 0.0005, 2, 30), Group(None, 0.0, 0, 0)),
        outside=("model.1.conv.weight",),
        zero_rate=("model.2.weight", "model.2.bias"),
        frozen=("model.0.weight",),
        frozen_otherwise=("model.1.bn.bias",),
        thawed=("model.2.bias",),
        elements_outside=72,
        step=7,
    ),
    kept=(Kept(1, 20), Kept(3, 60)),
    remarks=("no flow",),
    others={"mood": {"of": ["the", None]}},
)


def put(folder, text):
    (folder / META_FILE).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    "meta", [FULL, Meta(layout=LAYOUT), Meta(layout=model_layout.read(nn.Linear(2, 2), ())[0])]
)
def test_reading_returns_what_was_written(tmp_path, meta):
    put(tmp_path, encoded(meta))
    assert read_meta(tmp_path) == meta


def test_rewriting_an_older_file_only_adds_defaults():
    """Everything else stays the same to the letter."""
    raw = json.loads((VERSION_2 / META_FILE).read_text(encoding="utf-8"))
    assert not any("step_last" in epoch for epoch in raw["epochs"])
    raw["epochs"] = [{**epoch, "step_last": 0} for epoch in raw["epochs"]]
    raw["thresholds"] = {**asdict(Thresholds()), **raw["thresholds"]}
    later = {"optimizer": None, "optimizers_before": [], "kept": [], "remarks": []}
    assert not set(later) & set(raw)
    raw |= later
    assert raw["layout"].setdefault("sources", []) == []
    assert encoded(read_meta(VERSION_2)) == json.dumps(raw, indent=1)


@pytest.mark.parametrize("value", [GONE, None])
@pytest.mark.parametrize(
    "name",
    [*sorted({*asdict(FULL)} - {"format_version", "layout", "others"}), "options.interval"],
)
def test_missing_or_null_part_gets_its_default(tmp_path, name, value):
    put(tmp_path, part(name, value)(encoded(FULL).encode()).decode())
    outer, _, inner = name.partition(".")
    default = getattr(Meta(layout=LAYOUT), outer)
    expected = replace(FULL.options, **{inner: getattr(default, inner)}) if inner else default
    assert read_meta(tmp_path) == replace(FULL, **{outer: expected})


def test_fields_unknown_to_earlier_versions_get_their_defaults(tmp_path):
    put_meta(tmp_path, epochs=[{"epoch": 1}], thresholds={"dead_windows": 2})
    for name in ("since", "attentions", "sources"):
        spoil(tmp_path, META_FILE, part(f"layout.{name}", GONE))
    meta = read_meta(tmp_path)
    assert (meta.layout, meta.epochs) == (LAYOUT, (EpochClipping(1),))
    assert meta.thresholds == Thresholds(dead_windows=2)
    assert (meta.options.clip, meta.options.epochs) == (CLIP_NORM, 0)


def test_unknown_fields_are_ignored_and_unknown_parts_kept(tmp_path):
    raw = json.loads(encoded(FULL))
    raw["others"] = raw["events"][0]["cause"] = raw["layout"]["colours"] = ["red"]
    raw["options"]["more"] = raw["thresholds"]["more"] = raw["process"]["more"] = 1
    put(tmp_path, json.dumps(raw))
    meta = read_meta(tmp_path)
    assert meta == replace(FULL, others={"mood": {"of": ["the", None]}, "others": ["red"]})
    assert json.loads(encoded(meta))["others"] == ["red"]


def test_control_characters_are_replaced(tmp_path):
    """So is the lone surrogate by which Python represents a non-UTF-8 byte of a file name."""
    options = RunOptions(training={"data": "/data/\udcff.yaml", "name\n": ["\x1b[31mred"]})
    put(tmp_path, encoded(replace(FULL, options=options, versions={"torch": "\x07"})))
    meta = read_meta(tmp_path)
    assert meta.options.training == {"data": "/data/?.yaml", "name?": ["?[31mred"]}
    assert meta.versions == {"torch": "?"}


def test_keyword_that_is_not_text_is_refused(tmp_path):
    raw = json.loads(encoded(FULL))
    raw["layout"]["roles"][0] = "\ud800"
    put(tmp_path, json.dumps(raw))
    with pytest.raises(FormatError, match=META_FILE):
        read_meta(tmp_path)


def test_fitted_options_take_precedence(tmp_path):
    put(tmp_path, encoded(FULL))
    options = read_meta(tmp_path).options
    assert (options.clip, options.epochs, options.fitted) == (2.5, 7, {"epochs": 7})


@LAWS
@given(mangled_json(encoded(FULL)))
def test_any_json_is_refused_or_survives_a_round_trip(content):
    with TemporaryDirectory() as name:
        put(Path(name), content.decode())
        try:
            meta = read_meta(Path(name))
            text = encoded(meta)
        except ValueError:  # refused, or it holds an infinite number, which cannot be written
            return
        put(Path(name), text)
        assert read_meta(Path(name)) == meta
