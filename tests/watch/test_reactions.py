"""Which changes of a finding call the user's function, and which stop the training."""

import pytest
from shown import change_of, finding_of

from yolo_gradwatch.watch.reactions import Callback, StopRule

DEAD = finding_of("dead")


@pytest.mark.parametrize(
    ("change", "calls", "stops"),
    [
        ("start", True, True),
        ("worse", True, True),
        ("cause", True, False),
        ("end", False, False),
    ],
)
def test_reactions_to_each_change(change, calls, stops):
    called, said = [], []
    stop = StopRule(("dead",), said.append)
    for output in (Callback(called.append), stop):
        output.findings([change_of(change, DEAD)])
    assert called == [DEAD] * calls
    assert (stop.wanted == DEAD, len(said)) == (stops, stops)


def test_unnamed_rule_stops_nothing():
    said = []
    stop = StopRule(("nonfinite",), said.append)
    stop.findings([change_of("start", DEAD)])
    assert (stop.wanted, said) == (None, [])
