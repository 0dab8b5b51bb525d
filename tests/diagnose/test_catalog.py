"""What holds for every row of the catalogue."""

from __future__ import annotations

import re
from dataclasses import fields, replace

import pytest
from nets import NET, feed, fired, inside, net, resting, weighing, zeroed
from places import REPOSITORY
from rule_cases import FIVE, RUNS, WORDED

from yolo_gradwatch.diagnose.catalog import RULES
from yolo_gradwatch.diagnose.finding import Alert, Finding
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.diagnose.vocabulary import ALARMS, alarms, matches
from yolo_gradwatch.measure.layout import WHOLE

FILES = REPOSITORY / "docs" / "files.md"

NOTICES = [name for name, rule in RULES.items() if rule.severity == "notice"]
LIMITED = [name for name, rule in RULES.items() if rule.threshold]

JUDGED = [name for name in RULES if name not in ("nonfinite", "amp_overflow", "loss_nonfinite")]
"""Rules that keep their state across steps skipped by AMP."""


STARTED = ("large_weights", "initial_loss", "total_low", "converged", "stray_step")
"""Rules that compare with the start of the run."""

LATER = range(90, 112)

# --- the rows -------------------------------------------------------------------------------------


def test_every_rule_has_a_run_that_fires_it_and_a_case_for_its_wording():
    assert list(RUNS) == list(RULES)
    assert set(WORDED) == set(RULES)


def test_rows_are_consistent():
    names = {field.name for field in fields(Thresholds)}
    used = {rule.threshold for rule in RULES.values()} - {""}
    assert used == names
    for name, rule in RULES.items():
        assert (rule.kind == "") == (rule.severity == "notice")
        assert set(rule.explains) <= set(RULES) - {name}
        assert rule.kind in {"", *RULES}
        assert rule.judge.__name__ == name
        assert rule.words.__name__ == f"{name}_words"


def test_window_count_of_a_rule_follows_the_limits():
    limits = Thresholds(dead_windows=7, dead_branch_windows=9)
    for name, rule in RULES.items():
        is_patience = rule.unit == "windows" and rule.threshold
        own = getattr(limits, rule.threshold) if is_patience else len(RUNS[name].windows)
        assert rule.needs(limits) == own


def test_files_page_lists_the_rules_that_keep_evidence():
    (sentence,) = re.findall(
        r"step-N+\.json` is written for (.*)\s\(at most", FILES.read_text("utf-8")
    )
    kept = {name for name, rule in RULES.items() if rule.keeps_evidence}
    assert set(re.findall(r"`(\w+)`", sentence)) == kept


# --- every rule at its limit ----------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_rule_fires_alone_after_the_windows_it_needs(rule):
    run = RUNS[rule]
    *before, (alert,) = feed(run.windows, FIVE, **run.given)
    assert len(run.windows) == RULES[rule].needs(FIVE)
    assert not any(before)
    limit = alert.limit
    severity = RULES[rule].severity
    value = pytest.approx(run.value)
    expected = Alert(rule, severity, run.module, 1, run.step, value, limit, run.affected)
    assert replace(alert, reason=None) == expected
    field = RULES[rule].threshold
    assert limit == (getattr(FIVE, field) if field else run.value)


@pytest.mark.parametrize("rule", LIMITED)
def test_rule_just_below_at_and_just_above_its_limit(rule):
    run, field = RUNS[rule], RULES[rule].threshold
    (alert,) = fired(run.windows, rule, FIVE)
    is_count = isinstance(getattr(FIVE, field), int)
    at, off = (int(alert.value), 1) if is_count else (alert.value, 1e-6 * alert.value)
    for limit, fires in zip((at - off, at, at + off), run.fires, strict=True):
        found = fired(run.windows, rule, replace(FIVE, **{field: limit}))
        assert [one.limit for one in found] == [limit] * fires


def test_every_rule_with_a_limit_is_tested_at_it():
    assert [name for name, run in RUNS.items() if run.fires] == LIMITED


# --- every rule along a run -----------------------------------------------------------------------


@pytest.mark.parametrize("rule", JUDGED)
def test_windows_skipped_by_amp_start_and_end_nothing(rule):
    windows = RUNS[rule].windows
    loud = {WHOLE: 1e9, "model.1": 1e9, "model.4": 1e-9}
    skipped = net(99, loud, skipped=1, unknown=inside(NET, "model.0"))
    mixed = [one for each in windows for one in (skipped, each)]
    given = RUNS[rule].given
    found = fired([*mixed, skipped], rule, FIVE, **given)
    assert found == fired(windows, rule, FIVE, **given)
    last = [replace(windows[-1], step_first=90 + n, skipped=windows[-1].steps) for n in range(12)]
    assert not fired([*windows[:-1], *last], rule, FIVE, **given)


@pytest.mark.parametrize("rule", RULES)
def test_rule_holds_exactly_as_long_as_its_cause(rule):
    windows = RUNS[rule].windows
    more = [replace(windows[-1], step_first=90 + n) for n in range(4)]
    alerts = feed([*windows, *more], FIVE, **RUNS[rule].given)[-5:]
    assert all(rule in {alert.rule for alert in each} for each in alerts)
    usual = {"zero_fraction": zeroed(1, 0).zero_fraction}
    usual |= {"losses": windows[0].losses} if rule == "rate_jump" else {}
    well = [replace(resting(step), **usual) for step in LATER]
    assert not fired([*windows, *well], rule, FIVE)


@pytest.mark.parametrize("rule", [r for r in JUDGED if r not in {"spike", "collapse", *STARTED}])
def test_rule_finds_its_cause_after_a_healthy_start(rule):
    before = [weighing(step - 1000, 5) for step in range(20)]
    begun = [
        replace(one, step_first=one.step_first + 1000, step_last=one.step_last + 1000)
        for one in RUNS[rule].windows
    ]
    later = [replace(begun[-1], step_first=1100 + n, step_last=1100 + n) for n in range(5)]
    found = fired([*before, *begun, *later], rule, FIVE, **RUNS[rule].given)
    assert [alert.module for alert in found] == [RUNS[rule].module]


@pytest.mark.parametrize("rule", RULES)
def test_wide_windows_report_their_first_step(rule):
    counts = ("steps", "skipped", "nonfinite", "zero", "none")
    wide = [
        replace(
            one,
            epoch=7,
            step_first=200 * n,
            step_last=200 * n + 199,
            **{count: getattr(one, count) * 10 for count in counts},
        )
        for n, one in enumerate(RUNS[rule].windows, 1)
    ]
    limits = replace(FIVE, amp_grace=129 if rule == "nonfinite" else 99)
    (alert,) = fired(wide, rule, limits, **RUNS[rule].given)
    assert (alert.epoch, alert.step) == (7, 200 * RUNS[rule].step)


# --- alarm names in options -----------------------------------------------------------------------


def test_alarms_are_all_rules_and_kinds_except_notices():
    kinds = {rule.kind for rule in RULES.values()} - {""}
    assert list(ALARMS) == sorted({*RULES, *kinds, "critical", "warning"} - set(NOTICES))


def test_alarms_keep_the_order_of_the_option():
    assert alarms("stop_on", ["vanishing", "dead"]) == ("vanishing", "dead")
    assert alarms("stop_on", iter(ALARMS)) == ALARMS
    assert alarms("stop_on", ()) == ()


@pytest.mark.parametrize("word", [*NOTICES, "", "Dead", "slow"])
def test_unknown_alarm_is_refused(word):
    why = "only a notice, .*" if word in NOTICES else "not the name of a rule; .*"
    with pytest.raises(ValueError, match=rf"^stop_on: '{word}' is {why}$"):
        alarms("stop_on", ["dead", word])


def test_single_string_is_not_a_list_of_alarms():
    with pytest.raises(TypeError, match=r"^--fail-on must be a list or tuple .*'dead'$"):
        alarms("--fail-on", "dead")


@pytest.mark.parametrize("rule", RULES)
def test_finding_matches_its_rule_and_kind_and_notice_matches_nothing(rule):
    row = RULES[rule]
    finding = Finding(1, rule, row.severity, "model.1", ("model.1",), (), 0.0, "")
    for word in (*RULES, *ALARMS, ""):
        is_meant = row.severity != "notice" and word in {rule, row.kind, row.severity}
        assert matches(finding, (word, "other")) == is_meant
    assert not matches(finding, ())
