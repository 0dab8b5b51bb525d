from __future__ import annotations

import math
import re
from dataclasses import FrozenInstanceError, asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from values import LAWS

from yolo_gradwatch.diagnose.thresholds import Thresholds

DEFAULTS = asdict(Thresholds())
NAMES = list(DEFAULTS)
COUNTS = [name for name, value in DEFAULTS.items() if isinstance(value, int)]
LEVELS = [name for name in NAMES if name not in COUNTS]


@pytest.fixture
def file(tmp_path):
    """Write a TOML file and return its path."""

    def write(content):
        path = tmp_path / "limits.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


LOWEST = ("total_low", "small_weights", "slow_branch")
LAXER = {name: DEFAULTS[name] * (0.5 if name in LOWEST else 1.5) for name in LEVELS}
LAXER |= {name: DEFAULTS[name] + 1 for name in COUNTS}


@pytest.mark.parametrize("name", NAMES)
def test_looser_limit_counts_as_laxer(name):
    assert Thresholds().laxer() == {}
    assert Thresholds(**{name: LAXER[name]}).laxer() == {name: (LAXER[name], DEFAULTS[name])}
    stricter = DEFAULTS[name] * 2 if name in LOWEST else DEFAULTS[name] / 2
    own = int(stricter) if name in COUNTS else stricter
    assert Thresholds(**{name: own}).laxer() == {}


@pytest.mark.parametrize(
    ("given_limits", "message"),
    [
        ({"zero_fraction": 0.999}, None),
        ({"zero_fraction": 1}, "zero_fraction must be below 1, got 1"),
        ({"total_low": 0.9, "total_high": 1.0}, None),
        ({"total_low": 1.0, "total_high": 1.0}, "total_low must be below total_high, got 1 and 1"),
        ({"total_high": 1e-4}, "total_low must be below total_high, got 0.001 and 0.0001"),
        ({"total_low": 1e8}, "total_low must be below total_high, got 1e+08 and 1e+07"),
        ({"amp_grace": 10**9 + 1}, "amp_grace must be at most 1,000,000,000, got 1000000001"),
        ({"amp_grace": 10**9, "dead_windows": 1, "leaf": 1e-300, "spike": 2}, None),
    ],
)
def test_limits_must_be_consistent(given_limits, message):
    if message is None:
        assert {n: getattr(Thresholds(**given_limits), n) for n in given_limits} == given_limits
        return
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        Thresholds(**given_limits)


ANYTHING = st.one_of(
    *(st.integers(-5, 10**6), st.floats(), st.booleans(), st.none(), st.text()),
    st.sampled_from([[1], 2j, 10**400, -0.0, math.nan, math.inf]),
)


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def fits(name, value):
    if name in COUNTS:
        return isinstance(value, int) and is_number(value) and 0 < value <= 10**9
    most = 1 if name == "zero_fraction" else 1.7e308
    return is_number(value) and 0 < value <= most


@LAWS
@given(st.dictionaries(st.sampled_from(NAMES), ANYTHING, max_size=4))
def test_limits_are_accepted_as_given_or_refused_by_name(given_limits):
    expected = {**DEFAULTS, **given_limits}
    wrong = [name for name, value in given_limits.items() if not fits(name, value)]
    if not wrong and expected["total_low"] < expected["total_high"]:
        limits = Thresholds(**given_limits)
        assert {name: getattr(limits, name) for name in NAMES} == expected
        return
    with pytest.raises(ValueError, match=rf"^({'|'.join(wrong or ['total_low'])}) must be "):
        Thresholds(**given_limits)


def test_limits_are_named_and_frozen():
    with pytest.raises(TypeError, match="positional argument"):
        Thresholds(3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'patience'"):
        Thresholds(patience=3)
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'amp_grace'"):
        Thresholds().amp_grace = 3


# Files.


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_file_sets_limits_and_leaves_the_others(file, kind):
    path = file("# mine\ndead_windows = 7\nleaf = 1.25\n")
    assert Thresholds.from_toml(kind(path)) == Thresholds(dead_windows=7, leaf=1.25)


def test_file_can_set_every_limit(file):
    values = {name: n if name in COUNTS else n / 32 for n, name in enumerate(NAMES, 7)}
    values["total_low"] = 0.25
    content = "".join(f"{name} = {value}\n" for name, value in values.items())
    limits = Thresholds.from_toml(file(content))
    assert {name: getattr(limits, name) for name in NAMES} == values


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("amp_grace = 0", r"amp_grace must be an integer of at least 1, got 0$"),
        ("amp_grace = true", r"amp_grace must be an integer of at least 1, got True$"),
        ("dead_windows = 2.5", r"dead_windows must be an integer of at least 1, got 2\.5$"),
        ("dead_windows = 'few'", r"dead_windows must be an integer of at least 1, got 'few'$"),
        ("vanishing = 0", r"vanishing must be a positive number, got 0$"),
        ("vanishing = nan", r"vanishing must be a positive number, got nan$"),
        ("vanishing = inf", r"vanishing must be a positive number, got inf$"),
        ("zero_fraction = 1.5", r"zero_fraction must be below 1, got 1\.5$"),
        (
            "total_low = 1e7",
            r"total_low must be below total_high, got 1e\+07 and 1e\+07$",
        ),
        ("dead_window = 3", rf"unknown threshold 'dead_window'; known: {', '.join(NAMES)}$"),
        ("vanish = 2.0\nabc = 1", rf"unknown threshold 'abc'; known: {', '.join(NAMES)}$"),
        ("[limits]\namp_grace = 3", rf"unknown threshold 'limits'; known: {', '.join(NAMES)}$"),
        ("amp_grace = \n", r"cannot read thresholds: .*line 1"),
        ("amp_grace: 3\n", r"cannot read thresholds: .*line 1"),
        ("amp_grace = 3 # Schwelle für AMP".encode("latin-1"), r"cannot read thresholds: "),
        ("amp_grace = 3".encode("utf-16"), r"cannot read thresholds: "),
        (b"\x00", r"cannot read thresholds: "),
    ],
)
def test_bad_file_is_reported_with_the_error_in_it(file, content, said):
    with pytest.raises(ValueError, match=rf"limits\.toml: {said}"):
        Thresholds.from_toml(file(content))


@pytest.mark.parametrize("name", [".", "limits.toml"], ids=["a folder", "no file"])
def test_path_without_a_file_is_reported(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: cannot read thresholds: "):
        Thresholds.from_toml(path)
