"""Paths, limits and words that a command cannot use: exit code 2, and one sentence."""

import re

import pytest
from test_review import DEAD, watch
from values import window

from yolo_gradwatch.cli import main

RESULTS = b"epoch,time,train/box_loss,metrics/mAP50(B),lr/pg0\n1,2.5,1.4,0.1,0.01\n"


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "train"
    folder.mkdir()
    watch(folder, [*DEAD, *map(window, range(4, 12))])
    return folder


@pytest.fixture
def refused(capsys):
    """Run a command that must refuse its input; its sentence."""

    def check(*arguments):
        assert main([*map(str, arguments)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert re.fullmatch(r"Error: [^\n]+\n", err)
        return err.removeprefix("Error: ").rstrip()

    return check


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "nowhere",
            "{path}: no such file or folder; name the folder of a training that was watched",
        ),
        ("notes.txt", "{path}: is a file; name its folder, or gradwatch.csv"),
        ("nowhere.csv", "{path}: no such file or folder; name the folder of a training"),
        ("unwatched", "{path}: no watched run in it; name the folder of a training"),
        ("nowhere/gradwatch.csv", "{path.parent}/gradwatch.json: No such file or directory; was"),
        ("unwatched/results.csv", "{path.parent}/gradwatch.json: No such file or directory; was"),
    ],
)
def test_a_path_without_a_run_is_told(run, refused, name, said):
    unwatched = run.parent / "unwatched"
    unwatched.mkdir()
    (unwatched / "results.csv").write_bytes(RESULTS)
    (run.parent / "notes.txt").write_text("lr0 was too high", encoding="utf-8")
    path = run.parent / name
    assert refused("review", path).startswith(said.format(path=path))
    assert refused("compare", run, path).startswith(said.format(path=path))


def test_a_path_that_the_system_does_not_take_is_told(run, refused):
    path = run / ("x" * 300)
    for command in (["review", path], ["compare", run, path]):
        assert refused(*command) == f"cannot read {path}: File name too long"
    said = refused("review", run, "--csv", "--html", path)
    assert said == f"--html: {path}: File name too long"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("wibble = 1", "unknown threshold 'wibble'; known: amp_grace, dead_windows"),
        ("[rules]\nspike = 1", "unknown threshold 'rules'; known: "),
        ("vanishing =", "cannot read thresholds: "),
        ("spike = 1\nspike = 2", "cannot read thresholds: "),
        ("vanishing = -1", "vanishing must be a positive number, got -1"),
        ("vanishing = nan", "vanishing must be a positive number, got nan"),
        ('vanishing = "high"', "vanishing must be a positive number, got 'high'"),
        ("dead_windows = 2.5", "dead_windows must be an integer of at least 1, got 2.5"),
        ("dead_windows = true", "dead_windows must be an integer of at least 1, got True"),
        ("zero_fraction = 1", "zero_fraction must be below 1, got 1"),
        ("total_low = 1e9", "total_low must be below total_high, got 1000000000.0 and 1"),
        ("\udcff", "cannot read thresholds: "),
    ],
)
def test_a_file_of_limits_that_cannot_be_used_is_told(run, tmp_path, refused, text, said):
    file = tmp_path / "limits.toml"
    file.write_text(text, encoding="utf-8", errors="surrogateescape")
    assert refused("review", run, "--thresholds", file).startswith(f"{file}: {said}")


@pytest.mark.parametrize("name", ["nowhere.toml", "[red]nowhere[/].toml", ""])
def test_a_file_of_limits_that_is_not_there_is_told(run, tmp_path, refused, name):
    sentence = refused("review", run, "--thresholds", tmp_path / name)
    assert sentence.startswith(f"{tmp_path / name}: cannot read thresholds: ")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        *((f"--vanishing={value}", "must be a positive number") for value in ("0", "-1", "nan")),
        *((f"--total-high={value}", "must be a positive number") for value in ("inf", "1e400")),
        *((f"--dead-windows={value}", "must be an integer of at least 1") for value in (0, -1)),
        ("--amp-grace=10000000000", "must be at most 1000000000"),
        ("--zero-fraction=1", "must be below 1"),
        ("--total-low=1e9", "must be below total_high"),
    ],
)
def test_an_impossible_limit_names_its_option(run, refused, option, said):
    assert refused("review", run, option).startswith(f"{option.partition('=')[0]} {said}")


def test_two_limits_that_do_not_fit_name_the_option_that_was_given(run, refused):
    said = refused("review", run, "--total-high=1e-9")
    assert said == "--total-high: total_low must be below total_high, got 0.001 and 1e-09"


@pytest.mark.parametrize("option", ["--vanishing=x", "--vanishing=", "--dead-windows=2.5"])
def test_a_limit_of_another_type_names_its_option(run, capsys, option):
    assert main(["review", str(run), option]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert option.partition("=")[0] in err


@pytest.mark.parametrize("span", ["8:3", "x", "0:2", "1:2:3", "-1", "0", "1.5", "3-8", "a:b", " "])
def test_what_is_no_span_of_epochs_is_told(run, refused, span):
    sentence = refused("review", run, "--epochs", span)
    assert sentence == f"--epochs: {span!r} is no range of epochs such as 3:8, 3:, :8 or 5"


@pytest.mark.parametrize("span", ["4", "4:", "12:20", "9" * 30])
def test_epochs_outside_of_the_run_are_told_with_those_it_has(run, refused, span):
    watch(run, [window(epoch, epoch=epoch) for epoch in (1, 2, 3)])
    sentence = refused("review", run, "--epochs", span)
    assert sentence == "--epochs: no optimizer step in these epochs; the run has 1 to 3"


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--rule=nonsense", "--rule: 'nonsense' is not one of amp_overflow, collapse"),
        ("--rule=dead,[red]", "--rule: '[red]' is not one of"),
        ("--fail-on=tired", "--fail-on: 'tired' is not one of collapse"),
        ("--fail-on=amp_overflow", "--fail-on: 'amp_overflow' is not one of collapse"),
        ("--module=nothing.*", "--module: no module matches 'nothing.*'; names are as in model.4"),
        ("--module=[red]x[/]", "--module: no module matches '[red]x[/]'; names are as in model.4"),
    ],
)
def test_a_word_that_names_nothing_is_told(run, refused, option, said):
    assert refused("review", run, option).startswith(said)


def test_a_pattern_that_matches_no_module_of_any_run_is_told(run, refused):
    sentence = refused("compare", run, run, "--module", "nothing.*")
    assert sentence.startswith("--module: no module matches 'nothing.*'; names are as in model.4")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        *((f"review {{run}} --top={number}", "--top") for number in ("0", "-3", "abc", "1.5")),
        ("review {run} --wibble", "--wibble"),
        ("review {run} another", "another"),
        ("review", "RUN"),
        ("compare {run} {run} --wibble", "--wibble"),
        ("compare", "RUN_A RUN_B"),
    ],
)
def test_arguments_of_another_kind_are_told(run, capsys, arguments, said):
    assert main(arguments.format(run=run).split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize("name", ["[bold]run[/]", "with spaces", "100% {x}", "größe 名"])
def test_a_folder_that_is_not_there_is_named_as_it_was_given(tmp_path, refused, name):
    assert refused("review", tmp_path / name).startswith(
        f"{tmp_path / name}: no such file or folder; "
    )
