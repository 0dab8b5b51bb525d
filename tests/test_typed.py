import json
from contextlib import suppress
from dataclasses import MISSING, asdict, fields, replace
from typing import get_args

import pytest
from build import epoch_of, layout_of
from hypothesis import given
from hypothesis import strategies as st
from values import LAWS, LAYOUT

from yolo_gradwatch.clipping import EpochClipping
from yolo_gradwatch.event import Event, EventKind
from yolo_gradwatch.layout import Layout
from yolo_gradwatch.typed import built

RECORDS = [
    *(Event(3, kind) for kind in get_args(EventKind)),
    *(LAYOUT, layout_of()),
    epoch_of(owners={"model.1": 0.5, "model.2": 1}),
    replace(epoch_of(), norm_median=None, scale=65536.0),
]


@pytest.mark.parametrize("record", RECORDS)
def test_a_record_comes_back_from_json(record):
    assert built(type(record), json.loads(json.dumps(asdict(record)))) == record


@pytest.mark.parametrize("record", RECORDS)
def test_a_missing_field_has_its_default_or_is_named(record):
    for field in fields(record):
        raw = {key: value for key, value in asdict(record).items() if key != field.name}
        if field.default is MISSING and field.default_factory is MISSING:
            with pytest.raises(ValueError, match=f"^'{field.name}' is missing$"):
                built(type(record), raw)
        else:
            found = built(type(record), raw)
            empty = field.default if field.default_factory is MISSING else field.default_factory()
            assert found == replace(record, **{field.name: empty})


def test_a_field_that_older_versions_did_not_write_keeps_its_default():
    raw = {key: value for key, value in asdict(LAYOUT).items() if key != "attentions"}
    assert built(Layout, raw) == LAYOUT
    assert built(Layout, {**raw, "attentions": ["model.1"]}).attentions == ("model.1",)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (Event, "step", "3"),
        (Event, "step", 1.5),
        (Event, "step", True),
        (Event, "step", None),
        (Event, "kind", 1),
        (EpochClipping, "norm_median", "x"),
        (EpochClipping, "norm_median", False),
        (EpochClipping, "owners", []),
        (EpochClipping, "owners", {"model.1": "most"}),
        (Layout, "modules", "model"),
        (Layout, "modules", ["model", 1]),
        (Layout, "parameters", [1.5]),
        (Layout, "roles", ["weights"]),
        (Layout, "blocks", [["model.0"]]),
        (Layout, "blocks", [["model.0", "Conv", "more"]]),
        (Layout, "inside", ["SiLU"]),
        (Layout, "head", None),
    ],
)
def test_a_field_of_another_type_is_named(kind, name, value):
    (record, *_) = [one for one in RECORDS if isinstance(one, kind)]
    with pytest.raises(ValueError, match=f"^'{name}' is of another type$"):
        built(kind, {**asdict(record), name: value})


@pytest.mark.parametrize("raw", [None, [], "step", 3])
def test_what_is_no_table_is_refused(raw):
    with pytest.raises(ValueError, match="is no table of names and values"):
        built(Event, raw)


def test_names_of_a_later_version_are_left_out():
    assert built(Event, {"step": 1, "kind": "start", "reason": "new"}) == Event(1, "start")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@LAWS
@given(st.sampled_from(RECORDS), st.data(), _JSON)
def test_any_json_is_a_record_or_a_sentence(record, data, value):
    name = data.draw(st.sampled_from(sorted(asdict(record))))
    raw = {**asdict(record), name: value}
    if value == getattr(record, name):
        assert built(type(record), raw) == record
        return
    with suppress(ValueError):
        assert json.dumps(asdict(built(type(record), raw))[name]) == json.dumps(value)
