"""The outcome of a run: facts are tested here, wording in golden/reports.txt."""

import json
import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
from shown import episode_of, epoch_of, finding_of

from yolo_gradwatch.diagnose.catalog import RULES
from yolo_gradwatch.diagnose.finding import Finding
from yolo_gradwatch.diagnose.report import LEAST_STEPS, Report
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.measure.clipping import EpochClipping

NOTICE = finding_of("amp_overflow", "model", severity="notice", number=1, step=2, message="calm.")
DEAD = finding_of("dead", "model.3.conv", number=2, step=30, message="it is dead.")
WARNING = finding_of("dead", "model.1.bn", number=3, step=1218, severity="warning", message="hm.")
OVER = finding_of("dead", step_end=55, message="it was dead.")
LATE = finding_of("dead", episodes=(episode_of(41, reported=1045),), message="it is dead.")
BACK = replace(OVER, episodes=(episode_of(7, 20, reported=9), episode_of(41, 55, reported=45)))

CLIPPED = (
    epoch_of(1, steps=10, clipped=10, skipped=1, norm_median=8.0, clip_ratio=218.5),
    epoch_of(2, steps=10, clipped=5, norm_median=1234.0, clip_ratio=1.2),
    epoch_of(2, steps=20, clipped=0, norm_median=2000.0),
)
OWNED = (
    epoch_of(1, steps=10, owners={"model.0": 0.5, "model.1": 0.3, "model.2": 0.1}),
    epoch_of(2, steps=30, owners={"model.9": 0.8, "model.0": 0.1}),
    epoch_of(3, steps=60),  # an epoch without owners does not dilute the others
)
LAX = Thresholds(vanishing=4.0, total_low=1e-9)
STRICT = Thresholds(vanishing=1.0, total_low=1e-2, dead_windows=2)
STEPLESS = {"steps": 0, "epochs": (), "unjudged": ("dead", "collapse")}


def report_of(*findings, status="finished", steps=1234, modules=57, epochs=None, **others):
    epochs = (epoch_of(steps=steps),) if epochs is None else epochs
    return Report(Path("runs/train"), status, steps, modules, findings, epochs, **others)


REPORTS = {
    "healthy": report_of(),
    "one step of one module": report_of(steps=1, modules=1),
    "a few steps": report_of(steps=4, unjudged=("vanishing",)),
    "a few steps so far": report_of(NOTICE, steps=4, status="running"),
    "a few applied steps": report_of(steps=20, epochs=(epoch_of(steps=20, skipped=16),)),
    "a few captured steps": report_of(steps=2, interval=10, epochs=()),
    "a few steps, with a finding": report_of(DEAD, steps=4),
    "a notice": report_of(NOTICE),
    "a notice and two alarms": report_of(NOTICE, DEAD, WARNING, DEAD),
    "a warning": report_of(WARNING),
    "running": report_of(status="running"),
    "failed": report_of(status="failed"),
    "interrupted, with a finding": report_of(DEAD, status="interrupted"),
    "over": report_of(OVER),
    "reported later": report_of(LATE),
    "came back": report_of(BACK),
    **{f"no step, {s}": report_of(**STEPLESS, status=s) for s in ("finished", "failed", "running")},
    "no step, elsewhere": report_of(**STEPLESS, status="elsewhere"),
    "laxer limits": report_of(thresholds=LAX),
    "laxer limits and a finding": report_of(DEAD, thresholds=LAX),
    "too short for one rule": report_of(unjudged=("collapse",)),
    "too short for two rules": report_of(unjudged=("dead_branch", "collapse")),
    "too short, with a finding": report_of(DEAD, unjudged=("collapse",)),
    "clipped": report_of(steps=40, epochs=CLIPPED),
    "clipped, with a finding": report_of(WARNING, steps=40, epochs=CLIPPED),
    "another clip": report_of(clip=1e6),
    "some steps captured": report_of(interval=10, epochs=(epoch_of(skipped=2),)),
    "no finite step": report_of(epochs=(epoch_of(norm_median=None),)),
    "killed in its first epoch": report_of(epochs=(), status="running"),
    "owners of the norm": report_of(DEAD, epochs=OWNED, unjudged=("collapse",)),
    "a remark": report_of(remarks=("rows are missing",)),
}


def test_wording_of_reports(golden):
    golden("reports", "".join(f"# {what}\n{report}\n\n" for what, report in REPORTS.items()))


@pytest.mark.parametrize(
    ("findings", "alarms"), [((), ()), ((NOTICE,), ()), ((NOTICE, DEAD, WARNING), (DEAD, WARNING))]
)
def test_run_is_healthy_without_alarms_and_notices_are_not_alarms(findings, alarms):
    report = report_of(*findings)
    assert (report.alarms, report.healthy) == (alarms, not alarms)


@pytest.mark.parametrize("findings", [(), (NOTICE,), (DEAD,)])
@pytest.mark.parametrize("skipped", [0, 3])
@pytest.mark.parametrize("steps", [1, 4, 5, 7, 8])
def test_too_few_steps_give_no_verdict_without_an_alarm(steps, skipped, findings):
    skipped = min(skipped, steps)
    epochs = (epoch_of(steps=steps, skipped=skipped),)
    report = report_of(*findings, steps=steps, epochs=epochs)
    verdict = (
        "unhealthy" if DEAD in findings else "healthy" if steps - skipped >= 5 else "no verdict"
    )
    assert report.verdict.startswith(verdict)
    assert report.is_too_short == (verdict == "no verdict")


@pytest.mark.parametrize(
    ("status", "findings", "severity"),
    [
        *((status, (), None) for status in ("finished", "running", "stopped", "interrupted")),
        *((status, (), "warning") for status in ("failed", "killed")),
        *((status, (DEAD,), "critical") for status in ("finished", "failed", "killed")),
    ],
)
def test_a_failed_run_without_a_finding_is_not_called_healthy(status, findings, severity):
    report = report_of(*findings, status=status)
    begins = {None: "healthy", "warning": "no verdict", "critical": "unhealthy"}
    assert report.severity == severity
    assert report.verdict.startswith(begins[severity])


def test_as_many_steps_as_vanishing_needs_give_a_verdict():
    assert RULES["vanishing"].needs(Thresholds()) == LEAST_STEPS


def test_stricter_limits_do_not_change_a_report():
    assert str(report_of(thresholds=STRICT)) == str(report_of())


@pytest.mark.parametrize("what", REPORTS)
def test_json_has_all_fields_of_a_report(what):
    report = REPORTS[what]
    found = report.to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found  # plain types only
    assert (found["run"], found["verdict"]) == (str(report.run), report.verdict)
    for name in ("status", "healthy", "steps"):
        assert found[name] == getattr(report, name)
    assert (found["unjudged"], found["remarks"]) == ([*report.unjudged], [*report.remarks])
    sums = {"epoch", "step", "step_end", "value"}
    for record, finding in zip(found["findings"], report.findings, strict=True):
        own = {field.name for field in fields(Finding)}
        assert set(record) == own - {"judged", "is_traced", "is_measured", "why"} | sums | {"cause"}
        assert [record[name] for name in sums] == [getattr(finding, name) for name in sums]
        assert len(record["episodes"]) == len(finding.episodes)
    for record, epoch in zip(found["epochs"], report.epochs, strict=True):
        assert record == {f.name: getattr(epoch, f.name) for f in fields(EpochClipping)}


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_json_has_no_nonfinite_numbers(odd):
    finding = replace(DEAD, episodes=(episode_of(value=odd),))
    found = report_of(finding, epochs=(replace(epoch_of(), scale=odd),)).to_dict()
    assert (found["findings"][0]["value"], found["epochs"][0]["scale"]) == (None, None)
    assert found["findings"][0]["episodes"][0]["value"] is None
