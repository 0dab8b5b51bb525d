from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from values import LAWS, LAYOUT, Part, assert_same, meta_of, plan, runs, window

from yolo_gradwatch import load_run as exported
from yolo_gradwatch import review as reviewing
from yolo_gradwatch import runlog, writer
from yolo_gradwatch.clipping import CLIP_NORM, EpochClipping
from yolo_gradwatch.diagnosis import Diagnosis
from yolo_gradwatch.event import Event
from yolo_gradwatch.evidence import FOLDER
from yolo_gradwatch.layout import Layout
from yolo_gradwatch.quantities import QUANTITIES
from yolo_gradwatch.review import load_run
from yolo_gradwatch.runlog import FormatError, RunLog
from yolo_gradwatch.thresholds import Thresholds
from yolo_gradwatch.windows import windows_of

CONV = "model.1.conv"
START = Event(1, "start")
DEAD = [window(step, zero=[CONV]) for step in (1, 2, 3)]


def watch(folder, windows, events=(START,), **meta):
    """Watch a training as its recorder does; the diagnosis at its end."""
    log = RunLog(folder, LAYOUT, resume=False)
    log.start()
    diagnosis = Diagnosis(LAYOUT, Thresholds(), {"amp": False}, lambda *_steps: "")
    pending = list(events)
    for one in windows:
        while pending and pending[0].step <= one.step_first:
            pending.pop(0)
            diagnosis.begin_anew()
        news = diagnosis.update(one)
        log.write_window(one)
        log.write_news(news)
    log.close()
    log.write_meta(meta_of(events=events, **meta))
    return diagnosis


def test_the_function_is_exported():
    assert exported is load_run


@pytest.mark.parametrize("name", ["", "gradwatch.csv", "gradwatch_alerts.csv"])
@pytest.mark.parametrize("kind", [str, Path])
def test_a_run_is_read_from_its_folder_or_a_table_in_it(tmp_path, name, kind):
    watch(tmp_path, DEAD)
    run = load_run(kind(tmp_path / name))
    assert run.folder == tmp_path
    assert run.layout == LAYOUT
    assert run.meta["status"] == "finished"


def test_the_tables_have_the_columns_of_the_files(tmp_path):
    watch(tmp_path, DEAD)
    run = load_run(tmp_path)
    assert tuple(run.windows.columns) == runlog.WINDOW_COLUMNS
    assert tuple(run.alerts.columns) == runlog.ALERT_COLUMNS
    assert len(run.windows) == 3 * len(LAYOUT.modules)
    assert run.alerts[["finding", "event", "step", "rule", "module"]].to_numpy().tolist() == [
        [1, "start", 3, "dead", CONV]
    ]


def test_the_tables_have_exact_types(tmp_path):
    watch(tmp_path, DEAD)
    run = load_run(tmp_path)
    for name in ("epoch", "step_first", "step_last", "steps", "skipped"):
        assert run.windows[name].dtype == np.int64, name
    for row in QUANTITIES:
        is_later = row.is_count and row.since > 1  # rows of before have none
        assert run.windows[row.name].dtype == ("Int64" if is_later else row.dtype), row.name
    assert isinstance(run.windows["module"].dtype, pd.CategoricalDtype)
    assert run.alerts["value"].dtype == np.float64


def test_a_run_without_a_window_has_empty_tables(tmp_path):
    watch(tmp_path, [])
    run = load_run(tmp_path)
    assert len(run.windows) == len(run.alerts) == 0
    assert run.report().steps == 0
    assert run.report().findings == ()
    assert "no optimizer step" in run.report().verdict


MORE, _ = plan([*(Part(name) for name in LAYOUT.modules if "." in name), Part("model.2.c")])
"""The layout of a training that is resumed with fewer frozen layers."""


def resume_with_more(folder, windows):
    log = RunLog(folder, MORE, resume=True)
    log.write_meta(meta_of(MORE, [START, Event(4, "resume")]))
    for one in windows:
        log.write_window(one)
    log.close()


def test_a_module_counts_nothing_in_the_windows_before_its_first_row(tmp_path):
    watch(tmp_path, DEAD)
    resume_with_more(tmp_path, [window(4, layout=MORE, none=["model.2.c"])])
    run = load_run(tmp_path)
    old, *_, new = windows_of(run.grid)
    row = MORE.modules.index("model.2.c")
    assert (old.zero[MORE.modules.index(CONV)], new.none[row]) == (1, 1)
    assert old.zero[row] == old.none[row] == old.nonfinite[row] == 0
    assert np.isnan(old.norm_mean[row])
    assert old.zero.dtype == np.int64


def test_windows_before_a_resume_with_more_modules_are_whole(tmp_path):
    watch(tmp_path, DEAD)
    resume_with_more(tmp_path, [])  # killed before its first window
    assert load_run(tmp_path).windows["step_first"].max() == 3


def test_windows_come_in_the_order_of_their_steps(tmp_path):
    watch(tmp_path, [window(1, steps=8), window(9, epoch=2), window(10, steps=90)])
    run = load_run(tmp_path)
    assert [one.step_first for one in windows_of(run.grid)] == [1, 9, 10]


@LAWS
@given(runs())
def test_a_review_finds_what_the_live_run_found(run):
    windows, events = run
    with TemporaryDirectory() as name:
        live = watch(Path(name), windows, events)
        report = load_run(name).report()
    assert report.findings == tuple(live.findings.all.values())
    assert report.steps == sum(one.steps for one in windows)
    assert report.modules == len(LAYOUT.modules)


@settings(LAWS, max_examples=25)
@given(runs())
def test_the_windows_of_a_run_read_back(run):
    windows, events = run
    with TemporaryDirectory() as name:
        watch(Path(name), windows, events)
        loaded = load_run(name)
        found = list(windows_of(loaded.grid))
    assert len(found) == len(windows)
    for one, expected in zip(found, windows, strict=True):
        assert_same(one, expected)


def test_an_event_after_the_last_window_ends_nothing_yet(tmp_path):
    resume = Event(4, "resume")  # killed before its next window closed
    live = watch(tmp_path, DEAD)
    live.begin_anew()
    RunLog(tmp_path, LAYOUT, resume=True).write_meta(meta_of(events=[START, resume]))
    (finding,) = load_run(tmp_path).report().findings
    assert finding == live.findings.all[1]
    assert finding.step_end is None


def test_a_finding_that_an_event_has_ended_is_over_in_the_review(tmp_path):
    windows = [*DEAD, *map(window, range(4, 12))]
    live = watch(tmp_path, windows, [START, Event(4, "nan_recovery")])
    (finding,) = load_run(tmp_path).report().findings
    assert finding == live.findings.all[1]
    assert finding.step_end == 4


def test_a_review_uses_the_thresholds_of_the_run(tmp_path):
    watch(tmp_path, DEAD, thresholds={"amp_grace": 12, "dead_windows": 4})
    assert load_run(tmp_path).report().healthy


def prove(folder, step):
    path = folder / FOLDER / f"step-{step:05}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}", encoding="utf-8")


def test_a_review_names_the_evidence_that_is_there(tmp_path):
    windows = [window(1), window(2, nonfinite=[CONV]), *map(window, range(3, 9))]
    windows += [window(9, nonfinite=[CONV])]
    watch(tmp_path, windows)
    assert [f.evidence for f in load_run(tmp_path).report().findings] == [""]
    prove(tmp_path, 2)
    (finding,) = load_run(tmp_path).report().findings
    assert (len(finding.episodes), finding.evidence) == (2, f"{FOLDER}/step-00002.json")
    prove(tmp_path, 9)  # the newest time that it began counts
    (finding,) = load_run(tmp_path).report().findings
    assert finding.evidence == f"{FOLDER}/step-00009.json"
    assert f"{FOLDER}/step-00009.json" in finding.message


def test_a_review_writes_nothing(tmp_path):
    watch(tmp_path, [window(1, nonfinite=[CONV])])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    load_run(tmp_path).report()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_layer_that_was_frozen_is_told_by_the_files(tmp_path):
    frozen = ["model.0.conv", "model.0.bn"]
    windows = [*map(window, range(1, 4))]
    windows += [window(step, unknown=["model.0", *frozen]) for step in range(4, 10)]
    watch(tmp_path, windows)
    report = load_run(tmp_path).report()
    (finding,) = report.findings
    assert (finding.rule, finding.module, finding.step) == ("frozen", "model.0", 4)
    assert report.healthy


def test_a_review_says_for_which_rules_the_run_was_too_short(tmp_path):
    live = watch(tmp_path, DEAD)
    report = load_run(tmp_path).report()
    assert report.unjudged == live.unjudged()
    assert {"dead_branch", "spike", "collapse"} <= set(report.unjudged)
    assert not {"dead", "nonfinite"} & set(report.unjudged)


@pytest.mark.parametrize(("patience", "healthy"), [(2, False), (3, False), (4, True)])
def test_a_review_under_other_thresholds(tmp_path, patience, healthy):
    watch(tmp_path, DEAD)
    report = load_run(tmp_path).report(Thresholds(dead_windows=patience))
    assert report.healthy is healthy


EPOCH = EpochClipping(1, 3, 2, 1, 12.5, 80.0, 1.75, {"model.0": 0.75, "model.1": 0.25}, None)


def test_a_report_holds_what_the_run_says_of_itself(tmp_path):
    options = {"interval": 1, "stop_on": [], "training": {"amp": False, "clip": 2.5}}
    watch(tmp_path, DEAD, status="interrupted", epochs=[asdict(EPOCH)], options=options)
    report = load_run(tmp_path).report()
    assert (report.run, report.status, report.epochs) == (tmp_path, "interrupted", (EPOCH,))
    assert report.clip == 2.5
    assert list(report.epochs[0].owners) == ["model.0", "model.1"]  # the largest first


def test_a_run_that_does_not_tell_its_clip_was_clipped_as_usual(tmp_path):
    watch(tmp_path, DEAD)
    assert load_run(tmp_path).report().clip == CLIP_NORM


def test_an_epoch_without_its_number_names_the_file(tmp_path):
    epoch = {name: value for name, value in asdict(EPOCH).items() if name != "epoch"}
    watch(tmp_path, DEAD, epochs=[epoch])
    with pytest.raises(FormatError, match=r"gradwatch\.json: a part is missing .*epoch"):
        load_run(tmp_path)


def test_an_epoch_may_lack_anything_else(tmp_path):
    watch(tmp_path, DEAD, epochs=[{"epoch": 1}])
    assert load_run(tmp_path).report().epochs == (EpochClipping(1),)


@pytest.mark.parametrize("field", [f.name for f in fields(Layout) if f.default is MISSING])
def test_a_layout_without_a_part_names_the_file(tmp_path, field):
    watch(tmp_path, DEAD)
    meta = meta_of()
    del meta["layout"][field]
    (tmp_path / "gradwatch.json").write_text(json.dumps(meta), encoding="utf-8")
    with pytest.raises(FormatError, match=rf"gradwatch\.json: a part is missing .*{field}"):
        load_run(tmp_path)


def test_the_words_of_a_finding_know_the_training(tmp_path):
    windows = [window(1, nonfinite=[CONV])]
    options = {"interval": 1, "stop_on": [], "training": {"amp": True}}
    watch(tmp_path, windows, options=options)
    assert "amp=False" in str(load_run(tmp_path).report())
    watch(tmp_path, windows)
    assert "amp=False" not in str(load_run(tmp_path).report())


def test_a_torn_line_of_the_alerts_is_left_out(tmp_path):
    watch(tmp_path, [*DEAD, *map(window, range(4, 12))])
    path = tmp_path / "gradwatch_alerts.csv"
    assert load_run(tmp_path).alerts["event"].tolist() == ["start", "end"]
    path.write_bytes(path.read_bytes()[:-5])
    assert load_run(tmp_path).alerts["event"].tolist() == ["start"]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FormatError, match=r"runs.gradwatch\.json: No such file"):
        load_run(tmp_path / "runs")


@pytest.mark.parametrize("name", ["gradwatch.csv", "gradwatch_alerts.csv"])
def test_a_missing_table_is_named(tmp_path, name):
    watch(tmp_path, DEAD)
    (tmp_path / name).unlink()
    with pytest.raises(
        FormatError, match=rf"{name}: No such file.*; copy it from the run's folder"
    ):
        load_run(tmp_path)


@pytest.mark.parametrize("name", ["gradwatch.csv", "gradwatch_alerts.csv"])
def test_another_header_is_named(tmp_path, name):
    watch(tmp_path, DEAD)
    path = tmp_path / name
    path.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(FormatError, match=rf"{name}: line 1 is not the header of {name}"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("column", "text"),
    [("zero", "many"), ("norm_mean", "1.2.3"), ("step_first", ""), ("module", "a,b")],
)
def test_a_damaged_row_names_the_file_and_a_remedy(tmp_path, column, text):
    watch(tmp_path, DEAD)
    path = tmp_path / "gradwatch.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    cells = lines[2].split(",")
    cells[runlog.WINDOW_COLUMNS.index(column)] = text
    lines[2] = ",".join(cells)
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    with pytest.raises(FormatError, match=r"gradwatch\.csv: .*; restore the file from a copy"):
        load_run(tmp_path)


def put_meta(folder, meta):
    (folder / "gradwatch.json").write_text(json.dumps(meta), encoding="utf-8")


def test_meta_without_a_layout_names_the_file(tmp_path):
    watch(tmp_path, DEAD)
    put_meta(tmp_path, {name: part for name, part in meta_of().items() if name != "layout"})
    with pytest.raises(FormatError, match=r"gradwatch\.json.*layout"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    "part", ["events", "thresholds", "options", "status", "epochs", "versions", "process"]
)
def test_meta_may_lack_what_has_a_default(tmp_path, part):
    found = watch(tmp_path, DEAD).findings.all
    put_meta(tmp_path, {name: value for name, value in meta_of().items() if name != part})
    report = load_run(tmp_path).report()
    assert [f.rule for f in report.findings] == [f.rule for f in found.values()] == ["dead"]


def test_limits_of_a_later_version_are_ignored_and_missing_ones_are_the_defaults(tmp_path):
    watch(tmp_path, DEAD, thresholds={"dead_windows": 2, "not_known_yet": [1]})
    assert load_run(tmp_path).thresholds == Thresholds(dead_windows=2)


def test_a_review_loads_neither_torch_nor_ultralytics(tmp_path):
    watch(tmp_path, DEAD)
    code = (
        "import json, sys, yolo_gradwatch.review as review;"
        "str(review.load_run(sys.argv[1]).report());"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
    )
    loaded = set(json.loads(out.stdout))
    assert "yolo_gradwatch" in loaded
    assert not loaded & {"torch", "ultralytics", "rich", "typer", "matplotlib", "cv2"}


@pytest.mark.parametrize(
    ("status", "minutes", "told"),
    [("running", 25, True), ("running", 9, False), ("failed", 25, False)],
)
def test_a_run_that_was_killed_long_ago_is_told(tmp_path, status, minutes, told):
    watch(tmp_path, DEAD, status=status)
    then = time.time() - 60 * minutes - 5
    os.utime(tmp_path / "gradwatch.csv", (then, then))
    remarks = load_run(tmp_path).remarks
    expected = f"no end was written, and nothing for {minutes} min: was the training killed?"
    assert remarks == ((expected,) if told else ())


DEAD_PID = 10**20
"""No process has it."""


def process(pid):
    return {**asdict(writer.own()), "pid": pid}


def test_a_run_whose_process_is_gone_was_killed(tmp_path):
    watch(tmp_path, DEAD, status="running", process=process(DEAD_PID))
    run = load_run(tmp_path)
    assert (run.status, run.meta["status"]) == ("killed", "running")
    assert run.remarks == ("the training was killed after step 3: its process is gone",)
    assert "of 10 modules, killed)" in run.report().verdict


def test_a_run_that_was_killed_before_its_first_step_says_so(tmp_path):
    watch(tmp_path, [], status="running", process=process(DEAD_PID))
    facts = str(load_run(tmp_path).report())
    assert "  the training was killed: its process is gone\n" in facts


@pytest.mark.parametrize("status", ["finished", "failed", "interrupted"])
def test_a_run_with_an_end_was_not_killed(tmp_path, status):
    watch(tmp_path, DEAD, status=status, process=process(DEAD_PID))
    run = load_run(tmp_path)
    assert (run.status, run.remarks) == (status, ())


@pytest.mark.parametrize(
    "meta",
    [
        {"process": process(os.getpid())},
        {"process": {**process(DEAD_PID), "host": "another"}},
        {"process": None},
        {},
    ],
    ids=["there", "elsewhere", "unknown", "older file"],
)
def test_a_run_that_may_go_on_is_running(tmp_path, meta):
    watch(tmp_path, DEAD, status="running", **meta)
    run = load_run(tmp_path)
    assert (run.status, run.remarks) == ("running", ())


def test_an_end_that_was_written_just_before_is_believed(tmp_path, monkeypatch):
    """The process writes its end and goes after its file was read, before it is asked for."""
    watch(tmp_path, DEAD, status="running", process=process(DEAD_PID))

    def ends(_writer):
        watch(tmp_path, DEAD, status="finished", process=process(DEAD_PID))
        return True

    monkeypatch.setattr(reviewing.writer, "is_gone", ends)
    assert load_run(tmp_path).status == "finished"


def test_a_mangled_process_names_the_file(tmp_path):
    watch(tmp_path, DEAD, process={"pid": "x"})
    with pytest.raises(FormatError, match=r"gradwatch\.json: .*'pid' is of another type"):
        load_run(tmp_path)
