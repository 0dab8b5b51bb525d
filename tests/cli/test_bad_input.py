"""Paths, thresholds and words that a command cannot use: exit code 2 and a one-line error."""

import re

import pytest
from commands import outcome
from values import window
from watched import watch

PATHS = (
    *("nowhere", "notes.txt", "nowhere.csv", "unwatched", "nowhere/gradwatch.csv"),
    *("unwatched/results.csv", "[bold]run[/]", "with spaces", "100% {x}", "größe 名"),
)
OPTIONS = (
    *(f"--vanishing={value}" for value in ("0", "-1", "nan")),
    *(f"--total-high={value}" for value in ("inf", "1e400", "1e-9")),
    *("--dead-windows=0", "--dead-windows=-1", "--amp-grace=10000000000", "--zero-fraction=1"),
    *("--total-low=1e9", "--rule=nonsense", "--rule=dead,[red]", "--fail-on=tired"),
    *("--fail-on=amp_overflow", "--module=nothing.*", "--module=[red]x[/]", f"--html={'x' * 300}"),
    *(f"--epochs={span}" for span in ("8:3", "x", "0:2", "1:2:3", "-1", "0", "1.5", "3-8", " ")),
    *(f"--epochs={span}" for span in ("4", "4:", "12:20", "9" * 30)),  # the run has 1 to 3
)
LIMITS = (
    *("wibble = 1", "[rules]\nspike = 1", "vanishing =", "spike = 1\nspike = 2", "vanishing = -1"),
    *("vanishing = nan", 'vanishing = "high"', "dead_windows = 2.5", "dead_windows = true"),
    *("zero_fraction = 1", "total_low = 1e9", "\udcff"),
)
USAGE = {
    **{f"review {{run}} --top={number}": "--top" for number in ("0", "-3", "abc", "1.5")},
    **{f"review {{run}} {x}": x.partition("=")[0] for x in ("--vanishing=x", "--dead-windows=2.5")},
    "review {run} --vanishing=": "--vanishing",
    "review {run} --wibble": "--wibble",
    "review {run} another": "another",
    "review": "RUN",
    "compare": "RUN_A RUN_B",
    "compare {run} {run} --wibble": "--wibble",
    "runs": "DIR",
    "runs {run} another": "another",
    "runs {run} --wibble": "--wibble",
}


@pytest.fixture
def run(tmp_path):
    """A run of three epochs, next to paths that are not runs."""
    folder = tmp_path / "train"
    folder.mkdir()
    watch(folder, [window(epoch, epoch=epoch) for epoch in (1, 2, 3)])
    (tmp_path / "unwatched").mkdir()
    (tmp_path / "unwatched" / "results.csv").touch()
    (tmp_path / "notes.txt").touch()
    return folder


def refused(*arguments):
    """The error message of a command that must refuse its input."""
    code, out, err = outcome(*arguments)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"Error: [^\n]+\n", err)
    return err.removeprefix("Error: ").rstrip("\n")


@pytest.mark.parametrize("name", PATHS)
def test_path_without_a_run_is_named_as_given(run, name):
    path = run.parent / name
    message = refused("review", path)
    named = (
        path.parent if "/r" in name else path.parent / "gradwatch.json" if "/g" in name else path
    )
    assert message.startswith(f"{named}: ")
    assert refused("compare", run, path) == message


def test_path_too_long_for_the_system_is_named(run):
    path = run / ("x" * 300)
    for command in (["review", path], ["compare", run, path]):
        assert refused(*command) == f"cannot read {path}: File name too long"


@pytest.mark.parametrize("option", OPTIONS)
def test_invalid_option_is_named(run, option):
    assert re.match(rf"{option.partition('=')[0]}:? ", refused("review", run, "--csv", option))


def limits(run, text):
    file = run.parent / "limits.toml"
    file.write_text(text, encoding="utf-8", errors="surrogateescape")
    return file


@pytest.mark.parametrize("text", LIMITS)
def test_invalid_thresholds_file_is_named(run, text):
    file = limits(run, text)
    assert refused("review", run, "--thresholds", file).startswith(f"{file}: ")


@pytest.mark.parametrize("name", ["nowhere.toml", "[red]nowhere[/].toml", ""])
def test_missing_thresholds_file_is_named(run, name):
    sentence = refused("review", run, "--thresholds", run.parent / name)
    assert sentence.startswith(f"{run.parent / name}: cannot read thresholds: ")


def test_pattern_without_a_matching_module_is_refused(run):
    option = "--module=nothing.*"
    assert refused("compare", run, run, option) == refused("review", run, option)


def test_messages_about_bad_input(run, golden):
    messages = [f"{name}\n    {refused('review', run.parent / name)}\n" for name in PATHS]
    messages += [f"{x[:40]}\n    {refused('review', run, '--csv', x)}\n" for x in OPTIONS]
    for text in LIMITS:
        sentence = refused("review", run, "--thresholds", limits(run, text))
        if "cannot read" in sentence:  # the rest comes from Python
            sentence = sentence[: sentence.index("thresholds:")]
        messages.append(f"{text!a}\n    {sentence}\n")
    golden("refusals", "".join(messages).replace(str(run.parent), "."))


@pytest.mark.parametrize("command", USAGE)
def test_usage_errors_are_refused(run, command):
    code, out, err = outcome(*command.format(run=run).split())
    assert (code, out) == (2, "")
    assert USAGE[command] in err
    assert "Traceback" not in err
