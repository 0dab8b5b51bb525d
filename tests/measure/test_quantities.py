"""Each quantity, compared with loops over the steps of its window, and its row."""

from __future__ import annotations

import math
import re
from dataclasses import fields, replace
from statistics import fmean
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import DATA, REPOSITORY
from values import FAR, LAWS, Part, around, plan, sample, windows_from

from yolo_gradwatch.measure.quantities import NAMES, QUANTITIES, Measured
from yolo_gradwatch.measure.sample import Change, Detail, Weights
from yolo_gradwatch.runs.schema import WINDOWS_FILE, header_of

FILES = REPOSITORY / "docs" / "files.md"

PARTS = [
    *(Part("model.0.conv", 12), Part("model.0.bn", 2, is_weight=False)),
    *(Part("model.0.bn", 2, is_weight=False), Part("model.1.two", 6), Part("model.1.two", 3)),
    Part("model.2", 5),
]
"""A norm layer with two parameters, and a module with two weights."""

LAYOUT, MEMBERS = plan(PARTS)
P = len(PARTS)


class Fact(NamedTuple):
    """What one step contributes for a module."""

    norm: float
    is_applied: bool
    is_missing: bool
    is_frozen: bool
    change: Change | None

    @property
    def is_valid(self):
        return math.isfinite(self.norm) and not self.is_missing


def of_first_step(part):
    """Oracle of values taken in the first step only, from its detail and the module."""
    return lambda _facts, detail, module: part(detail, module) if detail else math.nan


def of_weights(part):
    return of_first_step(lambda d, module: part(d, module) if d.weights else math.nan)


def norm_of(values):
    return math.sqrt(sum(value * value for value in values))


def zeros_share(detail, module):
    own = [p for p, part in enumerate(PARTS) if part.module == module and part.is_weight]
    elements = sum(PARTS[p].elements for p in own)
    return sum(detail.zeros[p] for p in own) / elements if own else math.nan


def folded(fold):
    """Oracle of a norm over the valid steps."""
    return lambda facts, *_: fold([f.norm for f in facts if f.is_valid] or [math.nan])


def counted(is_counted):
    return lambda facts, *_: sum(f.is_applied and is_counted(f) for f in facts)


def max_of(values):
    return math.inf if any(map(math.isnan, values)) else max(values)


def ratio_of(facts, detail, module):
    """Of the first step with a known change."""
    change = next((fact.change for fact in facts if fact.change), None)
    if not change or not detail:
        return math.nan
    moved, before = (norm_of(part[inside(module)]) for part in (change.moved, change.before))
    return moved / before if before > 0 else math.nan


ORACLES = {
    "nonfinite": counted(lambda fact: not math.isfinite(fact.norm)),
    "zero": counted(lambda fact: fact.is_valid and fact.norm == 0),
    "none": counted(lambda fact: fact.is_missing and not fact.is_frozen),
    "zero_fraction": of_first_step(zeros_share),
    "norm_min": folded(min),
    "norm_mean": folded(fmean),
    "norm_max": folded(max),
    "weight_norm": of_weights(lambda d, module: norm_of(d.weights.norms[inside(module)])),
    "weight_max": of_weights(lambda d, module: max_of(d.weights.largest[inside(module)])),
    "update_ratio": ratio_of,
}


def inside(module):
    return [p for p, part in enumerate(PARTS) if module in around(part.module)]


def fact_of(one, module):
    own = inside(module)
    is_frozen = one.frozen is not None and one.frozen[own].all()
    return Fact(
        norm_of(one.norms[own]), not one.skipped, one.missing[own].all(), is_frozen, one.change
    )


PARAMETER = st.tuples(
    st.sampled_from([0.0, 0.5, 1.0, 3.0, 7.25, 1e39, math.nan, math.inf]),
    st.sampled_from(["", "", "", "missing", "frozen"]),
)
SIZES = st.lists(st.floats(0, 1e39), min_size=P, max_size=P).map(np.array)
LARGEST = st.lists(
    st.sampled_from([0.0, 2.0, 1e39, math.inf, math.nan]), min_size=P, max_size=P
).map(np.array)
ZEROS = st.lists(st.sampled_from([0.0, 1.0, 2.0, math.nan]), min_size=P, max_size=P).map(np.array)
STEP = st.tuples(
    st.lists(PARAMETER, min_size=P, max_size=P),
    st.booleans(),
    st.one_of(
        st.none(),
        st.builds(Detail, ZEROS, st.one_of(st.none(), st.builds(Weights, SIZES, LARGEST))),
    ),
    st.one_of(st.none(), st.builds(Change, SIZES, SIZES)),
)


def step_of(number, parameters, skipped, detail, change):
    """A step in which each parameter has a norm or no gradient."""
    norms, states = zip(*parameters, strict=True)
    missing, frozen = np.array(states) != "", np.array(states) == "frozen"
    one = sample(number, norms, size=P, missing=missing, skipped=skipped, detail=detail)
    return replace(one, frozen=frozen if frozen.any() else None, change=change)


@LAWS
@given(st.lists(STEP, min_size=1, max_size=12), st.sampled_from([1, FAR]))
def test_window_agrees_with_loops_over_its_steps(steps, begin):
    samples = [step_of(number, *step) for number, step in enumerate(steps, begin)]
    for window in windows_from(samples, MEMBERS):
        own = [one for one in samples if window.step_first <= one.step <= window.step_last]
        assert window.steps == len(own)
        assert window.skipped == sum(one.skipped for one in own)
        for row in QUANTITIES:
            expected = [
                ORACLES[row.name]([fact_of(one, module) for one in own], own[0].detail, module)
                for module in LAYOUT.modules
            ]
            found = getattr(window, row.name)
            assert found.dtype == row.dtype
            with np.errstate(over="ignore"):
                expected = np.array(expected).astype(row.dtype)
            np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=row.name)


def test_each_row_has_a_typed_field_and_an_oracle():
    assert tuple(field.name for field in fields(Measured)) == NAMES
    assert set(ORACLES) == set(NAMES)
    assert len({row.name for row in QUANTITIES}) == len(QUANTITIES)


def test_files_of_each_version_have_their_columns_in_order():
    for version in (1, 2):
        header = header_of(DATA / f"version-{version}" / WINDOWS_FILE)
        rows = [row.name for row in QUANTITIES if row.since <= version]
        assert list(header[-len(rows) :]) == rows


@pytest.mark.parametrize("row", QUANTITIES, ids=lambda row: row.name)
def test_row_is_complete(row):
    assert row.format % 1.0 == "1"
    assert row.unknown(2).dtype == row.dtype


def test_files_page_lists_the_columns(request):
    """``pytest --rewrite-golden`` writes them into the table on the page."""
    rows = "".join(f"| `{row.name}` | {row.meaning} |\n" for row in QUANTITIES)
    text = FILES.read_text(encoding="utf-8")
    before, found, after = re.fullmatch(
        r"(.*\n\| `clipped` [^\n]*\n)((?:\|[^\n]*\n)+)(.*)", text, re.DOTALL
    ).groups()
    if request.config.getoption("--rewrite-golden"):
        FILES.write_text(f"{before}{rows}{after}", encoding="utf-8", newline="\n")
        found = rows
    assert found == rows
