"""Which checkpoint a finding recommends, and that a replay recommends the same."""

from dataclasses import replace

import numpy as np
import pytest
from values import LAYOUT, window

from yolo_gradwatch.diagnose.causes import Cause
from yolo_gradwatch.diagnose.diagnosis import Diagnosis, replay
from yolo_gradwatch.diagnose.messages import IF_IT_STAYS, UNDO, Message
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.measure.event import Event
from yolo_gradwatch.measure.kept import LAST_HEALTHY, Kept, removed

CONV = "model.1.conv"
NAN = [window(6, nonfinite=[CONV])]
FINE = [window(step) for step in range(1, 6)]


def new():
    return Diagnosis(LAYOUT, Thresholds(), {})


def found(*kept):
    """The finding of a run whose sixth step is not finite."""
    diagnosis = new()
    replay(diagnosis, [*FINE, *NAN], [Event(1, "start")], kept=kept)
    return diagnosis.findings.all[1]


@pytest.mark.parametrize(
    ("kept", "named"),
    [
        ((), None),
        ((Kept(1, 2),), Kept(1, 2)),
        ((Kept(1, 2), Kept(2, 4)), Kept(2, 4)),
        ((Kept(1, 4), Kept(2, 4)), Kept(2, 4)),  # an epoch without a step
        ((Kept(2, 5),), Kept(2, 5)),
        ((Kept(2, 4), Kept(3, 6)), None),  # the file now contains that step itself
    ],
)
def test_finding_names_the_last_checkpoint_from_before_it(kept, named):
    finding = found(*kept)
    assert finding.kept == named
    advice = f"{LAST_HEALTHY} (epoch {named.epoch})" if named else ""
    assert advice in finding.message
    assert (LAST_HEALTHY in finding.message) == bool(named)


def test_removed_or_replaced_checkpoint_is_no_longer_named():
    usual = found().message
    for later in (None, Kept(4, 40)):
        diagnosis = new()
        for one in FINE:
            diagnosis.update(one)
        diagnosis.kept(Kept(2, 5))
        (change,) = diagnosis.update(*NAN)
        assert change.finding.message != usual
        diagnosis.kept(Kept(1, 2))  # already known: a follower receives all of them again
        assert diagnosis.findings.all[1] == change.finding
        diagnosis.kept(later)
        assert diagnosis.findings.all[1].kept is None
        assert diagnosis.findings.all[1].message == usual


@pytest.mark.parametrize(
    ("noted", "named"), [(Kept(2, 4, since=6), Kept(2, 4)), (removed(6), None)]
)
def test_finding_names_the_older_checkpoint_that_replaced_a_later_one(noted, named):
    assert found(Kept(2, 4), Kept(3, 6)).kept is None
    assert found(Kept(2, 4), Kept(3, 5), noted).kept == named


def test_live_changes_of_that_window_name_it_as_in_a_replay():
    kept, noted = (Kept(2, 4), Kept(3, 5)), Kept(2, 4, since=6)
    diagnosis = new()
    replay(diagnosis, FINE, [Event(1, "start")], kept=kept)
    changes = diagnosis.update(*NAN)
    assert [change.finding.kept for change in changes] == [Kept(3, 5)]
    (change,) = diagnosis.went_back(noted, changes)
    assert change.finding == diagnosis.findings.all[1] == found(*kept, noted)
    assert f"{LAST_HEALTHY} (epoch 2)" in change.finding.message


@pytest.mark.parametrize(("older", "named"), [(Kept(2, 4), Kept(2, 4)), (None, None)])
def test_earlier_finding_names_the_replacement_too(older, named):
    """As in a replay, which reads of it before the window that brought the later finding."""
    diagnosis = new()
    kept = [Kept(2, 4), Kept(2, 5)]
    replay(diagnosis, [*FINE, *NAN], [Event(1, "start")], kept=kept)
    assert diagnosis.findings.all[1].kept == Kept(2, 5)
    noted = replace(older, since=8) if older else removed(8)
    assert diagnosis.went_back(noted, []) == []
    assert diagnosis.findings.all[1].kept == named
    assert diagnosis.way_back == named
    for before in (*kept, noted):  # a follower receives all of them again
        diagnosis.kept(before)
    assert diagnosis.way_back == named
    diagnosis.kept(Kept(9, 40))
    assert (diagnosis.way_back, diagnosis.findings.all[1].kept) == (Kept(9, 40), None)


@pytest.mark.parametrize(
    ("step", "steps", "is_due"), [(29, 29, 0), (30, 30, 1), (69, 30_000, 0), (70, 30_000, 1)]
)
def test_spare_checkpoint_is_replaced_once_it_is_old(step, steps, is_due):
    """Twenty steps, and later two thousandths of all."""
    assert Kept(3, step).is_well_after(Kept(1, 10), steps) == is_due


def test_recurrence_names_what_was_kept_before_it():
    diagnosis = new()
    again = [window(step) for step in range(7, 40)]
    both = [Kept(2, 5), Kept(4, 30)]
    last = window(40, nonfinite=[CONV])
    changes = replay(diagnosis, [*FINE, *NAN, *again, last], [Event(1, "start")], kept=both)
    begun = [change.finding.kept for change in changes if change.change == "start"]
    assert begun == both


@pytest.mark.parametrize(
    ("kind", "was_finite"),
    [("resume", 0.0), ("nan_recovery", 1.0), ("oom_restart", 1.0), ("thaw", 1.0)],
)
def test_checkpoint_is_not_called_spoiled_after_finite_steps_from_it(kind, was_finite):
    """The first step after a resume shows what was loaded; other events continue the same run."""
    gone = np.full(len(LAYOUT.modules), np.nan, np.float32)
    bad = window(6, nonfinite=LAYOUT.modules)
    spoiled = replace(bad, weight_norm=gone, weight_max=np.full_like(gone, np.inf))
    events = [Event(1, "start"), Event(6, kind)]
    for steps, expected in ((FINE, was_finite), (FINE[:0], 0.0)):
        diagnosis = new()
        replay(diagnosis, [*steps, spoiled], events)
        reason = diagnosis.findings.all[1].reason
        assert (reason.kind, reason.values) == ("weights", (0.0, expected))


@pytest.mark.parametrize(
    ("remedy", "measured"),
    [
        ("Try A.", "B."),
        ("Try A, or file.pt (epoch 3).", "B. Then resume from file.pt (epoch 3)."),
        (f"Try amp=False{IF_IT_STAYS}A.", f"Try amp=False{IF_IT_STAYS}B."),
        (f"{UNDO} file.pt (epoch 3).", f"{UNDO} file.pt (epoch 3)."),
    ],
)
def test_measured_cause_keeps_the_rest_of_the_remedy(remedy, measured):
    message = Message("what", "since", likely="why.", remedy=remedy)
    reworded = message.measuring(Cause("because", "B"), "file.pt (epoch 3)")
    assert (reworded.likely, reworded.measured, reworded.remedy) == ("", "because.", measured)
