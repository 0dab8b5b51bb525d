from __future__ import annotations

from dataclasses import replace

import pytest
from alert_feed import CHAIN, LAW, A, AlertFeed, B, C, D, alert, spelled
from nets import FORK_EDGES
from shown import ended
from values import HEAD, LAYOUT, TRUNK, Part, plan, window

from yolo_gradwatch.diagnose.catalog import RULES
from yolo_gradwatch.diagnose.diagnosis import Diagnosis, replay
from yolo_gradwatch.diagnose.finding import Episode, FindingChange
from yolo_gradwatch.diagnose.findings import CALM_STEPS, CALM_WINDOWS
from yolo_gradwatch.diagnose.grouping import common_name
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.measure.event import Event
from yolo_gradwatch.measure.layout import WHOLE

FORK, _ = plan(
    [
        Part(f"model.{block}.{leaf}", is_weight=leaf == "conv")
        for block in range(5)
        for leaf in ("conv", "bn")
    ],
    edges=FORK_EDGES,
)
"""Block 0 feeds blocks 1 and 2, which are on separate paths; block 3 reads both."""

LEFT, RIGHT = "model.1", "model.2"

NOTICES = [name for name, rule in RULES.items() if rule.severity == "notice"]
ALARMS = [name for name in RULES if name not in NOTICES]


def changes(seen):
    return [(one.change, one.finding.number) for one in seen]


def rules_of(seen):
    return [(one.change, one.finding.rule) for one in seen]


# --- start ----------------------------------------------------------------------------------------


def test_first_alerts_start_a_finding():
    story = AlertFeed()
    (change,) = story.take([alert(A, 4, value=5.0), alert(B, 4, value=5.0)], step=6)
    found = change.finding
    assert change == FindingChange("start", 1, 6, found, 6)
    assert (found.number, found.rule, found.severity) == (1, "dead", "critical")
    assert (found.module, found.modules, found.origin) == (B, (A, B), (A, B))
    assert found.episodes == (Episode(1, 4, None, 6, 5.0),)
    assert (found.epoch, found.step, found.step_end, found.value) == (1, 4, None, 5.0)
    assert (found.limit, found.evidence) == (3.0, "")
    assert story.findings.all == {1: found}


def test_finding_starts_with_the_module_it_is_named_after():
    alerts = [alert(A, 8, rule="vanishing"), alert(C, 5, rule="vanishing", affected=("model.0",))]
    (change,) = AlertFeed().take(alerts, step=9)
    assert (change.finding.module, change.finding.step) == (C, 5)
    assert change.finding.modules == ("model.0", A, C)


def test_each_rule_has_its_own_finding_strongest_first():
    seen = AlertFeed().both(
        ("weight_growth", WHOLE), ("partly_dead", A), ("vanishing", "model.1"), ("frozen", B)
    )
    found = [(one.finding.number, one.finding.rule) for one in seen]
    assert found == [*enumerate(("partly_dead", "frozen", "vanishing", "weight_growth"), 1)]


def test_message_covers_all_modules_of_the_finding():
    """Also when one more module is no reason to report it again."""
    story = AlertFeed()
    for modules, is_new in (((A, B, C), True), ((A, B, C, D), False)):
        assert bool(story.next(*modules)) == is_new
        found = story.findings.all[1]
        assert found.message == str(RULES["dead"].message(CHAIN, {"amp": True}, found))
        assert found.modules == modules


# --- worse ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "changed"),
    [
        ((1, 2), "start worse"),
        ((2, 3, 4), "start - worse"),
        ((3, 5, 6), "start - worse"),
        ((4, 7), "start -"),
        ((1, 2, 3, 4, 7, 8, 9), "start worse - worse - worse -"),
        ((4, 1, 4, 8), "start - - worse"),
        ((1,) * 9, "start" + " -" * 8),
    ],
)
def test_finding_is_worse_at_twice_the_reported_modules(sizes, changed):
    story = AlertFeed()
    names = [n for n, role in zip(CHAIN.modules, CHAIN.roles, strict=True) if role]
    assert spelled([story.next(*names[:size]) for size in sizes]) == changed
    assert len(story.findings.all[1].modules) == max(sizes)


@pytest.mark.parametrize(
    ("rule", "values", "changed"),
    [
        (LAW, (2.5, 4.9, 5.0), "start - worse"),
        (LAW, (3.0, 5.9, 3.0), "start - -"),
        (LAW, (2.0, 4.0, 7.9, 8.0), "start worse - worse"),
        (LAW, (4.0, 2.0, 4.0, 8.0), "start - - worse"),
        ("total_high", (1e8, 1e18, 1e20, 3e38), "start - worse -"),
        *((rule, (3.0, 30.0), "start worse") for rule in ALARMS if RULES[rule].in_decades),
        *((rule, (3.0, 30.0), "start -") for rule in ALARMS if not RULES[rule].in_decades),
    ],
)
def test_finding_in_decades_is_worse_at_twice_the_reported_value(rule, values, changed):
    story = AlertFeed()
    assert spelled([story.next(A, rule=rule, value=value) for value in values]) == changed


@pytest.mark.parametrize("values", [(6.0, 3.0), (3.0, 6.0)])
def test_worst_alert_decides_how_much_worse_a_finding_is(values):
    story = AlertFeed()
    story.next(A, B, rule=LAW)
    pairs = zip((A, B), values, strict=True)
    (change,) = story.take([alert(name, 2, rule=LAW, value=value) for name, value in pairs])
    assert (change.change, change.finding.value) == ("worse", 6.0)


def test_two_alerts_that_start_together_are_not_worse_a_window_later():
    story = AlertFeed()
    places = (("model.0", 5.0), ("model.2", 2.1))
    alerts = [alert(name, rule="vanishing", value=value) for name, value in places]
    assert spelled([story.take(alerts) for _ in range(3)]) == "start - -"


def test_finding_keeps_all_its_modules_in_forward_order():
    story = AlertFeed()
    assert spelled([story.next(*names) for names in ([B, C], [A, B], [C, D])]) == "start - worse"
    assert story.findings.all[1].modules == (A, B, C, D)
    assert story.findings.all[1].origin == (B, C)


def test_worse_finding_keeps_its_number_name_and_start():
    story = AlertFeed()
    story.next(A, value=1.0)
    story.step = 2
    (change,) = story.take([replace(alert(B, 2, value=13.0), limit=12.0)])
    found = change.finding
    assert (change.change, change.step) == ("worse", 2)
    assert (found.number, found.module, found.step) == (1, A, 1)
    assert (found.value, found.limit) == (13.0, 12.0)
    assert story.next(A, B, value=99.0) == []
    assert story.findings.all[1].value == 13.0  # as it was reported


# --- end ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ALARMS)
@pytest.mark.parametrize("patience", [1, 5, 6, 30])
def test_finding_ends_after_as_many_calm_windows_as_its_rule_needs(rule, patience):
    limits = Thresholds(dead_windows=patience)
    steps = CALM_STEPS + 1 if RULES[rule].spreads else 0
    windows = max(CALM_WINDOWS, RULES[rule].needs(limits), steps)
    story = AlertFeed(limits=limits)
    (start,) = story.next(A, rule=rule)
    assert story.calm(windows - 1) == []
    (change,) = story.next()
    assert change == FindingChange("end", 1, 1 + windows, ended(start.finding, 2), 1 + windows)
    assert story.findings.all == {1: change.finding}
    assert story.calm(100) == []


def test_alert_in_between_restarts_the_calm():
    story = AlertFeed()
    seen = [*story.next(A), *story.calm(4), *story.next(A), *story.calm(4)]
    assert changes(seen) == [("start", 1)]
    (change,) = story.next()
    assert (change.change, change.finding.step_end, len(change.finding.episodes)) == ("end", 7, 1)


def test_finding_lasts_while_one_of_its_modules_has_an_alert():
    story = AlertFeed()
    seen = [story.next(*names) for names in ([A, B], *[[A]] * 9, *[[B]] * 9)]
    assert spelled(seen) == "start" + " -" * 18


def test_windows_skipped_whole_by_amp_are_not_calm():
    story = AlertFeed()
    story.next(A)
    for windows in (4, 0):
        assert [story.next(skipped=1) for _ in range(20)] == [[]] * 20
        assert story.calm(windows) == []
    (change,) = story.next()
    assert (change.change, change.step, change.finding.step_end) == ("end", 46, 22)


def test_window_skipped_in_part_by_amp_is_calm():
    story = AlertFeed()
    story.next(A)
    parts = [window(10 * n, steps=10, skipped=9, layout=CHAIN) for n in range(1, 6)]
    assert spelled([story.findings.update(part, [], 60) for part in parts]) == "- - - - end"


# --- recurrence -----------------------------------------------------------------------------------


def test_recurred_finding_is_the_same_one_with_another_episode():
    story = AlertFeed()
    seen = [one for _ in range(17) for one in [*story.next(A), *story.calm()]]
    assert changes(seen) == [("start", 1), ("end", 1)] * 17
    assert [len(one.finding.episodes) for one in seen[::2]] == list(range(1, 18))
    assert (list(story.findings.all), story.lasting()) == ([1], [])


def test_episodes_keep_their_own_start_end_and_worst_value():
    story = AlertFeed()
    for values in ((2.0, 4.0, 3.0), (9.0, 9.0), (3.0, 3.0)):
        for value in values:
            story.next(A, value=value, rule=LAW)
        story.calm(100)
    assert story.findings.all[1].episodes == (
        Episode(1, 1, 4, 1, 4.0),
        Episode(1, 104, 106, 104, 9.0),
        Episode(1, 206, 208, 206, 3.0),
    )


def test_evidence_that_overlaps_the_last_episode_starts_after_it():
    story = AlertFeed()
    story.next(A)
    story.calm()
    (change,) = story.take([alert(A, 1)], step=7)
    assert [(e.step, e.step_end) for e in change.finding.episodes] == [(1, 2), (2, None)]


@pytest.mark.parametrize("change", ["start", "worse", "end", "back"])
def test_change_keeps_the_newest_step_seen(change):
    story = AlertFeed()
    seen = story.take([alert(A, 4)], reported=13, step=10)
    if change == "worse":
        seen = story.take([alert(A, 4), alert(B, 4)], reported=17)
    elif change in {"end", "back"}:
        for step in range(11, 16):
            seen = story.take([], reported=step + 3, step=step)
    if change == "back":
        seen = story.take([alert(A, 38)], reported=43, step=40)
    (one,) = seen
    assert [e.reported for e in one.finding.episodes] == [13, 43][: 1 + (change == "back")]
    assert one.reported == {"start": 13, "worse": 17, "end": 18, "back": 43}[change]


def test_different_name_makes_a_new_finding():
    story = AlertFeed()
    reported = []
    for modules in ((A, B), (A,), (A, B, C, D), (B,)):  # named B, A, the whole block, B
        reported += changes(story.next(*modules))
        story.calm()
    assert reported == [("start", 1), ("start", 2), ("start", 3), ("start", 1)]
    assert [f.module for f in story.findings.all.values()] == [B, A, "model.1"]
    assert rules_of(story.next(A, rule="partly_dead")) == [("start", "partly_dead")]


def test_after_its_end_another_module_of_the_path_is_a_new_finding():
    story = AlertFeed(FORK)
    for module, number in (("model.3.conv", 1), ("model.1.conv", 2), ("model.3.conv", 1)):
        assert changes(story.next(module)) == [("start", number)]
        story.calm()
    assert story.findings.all[1].modules == ("model.3.conv",)


def test_recurrence_is_worse_relative_to_its_own_first_report():
    story = AlertFeed()
    story.next(A, rule=LAW, value=9.0)
    story.calm()
    seen = [story.next(A, rule=LAW, value=value) for value in (2.0, 3.9, 4.0)]
    seen += [story.next(A, B, rule=LAW, value=4.0)]
    assert spelled(seen) == "start - worse worse"


@pytest.mark.parametrize("rule", RULES)
def test_alternating_alerts_are_one_finding_reported_once(rule):
    story = AlertFeed()
    seen = [one for n in range(100) for one in story.next(*[A] * (n % 2), rule=rule)]
    assert changes(seen) == [("start", 1)]


# --- restart --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [name for name in ALARMS if name != "nonfinite"])
def test_finding_that_outlasts_a_restart_has_not_recurred(rule):
    story = AlertFeed()
    (start,) = story.next(A, rule=rule)
    for _ in range(9):
        story.findings.restart()
        assert story.calm(4) == []
        assert story.next(A, rule=rule) == []
    assert story.findings.all == {1: start.finding}


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("calm", [0, 4, CALM_STEPS - 1])
def test_nan_again_within_a_few_steps_is_the_same_episode(calm, restarts):
    story = AlertFeed()
    seen = [*story.next(A, rule="nonfinite")]
    for _ in range(3):
        if restarts:
            story.findings.restart()
        seen += [*story.calm(calm), *story.next(A, B, rule="nonfinite")]
    assert changes(seen) == [("start", 1)]
    (episode,) = story.findings.all[1].episodes
    assert (episode.step, episode.step_end) == (1, None)


def test_nan_long_after_a_recovery_is_an_episode_of_its_own():
    story, calm = AlertFeed(), CALM_STEPS
    seen = [*story.next(A, rule="nonfinite")]
    for _ in range(3):
        story.findings.restart()
        story.step += calm
        seen += story.next(A, rule="nonfinite")
        assert story.next(A, rule="nonfinite") == []
    assert "".join(one.change[0] for one in seen) == "s" + "es" * 3
    first, second, *_ = seen[-1].finding.episodes
    assert first == Episode(1, 1, 2 + calm, 1, 3.0)
    assert (second.step, second.reported) == (2 + calm, 2 + calm)


def test_nan_that_is_gone_after_a_resume_ends_as_soon_as_any_finding():
    story = AlertFeed()
    seen = [*story.next(A, rule="nonfinite")]
    story.findings.restart(resumes=True)
    assert story.calm(CALM_WINDOWS - 1) == []
    seen += story.next()
    assert changes(seen) == [("start", 1), ("end", 1)]
    assert seen[-1].finding.step_end == 2


def test_nan_that_returns_right_after_a_resume_goes_on():
    story = AlertFeed()
    story.next(A, rule="nonfinite")
    story.findings.restart(resumes=True)
    assert story.calm(CALM_WINDOWS - 1) + story.next(A, rule="nonfinite") == []
    assert story.calm(CALM_STEPS) == []
    (end,) = story.next()
    assert (end.change, end.finding.step_end) == ("end", 3 + CALM_WINDOWS - 1)


@pytest.mark.parametrize(
    ("kind", "ends"), [("resume", 1), ("nan_recovery", 0), ("oom_restart", 0), ("thaw", 0)]
)
def test_only_a_resume_shortens_the_calm(kind, ends):
    bad = window(6, nonfinite=["model.1.conv"])
    windows = [*map(window, range(1, 6)), bad, *map(window, range(7, 20))]
    diagnosis = Diagnosis(LAYOUT, Thresholds(), {})
    found = replay(diagnosis, windows, [Event(1, "start"), Event(7, kind)])
    assert [one.step for one in found if one.change == "end"] == [6 + CALM_WINDOWS] * ends


def test_calm_before_a_recovery_does_not_count():
    story = AlertFeed()
    story.next(A)
    story.calm(4)
    story.findings.restart()
    assert story.calm(4) == []
    (change,) = story.next()
    assert (change.change, change.finding.step_end) == ("end", 6)
    before = dict(story.findings.all)
    story.findings.restart()
    assert (story.findings.all, story.calm(60)) == (before, [])


# --- one path, one finding ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "joins"),
    [
        *(("model.1.conv", other, True) for other in ("model.1.bn", "model.0.conv", WHOLE)),
        *(("model.0.conv", other, True) for other in ("model.1.conv", "model.3.conv")),
        *((other, "model.2.bn", True) for other in (WHOLE, "model.4.conv")),
        *(("model.1", "model.3.bn", True), ("model.1.conv", "model.4.conv", True)),
        *(("model.1.conv", "model.2.conv", False), ("model.2.conv", "model.1.conv", False)),
    ],
)
@pytest.mark.parametrize("rule", ["no_gradient", "nonfinite"])
def test_alerts_on_one_path_are_one_finding_and_nan_is_one_anywhere(first, second, joins, rule):
    for modules in ([second], [first, second]):
        story = AlertFeed(FORK)
        story.next(first, rule=rule)
        story.next(*modules, rule=rule)
        assert len(story.findings.all) == (1 if joins or rule == "nonfinite" else 2)


@pytest.mark.parametrize("rule", ["dead", "vanishing", "leaf_exploding"])
def test_unrelated_paths_are_two_findings_even_if_they_start_together(rule):
    seen = AlertFeed(FORK).next(LEFT, RIGHT, rule=rule)
    assert changes(seen) == [("start", 1), ("start", 2)]
    assert [one.finding.modules for one in seen] == [(RIGHT,), (LEFT,)]


def test_paths_that_meet_nearest_to_the_loss_are_one_finding():
    (change,) = AlertFeed(FORK).next(LEFT, RIGHT, "model.3", rule="vanishing")
    assert (change.finding.module, change.finding.modules) == ("model.3", (LEFT, RIGHT, "model.3"))
    (change,) = AlertFeed(FORK).next(f"{LEFT}.conv", f"{RIGHT}.conv", rule="nonfinite")
    assert (change.change, change.finding.module) == ("start", f"{RIGHT}.conv")


def test_two_findings_of_one_rule_are_independent():
    story = AlertFeed(FORK)
    story.next(LEFT)
    assert changes(story.next(LEFT, RIGHT)) == [("start", 2)]
    assert changes([one for _ in range(CALM_WINDOWS) for one in story.next(RIGHT)]) == [("end", 1)]
    assert [f.modules for f in story.findings.all.values()] == [(LEFT,), (RIGHT,)]


def test_origin_of_a_nan_stays_after_clipping_spreads_it():
    story = AlertFeed(FORK)
    first = ("model.3.bn", "model.4.conv")
    seen = story.next(*first, rule="nonfinite")
    seen += story.next(*(name for name in FORK.modules if name != WHOLE), rule="nonfinite")
    assert changes(seen) == [("start", 1)]  # the spread itself is not reported
    found = story.findings.all[1]
    assert (found.module, found.origin) == (first[-1], first)


def test_without_edges_each_block_is_separate():
    story = AlertFeed(LAYOUT)
    seen = [story.next(name) for name in ("model.0.conv", "model.0.bn", "model.1.bn")]
    assert [changes(one) for one in seen] == [[("start", 1)], [("worse", 1)], [("start", 2)]]


# --- a stronger rule explains a weaker one --------------------------------------------------------

PAIRS = [
    *(("dead", weaker) for weaker in ("vanishing", "no_gradient", "partly_dead", "exploding")),
    *(("dead", weaker) for weaker in ("collapse", "total_low")),
    *(("no_gradient", weaker) for weaker in ("dead", "dead_branch", "leaf_vanishing")),
    ("dead_branch", "starved_scale"),
    *(("vanishing", weaker) for weaker in ("leaf_vanishing", "collapse", "total_low")),
    *(("exploding", weaker) for weaker in ("leaf_exploding", "spike", "total_high")),
    ("exploding", "weight_growth"),
    *(("weight_growth", weaker) for weaker in ("dead", "partly_dead", "collapse", "total_low")),
    ("leaf_exploding", "spike"),
    ("collapse", "total_low"),
    ("total_low", "collapse"),
]


@pytest.mark.parametrize(("stronger", "weaker"), PAIRS)
def test_weaker_rule_on_the_path_of_a_stronger_one_is_not_reported(stronger, weaker):
    story = AlertFeed(FORK)
    story.next(LEFT, rule=stronger)
    also_explained = [] if RULES[weaker].stays_in_head else ["model.4.conv"]
    for module in ("model.0.conv", LEFT, "model.3.bn", *also_explained):
        assert story.both((stronger, LEFT), (weaker, module)) == []
    assert list(story.findings.all) == [1]
    elsewhere = story.both((stronger, LEFT), (weaker, RIGHT))
    assert rules_of(elsewhere) == [("start", weaker)]


@pytest.mark.parametrize("weaker", RULES)
def test_nonfinite_explains_everything_except_weight_overflow(weaker):
    story = AlertFeed(FORK)
    story.next(LEFT, rule="nonfinite")
    seen = story.both(("nonfinite", LEFT), (weaker, f"{RIGHT}.conv"))
    is_reported = weaker == "weight_overflow"
    assert ("start" in {one.change for one in seen}) == is_reported
    assert list(story.findings.all) == [1, 2][: 1 + is_reported]


@pytest.mark.parametrize(
    ("stronger", "weaker"),
    [pair for pair in PAIRS if list(RULES).index(pair[0]) < list(RULES).index(pair[1])],
)
def test_stronger_rule_wins_when_two_start_together(stronger, weaker):
    seen = AlertFeed(FORK).both((weaker, LEFT), (stronger, LEFT))
    assert rules_of(seen) == [("start", stronger)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        *(("leaf_vanishing", "vanishing"), ("spike", "exploding"), ("vanishing", "dead")),
        *(("amp_overflow", "nonfinite"), ("vanishing", "exploding"), ("dead", "spike")),
    ],
)
def test_weaker_rule_does_not_hide_a_stronger_one(first, second):
    story = AlertFeed(FORK)
    story.next(LEFT, rule=first)
    assert rules_of(story.both((first, LEFT), (second, LEFT))) == [("start", second)]


@pytest.mark.parametrize(("value", "is_reported"), [(1e10, False), (1e20, True)])
def test_warning_does_not_explain_a_gradient_that_clipping_zeroes(value, is_reported):
    story = AlertFeed()
    assert rules_of(story.next(A, rule="leaf_exploding")) == [("start", "leaf_exploding")]
    alerts = [alert(A, 2, rule="leaf_exploding"), alert(WHOLE, 2, rule="total_high", value=value)]
    assert rules_of(story.take(alerts, step=2)) == [("start", "total_high")] * is_reported


def test_weaker_rule_is_reported_once_it_outlives_the_stronger_one():
    story = AlertFeed(FORK)
    story.both(("vanishing", LEFT), ("leaf_vanishing", f"{LEFT}.conv"))
    seen = [rules_of(story.next(f"{LEFT}.conv", rule="leaf_vanishing")) for _ in range(6)]
    assert seen == [*[[]] * 4, [("end", "vanishing")], [("start", "leaf_vanishing")]]


def test_weaker_finding_that_already_lasts_goes_on():
    story = AlertFeed(FORK)
    story.next(f"{LEFT}.conv", rule="leaf_vanishing")
    story.both(("vanishing", LEFT), ("leaf_vanishing", f"{LEFT}.conv"))
    seen = [rules_of(story.next(LEFT, rule="vanishing")) for _ in range(CALM_WINDOWS)]
    assert seen == [*[[]] * 4, [("end", "leaf_vanishing")]]
    assert story.lasting() == [2]


def test_ended_weaker_finding_stays_ended_while_a_stronger_one_explains_it():
    story = AlertFeed(FORK)
    story.next(LEFT, rule="vanishing")
    story.calm()
    seen = story.both(("nonfinite", LEFT), ("vanishing", LEFT))
    assert rules_of(seen) == [("start", "nonfinite")]
    assert story.lasting() == [2]


# --- notices --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", NOTICES)
def test_notice_is_reported_once_and_keeps_its_end(rule):
    story = AlertFeed()
    quiet_and_not = ([], [A], *[[]] * 60, [A], [A, B, C, D], [])
    seen = [one for names in quiet_and_not for one in story.next(*names, rule=rule)]
    story.findings.restart()
    seen += [*story.next(A, B, rule=rule), *story.calm(60)]
    assert changes(seen) == [("start", 1)] * (1 + RULES[rule].comes_back)
    (found,) = story.findings.all.values()
    first, last = found.episodes
    assert found.severity == "notice"
    assert (first.step, first.step_end) == (2, 3)
    assert last.step_end is not None


# --- evidence -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_evidence_is_requested_from_the_first_step_where_the_rule_keeps_it(rule):
    """Once for each episode, and not for changes to worse or ended."""
    story = AlertFeed()
    (start,) = story.take([alert(A, 7, rule=rule)], step=9)
    assert start.wants == ((7, 9) if RULES[rule].keeps_evidence else None)
    later = [one for n in (0, 0, 6) for one in (*story.next(A, B, rule=rule), *story.calm(n))]
    assert {one.wants for one in later if one.change != "start"} <= {None}


def test_attached_file_is_named_until_another_is_attached():
    story = AlertFeed()
    for file in ("evidence/1.json", "evidence/8.json"):
        (start,) = story.next(A, rule="spike")
        named = story.findings.reword(replace(start.finding, evidence=file))
        assert named == story.findings.all[1]
        assert named.evidence == file
        assert named.message.endswith(f" {file}.")
        story.calm(6)
    (back,) = story.next(A, rule="spike")
    assert back.finding.evidence == file


# --- names ----------------------------------------------------------------------------------------

DEEP, _ = plan([Part(f"model.0.m.{n}.{x}") for n in range(2) for x in "ab"] + [Part("model.1")])
ALIKE, _ = plan([Part(f"model.{name}") for name in ("1.a", "10.a", "10.b", "2.a")])
OWN, _ = plan([Part(name) for name in ("stem.a", "stem.b", "fc")])
OWNER, _ = plan([Part("model.0"), Part("model.0.a"), Part("model.1")])


@pytest.mark.parametrize(
    ("layout", "modules", "name"),
    [
        (LAYOUT, ("model.1.conv",), "model.1.conv"),
        (LAYOUT, ("model.0.conv", "model.1.bn"), "model.1.bn"),
        (LAYOUT, ("model.1.conv", "model.1.bn"), "model.1"),
        (LAYOUT, TRUNK, "model.1"),
        (LAYOUT, (*TRUNK, "model.2.a"), "model.2.a"),
        (LAYOUT, HEAD, "model.2"),
        (LAYOUT, (*TRUNK, *HEAD), "model"),
        (LAYOUT, ("model",), "model"),
        (LAYOUT, ("model.0", "model.1"), "model.1"),
        (DEEP, ("model.0.m.1.a",), "model.0.m.1.a"),
        (DEEP, ("model.0.m.1.a", "model.0.m.1.b"), "model.0.m.1"),
        (DEEP, tuple(f"model.0.m.{n}.{x}" for n in range(2) for x in "ab"), "model.0"),
        (ALIKE, ("model.1.a",), "model.1"),
        (ALIKE, ("model.1.a", "model.10.a"), "model.10.a"),
        (OWN, ("stem.a", "stem.b"), "stem"),
        (OWN, ("fc",), "fc"),
        (OWN, ("stem.a", "stem.b", "fc"), "model"),
        (OWNER, ("model.0.a",), "model.0.a"),
        (OWNER, ("model.0", "model.0.a"), "model.0"),
    ],
)
def test_finding_is_named_after_the_widest_module_that_holds_nothing_else(layout, modules, name):
    assert common_name(layout, modules) == name


@pytest.mark.parametrize(
    ("layout", "rule", "dead", "name"),
    [
        # the output of block 1 is constant: the weight of block 3, which reads it, is dead too
        (FORK, "dead", ("model.1.conv", "model.1.bn", "model.3.conv"), "model.1"),
        (FORK, "dead", ("model.1.bn", "model.3.conv"), "model.1.bn"),
        (FORK, "dead", ("model.1.conv", "model.1.bn", "model.3.conv", "model.3.bn"), "model.3"),
        (FORK, "dead", ("model.3.conv",), "model.3.conv"),
        (FORK, "dead", ("model.1.conv", "model.3.conv"), "model.3.conv"),
        (FORK, "no_gradient", ("model.1.conv", "model.1.bn", "model.3.conv"), "model.3.conv"),
        (CHAIN, "dead", (A, "model.2.a"), "model.2.a"),
    ],
)
def test_weight_with_a_constant_input_is_not_the_source(layout, rule, dead, name):
    (change,) = AlertFeed(layout).next(*dead, rule=rule)
    assert (change.finding.module, change.finding.modules) == (name, dead)


def test_dead_units_are_named_where_they_are_and_not_where_they_are_read():
    (change,) = AlertFeed(FORK).next("model.0.conv", f"{LEFT}.conv", rule="partly_dead")
    assert change.finding.module == "model.0.conv"
    assert change.finding.modules == ("model.0.conv", f"{LEFT}.conv")
