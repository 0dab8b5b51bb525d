from __future__ import annotations

from dataclasses import replace

import pytest
from build import ended
from values import FORK_EDGES, HEAD, LAYOUT, TRUNK, Part, plan, window

from yolo_gradwatch.advice import message
from yolo_gradwatch.detect import RULES
from yolo_gradwatch.finding import Alert, Episode, News
from yolo_gradwatch.findings import CALM_WINDOWS, EXPLAINS, Findings, common_name
from yolo_gradwatch.layout import WHOLE
from yolo_gradwatch.thresholds import Thresholds

CHAIN, _ = plan(
    [Part(f"model.{block}.{leaf}") for block in range(4) for leaf in "abcd"],
    edges=[("model.0", "model.1"), ("model.1", "model.2"), ("model.2", "model.3")],
)
"""Four blocks of four leaves, one after the other."""

A, B, C, D = (f"model.1.{leaf}" for leaf in "abcd")

FORK, _ = plan(
    [Part(f"model.{block}.{leaf}") for block in range(5) for leaf in ("conv", "bn")],
    edges=FORK_EDGES,
)
"""Block 0 feeds blocks 1 and 2, which do not see each other; block 3 reads both."""

LEFT, RIGHT = "model.1", "model.2"

CALM = {
    "nonfinite": 5,
    "dead": 5,
    "no_gradient": 5,
    "dead_branch": 50,
    "partly_dead": 5,
    "vanishing": 5,
    "exploding": 5,
    "leaf_vanishing": 5,
    "leaf_exploding": 5,
    "spike": 6,
    "collapse": 23,
    "total_high": 5,
    "total_low": 10,
    "weight_growth": 5,
}
"""Windows without an alert after which each alarm is over."""

NOTICES = [name for name, rule in RULES.items() if rule.severity == "notice"]


def alert(module, step=1, *, rule="dead", value=3.0, affected=()):
    return Alert(rule, RULES[rule].severity, module, 1, step, value, 3.0, affected)


class Story:
    """Feeds the alerts of one window after the other."""

    def __init__(self, layout=CHAIN, limits=None, files=()):
        self.layout = layout
        self.asked = []
        self.files = files
        self.findings = Findings(layout, limits or Thresholds(), {"amp": True}, self.file)
        self.step = 0

    def file(self, step, last):
        assert step <= last == self.step
        self.asked.append(step)
        return f"evidence/{step}.json" if step in self.files else ""

    def next(self, *modules, rule="dead", value=3.0, skipped=0):
        """What one window changes in which these modules have an alert."""
        self.step += 1
        alerts = [alert(module, self.step, rule=rule, value=value) for module in modules]
        return self.tell(alerts, skipped=skipped)

    def both(self, *pairs):
        """What one window changes that brings alerts of several rules."""
        self.step += 1
        return self.tell([alert(module, self.step, rule=rule) for rule, module in pairs])

    def tell(self, alerts, skipped=0, reported=0):
        one = window(self.step, skipped=skipped, layout=self.layout)
        return self.findings.update(one, alerts, reported or self.step)

    def calm(self, windows):
        """What windows without an alert change."""
        return [one for _ in range(windows) for one in self.next()]

    def standing(self):
        return [f.number for f in self.findings.all.values() if f.step_end is None]


def changes(news):
    return [(one.change, one.finding.number) for one in news]


def rules_of(news):
    return [(one.change, one.finding.rule) for one in news]


def test_no_alert_no_news():
    story = Story()
    assert story.next() == []
    assert story.findings.all == {}


# --- it begins ------------------------------------------------------------------------------------


def test_a_finding_that_starts():
    story = Story()
    story.step = 6
    alerts = [alert(A, 4, value=5.0), alert(B, 4, value=5.0)]
    (news,) = story.tell(alerts)
    found = news.finding
    assert news == News("start", 1, 6, found, 6)
    assert (found.number, found.rule, found.severity) == (1, "dead", "critical")
    assert (found.module, found.modules) == (B, (A, B))
    assert found.origin == (A, B)
    assert found.episodes == (Episode(1, 4, None, 6, 5.0),)
    assert (found.epoch, found.step, found.step_end, found.value) == (1, 4, None, 5.0)
    assert (found.limit, found.evidence) == (3.0, "")
    assert found.message.startswith("model.1.b (Conv2d): gradient exactly zero since step 4")
    assert story.findings.all == {1: found}


def test_a_finding_begins_with_the_module_that_it_is_named_after():
    story = Story()
    story.step = 9
    (news,) = story.tell([alert(A, 8, rule="vanishing"), alert(C, 5, rule="vanishing")])
    assert (news.finding.module, news.finding.step) == (C, 5)


def test_blocks_that_suffer_are_modules_of_the_finding():
    story = Story()
    (news,) = story.tell([alert("model.2", rule="vanishing", affected=("model.0", "model.1"))])
    assert (news.finding.module, news.finding.modules) == (
        "model.2",
        ("model.0", "model.1", "model.2"),
    )


def test_a_finding_is_told_once():
    story = Story()
    assert changes(story.next(A)) == [("start", 1)]
    assert [story.next(A) for _ in range(20)] == [[]] * 20


def test_each_rule_has_its_own_finding_the_strongest_first():
    news = Story().both(
        ("weight_growth", WHOLE), ("partly_dead", A), ("vanishing", "model.1"), ("frozen", B)
    )
    assert [(one.finding.rule, one.finding.number) for one in news] == [
        ("partly_dead", 1),
        ("frozen", 2),
        ("vanishing", 3),
        ("weight_growth", 4),
    ]


# --- it grows worse -------------------------------------------------------------------------------


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
    names = [n for n, role in zip(CHAIN.modules, CHAIN.roles, strict=True) if role]
    news = [story.next(*names[:size]) for size in sizes]
    assert " ".join(one[0].change if one else "-" for one in news) == told
    assert len(story.findings.all[1].modules) == max(sizes)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ((2.5, 4.9, 5.0), "start - worse"),
        ((3.0, 5.9, 3.0), "start - -"),
        ((2.0, 4.0, 7.9, 8.0), "start worse - worse"),
        ((4.0, 2.0, 4.0, 8.0), "start - - worse"),
    ],
)
def test_a_finding_in_decades_is_worse_at_twice_what_was_told(values, told):
    story = Story()
    news = [story.next(A, rule="leaf_vanishing", value=value) for value in values]
    assert " ".join(one[0].change if one else "-" for one in news) == told


@pytest.mark.parametrize("values", [(6.0, 3.0), (3.0, 6.0)])
def test_a_finding_is_worse_by_the_worst_of_its_alerts(values):
    story = Story()
    story.next(A, B, rule="leaf_vanishing", value=3.0)
    alerts = [
        alert(module, 2, rule="leaf_vanishing", value=value)
        for module, value in zip((A, B), values, strict=True)
    ]
    (news,) = story.tell(alerts)
    assert (news.change, news.finding.value) == ("worse", 6.0)


@pytest.mark.parametrize("rule", sorted(CALM))
def test_only_what_is_in_decades_is_worse_at_twice_the_value(rule):
    story = Story()
    story.next(A, rule=rule, value=3.0)
    is_worse = bool(story.next(A, rule=rule, value=30.0))
    counted = {"nonfinite", "dead", "no_gradient", "dead_branch", "partly_dead"}
    assert is_worse == (rule not in counted | {"total_high", "total_low"})


def test_two_that_begin_together_are_not_worse_a_window_later():
    story = Story()
    alerts = [
        alert("model.0", rule="vanishing", value=5.0),
        alert("model.2", rule="vanishing", value=2.1),
    ]
    assert [changes(story.tell(alerts)) for _ in range(3)] == [[("start", 1)], [], []]


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


def test_a_worse_finding_keeps_its_number_its_name_and_its_start():
    story = Story()
    (start,) = story.next(A)
    (worse,) = story.next(A, B, value=7.0)
    assert (worse.change, worse.step) == ("worse", 2)
    assert (worse.finding.number, worse.finding.module, worse.finding.step) == (1, A, 1)
    assert worse.finding.value == 7.0
    assert worse.finding.message != start.finding.message


def test_a_worse_finding_is_told_with_the_limit_that_was_broken_last():
    story = Story()
    story.next(A, rule="nonfinite", value=1.0)
    (news,) = story.tell([replace(alert(B, 2, rule="nonfinite", value=13.0), limit=12.0)])
    assert (news.change, news.finding.value, news.finding.limit) == ("worse", 13.0, 12.0)


def test_the_value_is_the_one_that_was_last_told():
    story = Story()
    story.next(A, B, value=3.0)
    assert story.next(A, B, C, value=9.0) == []
    assert story.findings.all[1].value == 3.0


# --- it is over -----------------------------------------------------------------------------------


def test_every_alarm_has_its_number_of_calm_windows():
    assert set(CALM) == set(RULES) - set(NOTICES)


@pytest.mark.parametrize(("rule", "windows"), CALM.items())
def test_a_finding_is_over_after_enough_windows_without_an_alert(rule, windows):
    story = Story()
    story.next(A, rule=rule)
    assert story.calm(windows - 1) == []
    assert changes(story.next()) == [("end", 1)]
    assert story.calm(100) == []


@pytest.mark.parametrize(("dead_windows", "calm"), [(1, 5), (5, 5), (6, 6), (30, 30)])
def test_a_patient_rule_takes_as_long_to_be_over(dead_windows, calm):
    story = Story(limits=Thresholds(dead_windows=dead_windows))
    story.next(A)
    assert story.calm(calm - 1) == []
    assert changes(story.next()) == [("end", 1)]


def test_a_finding_ends_with_its_first_calm_window():
    story = Story()
    (start,) = story.next(A)
    (news,) = story.calm(CALM_WINDOWS)
    assert news == News("end", 1, 6, ended(start.finding, 2), 6)
    assert story.findings.all == {1: news.finding}


def test_an_alert_in_between_begins_the_calm_anew():
    story = Story()
    story.next(A)
    assert story.calm(CALM_WINDOWS - 1) == []
    assert story.next(A) == []
    assert story.calm(CALM_WINDOWS - 1) == []
    (news,) = story.next()
    assert (news.change, news.finding.step_end, len(news.finding.episodes)) == ("end", 7, 1)


def test_a_finding_stands_as_long_as_one_of_its_modules_is_sick():
    story = Story()
    told = [changes(story.next(*names)) for names in ([A, B], *[[A]] * 9, *[[B]] * 9)]
    assert told == [[("start", 1)], *[[]] * 18]


def test_windows_that_amp_skipped_whole_are_not_calm():
    story = Story()
    story.next(A)
    assert [story.next(skipped=1) for _ in range(20)] == [[]] * 20
    assert story.calm(CALM_WINDOWS - 1) == []
    assert [story.next(skipped=1) for _ in range(20)] == [[]] * 20
    (news,) = story.next()
    assert (news.change, news.step, news.finding.step_end) == ("end", 46, 22)


def test_a_window_that_amp_skipped_in_part_is_calm():
    story = Story()
    story.next(A)
    parts = [window(10 * n, steps=10, skipped=9, layout=CHAIN) for n in range(1, 6)]
    assert [changes(story.findings.update(part, [], 60)) for part in parts] == [
        *[[]] * 4,
        [("end", 1)],
    ]


# --- it comes back --------------------------------------------------------------------------------


def test_a_finding_that_comes_back_is_the_same_one():
    story = Story()
    (start,) = story.next(A)
    (end,) = story.calm(CALM_WINDOWS)
    (news,) = story.next(A, value=4.0)
    assert changes([news]) == [("start", 1)]
    assert news.finding.episodes == (*end.finding.episodes, Episode(1, 7, None, 7, 4.0))
    assert (news.finding.step, news.finding.step_end, news.finding.value) == (1, None, 4.0)
    assert " since step 1, " in start.finding.message
    assert " since step 7, " in news.finding.message
    assert " since step 1, " not in news.finding.message


def test_episodes_keep_their_own_begin_and_end_and_value():
    story = Story()
    for value in (2.0, 9.0, 3.0):
        story.next(A, value=value, rule="leaf_vanishing")
        story.next(A, value=value, rule="leaf_vanishing")
        story.calm(100)
    assert story.findings.all[1].episodes == (
        Episode(1, 1, 3, 1, 2.0),
        Episode(1, 103, 105, 103, 9.0),
        Episode(1, 205, 207, 205, 3.0),
    )


def test_an_episode_has_the_value_of_its_own_worst_report():
    story = Story()
    for value in (2.0, 4.0, 3.0):
        story.next(A, value=value, rule="leaf_vanishing")
    story.calm(CALM_WINDOWS)
    (back,) = story.next(A, value=2.5, rule="leaf_vanishing")
    assert [episode.value for episode in back.finding.episodes] == [4.0, 2.5]
    (worse,) = story.next(A, value=5.0, rule="leaf_vanishing")
    assert worse.change == "worse"
    assert [episode.value for episode in worse.finding.episodes] == [4.0, 5.0]


def test_evidence_that_reaches_back_into_the_last_episode_begins_after_it():
    story = Story()
    story.next(A)
    story.calm(CALM_WINDOWS)
    story.step = 7
    (news,) = story.tell([alert(A, 1)])
    assert [(e.step, e.step_end) for e in news.finding.episodes] == [(1, 2), (2, None)]


@pytest.mark.parametrize("change", ["start", "worse", "end", "back"])
def test_a_change_says_which_step_had_been_seen(change):
    story = Story()
    story.step = 10
    alerts = [alert(A, 4)]
    news = story.tell(alerts, reported=13)
    if change == "worse":
        news = story.tell([*alerts, alert(B, 4)], reported=17)
    elif change in {"end", "back"}:
        for step in range(11, 11 + CALM_WINDOWS):
            story.step = step
            news = story.tell([], reported=step + 3)
    if change == "back":
        story.step = 40
        news = story.tell([alert(A, 38)], reported=43)
    (one,) = news
    seen = {"start": [13], "worse": [13], "end": [13], "back": [13, 43]}[change]
    assert [episode.reported for episode in one.finding.episodes] == seen
    assert one.reported == {"start": 13, "worse": 17, "end": 18, "back": 43}[change]


def test_after_its_end_another_module_of_its_path_is_a_new_finding():
    story = Story(FORK)
    story.next("model.3.conv")
    story.calm(CALM_WINDOWS)
    assert changes(story.next("model.1.conv")) == [("start", 2)]
    story.calm(CALM_WINDOWS)
    assert changes(story.next("model.3.conv")) == [("start", 1)]
    assert story.findings.all[1].modules == ("model.3.conv",)


def test_what_would_be_named_otherwise_is_a_new_finding():
    story = Story()
    story.next(A, B)  # named B
    story.calm(CALM_WINDOWS)
    assert changes(story.next(A)) == [("start", 2)]
    story.calm(CALM_WINDOWS)
    assert changes(story.next(A, B, C, D)) == [("start", 3)]  # the whole block
    story.calm(CALM_WINDOWS)
    assert changes(story.next(B)) == [("start", 1)]
    assert [f.module for f in story.findings.all.values()] == [B, A, "model.1"]


def test_a_finding_comes_back_only_under_its_own_rule():
    story = Story()
    story.next(A)
    story.calm(CALM_WINDOWS)
    assert rules_of(story.next(A, rule="partly_dead")) == [("start", "partly_dead")]


def test_every_return_is_reported_and_so_is_every_end():
    story = Story()
    news = [one for _ in range(17) for one in [*story.next(A), *story.calm(CALM_WINDOWS)]]
    assert changes(news) == [("start", 1), ("end", 1)] * 17
    assert [len(one.finding.episodes) for one in news[::2]] == list(range(1, 18))
    assert (list(story.findings.all), story.standing()) == ([1], [])


def test_a_return_is_worse_by_what_was_reported_of_it():
    story = Story()
    story.next(A, rule="leaf_vanishing", value=9.0)
    story.calm(CALM_WINDOWS)
    assert changes(story.next(A, rule="leaf_vanishing", value=2.0)) == [("start", 1)]
    assert story.next(A, rule="leaf_vanishing", value=3.9) == []
    assert changes(story.next(A, rule="leaf_vanishing", value=4.0)) == [("worse", 1)]
    assert changes(story.next(A, B, rule="leaf_vanishing", value=4.0)) == [("worse", 1)]
    assert changes(story.calm(CALM_WINDOWS)) == [("end", 1)]


@pytest.mark.parametrize("rule", sorted(RULES))
def test_100_windows_with_an_alert_and_without_are_one_finding_and_no_more_news(rule):
    story = Story()
    news = [one for n in range(100) for one in story.next(*[A] * (n % 2), rule=rule)]
    assert changes(news) == [("start", 1)]


# --- the run begins anew --------------------------------------------------------------------------


def test_a_recovery_neither_ends_nor_restarts_a_finding():
    story = Story()
    story.next(A)
    assert story.findings.begin_anew() is None
    news = [*story.calm(CALM_WINDOWS - 1), *story.next(A), *story.calm(CALM_WINDOWS - 1)]
    assert {one.change for one in news} <= {"worse"}
    assert list(story.findings.all) == story.standing() == [1]


def test_nan_after_a_recovery_from_it_is_an_episode_of_its_own():
    story = Story()
    story.next(A, rule="nonfinite")
    story.findings.begin_anew()
    end, back = story.next(A, rule="nonfinite")
    assert changes([end, back]) == [("end", 1), ("start", 1)]
    assert end.finding.episodes == (Episode(1, 1, 2, 1, 3.0),)
    assert back.finding.episodes == (*end.finding.episodes, Episode(1, 2, None, 2, 3.0))
    assert [story.next(A, rule="nonfinite") for _ in range(9)] == [[]] * 9


def test_nan_that_comes_back_some_windows_after_a_recovery_was_over_with_the_first_of_them():
    story = Story()
    story.next(A, rule="nonfinite")
    story.findings.begin_anew()
    assert story.calm(CALM_WINDOWS - 1) == []
    _, back = story.next(A, rule="nonfinite")
    assert [(e.step, e.step_end) for e in back.finding.episodes] == [(1, 2), (6, None)]


@pytest.mark.parametrize("rule", sorted(set(CALM) - {"nonfinite"}))
def test_what_a_restart_does_not_touch_has_not_come_back(rule):
    story = Story()
    (start,) = story.next(A, rule=rule)
    for _ in range(9):
        story.findings.begin_anew()
        assert [story.next(A, rule=rule) for _ in range(3)] == [[]] * 3
    assert story.findings.all == {1: start.finding}


def test_each_recovery_from_nan_that_comes_back_is_reported():
    story = Story()
    news = []
    for _ in range(4):
        news += story.next(A, rule="nonfinite")
        story.findings.begin_anew()
    assert "".join(one.change[0] for one in news) == "s" + "es" * 3
    assert [len(one.finding.episodes) for one in news if one.change == "start"] == [1, 2, 3, 4]


def test_the_calm_before_a_recovery_does_not_count():
    story = Story()
    story.next(A)
    story.calm(CALM_WINDOWS - 1)
    story.findings.begin_anew()
    assert story.calm(CALM_WINDOWS - 1) == []
    (news,) = story.next()
    assert (news.change, news.finding.step_end) == ("end", 6)


def test_a_recovery_changes_nothing_that_is_over():
    story = Story()
    story.next(A)
    story.calm(CALM_WINDOWS)
    before = dict(story.findings.all)
    story.findings.begin_anew()
    assert (story.findings.all, story.calm(60)) == (before, [])


# --- one path, one finding ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "joins"),
    [
        ("model.1.conv", "model.1.bn", True),
        ("model.1.conv", "model.0.conv", True),
        ("model.0.conv", "model.1.conv", True),
        ("model.0.conv", "model.3.conv", True),
        ("model.1", "model.3.bn", True),
        ("model.1.conv", "model.2.conv", False),
        ("model.2.conv", "model.1.conv", False),
        ("model.1.conv", "model.4.conv", True),
        ("model.4.conv", "model.2.bn", True),
        ("model.1.conv", WHOLE, True),
        (WHOLE, "model.2.bn", True),
    ],
)
@pytest.mark.parametrize("is_gone", [True, False])
def test_alerts_on_one_path_are_one_finding(first, second, joins, is_gone):
    story = Story(FORK)
    story.next(first)
    story.next(*([second] if is_gone else [first, second]))
    assert len(story.findings.all) == (1 if joins else 2)


@pytest.mark.parametrize("rule", ["dead", "vanishing", "leaf_exploding"])
def test_unrelated_paths_are_two_findings_even_if_they_begin_together(rule):
    story = Story(FORK)
    news = story.next(LEFT, RIGHT, rule=rule)
    assert changes(news) == [("start", 1), ("start", 2)]
    assert [one.finding.modules for one in news] == [(RIGHT,), (LEFT,)]


def test_paths_that_meet_in_the_one_nearest_to_the_loss_are_one_finding():
    (news,) = Story(FORK).next(LEFT, RIGHT, "model.3", rule="vanishing")
    assert (news.finding.module, news.finding.modules) == ("model.3", (LEFT, RIGHT, "model.3"))


def test_two_findings_of_one_rule_go_their_own_ways():
    story = Story(FORK)
    story.next(LEFT)
    assert changes(story.next(LEFT, RIGHT)) == [("start", 2)]
    told = [changes(story.next(RIGHT)) for _ in range(CALM_WINDOWS)]
    assert told[-1] == [("end", 1)]
    assert not any(told[:-1])
    assert [f.modules for f in story.findings.all.values()] == [(LEFT,), (RIGHT,)]


@pytest.mark.parametrize(
    ("first", "is_of_the_loss"),
    [(["model.4.conv"], False), (["model.3.bn", "model.4.conv"], True), (["model.3.bn"], False)],
)
def test_where_a_nan_began_counts_once_clipping_has_spread_it(first, is_of_the_loss):
    story = Story(FORK)
    (start,) = story.next(*first, rule="nonfinite")
    (worse,) = story.next(*(name for name in FORK.modules if name != WHOLE), rule="nonfinite")
    for news in (start, worse):
        assert (news.finding.module, news.finding.origin) == (first[-1], tuple(first))
        message = news.finding.message
        assert ("the term of the loss that belongs to model.4.conv" in message) == is_of_the_loss
        assert ("it arises here or right behind it" in message) != is_of_the_loss


def test_what_is_not_finite_begins_as_one_finding_on_unrelated_paths():
    (news,) = Story(FORK).next(f"{LEFT}.conv", f"{RIGHT}.conv", rule="nonfinite")
    assert (news.change, news.finding.module) == ("start", f"{RIGHT}.conv")


def test_what_is_not_finite_is_one_finding_everywhere():
    story = Story(FORK)
    story.next(f"{LEFT}.conv", rule="nonfinite")
    assert changes(story.next(f"{RIGHT}.conv", rule="nonfinite")) == [("worse", 1)]


def test_without_edges_each_block_is_alone():
    story = Story(LAYOUT)
    told = [changes(story.next(name)) for name in ("model.0.conv", "model.0.bn", "model.1.bn")]
    assert told == [[("start", 1)], [("worse", 1)], [("start", 2)]]


# --- a stronger rule explains a weaker one --------------------------------------------------------

PAIRS = [
    ("dead", "vanishing"),
    ("dead", "no_gradient"),
    ("dead", "partly_dead"),
    ("dead", "exploding"),
    ("dead", "collapse"),
    ("dead", "total_low"),
    ("no_gradient", "dead"),
    ("no_gradient", "dead_branch"),
    ("no_gradient", "leaf_vanishing"),
    ("dead_branch", "starved_scale"),
    ("vanishing", "leaf_vanishing"),
    ("vanishing", "collapse"),
    ("vanishing", "total_low"),
    ("exploding", "leaf_exploding"),
    ("exploding", "spike"),
    ("exploding", "total_high"),
    ("exploding", "weight_growth"),
    ("leaf_exploding", "spike"),
    ("collapse", "total_low"),
    ("total_low", "collapse"),
]


@pytest.mark.parametrize(("stronger", "weaker"), PAIRS)
def test_a_weaker_rule_on_the_path_of_a_stronger_one_is_no_news(stronger, weaker):
    story = Story(FORK)
    story.next(LEFT, rule=stronger)
    for module in ("model.0.conv", LEFT, "model.3.bn", "model.4.conv"):
        assert story.both((stronger, LEFT), (weaker, module)) == []
    assert list(story.findings.all) == [1]


@pytest.mark.parametrize(
    ("stronger", "weaker"), [pair for pair in PAIRS if pair[1] not in {"collapse", "total_low"}]
)
def test_a_weaker_rule_off_the_path_is_news(stronger, weaker):
    story = Story(FORK)
    story.next(LEFT, rule=stronger)
    assert rules_of(story.both((stronger, LEFT), (weaker, RIGHT))) == [("start", weaker)]


@pytest.mark.parametrize("weaker", sorted(RULES))
def test_what_is_not_finite_explains_everything_everywhere(weaker):
    story = Story(FORK)
    story.next(LEFT, rule="nonfinite")
    news = story.both(("nonfinite", LEFT), (weaker, f"{RIGHT}.conv"))
    assert "start" not in {one.change for one in news}
    assert list(story.findings.all) == [1]


@pytest.mark.parametrize(
    ("stronger", "weaker"),
    [pair for pair in PAIRS if list(RULES).index(pair[0]) < list(RULES).index(pair[1])],
)
def test_of_two_that_begin_together_the_stronger_one_is_the_finding(stronger, weaker):
    news = Story(FORK).both((weaker, LEFT), (stronger, LEFT))
    assert rules_of(news) == [("start", stronger)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("leaf_vanishing", "vanishing"),
        ("spike", "exploding"),
        ("vanishing", "dead"),
        ("amp_overflow", "nonfinite"),
        ("vanishing", "exploding"),
        ("dead", "spike"),
    ],
)
def test_a_weaker_rule_does_not_hide_a_stronger_one(first, second):
    story = Story(FORK)
    story.next(LEFT, rule=first)
    assert rules_of(story.both((first, LEFT), (second, LEFT))) == [("start", second)]


def test_a_weaker_rule_that_outlives_the_stronger_one_is_told_then():
    story = Story(FORK)
    story.both(("vanishing", LEFT), ("leaf_vanishing", f"{LEFT}.conv"))
    told = [rules_of(story.next(f"{LEFT}.conv", rule="leaf_vanishing")) for _ in range(6)]
    assert told == [*[[]] * 4, [("end", "vanishing")], [("start", "leaf_vanishing")]]


def test_a_weaker_finding_that_stands_already_lives_on():
    story = Story(FORK)
    story.next(f"{LEFT}.conv", rule="leaf_vanishing")
    story.both(("vanishing", LEFT), ("leaf_vanishing", f"{LEFT}.conv"))
    told = [rules_of(story.next(LEFT, rule="vanishing")) for _ in range(CALM_WINDOWS)]
    assert told[-1] == [("end", "leaf_vanishing")]
    assert story.standing() == [2]


def test_a_weaker_finding_that_is_over_stays_so_while_a_stronger_one_explains_it():
    story = Story(FORK)
    story.next(LEFT, rule="vanishing")
    story.calm(CALM_WINDOWS)
    news = story.both(("nonfinite", LEFT), ("vanishing", LEFT))
    assert rules_of(news) == [("start", "nonfinite")]
    assert story.standing() == [2]


def test_what_is_explained_is_a_known_rule():
    assert {*EXPLAINS, *(rule for rules in EXPLAINS.values() for rule in rules)} <= set(RULES)


# --- notices --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", NOTICES)
def test_a_notice_is_reported_once_a_run_and_knows_when_it_was_over(rule):
    story = Story()
    quiet_and_not = ([], [A], *[[]] * 60, [A], [A, B, C, D], [])
    told = [changes(story.next(*names, rule=rule)) for names in quiet_and_not]
    story.findings.begin_anew()
    told += [changes(story.next(A, B, rule=rule)), changes(story.calm(60))]
    assert [news for news in told if news] == [[("start", 1)]]
    (found,) = story.findings.all.values()
    assert found.severity == "notice"
    first, *_, last = found.episodes
    assert (first.step, first.step_end) == (2, 3)
    assert last.step_end is not None
    assert len(found.episodes) == 2


def test_a_total_that_clipping_multiplies_by_zero_by_now_is_worse():
    story = Story()
    told = [rules_of(story.next("model", rule="total_high", value=v)) for v in (1e8, 1e18, 1e20)]
    assert told == [[("start", "total_high")], [], [("worse", "total_high")]]
    assert rules_of(story.next("model", rule="total_high", value=3e38)) == []


# --- evidence -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", sorted(RULES))
def test_evidence_is_asked_for_the_step_of_a_nan_or_of_a_very_large_gradient(rule):
    story = Story()
    story.step = 9
    (news,) = story.tell([alert(A, 7, rule=rule)])
    assert story.asked == ([7] if rule in {"nonfinite", "spike", "total_high"} else [])
    assert news.finding.evidence == ""
    assert "Images" not in news.finding.message


@pytest.mark.parametrize("rule", ["nonfinite", "spike", "total_high"])
def test_a_message_names_the_file_of_its_evidence(rule):
    story = Story(files=(7,))
    story.step = 9
    (news,) = story.tell([alert(A, 7, rule=rule)])
    assert news.finding.evidence == "evidence/7.json"
    assert news.finding.message.endswith(" norms: evidence/7.json.")


def test_evidence_is_not_asked_for_while_a_finding_stands():
    story = Story(files=(1, 2, 3, 4))
    told = [story.next(A, rule="nonfinite") for _ in range(4)]
    assert (len(told[0]), told[1:], story.asked) == (1, [[], [], []], [1])


def test_what_comes_back_has_evidence_of_its_own():
    story = Story(files=(1, 7))
    story.next(A, rule="spike")
    story.calm(6)
    story.step = 6
    (news,) = story.next(A, rule="spike")
    assert (story.asked, news.finding.evidence) == ([1, 7], "evidence/7.json")
    story.findings.begin_anew()
    story.next(A, rule="spike")
    assert story.findings.all[1].evidence == "evidence/7.json"  # there is no file on step 8


# --- names ----------------------------------------------------------------------------------------


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
        (("model.0", "model.1"), "model.1"),
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


CHAIN_OF_CONVS, _ = plan(
    [Part(f"model.{b}.{x}", is_weight=x == "conv") for b in range(4) for x in ("conv", "bn")],
    edges=[(f"model.{b}", f"model.{b + 1}") for b in range(3)],
)
"""Four blocks of a convolution and its norm layer."""


@pytest.mark.parametrize(
    ("rule", "dead", "name"),
    [
        # the output of block 1 is constant: the weight of block 2, which reads it, stands still too
        ("dead", ("model.1.conv", "model.1.bn", "model.2.conv"), "model.1"),
        ("dead", ("model.1.bn", "model.2.conv"), "model.1.bn"),
        ("dead", ("model.1.conv", "model.1.bn", "model.2.conv", "model.2.bn"), "model.2"),
        ("dead", ("model.2.conv",), "model.2.conv"),
        ("dead", ("model.1.conv", "model.2.conv"), "model.2.conv"),
        ("no_gradient", ("model.1.conv", "model.1.bn", "model.2.conv"), "model.2.conv"),
    ],
)
def test_a_weight_that_stands_still_for_want_of_an_input_is_not_the_source(rule, dead, name):
    (news,) = Story(CHAIN_OF_CONVS).next(*dead, rule=rule)
    assert (news.finding.module, news.finding.modules) == (name, dead)


def test_a_weight_without_a_norm_layer_can_be_the_source():
    (news,) = Story().next(A, "model.2.a")
    assert news.finding.module == "model.2.a"


def test_the_words_of_a_finding_know_all_of_its_modules():
    """Also where one more is no reason to report it again."""
    story = Story()
    story.next(A, B, C)
    (before,) = story.findings.all.values()
    assert story.next(A, B, C, D) == []
    (found,) = story.findings.all.values()
    assert len(found.modules) == len(before.modules) + 1
    assert found.message == message(CHAIN, {"amp": True}, found) != before.message


@pytest.mark.parametrize(("value", "is_new"), [(1e10, False), (1e20, True)])
def test_a_warning_explains_no_gradient_that_clipping_multiplies_by_zero(value, is_new):
    story = Story()
    alerts = [replace(alert(A, 1, rule="leaf_exploding", value=3.0), severity="warning")]
    story.step += 1
    assert rules_of(story.tell(alerts)) == [("start", "leaf_exploding")]
    story.step += 1
    both = [
        replace(alerts[0], step=2),
        alert("model", 2, rule="total_high", value=value),
    ]
    expected = [("start", "total_high")] if is_new else []
    assert rules_of(story.tell(both)) == expected
