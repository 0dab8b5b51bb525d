from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from values import LAWS, LAYOUT, runs, window

from yolo_gradwatch.diagnosis import Diagnosis, replay
from yolo_gradwatch.records import Event
from yolo_gradwatch.thresholds import Thresholds

CONV = "model.1.conv"
START = Event(1, "start")
DEAD = [window(step, zero=[CONV]) for step in (1, 2, 3)]


def new(limits=None):
    return Diagnosis(LAYOUT, limits or Thresholds(), {"amp": True})


def live(diagnosis, windows, events):
    """A training as its recorder drives it: an event comes after the windows before it."""
    told = []
    for n, one in enumerate(windows):
        before = windows[n - 1].step_first if n else 0
        for event in events:
            if before < event.step <= one.step_first:
                told += diagnosis.begin_anew(event)
        told += diagnosis.update(one)
    for event in events:
        if not windows or event.step > windows[-1].step_first:
            told += diagnosis.begin_anew(event)
    return told


def changes(news):
    return [(one.change, one.finding.rule, one.step) for one in news]


def test_a_healthy_run_has_no_news():
    assert replay(new(), [window(step) for step in range(1, 100)], [START]) == []


def test_a_sick_run():
    diagnosis = new()
    windows = [*DEAD, window(4, zero=[CONV]), window(5)]
    assert changes(replay(diagnosis, windows, [START])) == [
        ("start", "dead", 3),
        ("end", "dead", 5),
    ]
    (finding,) = diagnosis.findings.all.values()
    assert (finding.module, finding.step, finding.step_end) == (CONV, 1, 5)


def test_an_event_ends_findings_and_forgets():
    windows = [*DEAD, *(window(step, zero=[CONV]) for step in (4, 5, 6))]
    told = replay(new(), windows, [START, Event(4, "nan_recovery")])
    assert changes(told) == [("start", "dead", 3), ("end", "dead", 4), ("start", "dead", 6)]


def test_the_news_of_an_event_stand_in_the_epoch_before_it():
    windows = [*(replace(one, epoch=7) for one in DEAD), window(4, epoch=6)]
    told = replay(new(), windows, [START, Event(4, "nan_recovery")])
    assert [one.epoch for one in told] == [7, 7]


def test_an_event_between_captured_steps_comes_before_the_next_window():
    windows = [*DEAD, window(10, zero=[CONV])]
    assert changes(replay(new(), windows, [START, Event(8, "resume")])) == [
        ("start", "dead", 3),
        ("end", "dead", 8),
    ]


def test_an_event_after_the_last_window_counts():
    events = [START, Event(4, "resume")]  # killed before its next window closed
    told = replay(new(), DEAD, events)
    assert told == live(new(), DEAD, events)
    assert changes(told) == [("start", "dead", 3), ("end", "dead", 4)]


def test_thresholds_decide():
    assert replay(new(Thresholds(dead_windows=4)), DEAD, [START]) == []
    assert changes(replay(new(Thresholds(dead_windows=2)), DEAD, [START])) == [("start", "dead", 2)]


def test_a_resume_in_a_new_process_tells_what_the_replay_tells():
    windows = [*(replace(one, epoch=7) for one in DEAD), window(4, epoch=7)]
    resume = Event(4, "resume")
    first, second = new(), new()
    told = live(first, windows[:3], [START])
    second.restore(first.findings.all.values(), epoch=7)
    told += second.begin_anew(resume)
    told += second.update(windows[3])
    assert told == replay(new(), windows, [START, resume])


@LAWS
@given(runs())
def test_a_replay_tells_exactly_the_live_news(run):
    windows, events = run
    watched, replayed = new(), new()
    assert replay(replayed, windows, events) == live(watched, windows, events)
    assert replayed.findings.all == watched.findings.all


@LAWS
@given(runs())
def test_every_finding_starts_once_and_ends_at_most_once(run):
    windows, events = run
    diagnosis = new()
    told = replay(diagnosis, windows, events)
    for number, finding in diagnosis.findings.all.items():
        story = [one.change for one in told if one.finding.number == number]
        assert story[0] == "start"
        assert story.count("start") == 1
        assert story.count("end") == (finding.step_end is not None)
        assert "end" not in story[:-1]
    assert [one.step for one in told] == sorted(one.step for one in told)


@LAWS
@given(runs())
def test_findings_are_numbered_from_1_as_they_begin(run):
    windows, events = run
    told = replay(new(), windows, events)
    numbers = [one.finding.number for one in told if one.change == "start"]
    assert numbers == list(range(1, len(numbers) + 1))
