from __future__ import annotations

import os
import time
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from values import LAWS, LAYOUT, put_meta, runs, window
from watched import CONV, DEAD, DEAD_PID, EPOCH, MORE, START, process, watch

from yolo_gradwatch import FormatError, load_run
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.measure.event import Event
from yolo_gradwatch.runs import process as processes
from yolo_gradwatch.runs.evidence import FOLDER


@pytest.mark.parametrize("name", ["", "gradwatch.csv", "gradwatch_alerts.csv"])
@pytest.mark.parametrize("kind", [str, Path])
def test_run_is_read_from_its_folder_or_one_of_its_tables(tmp_path, name, kind):
    watch(tmp_path, DEAD)
    run = load_run(kind(tmp_path / name))
    assert run.folder == tmp_path
    assert run.layout == LAYOUT
    assert run.meta.status == "finished"


def test_run_without_a_window_has_empty_tables(tmp_path):
    watch(tmp_path, [])
    run = load_run(tmp_path)
    assert len(run.windows) == len(run.alerts) == 0
    assert run.report().steps == 0
    assert run.report().findings == ()
    assert "no optimizer step" in run.report().verdict


def test_windows_before_a_resume_with_more_modules_are_complete(tmp_path):
    watch(tmp_path, DEAD)
    put_meta(tmp_path, MORE, events=[START, Event(4, "resume")])  # killed before its first window
    assert load_run(tmp_path).windows["step_first"].max() == 3


@pytest.mark.slow
@LAWS
@given(runs())
def test_review_finds_what_the_live_run_found(run):
    windows, events = run
    with TemporaryDirectory() as name:
        live = watch(Path(name), windows, events)
        report = load_run(name).report()
    assert report.findings == tuple(live.findings.all.values())
    assert report.unjudged == live.unjudged()
    assert report.steps == sum(one.steps for one in windows)
    assert report.modules == len(LAYOUT.modules)


def test_event_after_the_last_window_resolves_no_finding_yet(tmp_path):
    resume = Event(4, "resume")  # killed before its next window closed
    live = watch(tmp_path, DEAD)
    live.restart()
    put_meta(tmp_path, events=[START, resume])
    (finding,) = load_run(tmp_path).report().findings
    assert finding == live.findings.all[1]
    assert finding.step_end is None


def test_finding_resolved_by_an_event_is_resolved_in_the_review(tmp_path):
    windows = [*DEAD, *map(window, range(4, 12))]
    live = watch(tmp_path, windows, [START, Event(4, "nan_recovery")])
    (finding,) = load_run(tmp_path).report().findings
    assert finding == live.findings.all[1]
    assert finding.step_end == 4


def put_evidence(folder, step):
    path = folder / FOLDER / f"step-{step:05}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}", encoding="utf-8")


def test_review_names_existing_evidence(tmp_path):
    windows = [window(1), window(2, nonfinite=[CONV]), *map(window, range(3, 29))]
    windows += [window(29, nonfinite=[CONV])]
    watch(tmp_path, windows)
    assert [f.evidence for f in load_run(tmp_path).report().findings] == [""]
    put_evidence(tmp_path, 2)
    (finding,) = load_run(tmp_path).report().findings
    assert (len(finding.episodes), finding.evidence) == (2, f"{FOLDER}/step-00002.json")
    put_evidence(tmp_path, 29)  # the newest recurrence counts
    (finding,) = load_run(tmp_path).report().findings
    assert finding.evidence == f"{FOLDER}/step-00029.json"
    assert f"{FOLDER}/step-00029.json" in finding.message


def test_review_writes_nothing(tmp_path):
    watch(tmp_path, [window(1, nonfinite=[CONV])])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    load_run(tmp_path).report()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(("patience", "healthy"), [(2, False), (3, False), (4, True)])
def test_review_with_other_thresholds(tmp_path, patience, healthy):
    watch(tmp_path, DEAD)
    report = load_run(tmp_path).report(Thresholds(dead_windows=patience))
    assert report.healthy is healthy


def test_report_has_status_epochs_and_clip_of_the_run(tmp_path):
    options = {"interval": 1, "stop_on": [], "training": {"amp": False, "clip": 2.5}}
    watch(tmp_path, DEAD, status="interrupted", epochs=[asdict(EPOCH)], options=options)
    report = load_run(tmp_path).report()
    assert (report.run, report.status, report.epochs) == (tmp_path, "interrupted", (EPOCH,))
    assert report.clip == 2.5
    assert list(report.epochs[0].owners) == ["model.0", "model.1"]  # the largest first


def test_message_depends_on_the_training_options(tmp_path):
    windows = [window(1, nonfinite=[CONV])]
    options = {"interval": 1, "stop_on": [], "training": {"amp": True}}
    watch(tmp_path, windows, options=options)
    assert "amp=False" in str(load_run(tmp_path).report())
    watch(tmp_path, windows)
    assert "amp=False" not in str(load_run(tmp_path).report())


@pytest.mark.parametrize(
    ("status", "minutes", "has_remark"),
    [("running", 25, True), ("running", 9, False), ("failed", 25, False)],
)
def test_run_that_stopped_writing_long_ago_gives_a_remark(tmp_path, status, minutes, has_remark):
    watch(tmp_path, DEAD, status=status)
    then = time.time() - 60 * minutes - 5
    os.utime(tmp_path / "gradwatch.csv", (then, then))
    remarks = load_run(tmp_path).remarks
    assert [f" {minutes} min" in remark for remark in remarks] == [True] * has_remark


@pytest.mark.parametrize(
    ("status", "other", "expected"),
    [
        ("running", {}, "killed"),
        *((ended, {}, ended) for ended in ("finished", "failed", "interrupted")),
        ("running", {"pid": os.getpid()}, "running"),
        ("running", {"host": "another"}, "running"),
        ("running", None, "running"),
    ],
)
def test_unfinished_run_whose_process_is_gone_was_killed(tmp_path, status, other, expected):
    own = None if other is None else {**process(DEAD_PID), **other}
    watch(tmp_path, DEAD, status=status, process=own)
    run = load_run(tmp_path)
    assert (run.status, run.meta.status) == (expected, status)
    assert all("killed after step 3" in remark for remark in run.remarks)
    assert bool(run.remarks) == (expected == "killed") == ("killed)" in run.report().verdict)


def test_run_killed_before_its_first_step(tmp_path):
    watch(tmp_path, [], status="running", process=process(DEAD_PID))
    assert load_run(tmp_path).remarks == ("the training was killed: its process is gone",)


def test_end_written_just_before_the_process_check_counts(tmp_path, monkeypatch):
    """The process finishes between the reading of its file and the check that it is alive."""
    watch(tmp_path, DEAD, status="running", process=process(DEAD_PID))

    def ends(_process):
        watch(tmp_path, DEAD, status="finished", process=process(DEAD_PID))
        return True

    monkeypatch.setattr(processes, "is_gone", ends)
    assert load_run(tmp_path).status == "finished"


def test_folder_of_runs_is_refused_with_its_newest_run(tmp_path):
    run = tmp_path / "runs" / "a"
    (run / FOLDER).mkdir(parents=True)
    watch(run, DEAD)
    with pytest.raises(FormatError, match=r"is not a run; the newest run below it is .*a"):
        load_run(tmp_path / "runs")
    with pytest.raises(FormatError, match="no watched run in it"):
        load_run(run / FOLDER)
