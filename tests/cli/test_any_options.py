"""Arbitrary options: an invalid one is refused in one line that names it, and nothing runs."""

import re
from dataclasses import fields
from decimal import Decimal
from fractions import Fraction
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import training
from commands import outcome
from hypothesis import given, settings
from hypothesis import strategies as st
from values import LAWS
from watched import DEAD, watch

from yolo_gradwatch import GradWatch, Thresholds
from yolo_gradwatch.diagnose.vocabulary import ALARMS
from yolo_gradwatch.loggers.catalog import LOGGERS

TIERS = pytest.mark.parametrize(
    "tier",
    [LAWS, pytest.param(settings(LAWS, max_examples=3000), marks=pytest.mark.full)],
    ids=["few", "many"],
)


class Odd:
    """An object whose methods raise."""

    def __repr__(self):
        raise RuntimeError("no repr")

    def __bool__(self):
        raise RuntimeError("no truth")

    def __eq__(self, other):
        raise RuntimeError("no comparison")

    __hash__ = None


ANYTHING = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(max_size=5)),
    st.lists(st.one_of(st.text(max_size=5), st.integers(), st.sampled_from(ALARMS)), max_size=3),
    st.sampled_from([10**400, -(10**400), 10**5000, 1e308, 5e-324, "\x1b[2J", "a\nb", "\ud800"]),
    st.builds(np.int64, st.integers(-5, 50)),
    st.builds(np.float32, st.floats(width=32)),
    st.builds(np.float64, st.floats()),
    st.builds(np.array, st.sampled_from([[], [1], [[1, 2], [3, 4]], [True, False]])),
    st.sampled_from(
        [Decimal("1.5"), Fraction(1, 2), 1j, np.True_, np.datetime64("NaT", "s"), print]
    ),
    st.sampled_from([int, Odd, {}, {"dead": 1}, {"dead"}, {1: 2}, ["x" * 5000], [["dead"]]]),
    st.builds(Odd),
    st.builds(lambda words: (word for word in words), st.lists(st.sampled_from(ALARMS))),
    st.builds(Thresholds),
)
OPTIONS = [
    *("interval", "thresholds", "live", "on_finding", "stop_on", "outputs", "loggers"),
    *("flow", "share_names"),
]
LIMITS = [field.name for field in fields(Thresholds)]


def built(build, given_options):
    """The object; None if it is refused with one line that names one of the arguments."""
    try:
        return build(**given_options)
    except (TypeError, ValueError) as error:
        message = str(error)
    assert message.startswith(tuple(given_options)), message
    assert len(message.splitlines()) == 1
    assert len(message) < 500
    return None


def check_watch(given_options):
    if (watch := built(GradWatch, given_options)) is not None:
        options = watch._attachment._options
        assert isinstance(options.interval, int)
        assert options.interval >= 1
        assert options.live in {None, True, False}
        assert isinstance(options.thresholds, Thresholds)
        assert set(options.stop_on) <= set(ALARMS)
        assert set(options.loggers or ()) <= set(LOGGERS)
        assert options.share_names in {True, False}


def check_limits(given_limits):
    limits = built(Thresholds, {"total_low": 1e-320, **given_limits})
    assert limits is None or all(getattr(limits, name) > 0 for name in LIMITS)


@TIERS
@pytest.mark.parametrize(("check", "names"), [(check_watch, OPTIONS), (check_limits, LIMITS)])
def test_any_option_is_accepted_or_refused_in_one_line(tier, check, names):
    options = st.dictionaries(st.sampled_from(names), ANYTHING, min_size=1, max_size=3)
    tier(given(options)(check))()


TABLE, LOGGER = np.array([[1, 2], [3, 4]]), type("Logger", (), {"write": None, "close": None})()
REFUSED = [
    *(("interval", value, ValueError) for value in (10**5000, -(10**5000), TABLE, Odd())),
    *(("live", value, TypeError) for value in (1, 0, np.True_, "yes", TABLE, Odd())),
    *(("stop_on", value, TypeError) for value in (5, None, True, Odd(), print)),
    *(
        ("stop_on", ["vanishing", word], ValueError)
        for word in (5, None, ["dead"], {"dead": 1}, "Dead", "dead ", b"dead")
    ),
    *(("loggers", value, TypeError) for value in (5, None, True, "wandb", Odd(), print)),
    *(("loggers", [name], ValueError) for name in (5, None, "auto", ["wandb"], b"wandb", "W&B")),
    *(("share_names", value, TypeError) for value in (1, None, "yes", TABLE, Odd())),
    *(("outputs", value, TypeError) for value in (LOGGER, [LOGGER], [type(LOGGER)])),
]


@pytest.mark.parametrize(("option", "value", "error"), REFUSED, ids=range(len(REFUSED)))
def test_invalid_value_is_refused_in_a_short_line(option, value, error):
    with pytest.raises(error, match=rf"^{option}\b[^\n]{{5,400}}$"):
        GradWatch(**{option: value})


def test_stop_on_accepts_any_iterable():
    words = ["dead", "nonfinite"]
    for several in (words, tuple(words), dict.fromkeys(words), (word for word in words)):
        assert GradWatch(stop_on=several)._attachment._options.stop_on == ("dead", "nonfinite")


# --- files of thresholds --------------------------------------------------------------------------

NAMES = st.one_of(st.sampled_from(LIMITS), st.text(max_size=8))
VALUES = st.one_of(
    st.integers(-5, 10**20).map(str),
    st.floats().map(lambda value: repr(value).replace("e", "e+").replace("e+-", "e-")),
    st.sampled_from(["true", "1_000", "0x1F", "inf", "nan", '"x"', "[1]", "{a = 1}", "1979-05-27"]),
    st.sampled_from(["9" * 5000, "1e999", "'''\n'''", "[" * 5000, "[" * 500 + "]" * 500, ""]),
)
LINES = st.lists(st.tuples(NAMES, VALUES).map(" = ".join), max_size=4).map("\n".join)
CONTENTS = st.one_of(
    LINES.map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.text(max_size=30).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.binary(max_size=30),
    st.sampled_from([b"a." * 5000 + b"b = 1", b"[" * 9999, b"vanishing = " + b"[" * 99_999]),
)


def check_file(content):
    with TemporaryDirectory() as folder:
        path = f"{folder}/limits.toml"
        with open(path, "wb") as file:  # noqa: PTH123  # the path is text here on purpose
            file.write(content)
        try:
            limits = Thresholds.from_toml(path)
        except ValueError as error:
            message = str(error)
            assert message.startswith(f"{path}: ")
        else:
            assert isinstance(limits, Thresholds)


@TIERS
def test_any_file_gives_thresholds_or_an_error_that_names_it(tier):
    tier(given(CONTENTS)(check_file))()


def test_file_nested_too_deeply_is_named(tmp_path):
    path = tmp_path / "limits.toml"
    path.write_text("vanishing = " + "[" * 100_000, encoding="ascii")
    with pytest.raises(ValueError, match=r"limits\.toml: cannot read thresholds: "):
        Thresholds.from_toml(path)


@pytest.mark.parametrize("path", [0, None, 1.5, b"limits.toml", []])
def test_value_that_is_not_a_path_is_refused(path):
    with pytest.raises(TypeError, match="str"):
        Thresholds.from_toml(path)


# --- the command line -----------------------------------------------------------------------------

NAMED = (
    *("--module", "--rule", "--epochs", "--top", "--fail-on", "--thresholds", "--vanishing"),
    *("--dead-windows", "--zero-fraction", "--total-low", "--csv", "--json", "--wibble", "-x"),
)
PRINTABLE = st.text(
    st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=6
)
GIVEN = st.one_of(
    PRINTABLE,
    st.integers().map(str),
    st.floats().map(repr),
    st.sampled_from(
        ["", "-", "--", "9" * 5000, "1:" + "9" * 40, ":", "1:2:3", "dead", "model", "*"]
    ),
    st.sampled_from(["\udcff", "[!", "[", "**", "x" * 10_000, "nan", "1e400", "\x1b[2J", "a\nb"]),
)
ARGUMENTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(NAMED), GIVEN).map("=".join), st.sampled_from(NAMED), GIVEN
    ),
    max_size=3,
)


def assert_refused(code, out, err):
    """One line, or Typer's own box about arguments that it cannot parse."""
    assert (code, out) == (2, "")
    assert "─ Error ─" in err or re.fullmatch(r"(re-evaluated [^\n]*\n)?Error: [^\n]+\n", err), err


def check_review(run, arguments):
    code, out, err = outcome("review", run, *arguments)
    assert "Traceback" not in out + err
    if code == 2:
        assert_refused(code, out, err)
    else:
        assert code in {0, 1}
        assert out


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    watch(folder, DEAD)
    return folder


@TIERS
def test_any_arguments_give_a_review_or_one_line(run, tier):
    tier(given(ARGUMENTS)(lambda arguments: check_review(run, arguments)))()


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--interval=0"], ["--interval=-1"], ["--interval=1e3"], [f"--interval={'9' * 5000}"]),
        *(["--interval"], ["--interval="], ["--stop-on"], ["--stop-on=\x1b[2J"], ["--fail-on=,x,"]),
        *(["--thresholds="], ["--thresholds=/dev/null/x"], ["--live=1"], ["--no-live=0"]),
        *(["--intervall=2"], ["--wibble"], ["--\u00e9=1"], ["--wibble=[red]x[/]"]),
        *(["--stop-on=dead;nonfinite"], ["--stop-on", "--fail-on"], ["--fail-on=DEAD"]),
    ],
)
def test_malformed_option_starts_no_training(arguments, monkeypatch):
    started = []
    monkeypatch.setattr(
        "yolo_gradwatch.watch.ultralytics.command.run_command",
        lambda *_: started.append(1),
    )
    training.data_folder()  # else Ultralytics prints that it wrote new settings when imported
    code, out, err = outcome("train", "model=yolo26n.yaml", *arguments)
    assert_refused(code, out, err)
    assert started == []
    assert "Traceback" not in err
    assert "\x1b[2J" not in err
