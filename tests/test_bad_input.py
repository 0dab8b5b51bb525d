"""Files that a command cannot use: exit code 2, and one sentence with file, place and remedy."""

import errno
import json
import os
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from test_commands import content, printed
from test_review import DEAD, EPOCH, watch
from values import meta_of, window

from yolo_gradwatch.cli_main import main
from yolo_gradwatch.runlog import FORMAT_VERSION

WINDOWS, ALERTS, META = "gradwatch.csv", "gradwatch_alerts.csv", "gradwatch.json"
RESULTS = b"epoch,time,train/box_loss,metrics/mAP50(B),lr/pg0\n1,2.5,1.4,0.1,0.01\n"
BINARY = bytes(range(256)) * 8


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


def spoil(path, change):
    path.write_bytes(change(path.read_bytes()))


def line(number, old, new):
    """Change the first of a text in a line."""

    def change(content):
        lines = content.split(b"\n")
        assert old in lines[number - 1]
        lines[number - 1] = lines[number - 1].replace(old, new, 1)
        return b"\n".join(lines)

    return change


def instead(content):
    return lambda _old: content


SPOILED = [
    (WINDOWS, instead(b""), "empty; restore the file from a copy"),
    (WINDOWS, instead(b"time,loss\n1,2\n"), "line 1 is not the header .* a file of another tool"),
    (WINDOWS, instead(RESULTS), "a file of another tool"),
    (WINDOWS, instead(BINARY), "line 1 is not the header"),
    (WINDOWS, line(1, b"norm_mean", b"mean"), "line 1: column 'norm_mean' is missing; restore"),
    (WINDOWS, line(1, b"norm_min", b"norm_mean"), "line 1 is not .*; restore"),
    (WINDOWS, line(1, b"zero,", b""), "line 2 has 19 cells instead of 18; restore"),
    (WINDOWS, line(5, b",1,0,", b",x,0,"), "line 5: 'x' is no steps; restore"),
    (WINDOWS, line(5, b",1,0,", b",-1,0,"), "line 5: '-1' is no steps; restore"),
    (WINDOWS, line(5, b",1,0,", b",0,0,"), "line 5: '0' is no steps; restore"),
    (WINDOWS, line(5, b"1,", b"0,"), "line 5: '0' is no epoch; restore"),
    (WINDOWS, line(5, b"1,", b"inf,"), "line 5: 'inf' is no epoch; restore"),
    (WINDOWS, line(6, b",", b""), "line 6 has 18 cells instead of 19; restore"),
    (WINDOWS, lambda old: old + old, "line 112 is a second header: two runs .*; keep the lines"),
    (WINDOWS, lambda old: old + old.split(b"\n", 1)[1], "line 112: the steps begin .*; .* keep"),
    (ALERTS, instead(b""), "empty; restore the file from a copy"),
    (ALERTS, instead(b"time,loss\n1,2\n"), "line 1 is not the header .* a file of another tool"),
    (ALERTS, instead(BINARY), "line 1 is not the header"),
    (ALERTS, line(1, b"event", b"change"), "line 1: column 'event' is missing; restore"),
    (ALERTS, line(2, b"1,start,3", b"1,start,x"), "line 2: 'x' is no step; restore"),
    (ALERTS, lambda old: old + old, "line 4 is a second header: two runs .*; keep the lines"),
    (META, instead(b""), r"not JSON \(.*line 1.*\); restore"),
    (META, instead(b"epochs: 3\n"), r"not JSON \(.*line 1.*\); restore"),
    (META, instead(BINARY), r"not JSON \(.*\); restore"),
    (META, instead(b"[1, 2]"), "not a table of names and values; restore"),
    (META, instead(b'"gradwatch"'), "not a table of names and values; restore"),
    (META, instead(b"{}"), r"no format version \(None\); restore"),
    (META, lambda old: old[: len(old) // 2], r"not JSON \(.*line \d+.*\); restore"),
    (META, lambda old: old + old, r"not JSON \(.*line \d+.*\); restore"),
    (META, instead(b"[" * 100_000), "not JSON.*; restore"),
]


@pytest.mark.parametrize(("name", "change", "said"), SPOILED)
def test_a_file_that_cannot_be_used_is_told_with_line_and_remedy(run, refused, name, change, said):
    spoil(run / name, change)
    sentence = refused("review", run)
    assert sentence.startswith(f"{run / name}: ")
    assert re.search(said, sentence)


@pytest.mark.parametrize("options", [["--csv"], ["--json"], ["--module", "*"], ["--fail-on=dead"]])
def test_a_file_that_cannot_be_used_leaves_no_half_of_an_output(run, refused, options):
    spoil(run / WINDOWS, line(5, b",1,0,", b",x,0,"))
    assert "line 5: 'x' is no steps" in refused("review", run, *options)


def test_a_comparison_names_the_run_that_cannot_be_used(run, tmp_path, refused):
    other = tmp_path / "other"
    other.mkdir()
    watch(other, DEAD)
    spoil(other / WINDOWS, instead(RESULTS))
    for folders in ((run, other), (other, run)):
        assert refused("compare", *folders, "--csv").startswith(f"{other / WINDOWS}: line 1 ")


@pytest.mark.parametrize("name", [ALERTS, META, WINDOWS])
@pytest.mark.parametrize("given", [True, False])
def test_a_missing_file_is_named_with_what_to_do(run, refused, name, given):
    (run / name).unlink()
    sentence = refused("review", run / WINDOWS if given else run)
    is_found = given or name != WINDOWS
    assert sentence.startswith(f"{run / name}: No such file" if is_found else f"{run}: no watched")
    assert re.search("copy it from|was this training watched|name the folder of a", sentence)


@pytest.mark.parametrize("name", [ALERTS, META, WINDOWS])
def test_a_directory_in_the_place_of_a_file_is_named(run, refused, name):
    (run / name).unlink()
    (run / name).mkdir()
    assert refused("review", run).startswith(f"{run / name}: Is a directory; ")


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


@pytest.mark.parametrize("name", [ALERTS, META, WINDOWS])
def test_a_file_that_cannot_be_read_is_named(run, refused, monkeypatch, name):
    for read in ("read_bytes", "read_text"):
        monkeypatch.setattr(Path, read, failing(getattr(Path, read), run / name))
    assert refused("review", run).startswith(f"{run / name}: Input/output error")


def failing(read, path):
    """A method of paths that a broken disk lets fail for one of them."""

    def instead(one, **options):
        if one == path:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(one, **options)

    return instead


def test_a_run_of_a_later_version_is_told_with_the_update(run, refused):
    newer = {**meta_of(), "format_version": FORMAT_VERSION + 1}
    (run / META).write_text(json.dumps(newer), encoding="utf-8")
    sentence = refused("review", run)
    assert "written by a newer yolo_gradwatch" in sentence
    assert "pip install -U yolo-gradwatch" in sentence


def test_a_missing_layout_in_the_json_is_named(run, refused):
    meta = meta_of()
    del meta["layout"]
    (run / META).write_text(json.dumps(meta), encoding="utf-8")
    assert refused("review", run) == f"{run / META}: 'layout' is missing; restore it from a copy"


LAYOUT = meta_of()["layout"]


@pytest.mark.parametrize(
    "changes",
    [
        {"layout": []},
        {"layout": {**LAYOUT, "modules": ["model"]}},
        {"layout": {**LAYOUT, "modules": ["\x1b[31m", *LAYOUT["modules"][1:]]}},
        {"layout": {**LAYOUT, "modules": [*LAYOUT["modules"][:-1], "model.2.x.b"]}},
        {"layout": {**LAYOUT, "block_of": [*LAYOUT["block_of"][:-1], "model.2.bn"]}},
        {"layout": {**LAYOUT, "block_of": [*LAYOUT["block_of"][:-1], "model.0"]}},
        {"options": []},
        {"options": {"training": []}},
        {"options": {"training": {"clip": "ten"}}},
        {"options": {"training": {"epochs": "many"}}},
        {"events": [{"step": 1}]},
        {"events": ["start"]},
        {"epochs": [{"steps": 1}]},
        {"thresholds": {"vanishing": -1}},
        {"thresholds": []},
    ],
)
def test_a_mangled_part_of_the_json_is_told(run, refused, changes):
    (run / META).write_text(json.dumps({**meta_of(), **changes}), encoding="utf-8")
    sentence = refused("review", run)
    assert sentence.startswith(f"{run / META}: a part is missing or mangled (")
    assert sentence.endswith("); restore it from a copy")


@pytest.mark.parametrize(
    "changes",
    [
        {"versions": ["0.1.0"]},
        {"status": ["finished"]},
        {"status": "\x1b[2Jgone"},
        {"events": [{"step": "first", "kind": "start"}]},
        {"layout": {**LAYOUT, "head": None}},
        {"layout": {**LAYOUT, "blocks": []}},
        {"layout": {**LAYOUT, "inside": []}},
        {"layout": {**LAYOUT, "edges": [["model.0"]]}},
        {"layout": {**LAYOUT, "modules": ["model", *LAYOUT["modules"][:-1]]}},
        {"epochs": [{**asdict(EPOCH), "steps": "three"}]},
        {"epochs": [{**asdict(EPOCH), "norm_median": "x"}]},
        {"epochs": [{**asdict(EPOCH), "owners": []}]},
        {"epochs": [{**asdict(EPOCH), "scale": "x"}]},
    ],
)
def test_a_part_of_the_json_of_another_type_is_told(run, refused, changes):
    (run / META).write_text(json.dumps({**meta_of(), **changes}), encoding="utf-8")
    assert refused("review", run).startswith(f"{run / META}: ")


def test_a_torn_window_is_left_out_with_a_remark(run):
    spoil(run / WINDOWS, lambda content: content[:-3])
    out = printed("review", run)
    assert "gradwatch.csv has a torn end: from line 102 on, 10 lines are left out" in out
    told = content("review", run)
    assert told["steps"] == 10
    assert len(told["remarks"]) == 1


def test_a_torn_line_of_the_alerts_is_left_out_with_a_remark(run):
    spoil(run / ALERTS, lambda content: content[:-3])
    (remark,) = content("review", run)["remarks"]
    assert remark.startswith("gradwatch_alerts.csv has a torn end: from line 3 on, 1 line is left")
    assert [finding["rule"] for finding in content("review", run)["findings"]] == ["dead"]


@pytest.mark.parametrize("arguments", [["review", "--csv"], ["review", "--top=3"], ["compare"]])
def test_a_torn_end_is_told_whatever_is_shown(run, capsys, arguments):
    spoil(run / WINDOWS, lambda content: content[:-3])
    command, *options = arguments
    assert main([command, *[str(run)] * (1 + (command == "compare")), *options]) == 0
    out, err = capsys.readouterr()
    assert "has a torn end" in out + err


def test_rows_that_are_missing_are_told_whatever_the_end_looks_like(run):
    known = asdict(replace(EPOCH, steps=11))
    meta = json.loads((run / META).read_text(encoding="utf-8"))
    (run / META).write_text(json.dumps({**meta, "epochs": [known]}), encoding="utf-8")
    assert content("review", run)["remarks"] == []
    spoil(run / WINDOWS, lambda content: b"".join(content.splitlines(keepends=True)[:-10]))
    (remark,) = content("review", run)["remarks"]
    assert "gradwatch.csv has 10 of the 11 steps" in remark
    assert remark in printed("review", run)


def test_a_file_that_a_spreadsheet_has_saved_reads_the_same(run):
    before = content("review", run)
    spoil(run / WINDOWS, lambda content: b"\xef\xbb\xbf" + content)
    assert content("review", run) == before


def test_a_file_of_another_system_reads_the_same(run):
    before = content("review", run)
    spoil(run / WINDOWS, lambda content: content.replace(b"\n", b"\r\n"))
    spoil(run / ALERTS, lambda content: content.replace(b"\n", b"\r\n"))
    assert content("review", run) == before


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


def test_following_what_cannot_be_used_ends_with_the_sentence(run, capsys):
    spoil(run / META, instead(b"[1]"))
    assert main(["review", str(run), "--follow"]) == 2
    assert "gradwatch.json: not a table of names and values" in capsys.readouterr().err


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
