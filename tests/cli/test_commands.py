"""The commands that read run files, as a user runs them."""

import io
import json
import os
import re
import shlex
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import asdict, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from commands import SCRIPT, content, outcome, printed, process
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import NET, curve, inside, lasting, skips, upstream, weighing, zeroed
from rich.cells import cell_len
from terminals import Terminal
from values import LAWS, LAYOUT, Part, plan, window, write_run
from watched import CONV, DEAD, EPOCH, START, watch, write

from yolo_gradwatch.cli.main import main
from yolo_gradwatch.diagnose.diagnosis import Diagnosis, replay
from yolo_gradwatch.diagnose.record import finding_record
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.measure.event import Event
from yolo_gradwatch.runs.run import Run, load_run
from yolo_gradwatch.views.summary import summary

pytestmark = pytest.mark.slow  # whole trainings of a fake trainer, or many runs

LIMITS = [field.name for field in fields(Thresholds)]
STYLE = re.compile(r"\x1b\[[\d;]*m")
COLOUR = re.compile(r"\x1b\[(?:\d+;)*[349]\d")
ODD = ["model.0.[red]x[/]", "model.0.100%", "model.1.a, b", 'model.1.q"q', "model.2.größe 名"]

RECOVERED = [*DEAD, window(4), window(5)]  # enough steps for a verdict


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The run that most tests read: dead from its first step."""
    folder = tmp_path_factory.mktemp("runs") / "detect" / "train"
    folder.mkdir(parents=True)
    watch(folder, DEAD)
    return folder


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    """Ten epochs, of 1, 2, ..., 10 steps, dead in the first two."""
    firsts, folder = [1, *np.cumsum(range(1, 11)) + 1], tmp_path_factory.mktemp("long")
    windows = [
        window(int(firsts[epoch - 1]), steps=epoch, epoch=epoch, zero=[CONV] if epoch < 3 else ())
        for epoch in range(1, 11)
    ]
    epochs = [asdict(replace(EPOCH, epoch=epoch)) for epoch in range(1, 11)]
    watch(folder, windows, thresholds=asdict(Thresholds(dead_windows=2)), epochs=epochs)
    return folder


@pytest.fixture
def seen_limits(monkeypatch):
    """The thresholds with which runs were judged."""
    seen, report = [], Run.report

    def judged(run, limits=None):
        seen.append(limits)
        return report(run, limits)

    monkeypatch.setattr(Run, "report", judged)
    return seen


def on_a_terminal(monkeypatch, width, *arguments, **environment):
    """The output of a command on a terminal of this width."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"COLUMNS": str(width), "TERM": "xterm", **environment}.items():
        monkeypatch.setenv(name, value)
    with redirect_stdout(Terminal()) as out:
        assert main([*map(str, arguments)]) == 0
    return out.getvalue()


def without_style(text):
    return STYLE.sub("", text)


def modules_of(*arguments):
    return tables_of(*arguments)["module"].tolist()


def tables_of(*arguments):
    return pd.read_csv(io.StringIO(printed(*arguments, "--csv")), keep_default_na=False)


@pytest.mark.parametrize("name", ["", "gradwatch.csv", "gradwatch_alerts.csv"])
def test_folder_and_table_give_the_same_review(run, name):
    assert outcome("review", run / name) == outcome("review", run)
    assert outcome("review", run)[::2] == (0, "")


def test_run_is_found_from_inside_its_folder(run, monkeypatch):
    monkeypatch.chdir(run)
    assert modules_of("review", ".") == modules_of("review", "gradwatch.csv")


def test_folder_named_like_a_table_is_reviewed(tmp_path):
    watched = write_run(tmp_path / "coco.csv", DEAD)
    assert modules_of("review", watched) == list(LAYOUT.modules)


@pytest.mark.parametrize("below", ["train", "detect/train", "runs/detect/train"])
def test_newest_run_below_a_folder_is_chosen(tmp_path, below):
    new, old = (write_run(tmp_path / below / name, []) for name in ("a", "b"))
    os.utime(old / "gradwatch.csv", (1, 1))
    above = tmp_path if below.count("/") < 2 else tmp_path / "runs"
    code, out, err = outcome("review", above, "--json")
    assert (code, json.loads(out)["run"]) == (0, str(new))
    assert err == f"newest watched run in {above}: {new}\n"


def test_runs_are_searched_at_most_three_levels_below(tmp_path):
    write_run(tmp_path / "a/b/c/d", DEAD)
    assert outcome("review", tmp_path)[0] == 2
    assert outcome("review", tmp_path / "a")[0] == 0


NO_GRADIENT = [window(step, none=[CONV]) for step in (1, 2, 3)]


@pytest.mark.parametrize(
    ("windows", "words", "code"),
    [
        *((DEAD, words, 1) for words in ("dead", "vanishing,dead", " dead , nonfinite ")),
        *((DEAD, words, 0) for words in ("vanishing", " vanishing , no_gradient ")),
        *((DEAD, words, 2) for words in ("", "nonsense", "amp_overflow", "dead,nonsense")),
        *((NO_GRADIENT, words, 1) for words in ("no_gradient", "dead")),
    ],
)
def test_fail_on(tmp_path, windows, words, code):
    rule = "dead" if windows is DEAD else "no_gradient"
    watch(tmp_path, windows)
    found, _, err = outcome("review", tmp_path, "--fail-on", words)
    assert found == code
    message = f"--fail-on failed: {tmp_path}: {rule} in {CONV} at step 1\n"
    assert (err == message) is (code == 1)


@pytest.mark.parametrize("status", ["running", "finished", "failed", "interrupted"])
def test_run_without_a_step_does_not_pass(tmp_path, status):
    watch(tmp_path, [], status=status)
    assert outcome("review", tmp_path)[::2] == (0, "")
    code, _, err = outcome("review", tmp_path, "--fail-on=dead")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith(f"--fail-on failed: {tmp_path}: ")


@pytest.mark.parametrize("narrow", ["--module=model.0", "--rule=vanishing", "--epochs=1", "--csv"])
def test_fail_on_judges_the_whole_run(run, narrow):
    failed = printed("review", run, narrow, "--fail-on", "dead", code=1)
    assert failed == printed("review", run, narrow)


def test_other_thresholds_re_evaluate_the_run_and_are_named(tmp_path):
    run = write_run(tmp_path, RECOVERED)
    code, _, err = outcome("review", run, "--fail-on", "dead", "--dead-windows", "4")
    first, short = err.splitlines()
    assert (code, first) == (0, "re-evaluated with dead_windows 4 (in the training 3)")
    assert "too short" in short
    assert outcome("review", run, "--dead-windows", "3")[::2] == (0, "")


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ("", LAYOUT.modules),
        ("--module *.conv", ["model.0.conv", CONV]),
        ("--module model", ["model"]),
        ("--module model.[02].[ab]*", ["model.0.bn", "model.2.a", "model.2.b"]),
        ("--rule dead", [CONV]),
        ("--rule nonfinite,dead", [CONV]),
        ("--rule no_gradient", []),
        ("--rule amp_overflow", []),
        ("--rule dead --module model.0*", []),
        ("--rule dead --module model.1*", [CONV]),
        ("--top 1", [CONV]),
        ("--top 99", LAYOUT.modules),
        ("--top 1 --module model.0.*", ["model.0.conv"]),
        ("--top 1 --rule dead --module *.conv --epochs 1", [CONV]),
    ],
)
def test_options_combine_to_select_modules(run, options, names):
    arguments = ["review", run, *shlex.split(options)]
    assert modules_of(*arguments) == list(names)
    record = content(*arguments)
    assert [row["module"] for row in record["modules"]] == list(names)
    has_dead = "dead" in options or "--rule" not in options
    assert [finding["module"] for finding in record["findings"]] == [CONV] * has_dead
    some = f"Gradient norm of {len(names)} of 10 modules"
    heading = some if names else "No module has such a finding."
    assert not options or heading in printed(*arguments)


def test_top_selects_modules_by_finding_then_by_level(tmp_path):
    low = {"model.0.bn": 1e-3, "model.2.a": 1e-2}
    scale = np.array([low.get(name, 1.0) for name in LAYOUT.modules], np.float32)
    watch(tmp_path, [replace(one, norm_mean=one.norm_mean * scale) for one in DEAD])
    assert modules_of("review", tmp_path, "--top", 2) == ["model.0.bn", CONV]
    assert modules_of("review", tmp_path, "--top", 3) == ["model.0.bn", CONV, "model.2.a"]


@pytest.mark.parametrize(
    ("span", "first", "last"),
    [("3:8", 3, 8), ("3:", 3, 10), (":8", 1, 8), ("5", 5, 5), ("10:99", 10, 10), (":", 1, 10)],
)
def test_epoch_range_includes_both_ends(long_run, span, first, last):
    arguments = ["review", long_run, "--epochs", span]
    assert set(tables_of(*arguments)["steps"]) == {sum(range(first, last + 1))}
    record = content(*arguments)
    assert [one["epoch"] for one in record["epochs"]] == list(range(first, last + 1))
    assert [one["rule"] for one in record["findings"]] == (["dead"] if first < 3 else [])


def test_epoch_of_skipped_steps_can_be_selected(tmp_path):
    watch(tmp_path, [window(1, skipped=1), window(2, epoch=2)])
    assert set(tables_of("review", tmp_path, "--epochs", "1")["steps"]) == {0}


def test_selected_epochs_show_their_blocks(long_run):
    table = printed("review", long_run, "--epochs", "3:4").partition("Gradient norm of")[2]
    assert table.startswith(f" 4 of {len(LAYOUT.modules)} modules")
    assert CONV not in table


def test_json_has_every_episode_of_a_finding(tmp_path):
    dead = {1, 2, 3, 20, 21, 22}
    watch(tmp_path, [window(step, zero=[CONV] * (step in dead)) for step in range(1, 40)])
    (finding,) = content("review", tmp_path)["findings"]
    keys = ("step", "step_end", "reported")
    episodes = [tuple(episode[key] for key in keys) for episode in finding["episodes"]]
    assert episodes == [(1, 4, 3), (20, 23, 22)]
    assert (finding["step"], finding["step_end"], finding["value"]) == (1, 23, 3.0)


def test_json_has_the_meta_data_of_the_run(tmp_path):
    options = {"interval": 2, "stop_on": ["dead"], "training": {"model": "yolo26n.pt", "clip": 3}}
    events = [START, Event(2, "resume")]
    watch(tmp_path, DEAD, events, status="failed", epochs=[asdict(EPOCH)], options=options)
    record = content("review", tmp_path)
    report = load_run(tmp_path).report()
    assert (record["run"], record["status"]) == (str(tmp_path), "failed")
    assert (record["verdict"], record["healthy"]) == (report.verdict, report.healthy)
    assert record["unjudged"] == list(report.unjudged)
    assert record["epochs"] == [asdict(EPOCH)]
    assert record["meta"]["options"] == options
    assert record["meta"]["events"] == [{"step": 1, "kind": "start"}, {"step": 2, "kind": "resume"}]


_COUNTS, _DECADES = st.integers(1, 6), st.floats(0.1, 5.0)
OTHER_LIMITS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("amp_grace", "dead_windows", "dead_branch_windows"), _COUNTS),
        **dict.fromkeys(
            ("vanishing", "exploding", "leaf", "spike", "collapse", "weight_growth"), _DECADES
        ),
        "zero_fraction": st.floats(0.01, 0.99),
        "total_high": st.floats(2.0, 1e9),
        "total_low": st.floats(1e-9, 1.0),
    },
)


STRETCHES = [
    *lasting(6),
    *lasting(8, upstream(1e-3), first=7),
    *lasting(8, {"model.2": 1e4}, first=15),
    *lasting(6, {"model.1.a": 1e-3}, first=23),
    *(zeroed(step, 0.6) for step in range(29, 35)),
    *lasting(6, {"model": 1e9}, first=35),
    *lasting(6, first=41, zero=inside(NET, "model.6")),
    *curve(0.0, 2.0, 0.0, *[-4.0] * 8, first=47),
    *map(weighing, range(58, 82), np.geomspace(1.0, 100.0, 24)),
    *skips(3, first=82, nonfinite=["model.2.conv"]),
]
"""Windows in which most rules find something, more or less under other thresholds."""


@pytest.mark.slow
@settings(LAWS, max_examples=20)
@given(OTHER_LIMITS, st.lists(st.sampled_from([9, 29, 50]), unique=True).map(sorted))
def test_re_evaluation_finds_what_a_run_with_these_thresholds_would_have(limits, restarts):
    windows, events = STRETCHES, [START, *(Event(step, "nan_recovery") for step in restarts)]
    diagnosis = Diagnosis(NET, Thresholds(**limits), {"amp": False})
    replay(diagnosis, windows, events)
    options = [f"--{name.replace('_', '-')}={limits[name]!r}" for name in limits]
    with TemporaryDirectory() as name:
        write_run(Path(name), windows, NET, events=events)
        found = content("review", name, *options)["findings"]
    assert found == json.loads(json.dumps([*map(finding_record, diagnosis.findings.all.values())]))


@pytest.mark.parametrize("epoch", [None, 1, 3])
def test_csv_is_the_summary(long_run, epoch):
    loaded, span = load_run(long_run), epoch and (epoch, epoch)
    findings = loaded.report().findings if epoch != 3 else ()  # resolved before
    expected = summary(loaded.grid, LAYOUT, findings, span)
    out = printed("review", long_run, "--csv", *(["--epochs", epoch] if epoch else []))
    found = pd.read_csv(io.StringIO(out), dtype=expected.dtypes.to_dict()).fillna({"findings": ""})
    pd.testing.assert_frame_equal(found, expected, rtol=1e-9, atol=0)


def test_json_has_the_numbers_of_the_csv(tmp_path):
    watch(tmp_path, [window(step, norm=1.2345678e-9) for step in (1, 2, 3)])
    (module,) = content("review", tmp_path, "--module", "model.0")["modules"]
    assert module["norm_median"] == pytest.approx(1.2345678e-9, rel=1e-6)
    compared = content("compare", tmp_path, tmp_path, "--module", "model.0")["modules"]
    assert compared[0]["norm"] == pytest.approx(1.2345678e-9, rel=1e-6)


@pytest.mark.parametrize("name", LIMITS)
def test_every_threshold_has_an_option(run, seen_limits, name):
    value = getattr(Thresholds(), name)
    other = value + 1 if isinstance(value, int) else value / 2
    printed("review", run, f"--{name.replace('_', '-')}", other)
    assert seen_limits == [Thresholds(**{name: other})]
    assert type(getattr(seen_limits[0], name)) is type(value)


def test_option_overrides_the_file_and_the_file_overrides_the_run(tmp_path, seen_limits):
    watch(tmp_path, DEAD, thresholds=asdict(Thresholds(spike=1.1, leaf=1.1, collapse=1.1)))
    file = tmp_path / "limits.toml"
    file.write_text("leaf = 1.2\ncollapse = 1.2\n", encoding="utf-8")
    for options in ("", "--leaf 1.3", f"--thresholds {file}", f"--leaf 1.3 --thresholds {file}"):
        printed("review", tmp_path, *options.split())
    assert [(one.spike, one.leaf, one.collapse) for one in seen_limits] == [
        *((1.1, 1.1, 1.1), (1.1, 1.3, 1.1)),
        *((Thresholds().spike, 1.2, 1.2), (Thresholds().spike, 1.3, 1.2)),
    ]


def test_compare_names_findings_of_only_one_run(run, tmp_path):
    other = write_run(tmp_path / "other", [window(1), window(2), window(3)])
    assert "only in B:" in printed("compare", other, run)
    assert "only in A:" in printed("compare", run, other)
    assert "Findings: the same in both runs" in printed("compare", run, run)


def test_compare_gives_norms_and_their_ratio_to_the_first_run(tmp_path):
    norms = {"a": [2.0] * 20, "b": [1.0] * 10 + [8.0] * 10, "c": [3.0] * 40}
    folders = [
        write_run(tmp_path / name, [window(i, norm=x) for i, x in enumerate(values, 1)])
        for name, values in norms.items()
    ]
    table = tables_of("compare", *folders, "--module", "model.1*")
    assert set(table["module"]) == {"model.1", CONV, "model.1.bn"}
    found = table[table["module"] == CONV].set_index(["run", "part"])[["norm", "ratio"]]
    expected = {
        (1, "last"): [2.0, 1.0],
        (2, "first"): [1.0, 0.5],
        (2, "middle"): [1.0, 0.5],
        (2, "last"): [8.0, 4.0],
        (3, "middle"): [3.0, 1.5],
    }
    assert {key: found.loc[key].tolist() for key in expected} == expected


def test_compare_json_has_runs_differences_and_modules(tmp_path):
    for name, windows, optimizer in (("a", DEAD, "SGD"), ("b", map(window, (1, 2, 3)), "AdamW")):
        training = {"optimizer": optimizer, "imgsz": 640}
        write_run(tmp_path / name, windows, options={"interval": 1, "training": training})
    record = content("compare", tmp_path / "a", tmp_path / "b", "--module", CONV)
    runs = [(Path(one["run"]).name, one["healthy"]) for one in record["runs"]]
    assert runs == [("a", False), ("b", True)]
    assert record["differences"] == {"optimizer": ["SGD", "AdamW"]}
    assert {one["module"] for one in record["modules"]} == {CONV}
    assert [one["ratio"] for one in record["modules"]] == [None] * 6  # A has a norm of 0


def test_compare_shows_blocks_missing_in_one_run(tmp_path):
    more, _ = plan([*map(Part, ("model.0.conv", "model.1.attn", "model.2.a"))])
    less, _ = plan([*map(Part, ("model.0.conv", "model.2.a"))])
    a = write_run(tmp_path / "a", [window(1, layout=more)], more)
    b = write_run(tmp_path / "b", [window(1, layout=less)], less)
    assert re.search(r"model\.1 .* only in A", printed("compare", a, b))
    assert re.search(r"model\.1 .* only in B", printed("compare", b, a))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "files"),
    [
        ("--plot", {"b/gradwatch-compare.png"}),
        ("--html --module model.1*", {"b/gradwatch-compare.html"}),
        ("--plot --html mine.html --csv", {"b/gradwatch-compare.png", "mine.html"}),
    ],
)
def test_compare_writes_the_given_file_or_into_the_second_run(
    tmp_path, monkeypatch, options, files
):
    pytest.importorskip("plotly")
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        write_run(Path(name), map(window, (1, 2, 3)))
    before = {*Path().rglob("*.*")}
    printed("compare", "a", "b", *options.split())
    assert {*map(str, {*Path().rglob("*.*")} - before)} == files
    assert all(Path(name).stat().st_size > 5000 for name in files)


@pytest.mark.parametrize(("count", "code"), [(1, 2), (2, 0), (26, 0), (27, 2)])
def test_compare_takes_2_to_26_runs(run, count, code):
    assert outcome("compare", *[run] * count, "--csv")[0] == code


@pytest.mark.parametrize("arguments", [["review"], ["review", "--module", "*"], ["compare"]])
@pytest.mark.parametrize("form", ["", "--csv", "--json"])
def test_run_without_a_step_is_shown_in_every_format(tmp_path, arguments, form):
    write_run(tmp_path, [])
    folders = [tmp_path] * (1 + (arguments[0] == "compare"))
    out = printed(arguments[0], *folders, *arguments[1:], *filter(None, [form]))
    assert "model.0" in out or "0 Block" in out
    assert "nan" not in out.lower().replace("nan/inf", "")


def test_odd_names_are_shown_verbatim(tmp_path, monkeypatch):
    odd, _ = plan([*map(Part, ODD)])
    windows = [window(step, layout=odd, zero=ODD[:1]) for step in (1, 2, 3)]
    folder = write_run(tmp_path / "[bold]run[/] %s, 'a b'", windows, odd)
    assert modules_of("review", folder) == list(odd.modules)
    assert set(modules_of("compare", folder, folder, "--module", "*")) == set(odd.modules)
    record = content("review", folder)
    assert [row["module"] for row in record["modules"]] == list(odd.modules)
    assert (record["run"], record["findings"][0]["module"]) == (str(folder), ODD[0])
    monkeypatch.chdir(tmp_path)
    name = folder.relative_to(tmp_path)
    for out in (
        printed("review", name, "--module", "*"),
        without_style(on_a_terminal(monkeypatch, 200, "review", name, "--module", "*")),
        printed("compare", name, name, "--module", "*"),
    ):
        assert all(text in out for text in (*ODD, str(name)))


@pytest.mark.parametrize("width", [1, 5, 20, 40, 80, 200])
@pytest.mark.parametrize("line", [f"{one} --module *" for one in ("review .", "compare . .")])
def test_narrow_terminal_loses_no_name_and_no_number(long_run, monkeypatch, width, line):
    monkeypatch.chdir(long_run)
    whole = printed(*line.split()).split()
    out = without_style(on_a_terminal(monkeypatch, width, *line.split()))
    if width < 40:
        assert {*whole} - {word for word in whole if word in "".join(out.split())} <= {"module"}
        return
    assert max(map(cell_len, out.splitlines())) <= width
    assert set(Counter(whole) - Counter(out.split())) <= {"module"}  # a heading


def test_name_longer_than_a_line_is_folded(tmp_path, monkeypatch):
    names = [f"model.0.{'very_long_name_' * 4}{i}" for i in range(3)]
    layout, _ = plan([*map(Part, names)])
    write_run(tmp_path, [window(1, layout=layout)], layout)
    out = without_style(on_a_terminal(monkeypatch, 24, "review", tmp_path, "--module", "*"))
    assert max(map(cell_len, out.splitlines())) <= 24
    assert all(name in "".join(out.split()) for name in names)


def test_colours_are_used_only_on_terminals_that_want_them(run, monkeypatch):
    assert COLOUR.search(on_a_terminal(monkeypatch, 80, "review", run))
    assert not COLOUR.search(on_a_terminal(monkeypatch, 80, "review", run, NO_COLOR="1"))
    for form in ("--csv", "--json"):
        assert "\x1b" not in on_a_terminal(monkeypatch, 80, "review", run, form)
    assert "\x1b" not in printed("review", run) + printed("compare", run, run)


def test_control_characters_in_files_are_replaced(tmp_path):
    folders = [tmp_path / name for name in ("a", "b\x1b[2J")]
    for folder, model in zip(folders, ("yolo26n.pt", "\x1b[2Jgone"), strict=True):
        options = {"interval": 1, "training": {"model": model}}
        epochs = [{**asdict(EPOCH), "owners": {"\x1b[31mEVIL": 0.5}}]
        write_run(folder, DEAD, options=options, epochs=epochs, versions={"\x1b[1m": "\x1b[2m"})
    out = printed("review", folders[1]) + printed("compare", *folders)
    assert "\x1b" not in out
    assert all(text in out for text in ("?[31mEVIL 50%", "?[2Jgone"))


def test_reading_commands_load_no_heavy_package(run):
    code = """
import sys
from yolo_gradwatch import load_run
str(load_run(sys.argv[1]).report())
print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
from yolo_gradwatch.cli.main import main
for form in ([], ["--csv"], ["--json"]):
    main(["review", sys.argv[1], "--module", "*", *form])
    main(["compare", sys.argv[1], sys.argv[1], *form])
main(["review", sys.argv[1]])
print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
"""
    with process(code, run) as done:
        _, err = done.communicate()
    assert done.returncode == 0
    reading, reviewing = ({*line.split()} for line in err.splitlines())
    heavy = {"torch", "torchvision", "ultralytics", "matplotlib", "plotly", "cv2", "PIL"}
    assert "yolo_gradwatch" in reading & reviewing
    assert not heavy & (reading | reviewing)
    assert not {"rich", "typer"} & reading


def test_following_ends_when_the_reader_closes_the_pipe(tmp_path):
    watch(tmp_path, DEAD, status="running")
    following = "review", tmp_path, "--follow", "--fail-on=dead"
    with process(SCRIPT, *following) as closed:
        assert closed.stdout.readline().startswith("GradWatch is following")
        closed.stdout.close()
        write(tmp_path, [window(4, epoch=2)], resume=True)
        assert closed.wait(60) == 1
        assert "Traceback" not in closed.stderr.read()


def test_picture_has_its_width_and_the_frame_of_a_finding(run):
    from PIL import Image

    assert main(["review", str(run), "--plot"]) == 0
    with Image.open(run / "gradwatch.png") as picture:
        assert picture.size[0] == 1300
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20)}
    assert (209, 0, 28) in colours  # the frame of a critical finding


def test_all_modules_are_listed_only_if_asked_for(run, capsys):
    picture = run / "gradwatch.png"
    picture.unlink(missing_ok=True)
    listed = {}
    for options in ((), ("--modules",)):
        assert main(["review", str(run), *options]) == 0
        words = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()}
        listed[options] = words & set(LAYOUT.modules)
        assert not picture.exists()
    assert listed["--modules",] == set(LAYOUT.modules) > listed[()]


@pytest.mark.parametrize(("limit", "code"), [(3, 1), (4, 0)])
def test_following_uses_the_given_thresholds(tmp_path, limit, code):
    run = write_run(tmp_path, RECOVERED)
    options = ["--follow", "--fail-on", "dead", f"--dead-windows={limit}"]
    out = printed("review", run, *options, code=code)
    assert ("GradWatch critical dead: " in out) == bool(code)
    assert "GradWatch is following" in out
    assert out.count("GradWatch: ") == 1  # the report


def test_following_ends_with_ctrl_c(tmp_path, monkeypatch):
    def interrupt(_seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("yolo_gradwatch.views.terminal.follow.time.sleep", interrupt)
    watch(tmp_path, DEAD, status="running")
    assert "critical dead" in printed("review", tmp_path, "--follow", code=130)


@pytest.mark.parametrize("form", ["--csv", "--json"])
def test_following_prints_only_data_on_standard_output(run, form):
    assert printed("review", run, "--follow", form) == printed("review", run, form)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_page_does_not_replace_a_special_file(run, tmp_path):
    os.mkfifo(pipe := tmp_path / "pipe")
    assert outcome("review", run, "--html", pipe)[0] == 2
    assert pipe.is_fifo()


@pytest.mark.parametrize(
    ("words", "named"),
    [("dead", ["dead_branch"]), ("collapse", ["collapse"]), ("nonfinite", [])],
)
def test_fail_on_names_rules_that_the_run_is_too_short_for(tmp_path, words, named):
    write_run(tmp_path, [window(step) for step in range(1, 6)])
    code, _, err = outcome("review", tmp_path, "--fail-on", words)
    assert (code, bool(err)) == (0, bool(named))
    assert all(rule in err for rule in named)
