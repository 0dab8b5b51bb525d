"""Which batches are traced."""

import pytest
from shown import finding_of

from yolo_gradwatch.diagnose.catalog import RULES
from yolo_gradwatch.diagnose.finding import FindingChange
from yolo_gradwatch.watch.schedule import LAST_FREE, MOST_SHARE, MOST_TRACES, Schedule

POWERS = [2**n for n in range(12)]


class Clock:
    """Seconds that a test sets."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def run(schedule, clock, steps, *, batches=1, cost=0.0, found=()):  # noqa: PLR0913  # a training
    """The steps and batches that are traced; a batch takes a second, a trace ``cost`` more."""
    traced = []
    for step in steps:
        for part in range(batches):
            if (step, part) in found:
                schedule.findings([change()])
            if schedule.wants(step):
                traced.append((step, part))
                clock.now += cost
                schedule.note(step, cost)
            clock.now += 1.0
    return traced


def change(kind="start", rule="nonfinite"):
    finding = finding_of(rule, severity=RULES[rule].severity)
    return FindingChange(kind, 1, 1, finding, 1)


@pytest.mark.parametrize("batches", [1, 4])
def test_the_first_batch_of_each_power_of_two(batches):
    clock = Clock()
    traced = run(Schedule(clock=clock), clock, range(1, 2100), batches=batches)
    assert traced == [(step, 0) for step in POWERS]


def test_a_training_that_goes_on_does_not_begin_with_the_powers_again():
    clock = Clock()
    assert run(Schedule(3, clock), clock, range(5, 40)) == [(8, 0), (16, 0), (32, 0)]


def test_the_batch_after_a_finding_begins():
    clock = Clock()
    found = [(11, 2), (16, 0), (20, 3)]
    traced = run(Schedule(clock=clock), clock, range(9, 24), batches=4, found=found)
    assert traced == [(11, 2), (16, 0), (20, 3)]


def test_a_finding_in_a_step_that_was_traced_waits_for_the_next():
    clock = Clock()
    assert run(Schedule(clock=clock), clock, range(8, 12), batches=4, found=[(8, 2)]) == [
        (8, 0),
        (9, 0),
    ]


@pytest.mark.parametrize(
    ("kind", "rule", "is_traced"),
    [
        ("start", "nonfinite", True),
        ("start", "spike", True),
        ("worse", "nonfinite", False),
        ("end", "nonfinite", False),
        ("start", "amp_overflow", False),
    ],
)
def test_only_an_alarm_that_begins_is_a_reason(kind, rule, is_traced):
    schedule = Schedule()
    schedule.findings([change(kind, rule)])
    assert schedule.wants(3) is is_traced
    assert not schedule.wants(3) or is_traced


def test_there_are_forty_traces_at_the_most_with_those_of_the_run_that_is_continued():
    clock = Clock()
    found = [(step, 0) for step in range(1, 60)]
    assert len(run(Schedule(clock=clock), clock, range(1, 60), found=found)) == MOST_TRACES
    assert len(run(Schedule(37, clock), clock, range(1, 60), found=found)) == 3


@pytest.mark.parametrize("cost", [0.005, 0.1, 1.0, 10.0])
def test_a_healthy_training_stays_below_the_share_at_every_step(cost):
    clock, traced = Clock(), []
    schedule = Schedule(clock=clock)
    for step in range(1, 5000):
        traced += run(schedule, clock, [step], cost=cost)
        later = [one for one, _ in traced if one > LAST_FREE]
        assert len(later) * cost <= MOST_SHARE * (clock.now - 100.0)
    assert [step for step, _ in traced if step <= LAST_FREE] == POWERS[:7]
    assert bool(later) == (cost < 10.0)


def test_the_first_finding_is_traced_and_later_ones_while_the_share_lasts():
    clock = Clock()
    found = [(step, 0) for step in (100, 110, 120, 700)]
    traced = run(Schedule(clock=clock), clock, range(97, 1000), cost=1.0, found=found)
    assert traced == [(100, 0), (700, 0)]  # after 100 s, a second is used up until 500 s are over
    assert [clock.now > 600.0] == [True]


def test_a_step_that_begins_again_is_traced_if_its_trace_was_lost():
    schedule = Schedule()
    assert schedule.wants(4)
    assert not schedule.wants(4)  # its second batch
    schedule.again()
    assert schedule.wants(4)
    schedule.note(4, 0.1)
    schedule.again()
    assert not schedule.wants(4)
