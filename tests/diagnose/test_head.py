"""The rules about head branches: labels, options, scales, missing gradients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from nets import NET, costing, fired, inside, lasting, net, normed
from rule_cases import BOXES, FIVE, PAIRED
from values import Part, plan

from yolo_gradwatch.diagnose.detector import Detector
from yolo_gradwatch.diagnose.diagnosis import Diagnosis
from yolo_gradwatch.diagnose.finding import Reason
from yolo_gradwatch.measure.loss_items import LossItem

CV2, HEAD, ALL = "model.6.cv2", "model.6", inside(NET, *BOXES, *PAIRED)
OTHER = "model.6.one2one_cv2.0.conv"


def reasons(windows, rule, training=None, limits=FIVE, layout=NET):
    """Module and reason of the rule's alerts in the last window."""
    detector = Detector(layout, limits, training or {})
    alerts = [detector.update(one) for one in windows][-1]
    return [(alert.module, alert.reason) for alert in alerts if alert.rule == rule]


# --- missing gradients ----------------------------------------------------------------------------


def absent(**items):
    return [costing(one, **items) if items else one for one in lasting(3, none=[OTHER])]


@pytest.mark.parametrize(
    ("windows", "is_found"),
    [
        (absent(), True),
        (absent(box_loss=1.0, cls_loss=1.0), True),
        (absent(loss=1.0), True),
        (absent(cls_loss=1.0), True),
        (absent(box_loss=0.0, cls_loss=1.0), False),
        (absent()[:2], False),
        (lasting(3, none=[OTHER], zero=ALL), False),
    ],
)
def test_missing_gradient_in_the_head_is_not_blamed_on_labels(windows, is_found):
    found = [alert.module for alert in fired(windows, "no_gradient")]
    assert found == [OTHER] * is_found


def test_part_used_only_by_visual_prompts_may_have_no_gradient():
    types = tuple(
        "SAVPE" if n == "model.6.cv3" else t for n, t in zip(NET.modules, NET.types, strict=True)
    )
    layout = replace(NET, types=types)
    windows = lasting(3, none=inside(NET, "model.6.cv3"))
    assert fired(windows, "no_gradient")
    assert not fired(windows, "no_gradient", layout=layout)


POSE, _ = plan(
    [Part("model.0"), *(Part(f"model.1.{f}.{n}") for f in ("cv2", "cv3", "cv4") for n in range(2))],
    edges=[("model.0", "model.1"), ("model.0", "model.1")],
)


# --- gains of zero --------------------------------------------------------------------------------


def test_gain_of_zero_is_reported_at_once_with_the_branch_it_turns_off():
    off = costing(net(1, zero=inside(NET, *BOXES)), box_loss=0.0, dfl_loss=0.0, cls_loss=1.0)
    gains = {"box": 0.0, "dfl": 0}
    assert reasons([off], "dead_branch", gains) == [(CV2, Reason("gain", ("box", "dfl"), rank=2))]
    assert not reasons([off], "zero_loss", gains)
    assert not reasons([off], "dead_branch", {"box": 7.5, "dfl": False})
    learns = costing(net(1), box_loss=0.0, cls_loss=1.0)
    assert not reasons([learns], "dead_branch", gains)
    expected = Reason("gains", ("box", "box_loss"), (1.0,), 1)
    assert reasons([learns], "zero_loss", gains) == [(HEAD, expected)]
    assert not reasons([costing(net(1), box_loss=1e-9)], "zero_loss", gains)


def test_gain_of_zero_turns_even_scores_off():
    scores = inside(NET, *(f"model.6.cv3.{scale}" for scale in range(3)))
    off = costing(net(1, zero=scores), box_loss=1.0, cls_loss=0.0)
    assert reasons([off], "dead_branch", {"cls": 0.0})[0][0] == "model.6.cv3"


@pytest.mark.parametrize(
    ("pose", "cut", "is_found"), [(0.0, 5, True), (0.0, 4, False), (1e-9, 5, False)]
)
def test_keypoints_that_are_never_visible_are_a_notice(pose, cut, is_found):
    windows = [costing(o, box_loss=1.0, pose_loss=pose) for o in lasting(cut, layout=POSE)]
    expected = [("model.1", Reason("labels", ("pose_loss",)))] * is_found
    assert reasons(windows, "zero_loss", layout=POSE) == expected
    assert not reasons(posed(box_loss=1.0, pose_loss=pose), "zero_loss", layout=POSE)


# --- why a branch does not learn ------------------------------------------------------------------


def posed(**items):
    silent = lasting(5, layout=POSE, zero=inside(POSE, "model.1.cv4.0", "model.1.cv4.1"))
    return [costing(one, **items) for one in silent]


@pytest.mark.parametrize(("pose", "named"), [(0.0, ("pose_loss",)), (1.0, ())])
def test_learning_boxes_rule_out_the_labels(pose, named):
    windows = posed(box_loss=1.0, pose_loss=pose, cls_loss=1.0)
    expected = Reason("others learn", ("model.1.cv2", *named))
    assert reasons(windows, "dead_branch", layout=POSE) == [("model.1.cv4", expected)]


def test_batches_without_objects_are_inferred_from_the_losses():
    windows = [costing(o, box_loss=0.0, cls_loss=1.0) for o in lasting(5, zero=inside(NET, *BOXES))]
    expected = Reason("no objects", ("box_loss",), rank=3)
    assert reasons(windows, "dead_branch") == [(CV2, expected)]


# --- boxes that rarely learn ----------------------------------------------------------------------


def rarely_learning(zero, box=None, empty=None, batches=10):
    """Five windows of ten steps; in some, every scale of a family has no gradient.

    Args:
        zero: Steps without a gradient, in each window.
        box: Mean box loss; None if the loss is unknown.
        empty: Batches with a box loss of 0, by default as many as steps without a gradient.
        batches: In each window.
    """
    windows = lasting(5, steps=10, zero=dict.fromkeys(inside(NET, *BOXES), zero))
    if box is None:
        return windows
    empty = zero if empty is None else empty
    boxes = LossItem("box_loss", batches, 0, empty, 0.0, box, box)
    scores = LossItem("cls_loss", batches, 0, 0, 1.0, 1.0, 1.0)
    return [replace(one, losses=(boxes, scores)) for one in windows]


@pytest.mark.parametrize(
    ("zero", "box", "rule"),
    [
        (9, 1.0, "few_objects"),
        (5, 1.0, "few_objects"),
        (4, 1.0, ""),
        (9, 0.00099, "dead_branch"),
        (5, 0.00499, "dead_branch"),
        (4, 0.0001, ""),
        (9, 0.00101, "few_objects"),
    ],
)
def test_boxes_that_rarely_learn_are_an_alarm_only_if_the_loss_is_tiny(zero, box, rule):
    windows = rarely_learning(zero, box)
    found = {name: reasons(windows, name) for name in ("few_objects", "dead_branch")}
    learned = 50.0 - 5 * zero
    values = (learned, learned, 50.0, box)
    expected = [(CV2, Reason("seldom", (), pytest.approx(values), 3))]
    assert found == {name: expected if name == rule else [] for name in found}


@pytest.mark.parametrize(
    ("windows", "learned"),
    [
        # three scales, silent in 18 of 30: all at once in none to 6 of 10
        (rarely_learning(6), (20, 50)),
        (rarely_learning(8), (10, 30)),
        (rarely_learning(9), (5, 15)),
        (rarely_learning(9, 1.0, empty=8), (10, 10)),
        (rarely_learning(9, 1.0, empty=3), (15, 15)),  # at least as many as the scales show
        (rarely_learning(8, 1.0, empty=7, batches=20), (15, 30)),  # two batches a step
        (rarely_learning(6, 1.0, empty=3), None),
        (rarely_learning(6, 1.0, empty=4, batches=20), None),
    ],
)
def test_learned_steps_are_bounded_in_windows_of_several_steps(windows, learned):
    found = [reason.values[:3] for _, reason in reasons(windows, "few_objects")]
    assert found == ([] if learned is None else [(*learned, 50)])


@pytest.mark.parametrize(("box", "rule"), [(0.0101, "few_objects"), (0.0099, "dead_branch")])
def test_box_loss_is_compared_only_where_batches_have_objects(box, rule):
    """Without objects the classification loss is large and the box loss is 0."""
    empty = [costing(o, box_loss=0.0, cls_loss=99.0) for o in lasting(4, zero=inside(NET, *BOXES))]
    windows = [*empty, costing(net(5), box_loss=box, cls_loss=1.0)]
    assert [name for name in ("few_objects", "dead_branch") if reasons(windows, name)] == [rule]
    wide = rarely_learning(9, box / 10)  # the mean over ten batches, nine of which have no objects
    assert [name for name in ("few_objects", "dead_branch") if reasons(wide, name)] == [rule]


# --- starved scales -------------------------------------------------------------------------------


def starving(level, steps=50, zero=0, where=(BOXES[2], PAIRED[2])):
    """Five windows in which some branches are this many decades lower, with some zero steps."""
    count = dict.fromkeys(inside(NET, *where), zero)
    norms = dict.fromkeys(where, 10.0**level)
    return [normed(one, norms) for one in lasting(5, steps=steps, zero=count)]


@pytest.mark.parametrize(
    ("windows", "learned"),
    [
        (starving(-4.1), 0),
        (starving(-12), 0),
        (starving(-3.9), None),
        (starving(-1, zero=45), 25),
        (starving(-1, zero=44), None),
        ([*starving(-12)[:4], *starving(-1, zero=25)[:1]], 25),
        (starving(-12, steps=40), 0),
        (starving(-12, steps=39), None),
    ],
)
def test_scale_with_a_tiny_gradient_or_one_in_a_tenth_of_the_steps_is_starved(windows, learned):
    found = reasons(windows, "starved_scale")
    steps = float(sum(one.steps for one in windows))
    expected = [(BOXES[2], Reason("scales", ("P5",), (steps, float(learned or 0)), rank=1))]
    assert found == ([] if learned is None else expected)


def test_batches_without_objects_do_not_count_for_scales():
    background = lasting(3, steps=99, zero=dict.fromkeys(ALL, 99))
    few = [*background, *starving(-12, steps=99)[:2]]
    assert not fired(few, "starved_scale", FIVE)
    assert fired([*background[:2], *starving(-12, steps=99)[:3]], "starved_scale", FIVE)


@pytest.mark.parametrize(
    ("where", "module"), [((BOXES[2],), BOXES[2]), ((PAIRED[2],), PAIRED[2])], ids=["cv2", "paired"]
)
def test_one_family_of_a_pair_may_starve_alone(where, module):
    (alert,) = fired(starving(-12, where=where), "starved_scale", FIVE)
    assert (alert.module, alert.affected, alert.reason.values) == (module, (), (250.0, 0.0))


def test_each_family_names_the_scales_that_starve_only_in_it():
    windows = starving(-12, where=(BOXES[2], PAIRED[2], PAIRED[1]))
    found = fired(windows, "starved_scale", FIVE)
    assert [(a.module, a.affected, a.reason.names) for a in found] == [
        (BOXES[2], (PAIRED[2],), ("P5",)),
        (PAIRED[1], (), ("P4",)),
    ]


def test_scales_of_other_heads_are_counted():
    layout, _ = plan(
        [Part("model.0"), *(Part(f"model.1.cv2.{n}") for n in range(4))],
        edges=[("model.0", "model.1")] * 4,
    )
    zero = dict.fromkeys(inside(layout, "model.1.cv2.0"), 40)
    windows = lasting(5, layout=layout, steps=40, zero=zero)
    ((module, reason),) = reasons(windows, "starved_scale", layout=layout)
    assert (module, reason.names) == ("model.1.cv2.0", ("scale 1 of 4",))
    assert np.isfinite(reason.values).all()


# --- next to other findings -----------------------------------------------------------------------


def found_in(windows):
    diagnosis = Diagnosis(NET, FIVE, {})
    for one in windows:
        diagnosis.update(one)
    return {(finding.rule, finding.module) for finding in diagnosis.findings.all.values()}


def test_unused_part_of_the_head_hides_no_other_fault():
    unused = ("no_gradient", OTHER.removesuffix(".conv"))
    windows = lasting(9, none=[OTHER], zero=["model.0.conv"])
    assert found_in(windows) == {unused, ("dead", "model.0.conv")}
    windows = lasting(9, none=[OTHER], zero=inside(NET, *BOXES))
    assert found_in(windows) >= {("dead_branch", CV2)}


def test_unused_branch_is_one_finding():
    windows = [costing(o, loss=1.0) for o in lasting(9, none=inside(NET, *BOXES))]
    assert found_in(windows) == {("no_gradient", CV2)}
