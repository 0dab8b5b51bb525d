"""Which batches are traced."""

import pytest
from shown import episode_of, finding_of

from yolo_gradwatch.diagnose.catalog import RULES
from yolo_gradwatch.diagnose.finding import FindingChange
from yolo_gradwatch.watch.schedule import FREE, LAST_FREE, MOST_SHARE, MOST_TRACES, Schedule

POWERS = [2**n for n in range(12)]


class Clock:
    """A clock that the test sets."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def run(schedule, clock, steps, *, batches=1, cost=0.0, found=()):  # noqa: PLR0913  # a training
    """The traced steps and batches; a batch takes a second, and a trace ``cost`` more."""
    traced = []
    for step in steps:
        for part in range(batches):
            if (step, part) in found:
                schedule.findings([change(number=step)])
            if schedule.wants(step):
                traced.append((step, part))
                clock.now += cost
                schedule.note(step, cost)
            clock.now += 1.0
    return traced


def change(kind="start", rule="nonfinite", **fields):
    finding = finding_of(rule, severity=RULES[rule].severity, **fields)
    return FindingChange(kind, 1, 1, finding, 1)


@pytest.mark.parametrize("batches", [1, 4])
def test_first_batch_of_each_power_of_two_is_traced(batches):
    clock = Clock()
    traced = run(Schedule(clock=clock), clock, range(1, 2100), batches=batches)
    assert traced == [(step, 0) for step in POWERS]


def test_continued_training_does_not_restart_the_powers():
    clock = Clock()
    assert run(Schedule(3, clock), clock, range(5, 40)) == [(8, 0), (16, 0), (32, 0)]


def test_batch_after_the_start_of_a_finding_is_traced():
    clock = Clock()
    found = [(11, 2), (16, 0), (20, 3)]
    traced = run(Schedule(clock=clock), clock, range(9, 24), batches=4, found=found)
    assert traced == [(11, 2), (16, 0), (20, 3)]


def test_finding_in_a_traced_step_waits_for_the_next():
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
        ("cause", "nonfinite", False),
        ("end", "nonfinite", False),
        ("start", "amp_overflow", False),
    ],
)
def test_only_the_start_of_an_alarm_is_a_reason(kind, rule, is_traced):
    schedule = Schedule()
    schedule.findings([change(kind, rule)])
    assert schedule.wants(3) is is_traced
    assert not schedule.wants(3) or is_traced


def test_at_most_forty_traces_including_the_continued_run():
    clock = Clock()
    found = [(step, 0) for step in range(1, 60)]
    assert len(run(Schedule(clock=clock), clock, range(1, 60), found=found)) == MOST_TRACES
    assert len(run(Schedule(37, clock), clock, range(1, 60), found=found)) == 3


@pytest.mark.parametrize("cost", [0.005, 0.1, 1.0, 10.0])
def test_healthy_training_stays_below_the_share_at_every_step(cost):
    clock, traced = Clock(), []
    schedule = Schedule(clock=clock)
    for step in range(1, 5000):
        traced += run(schedule, clock, [step], cost=cost)
        later = [one for one, _ in traced if one > LAST_FREE]
        assert len(later) * cost <= MOST_SHARE * (clock.now - 100.0)
    assert [step for step, _ in traced if step <= LAST_FREE] == POWERS[:7]
    assert bool(later) == (cost < 10.0)


def test_first_findings_are_traced_at_once_and_later_ones_wait_for_the_share():
    clock = Clock()
    first = [(100 + n, 0) for n in range(FREE)]
    found = [*first, (150, 0), (160, 0), (700, 0)]
    traced = run(Schedule(clock=clock), clock, range(97, 1400), cost=1.0, found=found)
    assert traced[: FREE + 1] == [*first, (150, 0)]
    # 150 used up 500 s; one trace is then enough for 160, and 700 waits for twice as much
    assert [500 < step < 700 for step, _ in traced[FREE + 1 :]] == [True, False]
    assert traced[-1][0] > 1000


def test_finding_that_ends_no_longer_waits():
    schedule = Schedule()
    schedule.findings([change(number=1), change(number=2)])
    schedule.findings([change("end", number=1)])
    assert schedule.wants(3)
    schedule.findings([change("end", number=2)])
    assert not schedule.wants(3)


def test_findings_that_start_in_one_batch_share_a_trace():
    schedule = Schedule()
    schedule.findings([change(number=1), change(number=2)])
    assert schedule.wants(3)
    schedule.note(3, 0.1)
    assert not schedule.wants(5)


def test_finding_of_the_continued_run_is_traced():
    assert Schedule(3, findings=[1]).wants(101)
    assert not Schedule(3).wants(101)


def test_recurrences_leave_half_of_the_traces_to_new_findings():
    back = {"episodes": (episode_of(7, 9), episode_of(40))}
    few, many = Schedule(MOST_TRACES // 2 - 1), Schedule(MOST_TRACES // 2)
    for schedule in few, many:
        schedule.findings([change(**back)])
    assert few.wants(101)
    assert not many.wants(101)
    many.findings([change()])
    assert many.wants(101)


def test_repeated_step_is_traced_if_its_trace_was_lost():
    schedule = Schedule()
    assert schedule.wants(4)
    assert not schedule.wants(4)  # its second batch
    schedule.again()
    assert schedule.wants(4)
    schedule.note(4, 0.1)
    schedule.again()
    assert not schedule.wants(4)
