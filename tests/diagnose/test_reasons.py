"""When a trace explains a finding; what it says is played, and so are its words."""

from __future__ import annotations

from dataclasses import replace

import pytest
from stories import CHAIN, LAW, A, B, Story, alert, spelled
from values import window

from yolo_gradwatch.diagnose import reasons, rule
from yolo_gradwatch.diagnose.catalog import RULES
from yolo_gradwatch.diagnose.causes import Cause
from yolo_gradwatch.diagnose.finding import Reason
from yolo_gradwatch.diagnose.record import finding_record
from yolo_gradwatch.measure.trace import Flow


def told(rank=5, kind="told"):
    return Reason(kind, ("model.1.act",), (0.97,), rank)


class Told(Story):
    """A story in which a trace of a step says what `said` has for it; ``asked`` are those steps."""

    def __init__(self, monkeypatch, said):
        super().__init__()
        self.asked, self.flow = [], None

        def measured(finding, _layout, flow, _training):
            self.asked.append((finding.number, flow.step))
            return said.get(flow.step)

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
        """As `next`, with a trace of that step."""
        self.flow = Flow(1, step, ())
        return self.next(*modules, **given)

    @property
    def found(self):
        return self.findings.all[1]


@pytest.fixture
def story(monkeypatch):
    return lambda **said: Told(monkeypatch, {int(k.removeprefix("at")): v for k, v in said.items()})


def test_the_cause_is_reported_once_when_a_trace_is_there(story):
    one = story(at3=told(), at4=told())
    seen = [one.next(A), one.next(A), one.trace(3, A), one.next(A), one.trace(4, A)]
    assert spelled(seen) == "start - cause - -"
    ((change,),) = seen[2:3]
    assert (change.step, change.reported, change.finding) == (3, 3, one.findings.all[1])
    assert one.found.reason == told()
    assert one.asked == [(1, 3), (1, 4)]
    assert one.found.is_measured
    assert one.found.why in one.found.message


def test_a_trace_that_is_there_when_it_begins_is_no_change_of_its_own(story):
    one = story(at1=told())
    assert spelled([one.trace(1, A), one.next(A)]) == "start -"
    assert one.found.reason == told()


def test_a_trace_from_before_it_began_is_not_asked(story):
    one = story(at1=told())
    one.trace(1)
    assert spelled([one.next(A), one.next(A)]) == "start -"
    assert (one.asked, one.found.reason, one.found.is_measured) == ([], None, False)


def test_a_notice_is_not_explained(story):
    one = story(at2=told())
    assert spelled([one.next(A, rule="frozen"), one.trace(2, A, rule="frozen")]) == "start -"
    assert one.asked == []


def test_a_trace_is_not_asked_while_the_rule_is_silent(story):
    one = story(at2=told())
    assert spelled([one.next(A), one.trace(2), one.next(A)]) == "start - cause"


@pytest.mark.parametrize(
    ("ranks", "changed", "rank"),
    [((5, 4), "start cause -", 5), ((5, 5), "start cause -", 5), ((5, 6), "start cause cause", 6)],
)
def test_a_surer_reason_takes_the_place_of_one_that_is_known(story, ranks, changed, rank):
    one = story(at2=told(ranks[0]), at3=told(ranks[1]))
    assert spelled([one.next(A), one.trace(2, A), one.trace(3, A)]) == changed
    assert one.found.reason.rank == rank


def test_a_reason_without_words_is_kept_and_not_reported(story):
    one = story(at2=told(kind="unworded"))
    assert spelled([one.next(A), one.trace(2, A)]) == "start -"
    assert (one.found.reason.kind, one.found.is_measured) == ("unworded", False)


def test_one_that_grows_worse_has_its_cause_by_then(story):
    one = story(at2=told())
    assert spelled([one.next(A), one.trace(2, A, B)]) == "start worse"
    assert one.found.reason == told()


def judged(rank, value=1.0):
    own = Reason("slope", values=(value, 0.0), rank=rank)
    return [replace(alert(A, rule="nonfinite"), reason=own)]


def test_a_surer_reason_of_the_judge_is_reported_too(story):
    one = story()
    seen = [one.next(A, rule="nonfinite"), one.take(judged(2)), one.take(judged(2, 0.0))]
    assert spelled(seen) == "start cause -"
    assert (one.found.reason, one.found.is_measured) == (judged(2)[0].reason, True)


@pytest.mark.parametrize(("rank", "kind"), [(4, "told"), (5, "told"), (6, "slope")])
def test_of_judge_and_trace_the_surer_one_is_kept(story, rank, kind):
    one = story(at2=told())
    seen = [one.next(A, rule="nonfinite"), one.trace(2, A, rule="nonfinite")]
    seen.append(one.take(judged(rank), step=3))
    assert spelled(seen) == f"start cause {'cause' if kind == 'slope' else '-'}"
    assert one.found.reason.kind == kind
    assert one.found.judged == (judged(rank)[0].reason if kind == "told" else None)


def test_another_episode_is_explained_by_its_own_trace(story):
    one = story(at2=told(), at20=told())
    one.next(A)
    one.trace(2, A)
    one.calm()
    one.step = 18
    assert spelled([one.next(A), one.trace(20, A)]) == "start cause"
    assert one.asked == [(1, 2), (1, 20)]


def test_the_record_says_whether_the_cause_was_measured(story):
    one = story(at2=told())
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
    assert (cause["measured"], cause["kind"], cause["names"]) == (True, "told", ["model.1.act"])
    assert cause["values"] == [0.97]
    assert cause["text"] != likely["text"]


def test_what_to_try_is_what_the_measured_cause_asks_for_unless_something_has_changed(story):
    one = story(at2=told())
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
