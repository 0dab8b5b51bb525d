"""Files of every format version can be read, resumed and reviewed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from damages import part, spoil
from places import DATA
from recording import Recording
from values import LAYOUT, sample, window, write_run
from watched import write

from yolo_gradwatch import load_run
from yolo_gradwatch.cli.main import main
from yolo_gradwatch.diagnose.causes import at_work, lower_rate
from yolo_gradwatch.measure.event import Event
from yolo_gradwatch.measure.windows import windows_of
from yolo_gradwatch.runs.evidence import FOLDER
from yolo_gradwatch.runs.repair import mend
from yolo_gradwatch.runs.resume import as_asked
from yolo_gradwatch.runs.schema import ALERT_COLUMNS, FORMAT_VERSION, WINDOW_COLUMNS, header_of
from yolo_gradwatch.views.terminal.review import source_of

VERSIONS = sorted(path.name for path in DATA.glob("version-*"))
WINDOWS = [window(1), window(2, nonfinite=["model.2.b"]), window(3, steps=4)]


@pytest.fixture(params=VERSIONS)
def old(request, tmp_path):
    """A copy of a run of an earlier version, safe to modify."""
    return Path(shutil.copytree(DATA / request.param, tmp_path / request.param))


def test_data_has_a_run_of_every_version():
    assert [f"version-{number}" for number in range(1, FORMAT_VERSION + 1)] == VERSIONS
    for name in VERSIONS:
        meta = json.loads((DATA / name / "gradwatch.json").read_text(encoding="utf-8"))
        assert f"version-{meta['format_version']}" == name


def test_every_version_is_read(old):
    run = load_run(old)
    assert run.remarks == ()
    assert tuple(run.windows.columns) == WINDOW_COLUMNS
    assert tuple(run.alerts.columns) == ALERT_COLUMNS
    assert int(run.grid.steps.sum()) == 20
    assert len(run.grid.steps) == 20
    assert np.isnan(run.grid.norm_mean[15, run.layout.modules.index("model.0.conv")])  # frozen


def test_every_version_is_judged_as_it_was_live(old):
    run = load_run(old)
    begun = run.alerts[run.alerts["event"] == "start"]
    findings = run.report().findings
    columns = ["finding", "rule", "module"]
    assert [(f.number, f.rule, f.module) for f in findings] == [
        tuple(row) for row in begun[columns].to_numpy().tolist()
    ]
    assert [(f.rule, f.step, f.step_end) for f in findings] == [
        ("spike", 9, 10),
        ("frozen", 13, None),
    ]
    assert (old / findings[0].evidence).is_file()


@pytest.mark.slow
def test_every_version_can_be_reviewed_followed_and_plotted(old, tmp_path, capsys):
    assert main(["review", str(old), "--fail-on", "nonfinite"]) == 0
    assert main(["review", str(old), "--fail-on", "spike", "--json"]) == 1
    page = tmp_path / "page.html"
    assert main(["review", str(old), "--follow", "--plot", "--html", str(page)]) == 0
    assert page.stat().st_size > 10_000
    assert "spike" in capsys.readouterr().out


def test_version_1_does_not_know_the_clipped_steps():
    run = load_run(DATA / "version-1")
    assert run.windows["clipped"].isna().all()
    assert set(run.grid.clipped.tolist()) == {-1}


def test_every_version_knows_the_requested_options(old):
    """Version 1 takes them from the ``args.yaml`` of Ultralytics."""
    options = load_run(old).meta.options.training
    assert (options["optimizer"], options["lr0"]) == ("auto", 0.01)
    assert (at_work(options, "optimizer"), at_work(options, "lr0")) == ("AdamW", 0.001429)
    assert (options["mosaic"], options["freeze"], options["cos_lr"]) == (1.0, None, False)
    assert options["clip"] == 10.0


@pytest.mark.parametrize("content", [None, "", "\0", "a\n" * 9, "lr0: " + "9" * 9999, "lr0: [1]"])
def test_unreadable_args_yaml_falls_back_to_the_recorded_options(tmp_path, content):
    old = Path(shutil.copytree(DATA / "version-1", tmp_path / "run"))
    (old / "args.yaml").unlink()
    if content is not None:
        (old / "args.yaml").write_text(content, encoding="utf-8")
    options = load_run(old).meta.options.training
    assert (options["optimizer"], at_work(options, "optimizer")) == ("AdamW", "AdamW")


def test_every_version_can_be_resumed(old):
    before = load_run(old)
    last = before.layout.modules[-1]
    mend(old, last)
    *_, newest = windows_of(before.grid)
    more = replace(newest, step_first=21, step_last=21, clipped=1)
    write(old, [more], layout=before.layout, resume=True)
    after = load_run(old)
    assert header_of(old / "gradwatch.csv") == WINDOW_COLUMNS
    assert header_of(old / "gradwatch_alerts.csv") == ALERT_COLUMNS
    rows = len(before.windows)
    pd.testing.assert_frame_equal(after.windows[:rows], before.windows, check_dtype=False)
    pd.testing.assert_frame_equal(after.alerts, before.alerts)
    assert after.grid.clipped[-1] == 1
    assert len(after.grid.steps) == 21


def test_mending_an_up_to_date_run_changes_no_byte(tmp_path):
    write_run(tmp_path, WINDOWS)
    content = (tmp_path / "gradwatch.csv").read_bytes()
    mend(tmp_path, LAYOUT.modules[-1])
    assert (tmp_path / "gradwatch.csv").read_bytes() == content


def test_resumed_run_keeps_additions_of_a_later_version(tmp_path):
    """Covers columns of both tables, with an alert after the resume, and parts of the JSON."""
    first = Recording(tmp_path)
    first.step(sample(1))
    first.finish("interrupted")
    for name in ("gradwatch.csv", "gradwatch_alerts.csv"):
        table = pd.read_csv(tmp_path / name, dtype=str, keep_default_na=False)
        table.insert(2, "curvature", "0.5")
        table.to_csv(tmp_path / name, index=False)
    spoil(tmp_path, "gradwatch.json", part("mood", "calm"))
    resumed = Recording(tmp_path, resumes=True)
    resumed.step(sample(2, np.nan))
    resumed.finish()
    run = load_run(tmp_path)
    assert run.remarks == ()
    assert run.report() == resumed.report()
    assert run.alerts["rule"].tolist() == ["nonfinite"]
    assert run.alerts["curvature"].tolist() == [""]
    assert tuple(run.windows.columns) == (*WINDOW_COLUMNS, "curvature")
    rows = len(LAYOUT.modules)
    assert run.windows["curvature"].tolist() == ["0.5"] * rows + [""] * rows
    assert [one.step_first for one in windows_of(run.grid)] == [1, 2]
    assert run.meta.others == {"mood": "calm"}


@pytest.mark.parametrize("version", [None, 1])
def test_requested_options_are_unknown_if_the_first_part_lacks_them(version):
    """Ultralytics has overwritten the requested options by then, so advice names both."""
    earlier = version and load_run(DATA / f"version-{version}")
    resumed = {"optimizer": "AdamW", "lr0": 0.001429, "epochs": 5, "fitted": {}}
    options = as_asked(resumed, earlier)
    assert (options["optimizer"], options["lr0"], options["epochs"]) == (None, None, 5)
    assert (at_work(options, "optimizer"), at_work(options, "lr0")) == ("AdamW", 0.001429)
    assert "optimizer=AdamW with lr0 below 0.001429" in lower_rate(options)
    assert as_asked({**resumed, "optimizer": "auto"}, earlier)["optimizer"] == "auto"


def test_unknown_event_of_a_later_version_is_shown_verbatim(tmp_path):
    write_run(tmp_path, WINDOWS, events=[Event(1, "start"), Event(3, "coffee_break")])
    assert "coffee_break before step 3" in source_of(load_run(tmp_path))


def test_new_run_removes_the_evidence_of_version_1(tmp_path):
    old = Path(shutil.copytree(DATA / "version-1", tmp_path / "run"))
    assert list(old.glob("gradwatch_evidence/*.json"))
    write_run(old, WINDOWS)
    assert not list(old.glob("gradwatch_evidence/*.json"))
    assert not list(old.glob(f"{FOLDER}/*.json"))
    assert load_run(old).remarks == ()
