from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nets import FORK
from values import LAWS, LAYOUT, runs, window

from yolo_gradwatch.diagnose.catalog import RULES
from yolo_gradwatch.diagnose.diagnosis import Diagnosis, replay
from yolo_gradwatch.diagnose.findings import CALM_STEPS
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.measure.event import Event
from yolo_gradwatch.measure.layout import WHOLE

CONV = "model.1.conv"
READERS = replace(LAYOUT, edges=(("model.0", "model.1"), ("model.1", "model.2")))
START = Event(1, "start")
FILES = {step: f"{step}.json" for step in range(1, 60)}
DEAD = [window(step, zero=[CONV]) for step in (1, 2, 3)]


def new(limits=None, layout=LAYOUT):
    return Diagnosis(layout, limits or Thresholds(), {"amp": True})


def live(diagnosis, windows, events):
    """Drive the diagnosis as the recorder does: an event comes after the windows before it."""
    seen = []
    for n, one in enumerate(windows):
        before = windows[n - 1].step_first if n else 0
        for event in events:
            if before < event.step <= one.step_first:
                diagnosis.restart()
        seen += diagnosis.update(one)
    for event in events:
        if not windows or event.step > windows[-1].step_first:
            diagnosis.restart()
    return seen


def changes(seen):
    return [(one.change, one.finding.rule, one.step) for one in seen]


BROKEN = ("nonfinite", "none")


def levels(step, places):
    """A window of one step whose blocks or weights are off by decades, or `BROKEN`.

    The place "" is the whole net.
    """
    one = window(step, layout=FORK)
    norms = np.ones(len(FORK.modules), np.float32)
    counts = {name: np.zeros(len(norms), np.int64) for name in (*BROKEN, "zero")}
    for place, state in places.items():
        name = place.replace("b", "model.", 1)
        inside = np.array([not name or f"{m}.".startswith(f"{name}.") for m in FORK.modules])
        if state in BROKEN:
            counts[state][inside] = 1
            norms[inside] = np.nan
        else:
            counts["zero"][inside] = state == -np.inf
            norms[inside] = 10.0**state if state < 39 else np.inf
    return replace(one, norm_min=norms, norm_mean=norms, norm_max=norms, **counts)


# --- windows and events to changes ----------------------------------------------------------------


def test_unhealthy_run_starts_and_ends_one_finding():
    diagnosis = new()
    windows = [*DEAD, window(4, zero=[CONV]), *map(window, range(5, 20))]
    assert changes(replay(diagnosis, windows, [START])) == [
        ("start", "dead", 3),
        ("end", "dead", 9),
    ]
    (finding,) = diagnosis.findings.all.values()
    assert (finding.module, finding.step, finding.step_end) == (CONV, 1, 5)


@pytest.mark.parametrize(
    ("fault", "rule", "module", "modules"),
    [
        (("b0", -4), "vanishing", "model.0", ("model.0",)),
        (("b0 b1 b2 b3", -4), "vanishing", "model.3", ("model.0", "model.1", "model.2", "model.3")),
        (("b1", 4), "exploding", "model.1", ("model.1",)),
        (("b0 b1", 4), "exploding", "model.1", ("model.0", "model.1")),
        (("b1.b", -4), "leaf_vanishing", "model.1.b", ("model.1.b",)),
        (("b3.c", 4), "leaf_exploding", "model.3.c", ("model.3.c",)),
    ],
)
def test_one_unhealthy_place_gives_one_finding_of_one_rule(fault, rule, module, modules):
    places, offset = fault
    decades = dict.fromkeys(places.split(), float(offset))
    windows = [levels(step, decades) for step in range(1, 40)]
    (change,) = replay(new(layout=FORK), windows, [START])
    assert (change.change, change.finding.rule) == ("start", rule)
    assert (change.finding.module, change.finding.modules) == (module, modules)
    assert (change.finding.step, round(change.finding.value, 3)) == (1, 4.0)


@pytest.mark.parametrize(
    ("before", "after", "rule", "since", "at"),
    [
        (30, 4.0, "spike", 31, 31),
        (30, -4.0, "collapse", 31, 33),
        (0, 8.0, "total_high", 1, 3),
        (0, 25.0, "total_high", 1, 1),
        (30, 25.0, "total_high", 31, 31),
        (30, 45.0, "total_high", 31, 31),
        (0, -4.0, "total_low", 1, 10),
    ],
)
def test_change_of_the_whole_net_is_one_finding(before, after, rule, since, at):
    windows = [levels(step, {"": after * (step > before)}) for step in range(1, 60)]
    (change,) = replay(new(layout=FORK), windows, [START], files=FILES)
    assert changes([change]) == [("start", rule, at)]
    assert (change.finding.module, change.finding.step) == (WHOLE, since)
    assert change.finding.evidence == (f"{since}.json" if rule in {"spike", "total_high"} else "")


def test_nan_spread_by_clipping_is_one_finding_with_the_file_of_its_step():
    diagnosis = new()
    windows = [*map(window, range(1, 5)), window(5, nonfinite=[CONV])]
    windows += [window(step, nonfinite=LAYOUT.modules) for step in range(6, 30)]
    (start,) = replay(diagnosis, windows, [START], files=FILES)
    assert changes([start]) == [("start", "nonfinite", 5)]
    assert (start.finding.module, start.finding.evidence) == (CONV, "5.json")
    last = diagnosis.findings.all[1]
    assert (last.module, last.evidence) == (CONV, "5.json")
    assert len(last.modules) > len(start.finding.modules)


@pytest.mark.parametrize(
    ("steps", "event", "calm"), [((2, 34), 3, 3), *(((3, 40), event, 40) for event in (4, 8, 40))]
)
def test_nan_after_an_event_starts_the_next_episode(steps, event, calm):
    """Also when only some steps are captured."""
    first, again = steps
    sound = [window(3)] if first == 2 else []
    windows = [window(first, nonfinite=[CONV]), *sound, window(again, nonfinite=[CONV])]
    found = replay(new(), windows, [START, Event(event, "nan_recovery")])
    rows = [("start", "nonfinite", first), ("end", "nonfinite", again)]
    assert changes(found) == [*rows, ("start", "nonfinite", again)]
    episodes = [(e.step, e.step_end) for e in found[-1].finding.episodes]
    assert episodes == [(first, calm), (again, None)]


def test_finding_cured_by_a_recovery_ends_at_the_first_window_after_it():
    diagnosis = new()
    windows = [*DEAD, *map(window, range(4, 12))]
    seen = replay(diagnosis, windows, [START, Event(4, "nan_recovery")])
    assert changes(seen) == [("start", "dead", 3), ("end", "dead", 8)]
    assert diagnosis.findings.all[1].step_end == 4


@pytest.mark.parametrize("kind", ["resume", "nan_recovery", "oom_restart"])
@pytest.mark.parametrize(("step", "at"), [(2, 4), (3, 5), (4, 3)])
def test_windows_before_and_after_an_event_do_not_add_up(kind, step, at):
    windows = [window(n, zero=[CONV]) for n in range(1, 6)]
    assert changes(replay(new(), windows, [START, Event(step, kind)]))[0] == ("start", "dead", at)


@pytest.mark.parametrize(("step", "at"), [(2, 20), (3, 30), (8, 30), (10, 30), (11, 10)])
def test_event_between_captured_steps_applies_before_the_next_window(step, at):
    windows = [window(n, zero=[CONV]) for n in (1, 2, 10, 20, 30)]
    seen = replay(new(), windows, [START, Event(step, "resume")])
    assert changes(seen) == [("start", "dead", at)]


def test_event_after_the_last_window_changes_no_finding():
    events = [START, Event(4, "resume")]  # killed before its next window closed
    watched, replayed = new(), new()
    assert replay(replayed, DEAD, events) == live(watched, DEAD, events)
    assert replayed.findings.all == watched.findings.all
    assert replayed.findings.all[1].step_end is None


def test_thresholds_set_the_patience():
    assert replay(new(Thresholds(dead_windows=4)), DEAD, [START]) == []
    assert changes(replay(new(Thresholds(dead_windows=2)), DEAD, [START])) == [("start", "dead", 2)]


def test_resume_in_a_new_process_reports_the_same_as_a_replay():
    windows = [*DEAD, *(window(step, zero=[CONV]) for step in range(4, 8))]
    resume = Event(4, "resume")
    first, second = new(), new()
    seen = live(first, windows[:3], [START])
    replay(second, windows[:3], [START])
    second.restart()
    seen += [one for each in windows[3:] for one in second.update(each)]
    whole = new()
    assert seen == replay(whole, windows, [START, resume])
    assert second.findings.all == whole.findings.all


# --- laws -----------------------------------------------------------------------------------------


@st.composite
def journeys(draw):
    """Windows of FORK whose blocks and weights move by decades for a while, with events."""
    places = st.sampled_from(["", "b0", "b1", "b2", "b3", "b4", "b1.b", "b3.c"])
    states = st.sampled_from(  # non-finite values hide everything else
        [0.0, -4.0, 4.0, 8.0, -9.0, -np.inf, "none", *(BROKEN if draw(st.booleans()) else ())]
    )
    windows, events = [], [START]
    for fault in draw(
        st.lists(st.dictionaries(places, states, max_size=3), min_size=2, max_size=5)
    ):
        if draw(st.booleans()):
            events.append(Event(len(windows) + 1, "nan_recovery"))
        for _ in range(draw(st.integers(2, 25))):
            windows.append(levels(len(windows) + 1, fault))
    return windows, events


CASES = st.one_of(
    st.tuples(st.just(LAYOUT), runs()),
    st.tuples(st.just(FORK), journeys()),
)


@pytest.mark.slow
@LAWS
@given(CASES, st.integers(0, 60))
def test_replay_matches_the_live_run_and_its_prefix_matches_a_prefix(case, length):
    layout, (windows, events) = case
    watched, replayed = new(layout=layout), new(layout=layout)
    whole = live(watched, windows, events)
    assert replay(replayed, windows, events) == whole
    assert replayed.findings.all == watched.findings.all
    assert replayed.unjudged() == watched.unjudged()
    part = replay(new(layout=layout), windows[:length], events)
    assert part == whole[: len(part)]


@LAWS
@given(CASES)
def test_findings_keep_their_episodes_in_order(case):
    layout, (windows, events) = case
    diagnosis = new(layout=layout)
    seen = replay(diagnosis, windows, events)
    assert [one.step for one in seen] == sorted(one.step for one in seen)
    starts = [one.finding for one in seen if one.change == "start"]
    numbers = [finding.number for finding in starts if len(finding.episodes) == 1]
    assert numbers == list(range(1, len(numbers) + 1)) == list(diagnosis.findings.all)
    for number, finding in diagnosis.findings.all.items():
        own = [one for one in seen if one.finding.number == number]
        count = len(finding.episodes)
        if finding.severity == "notice":
            assert [one.change for one in own] == ["start"]
        else:
            whole = ["start", "end"] * count
            history = [one.change for one in own if one.change != "worse"]
            assert history == (whole if finding.step_end is not None else whole[:-1])
        assert all(episode.step <= episode.reported for episode in finding.episodes)
        for episode, following in pairwise(finding.episodes):
            assert episode.step < episode.step_end <= following.step
            assert episode.reported < following.reported
        for one in own:
            assert one.finding.step <= one.step
            is_over = one.finding.step_end is not None
            assert is_over == (one.change == "end")
            assert not is_over or one.finding.episodes[-1].step < one.finding.step_end <= one.step


@LAWS
@given(CASES)
def test_nothing_starts_while_a_nan_lasts(case):
    layout, (windows, events) = case
    lasting = set()
    for one in replay(new(layout=layout), windows, events):
        assert not (lasting and one.change == "start")
        if one.finding.rule == "nonfinite":
            {"end": lasting.discard}.get(one.change, lasting.add)(one.finding.number)


@LAWS
@given(runs())
def test_everything_ends_after_some_healthy_windows(run):
    windows, events = run
    diagnosis = new()
    replay(diagnosis, windows, events)
    last = windows[-1].step_last if windows else 0
    for step in range(last + 1, last + 2 + CALM_STEPS):
        diagnosis.update(window(step))
    lasting = [f for f in diagnosis.findings.all.values() if f.step_end is None]
    # A trunk that had no gradient since an event and revives is above everything before it.
    assert all(f.severity == "notice" or f.rule == "spike" for f in lasting)


# --- rules that a run was too short for -----------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 3, 9, 23, 49, 50])
def test_rules_that_need_more_windows_are_unjudged(count):
    diagnosis = new()
    replay(diagnosis, [window(step) for step in range(1, count + 1)], [START])
    assert diagnosis.unjudged() == tuple(
        name for name, rule in RULES.items() if rule.needs(Thresholds()) > count
    )


def test_thresholds_set_how_many_windows_a_rule_needs():
    diagnosis = new(Thresholds(dead_windows=7, dead_branch_windows=2))
    replay(diagnosis, [window(step) for step in range(1, 7)], [START])
    assert diagnosis.unjudged() == (
        *("dead", "no_gradient", "not_updated", "weight_jump"),
        *("stray_step", "collapse", "total_low", "converged"),
    )


def test_windows_skipped_whole_by_amp_do_not_count():
    diagnosis = new()
    windows = [window(step, skipped=step % 2) for step in range(1, 27)]
    replay(diagnosis, windows, [START])
    assert diagnosis.unjudged() == (
        *("dead_branch", "few_objects", "starved_scale", "weight_jump", "collapse"),
    )


@pytest.mark.parametrize(("cut", "judged"), [(5, 20), (13, 13), (20, 20), (25, 25)])
def test_longest_stretch_without_an_event_counts(cut, judged):
    diagnosis = new()
    windows = [window(step) for step in range(1, 26)]
    replay(diagnosis, windows, [START, Event(cut + 1, "resume")])
    assert ("collapse" in diagnosis.unjudged()) == (judged < 23)


@LAWS
@given(CASES)
def test_rule_with_a_finding_was_judged(case):
    layout, (windows, events) = case
    diagnosis = new(layout=layout)
    replay(diagnosis, windows, events)
    found = {finding.rule for finding in diagnosis.findings.all.values()}
    skipped = {"amp_overflow", "nonfinite"}  # they also judge steps skipped by AMP
    assert not (found - skipped) & set(diagnosis.unjudged())
