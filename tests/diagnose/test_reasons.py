"""When a trace explains a finding; the measured causes and their wording are faked here."""

from __future__ import annotations

from dataclasses import replace

import pytest
from alert_feed import CHAIN, LAW, A, AlertFeed, B, alert, spelled
from values import window

from yolo_gradwatch.diagnose import reasons, rule
from yolo_gradwatch.diagnose.catalog import RULES
from yolo_gradwatch.diagnose.causes import Cause
from yolo_gradwatch.diagnose.finding import Reason
from yolo_gradwatch.diagnose.record import finding_record
from yolo_gradwatch.measure.trace import Flow


def explanation(rank=5, kind="worded"):
    return Reason(kind, ("model.1.act",), (0.97,), rank)


class TracedAlertFeed(AlertFeed):
    """A story with traces; ``explanations`` maps a step to its reason, ``asked`` lists lookups."""

    def __init__(self, monkeypatch, explanations):
        super().__init__()
        self.asked, self.flow = [], None

        def measured(finding, _layout, flow, _training):
            self.asked.append((finding.number, flow.step))
            return explanations.get(flow.step)

        def cause_of(reason, _layout, _training):
            is_known = reason.kind != "unworded"
            return Cause(f"{reason.kind} at rank {reason.rank}", "that") if is_known else None

        monkeypatch.setattr(reasons, "measured", measured)
        monkeypatch.setattr(rule, "cause_of", cause_of)

    def take(self, alerts, skipped=0, reported=0, step=None):
        self.step = step or self.step
        one = window(self.step, skipped=skipped, layout=self.layout)
        return self.findings.update(one, alerts, reported or self.step, self.flow)

    def trace(self, step, *modules, **given):
        """As `next`, with a trace of this step."""
        self.flow = Flow(1, step, ())
        return self.next(*modules, **given)

    @property
    def found(self):
        return self.findings.all[1]


@pytest.fixture
def story(monkeypatch):
    return lambda **said: TracedAlertFeed(
        monkeypatch, {int(k.removeprefix("at")): v for k, v in said.items()}
    )


def test_cause_is_reported_once_when_a_trace_arrives(story):
    one = story(at3=explanation(), at4=explanation())
    seen = [one.next(A), one.next(A), one.trace(3, A), one.next(A), one.trace(4, A)]
    assert spelled(seen) == "start - cause - -"
    ((change,),) = seen[2:3]
    assert (change.step, change.reported, change.finding) == (3, 3, one.findings.all[1])
    assert one.found.reason == explanation()
    assert one.asked == [(1, 3), (1, 4)]
    assert one.found.is_measured
    assert one.found.why in one.found.message


def test_trace_at_the_start_is_no_separate_change(story):
    one = story(at1=explanation())
    assert spelled([one.trace(1, A), one.next(A)]) == "start -"
    assert one.found.reason == explanation()


def test_trace_from_before_the_start_is_ignored(story):
    one = story(at1=explanation())
    one.trace(1)
    assert spelled([one.next(A), one.next(A)]) == "start -"
    assert (one.asked, one.found.reason, one.found.is_measured) == ([], None, False)


def test_notice_is_not_explained(story):
    one = story(at2=explanation())
    assert spelled([one.next(A, rule="frozen"), one.trace(2, A, rule="frozen")]) == "start -"
    assert one.asked == []


def test_trace_is_ignored_while_the_rule_is_silent(story):
    one = story(at2=explanation())
    assert spelled([one.next(A), one.trace(2), one.next(A)]) == "start - cause"


@pytest.mark.parametrize(
    ("ranks", "changed", "rank"),
    [((5, 4), "start cause -", 5), ((5, 5), "start cause -", 5), ((5, 6), "start cause cause", 6)],
)
def test_more_certain_reason_replaces_a_known_one(story, ranks, changed, rank):
    one = story(at2=explanation(ranks[0]), at3=explanation(ranks[1]))
    assert spelled([one.next(A), one.trace(2, A), one.trace(3, A)]) == changed
    assert one.found.reason.rank == rank


def test_reason_without_wording_is_kept_and_not_reported(story):
    one = story(at2=explanation(kind="unworded"))
    assert spelled([one.next(A), one.trace(2, A)]) == "start -"
    assert (one.found.reason.kind, one.found.is_measured) == ("unworded", False)


def test_worse_finding_includes_its_cause(story):
    one = story(at2=explanation())
    assert spelled([one.next(A), one.trace(2, A, B)]) == "start worse"
    assert one.found.reason == explanation()


def judged(rank, value=1.0):
    own = Reason("slope", values=(value, 0.0), rank=rank)
    return [replace(alert(A, rule="nonfinite"), reason=own)]


def test_more_certain_reason_of_the_judge_is_reported_too(story):
    one = story()
    seen = [one.next(A, rule="nonfinite"), one.take(judged(2)), one.take(judged(2, 0.0))]
    assert spelled(seen) == "start cause -"
    assert (one.found.reason, one.found.is_measured) == (judged(2)[0].reason, True)


@pytest.mark.parametrize(("rank", "kind"), [(4, "worded"), (5, "worded"), (6, "slope")])
def test_more_certain_of_judge_and_trace_is_kept(story, rank, kind):
    one = story(at2=explanation())
    seen = [one.next(A, rule="nonfinite"), one.trace(2, A, rule="nonfinite")]
    seen.append(one.take(judged(rank), step=3))
    assert spelled(seen) == f"start cause {'cause' if kind == 'slope' else '-'}"
    assert one.found.reason.kind == kind
    assert one.found.judged == (judged(rank)[0].reason if kind == "worded" else None)


def test_another_episode_is_explained_by_its_own_trace(story):
    one = story(at2=explanation(), at20=explanation())
    one.next(A)
    one.trace(2, A)
    one.calm()
    one.step = 18
    assert spelled([one.next(A), one.trace(20, A)]) == "start cause"
    assert one.asked == [(1, 2), (1, 20)]


def test_record_contains_whether_the_cause_was_measured(story):
    one = story(at2=explanation())
    one.next(A, rule=LAW)
    likely = finding_record(one.found)["cause"]
    assert likely == {
        "measured": False,
        "text": one.found.why,
        "kind": "",
        "names": [],
        "values": [],
    }
    one.trace(2, A, rule=LAW)
    cause = finding_record(one.found)["cause"]
    assert (cause["measured"], cause["kind"], cause["names"]) == (True, "worded", ["model.1.act"])
    assert cause["values"] == [0.97]
    assert cause["text"] != likely["text"]


def test_remedy_follows_the_measured_cause_unless_the_run_was_healthy_before(story):
    one = story(at2=explanation())
    one.next(A, rule=LAW)
    before = rule_message(one.found)
    one.trace(2, A, rule=LAW)
    after = rule_message(one.found)
    assert (before.likely and not before.measured, after.likely) == (True, "")
    assert after.remedy != before.remedy
    late = replace(one.found, well=300)
    assert rule_message(late).remedy == rule_message(replace(late, is_traced=False)).remedy


def rule_message(finding):
    return RULES[finding.rule].message(CHAIN, {}, finding)
