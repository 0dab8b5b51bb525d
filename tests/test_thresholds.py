from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st
from values import LAWS

from yolo_gradwatch.thresholds import Thresholds, check_count, check_positive

DEFAULTS = {
    "amp_grace": 12,
    "dead_windows": 3,
    "dead_branch_windows": 50,
    "zero_fraction": 0.5,
    "vanishing": 2.0,
    "exploding": 2.5,
    "leaf": 2.0,
    "spike": 1.5,
    "collapse": 3.0,
    "total_high": 1e7,
    "total_low": 1e-3,
    "weight_growth": 0.3,
}
NAMES = list(DEFAULTS)
COUNTS = ["amp_grace", "dead_windows", "dead_branch_windows"]
LEVELS = [name for name in NAMES if name not in COUNTS]


@pytest.fixture
def file(tmp_path):
    """Write a TOML file and return its path."""

    def write(content):
        path = tmp_path / "limits.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


LAXER = {name: DEFAULTS[name] * (0.5 if name == "total_low" else 1.5) for name in LEVELS}
LAXER |= {name: DEFAULTS[name] + 1 for name in COUNTS}


@pytest.mark.parametrize("name", NAMES)
def test_a_limit_that_lets_more_pass_than_its_default_is_laxer(name):
    assert Thresholds().laxer() == {}
    assert Thresholds(**{name: LAXER[name]}).laxer() == {name: (LAXER[name], DEFAULTS[name])}
    stricter = DEFAULTS[name] * 2 if name == "total_low" else DEFAULTS[name] / 2
    own = int(stricter) if name in COUNTS else stricter
    assert Thresholds(**{name: own}).laxer() == {}


def test_the_limits_and_their_defaults():
    found = {field.name: getattr(Thresholds(), field.name) for field in fields(Thresholds)}
    assert found == DEFAULTS
    assert list(found) == NAMES
    assert {name: type(value) for name, value in found.items()} == {
        name: int if name in COUNTS else float for name in NAMES
    }


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [-1, 0])
def test_a_count_below_one_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be an integer of at least 1, got {value}$"):
        Thresholds(**{name: value})


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [1, 2, 10**9])
def test_a_count_from_one_on_is_taken(name, value):
    assert getattr(Thresholds(**{name: value}), name) == value


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [True, False, 3.0, "3", None, float("nan"), [3]])
def test_a_count_that_is_no_integer_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be an integer of at least 1, got "):
        Thresholds(**{name: value})


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("value", [0, 0.0, -0.0, -1, -1e-9, math.nan, math.inf, -math.inf])
def test_a_level_that_is_not_positive_and_finite_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be a positive number, got {value}$"):
        Thresholds(**{name: value})


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("value", [True, False, "2.0", None, [2.0], 2j])
def test_a_level_that_is_no_number_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a positive number, got "):
        Thresholds(**{name: value})


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("value", [1e-300, 0.25, 0.999])
def test_a_positive_level_is_taken(name, value):
    limits = Thresholds(**{"total_low": 1e-320, name: value})
    assert getattr(limits, name) == value


@pytest.mark.parametrize("name", [name for name in LEVELS if name != "zero_fraction"])
def test_a_level_may_be_an_integer(name):
    assert getattr(Thresholds(**{name: 2}), name) == 2


@pytest.mark.parametrize(("value", "fits"), [(0.999, True), (1, False), (1.0, False)])
def test_a_share_is_below_one(value, fits):
    if fits:
        assert Thresholds(zero_fraction=value).zero_fraction == value
        return
    with pytest.raises(ValueError, match=rf"^zero_fraction must be below 1, got {value}$"):
        Thresholds(zero_fraction=value)


@pytest.mark.parametrize(
    ("low", "high", "fits"), [(0.9, 1.0, True), (1.0, 1.0, False), (1.1, 1.0, False)]
)
def test_the_low_total_lies_below_the_high_one(low, high, fits):
    if fits:
        assert Thresholds(total_low=low, total_high=high).total_low == low
        return
    with pytest.raises(
        ValueError, match=f"^total_low must be below total_high, got {low} and {high}$"
    ):
        Thresholds(total_low=low, total_high=high)


def test_one_total_is_held_against_the_default_of_the_other():
    with pytest.raises(
        ValueError, match=r"^total_low must be below total_high, got 0\.001 and 0\.0001$"
    ):
        Thresholds(total_high=1e-4)
    with pytest.raises(
        ValueError, match=r"^total_low must be below total_high, got 100000000\.0 and 10000000\.0$"
    ):
        Thresholds(total_low=1e8)


ANYTHING = st.one_of(
    st.integers(-5, 10**6), st.floats(), st.booleans(), st.none(), st.text(), st.just([1])
)


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def fits(name, value):
    if name in COUNTS:
        return isinstance(value, int) and is_number(value) and value > 0
    most = 1 if name == "zero_fraction" else 1.7e308
    return is_number(value) and 0 < value <= most


@LAWS
@given(st.dictionaries(st.sampled_from(NAMES), ANYTHING, max_size=4))
def test_limits_are_either_what_was_given_or_refused_by_name(given_limits):
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


def test_check_count_names_its_argument():
    check_count("interval", 1)
    with pytest.raises(ValueError, match=r"^interval must be an integer of at least 1, got 0$"):
        check_count("interval", 0)


def test_check_positive_names_its_argument():
    check_positive("interval", 1e-9)
    with pytest.raises(ValueError, match=r"^interval must be a positive number, got 0$"):
        check_positive("interval", 0)


def test_a_level_beyond_every_float_is_refused():
    with pytest.raises(ValueError, match=r"^vanishing must be a positive number, got 1000"):
        Thresholds(vanishing=10**400)


# Files.


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_a_file_sets_limits_and_leaves_the_others(file, kind):
    path = file("# mine\ndead_windows = 7\nleaf = 1.25\n")
    assert Thresholds.from_toml(kind(path)) == Thresholds(dead_windows=7, leaf=1.25)


def test_an_empty_file_leaves_the_defaults(file):
    assert Thresholds.from_toml(file("")) == Thresholds()


@pytest.mark.parametrize("text", ["2", "2.0", "2e0", "+2.0"])
def test_a_level_in_a_file_may_be_an_integer(file, text):
    assert Thresholds.from_toml(file(f"vanishing = {text}")) == Thresholds(vanishing=2.0)


def test_a_file_can_set_every_limit(file):
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
        ("dead_windows = 2.0", r"dead_windows must be an integer of at least 1, got 2\.0$"),
        ("dead_windows = 'few'", r"dead_windows must be an integer of at least 1, got 'few'$"),
        ("amp_grace = {a = 1}", r"amp_grace must be an integer of at least 1, got "),
        ("vanishing = -2.0", r"vanishing must be a positive number, got -2\.0$"),
        ("vanishing = 0", r"vanishing must be a positive number, got 0$"),
        ("vanishing = nan", r"vanishing must be a positive number, got nan$"),
        ("vanishing = inf", r"vanishing must be a positive number, got inf$"),
        ("vanishing = true", r"vanishing must be a positive number, got True$"),
        ("vanishing = '2.0'", r"vanishing must be a positive number, got '2\.0'$"),
        ("zero_fraction = 1.5", r"zero_fraction must be below 1, got 1\.5$"),
        ("zero_fraction = 50", r"zero_fraction must be below 1, got 50$"),
        (
            "total_low = 1e7",
            r"total_low must be below total_high, got 10000000\.0 and 10000000\.0$",
        ),
        ("dead_window = 3", rf"unknown threshold 'dead_window'; known: {', '.join(NAMES)}$"),
        ("vanish = 2.0\nabc = 1", rf"unknown threshold 'abc'; known: {', '.join(NAMES)}$"),
        ("[limits]\namp_grace = 3", rf"unknown threshold 'limits'; known: {', '.join(NAMES)}$"),
        ("amp_grace = \n", r"cannot read thresholds: .*line 1"),
        ("amp_grace = 3\namp_grace = 4\n", r"cannot read thresholds: .*line 2"),
        ("amp_grace: 3\n", r"cannot read thresholds: .*line 1"),
        ("amp_grace = 3 # Schwelle für AMP".encode("latin-1"), r"cannot read thresholds: "),
        ("amp_grace = 3".encode("utf-16"), r"cannot read thresholds: "),
        (b"\x00", r"cannot read thresholds: "),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong_in_it(file, content, said):
    with pytest.raises(ValueError, match=rf"limits\.toml: {said}"):
        Thresholds.from_toml(file(content))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"limits\.toml: cannot read thresholds: .*No such file"):
        Thresholds.from_toml(tmp_path / "limits.toml")


def test_a_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=rf"{tmp_path.name}: cannot read thresholds: "):
        Thresholds.from_toml(tmp_path)
