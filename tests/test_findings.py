from __future__ import annotations

from dataclasses import replace

import pytest
from values import HEAD, LAYOUT, TRUNK, Part, plan, window

from yolo_gradwatch.detect import RULES
from yolo_gradwatch.findings import Findings, common_name
from yolo_gradwatch.records import Alert, Event, News

WIDE, _ = plan([Part(f"model.{block}.{leaf}") for block in range(4) for leaf in "abcd"])
"""Four blocks of four leaves."""

A, B, C, D = (f"model.1.{leaf}" for leaf in "abcd")


def alert(module, step=1, *, rule="dead", value=3.0):
    return Alert(rule, RULES[rule].severity, module, 1, step, value, 3.0)


class Story:
    """Feeds the alerts of one window after the other."""

    def __init__(self, layout=WIDE):
        self.layout = layout
        self.findings = Findings(layout, {"amp": True})
        self.step = 0

    def next(self, *modules, rule="dead", value=3.0):
        """What one window changes in which these modules have an alert."""
        self.step += 1
        alerts = [alert(module, self.step, rule=rule, value=value) for module in modules]
        return self.tell(alerts)

    def tell(self, alerts):
        return self.findings.update(window(self.step, layout=self.layout), alerts)


def changes(news):
    return [(one.change, one.finding.number) for one in news]


def test_no_alert_no_news():
    story = Story()
    assert story.next() == []
    assert story.findings.all == {}


def test_a_finding_is_told_once_and_ends_when_it_is_gone():
    story = Story()
    told = [changes(story.next(*names)) for names in ([A], [A], [A], [], [])]
    assert told == [[("start", 1)], [], [], [("end", 1)], []]


def test_a_finding_that_starts():
    story = Story()
    story.step = 6
    alerts = [alert(A, 4, value=5.0), alert(B, 4, value=5.0)]
    (news,) = story.tell(alerts)
    found = news.finding
    assert news == News("start", 1, 6, found)
    assert (found.number, found.rule, found.severity) == (1, "dead", "critical")
    assert (found.module, found.modules) == (B, (A, B))
    assert (found.epoch, found.step, found.step_end) == (1, 4, None)
    assert (found.value, found.limit) == (5.0, 3.0)
    assert found.message.startswith("model.1.b (Conv2d): gradient exactly zero since step 4")
    assert story.findings.all == {1: found}


def test_a_finding_that_ends():
    story = Story()
    (start,) = story.next(A)
    (news,) = story.next()
    assert news == News("end", 1, 2, replace(start.finding, step_end=2))
    assert story.findings.all == {1: news.finding}


def test_a_finding_stands_as_long_as_one_of_its_modules_is_sick():
    story = Story()
    told = [changes(story.next(*names)) for names in ([A, B], [A], [B], [B], [])]
    assert told == [[("start", 1)], [], [], [], [("end", 1)]]


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ((1, 2), "start worse"),
        ((2, 3, 4), "start - worse"),
        ((3, 5, 6), "start - worse"),
        ((4, 7), "start -"),
        ((1, 2, 3, 4, 7, 8, 9), "start worse - worse - worse -"),
        ((4, 1, 4, 8), "start - - worse"),
    ],
)
def test_a_finding_is_worse_at_twice_the_modules_that_were_told(sizes, told):
    story = Story()
    names = [name for name, leaf in zip(WIDE.modules, WIDE.leaf, strict=True) if leaf]
    news = [story.next(*names[:size]) for size in sizes]
    assert " ".join(one[0].change if one else "-" for one in news) == told
    assert len(story.findings.all[1].modules) == max(sizes)


def test_a_finding_counts_all_modules_that_were_ever_sick():
    story = Story()
    told = [changes(story.next(*names)) for names in ([A, B], [B, C], [C, D])]
    assert told == [[("start", 1)], [], [("worse", 1)]]
    assert story.findings.all[1].modules == (A, B, C, D)


def test_modules_of_a_finding_stand_in_forward_order():
    story = Story()
    story.next(C)
    (news,) = story.next(A, C)
    assert news.finding.modules == (A, C)


def test_a_worse_finding_keeps_its_number_and_its_start():
    story = Story()
    (start,) = story.next(A)
    (worse,) = story.next(A, B, value=7.0)
    assert (worse.change, worse.step) == ("worse", 2)
    assert (worse.finding.number, worse.finding.step) == (1, 1)
    assert worse.finding.value == 7.0
    assert worse.finding.message != start.finding.message


def test_the_value_is_the_one_that_was_last_told():
    story = Story()
    story.next(A, B, value=3.0)
    assert story.next(A, B, C, value=9.0) == []
    assert story.findings.all[1].value == 3.0


def test_two_findings_of_one_rule_one_after_the_other():
    story = Story()
    told = [changes(story.next(*names)) for names in ([A], [], [A], [])]
    assert told == [[("start", 1)], [("end", 1)], [("start", 2)], [("end", 2)]]
    assert [(f.step, f.step_end) for f in story.findings.all.values()] == [(1, 2), (3, 4)]


def test_one_finding_ends_as_the_next_begins():
    story = Story()
    story.next(A)
    assert changes(story.next(B)) == [("end", 1), ("start", 2)]


def test_each_rule_has_its_own_finding():
    story = Story()
    story.step = 1
    news = story.tell([alert(A, rule="no_gradient"), alert(B), alert(C, rule="nonfinite")])
    assert [(one.finding.rule, one.finding.number) for one in news] == [
        ("nonfinite", 1),
        ("dead", 2),
        ("no_gradient", 3),
    ]
    assert changes(story.next(B)) == [("end", 1), ("end", 3)]


def test_a_notice_is_told_once_a_run():
    story = Story()
    quiet_and_not = ([], ["model"], [], ["model"], ["model"], [])
    told = [story.next(*names, rule="amp_overflow") for names in quiet_and_not]
    assert [changes(news) for news in told] == [[], [("start", 1)], [], [], [], []]
    (found,) = story.findings.all.values()
    assert (found.severity, found.step_end) == ("notice", None)


def test_an_event_ends_what_stands():
    story = Story()
    story.next(A)
    story.next(B)
    story.next(B, rule="no_gradient")  # ends the finding on B
    news = story.findings.end_all(Event(9, "nan_recovery"), 4)
    assert changes(news) == [("end", 3)]
    assert (news[0].step, news[0].epoch, news[0].finding.step_end) == (9, 4, 9)
    assert story.findings.end_all(Event(9, "resume"), 4) == []


def test_what_is_still_sick_after_an_event_is_found_again():
    story = Story()
    story.next(A)
    story.findings.end_all(Event(2, "resume"), 1)
    assert changes(story.next(A)) == [("start", 2)]


def earlier(*, standing=True, number=4):
    story = Story()
    (news,) = story.next(A)
    return replace(news.finding, number=number, step_end=None if standing else 2)


def test_numbers_go_on_after_a_resume():
    story = Story()
    story.findings.restore([earlier(standing=False, number=1), earlier(standing=False)])
    assert changes(story.next(B)) == [("start", 5)]
    assert list(story.findings.all) == [1, 4, 5]


def test_a_restored_finding_stands_until_the_event():
    story = Story()
    story.findings.restore([earlier()])
    assert changes(story.next(A)) == []
    assert changes(story.findings.end_all(Event(5, "resume"), 1)) == [("end", 4)]


def test_a_restored_finding_that_is_over_does_not_end_again():
    story = Story()
    story.findings.restore([earlier(standing=False)])
    assert story.findings.end_all(Event(5, "resume"), 1) == []


def test_two_restored_findings_of_one_rule_end_each():
    story = Story()
    other = replace(earlier(number=7), module=C, modules=(C,))
    story.findings.restore([earlier(), other])
    assert changes(story.next(C)) == [("end", 4)]
    assert changes(story.next(D)) == [("end", 7), ("start", 8)]


@pytest.mark.parametrize(
    ("modules", "name"),
    [
        (("model.1.conv",), "model.1.conv"),
        (("model.0.conv", "model.1.bn"), "model.1.bn"),
        (("model.1.conv", "model.1.bn"), "model.1"),
        (TRUNK, "model.1"),
        ((*TRUNK, "model.2.a"), "model.2.a"),
        (HEAD, "model.2"),
        ((*TRUNK, *HEAD), "model"),
        (("model",), "model"),
    ],
)
def test_common_name(modules, name):
    assert common_name(LAYOUT, modules) == name


def test_common_name_of_a_deep_container():
    layout, _ = plan(
        [Part(f"model.0.m.{n}.{x}") for n in range(2) for x in "ab"] + [Part("model.1")]
    )
    assert common_name(layout, ("model.0.m.1.a",)) == "model.0.m.1.a"
    assert common_name(layout, ("model.0.m.1.a", "model.0.m.1.b")) == "model.0.m.1"
    assert common_name(layout, tuple(f"model.0.m.{n}.{x}" for n in range(2) for x in "ab")) == (
        "model.0"
    )


def test_common_name_is_not_fooled_by_a_longer_name():
    layout, _ = plan([Part("model.1.a"), Part("model.10.a"), Part("model.10.b"), Part("model.2.a")])
    assert common_name(layout, ("model.1.a",)) == "model.1"
    assert common_name(layout, ("model.1.a", "model.10.a")) == "model.10.a"


def test_common_name_without_a_list_of_blocks():
    layout, _ = plan([Part("stem.a"), Part("stem.b"), Part("fc")])
    assert common_name(layout, ("stem.a", "stem.b")) == "stem"
    assert common_name(layout, ("fc",)) == "fc"
    assert common_name(layout, ("stem.a", "stem.b", "fc")) == "model"


def test_a_container_that_owns_a_parameter_is_named_only_with_it():
    layout, _ = plan([Part("model.0"), Part("model.0.a"), Part("model.1")])
    assert common_name(layout, ("model.0.a",)) == "model.0.a"
    assert common_name(layout, ("model.0", "model.0.a")) == "model.0"
