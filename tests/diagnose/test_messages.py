"""What the text of a finding depends on; the sentences are in golden/messages.txt."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from rule_cases import BRANCH, HEADED, WORDED
from shown import episode_of, finding_of
from values import Part, layout_of, leaves_of, plan

from yolo_gradwatch.diagnose import causes
from yolo_gradwatch.diagnose.catalog import RULES
from yolo_gradwatch.diagnose.finding import Reason
from yolo_gradwatch.diagnose.measured_words import cause_of
from yolo_gradwatch.diagnose.messages import Case, course, described
from yolo_gradwatch.diagnose.phrases import factor, significant
from yolo_gradwatch.measure.arrays import FLOAT32_MAX
from yolo_gradwatch.measure.kept import Kept
from yolo_gradwatch.measure.layout import WHOLE

TRAINING = {
    "amp": False,
    "epochs": 100,
    "close_mosaic": 10,
    "warmup_epochs": 3.0,
    "lr0": 0.01,
    "optimizer": "SGD",
    "imgsz": 640,
    "freeze": None,
}
"""Options of an ordinary training."""

AMP = {**TRAINING, "amp": True}
AUTO = {**TRAINING, "optimizer": "auto"}

THRICE = tuple(episode_of(7 + 10 * n, 9 + 10 * n, epoch=20, value=4.0 + n) for n in range(3))
BACK = (*THRICE[:1], episode_of(40, epoch=20, value=4.5))
OFTEN = (*THRICE, THRICE[0], episode_of(1040, epoch=20, value=4.5))
"""Episodes of a finding that recurred once, and of one that recurred four times."""

TRUNK = tuple(f"model.{b}" for b in range(4))
CONV = "model.3.conv"


def finding(rule, module=None, **changes):
    """A finding as in ``WORDED``, with some fields replaced."""
    name, value, limit = WORDED[rule]
    given = {"epoch": 20, "value": value, "limit": limit, "severity": RULES[rule].severity}
    found = finding_of(rule, module or name, **{**given, **changes})
    warming = found.episodes[-1].epoch <= TRAINING["warmup_epochs"]
    return replace(found, warming=changes.get("warming", warming))


def message(rule, module=None, training=TRAINING, layout=HEADED, **changes):
    """The parts of its message."""
    return RULES[rule].message(layout, training, finding(rule, module, **changes))


def built(*parts, inside=(), kind="Block"):
    """A layout whose block 1 holds these weights, norm layers and modules without parameters."""
    own = [Part(f"model.1.{name}", is_weight=not name.endswith("bn")) for name in parts]
    layout, _ = plan([Part("model.0.conv"), *own, Part("model.2.conv")])
    types = tuple(
        kind if name == "model.1" else cls
        for name, cls in zip(layout.modules, layout.types, strict=True)
    )
    return replace(layout, types=types, inside=((), tuple(inside), ()))


PAIR, _ = plan([Part("model.0.conv"), Part("model.1.one2one_cv2.2")])
BLOCKS = tuple(f"model.{n}" for n in range(4))
PLAIN = tuple(f"{n}.{x}" for n in range(8) for x in ("conv", "bn"))
SPREAD = (CONV, f"{BRANCH}.0.conv", f"{BRANCH}.0.out")
FILE = "gradwatch_evidence/step-00040.json"
FITTED = {**AUTO, "fitted": {"optimizer": "AdamW", "lr0": 0.001}}
RATED = (
    *("nonfinite", "dead", "partly_dead", "exploding", "spike", "collapse"),
    *("total_high", "total_low", "weight_growth"),
)

VARIANTS = [
    ("nonfinite", "under AMP", {"training": AMP}),
    ("nonfinite", "in all modules", {"module": WHOLE}),
    (
        "nonfinite",
        "in the head and upstream",
        {"module": BRANCH, "modules": SPREAD, "origin": SPREAD},
    ),
    (
        "nonfinite",
        "that began in the head alone",
        {
            "module": f"{BRANCH}.0.conv",
            "modules": (CONV, f"{BRANCH}.0.conv"),
            "origin": (f"{BRANCH}.0.conv",),
        },
    ),
    ("nonfinite", "that AMP skipped", {"value": 13.0, "limit": 12.0}),
    ("nonfinite", "that came back", {"episodes": BACK, "evidence": FILE}),
    ("nonfinite", "that AMP skipped and came back", {"episodes": BACK, "limit": 12.0}),
    ("total_high", "that clipping multiplies by 0", {"value": 1e30}),
    ("total_high", "beyond float32", {"value": FLOAT32_MAX}),
    ("dead", "with ReLU", {"module": "model.1", "layout": built("a", inside=["ReLU"])}),
    ("dead", "upstream", {"modules": ("model.0.conv", "model.1.bn", CONV)}),
    ("dead", "downstream", {"module": "model.1", "modules": ("model.1.bn", "model.2.conv")}),
    ("partly_dead", "with ReLU", {"module": "model.1.a", "layout": built("a", inside=["ReLU6"])}),
    (
        "partly_dead",
        "that came back",
        {"episodes": (episode_of(7, 9, value=0.8), episode_of(40, value=0.7))},
    ),
    ("frozen", "that another block was asked for", {"training": {"freeze": [0, 1]}}),
    ("frozen", "as asked for", {"training": {"freeze": [3]}}),
    ("starved_scale", "of unknown size", {"training": {}}),
    ("starved_scale", "of a pair", {"module": "model.1.one2one_cv2.2", "layout": PAIR}),
    *(
        (rule, f"by {reason.kind}", {"reason": reason})
        for rule, reason in (
            ("not_updated", Reason("outside", tuple(f"model.{n}.w" for n in range(6)))),
            ("not_updated", Reason("outside", ("model.3.conv.w",), (432.0,))),
            ("zero_rate", Reason("zero rate", ("model.3.conv.w",))),
            ("dead_branch", Reason("gain", ("pose", "kobj", "rle"))),
            ("dead_branch", Reason("no objects", ("box_loss", "l1_loss"))),
            ("dead_branch", Reason("others learn", ("model.4.cv3",))),
            ("dead_branch", Reason("others learn", ("model.4.cv3", "pose_loss"))),
            ("dead_branch", Reason("seldom", (), (15.0, 15.0, 96.0, 4e-4))),
            ("few_objects", Reason("seldom", (), (15.0, 40.0, 96.0, 3.0))),
            ("few_objects", Reason("seldom", (), (15.0, 96.0, 96.0, 3.0))),
            ("starved_scale", Reason("scales", ("P4", "P5"), (50.0, 3.0, 0.0))),
            ("zero_loss", Reason("gains", ("box", "box_loss", "seg_loss"), (1.0,))),
            ("zero_loss", Reason("labels", ("pose_loss",))),
        )
    ),
    ("vanishing", "with Sigmoid", {"module": "model.1", "layout": built("a", inside=["Sigmoid"])}),
    ("vanishing", "without normalization", {"module": "model.1", "layout": built("a", "b")}),
    ("vanishing", "in a plain stack", {"module": "model.1", "layout": built(*PLAIN)}),
    ("vanishing", "upstream", {"modules": ("model.0", "model.2", "model.3")}),
    ("vanishing", "that came back", {"episodes": OFTEN}),
    ("vanishing", "on both sides", {"module": "model.2", "modules": TRUNK}),
    ("vanishing", "under a lower limit", {"value": 1.2, "limit": 1.0}),
    ("total_low", "under a higher limit", {"value": 0.4, "limit": 0.5}),
    (
        "total_low",
        "that came back",
        {"episodes": (episode_of(7, 9, value=2e-5), episode_of(40, value=3e-5))},
    ),
    ("exploding", "without normalization", {"module": "model.1", "layout": built("a", "b")}),
    ("spike", "as close_mosaic", {"epoch": 91}),
    ("loss_imbalance", "of an item", {"reason": Reason("item", ("grade_loss",), (6e4, 2e5))}),
    (
        "loss_imbalance",
        "by a gain",
        {"reason": Reason("item", ("box_loss",), (6e4, 2e5)), "training": {"box": 7500.0}},
    ),
    (
        "loss_imbalance",
        "of overlaps",
        {"reason": Reason("item", ("box_loss",), (6e4, 2e5)), "training": TRAINING},
    ),
    ("spike", "of the loss", {"reason": Reason("loss", values=(8.0, 900.0))}),
    ("spike", "behind the loss", {"reason": Reason("loss", values=(8.0, 9.0))}),
    ("exploding", "with normalization", {"module": "model.1", "layout": built("a", "a.bn")}),
    ("weight_growth", "by code", {"reason": Reason("rate", values=(10.0, 0.01))}),
    ("dead", "by code", {"reason": Reason("rate", values=(10.0, 0.01))}),
    (
        "weight_overflow",
        "by code",
        {"reason": Reason("buffers", ("model.2.bn",), values=(10.0, 0.01))},
    ),
    ("initial_loss", "of an item", {"reason": Reason("item", ("cls_loss",), (580.0, 2e5))}),
    ("large_weights", "by their RMS", {"reason": Reason("rms", values=(1.0,))}),
    ("small_weights", "in most blocks", {"reason": Reason("rms", BLOCKS, (1e-4,))}),
    (
        "small_weights",
        "in one block",
        {"module": "model.1", "reason": Reason("rms", ("model.1",), (1e-4,))},
    ),
    ("rate_jump", "from one to another", {"reason": Reason("rate", ("lr/0",), (0.01, 0.5))}),
    ("converged", "with a loss", {"reason": Reason("solved", values=(0.7, 3e-5))}),
    ("weight_growth", "with auto", {"training": AUTO}),
    ("weight_growth", "with a fitted optimizer", {"training": FITTED}),
    *(
        (rule, "beside a checkpoint that was kept", {"kept": Kept(19, 6), **how})
        for rule, how in (
            ("nonfinite", {}),
            ("nonfinite", {"reason": Reason("weights", values=(0.0, 1.0))}),
            ("weight_overflow", {}),
            ("weight_overflow", {"reason": Reason("buffers", ("model.3.bn",))}),
            ("rate_jump", {}),
            ("weight_jump", {}),
            ("collapse", {}),
            ("total_low", {}),
            ("vanishing", {"well": 500}),
        )
    ),
    ("nonfinite", "of a slope", {"reason": Reason("slope", values=(0.0,))}),
    (
        "nonfinite",
        "of a slope of the loss",
        {"reason": Reason("slope", values=(0.0,)), "module": WHOLE},
    ),
    (
        "nonfinite",
        "of a slope of a term of the loss",
        {
            "reason": Reason("slope", values=(0.0,)),
            "module": "model.4.cv2.0",
            "origin": ("model.3.conv", "model.4.cv2.0"),
        },
    ),
    ("nonfinite", "of weights that were loaded", {"reason": Reason("weights", values=(0.0, 0.0))}),
]
"""A rule, and the differences from its case in ``WORDED``."""


def test_message_of_every_rule(golden):
    lines = [f"{rule}\n    {message(rule, epoch=2)}\n" for rule in RULES]
    lines += [f"{rule} {what}\n    {message(rule, **how)}\n" for rule, what, how in VARIANTS]
    golden("messages", "".join(lines))


OUT = f"{BRANCH}.0.out"
HEAD_CONV = f"{BRANCH}.1.conv"
NAMESAKES = layout_of(("Conv",) * 31 + ("Detect",))

LOSSES = {
    "with Sigmoid": built("a", "b", inside=["Sigmoid"]),
    "with Tanh": built("a", "b.bn", inside=["Identity", "Tanh"]),
    "with Hardsigmoid in a stack": built(*PLAIN, inside=["Hardsigmoid", "SiLU"]),
    "without normalization": built("a", "b", inside=["SiLU", "ReLU"]),
    "of one weight": built("a"),
    "of one weight, normalized": built("a", "a.bn"),
    "normalized": built("a", "b", "b.bn", inside=["SiLU"]),
    "a stack of 8": built(*PLAIN),
    "a stack of 7": built(*PLAIN[2:]),
    "with residuals": built(*PLAIN, kind="C3k2"),
    "of ResNet": built(*PLAIN, kind="ResNetLayer"),
    "a stack without normalization": built(*PLAIN[::2]),
}

ORIGINS = (
    *((CONV, (CONV,), (CONV,)), (WHOLE, (WHOLE,), (WHOLE,))),
    *((BRANCH, (CONV, HEAD_CONV), (CONV, HEAD_CONV)), (HEAD_CONV, (HEAD_CONV,), (HEAD_CONV,))),
    *(
        ("model.4", (CONV, HEAD_CONV), (CONV, HEAD_CONV)),
        (HEAD_CONV, (CONV, HEAD_CONV), (HEAD_CONV,)),
    ),
)
"""Module, modules and origin of a non-finite finding."""

OTHERS = (
    *((CONV, (CONV,)), (CONV, ("model.1.bn", CONV)), (CONV, ("model.0.bn", "model.1.bn", CONV))),
    *((CONV, ("model.3.bn", CONV)), (CONV, (CONV, OUT)), ("model.3", (CONV, "model.3.bn"))),
    (CONV, ("model.0.bn", "model.3.bn", CONV, OUT)),
    *(("model.3", ("model.1.bn", CONV, "model.3.bn")), (WHOLE, leaves_of(HEADED))),
)
"""The named module and all modules of the finding."""


OWN = (("BatchNorm2d", "blocks.py:19"),)
LOST = Reason("falls", ("model.4.bn", "BatchNorm2d", "model.4.conv", "model.4.bn"), (4.5,))

PHRASES = {
    **{f"{decades:g} decades": factor(decades) for decades in (1.5, 4.5, 6.9, 7.0, 1e9)},
    **{f"{one:g} in 2 digits": significant(one, 2) for one in (0.0123, 9.96, 99.6, 1234.0, 9.96e6)},
    **{name: described(layout_of(), name) for name in (WHOLE, "model.4.bn")},
    "a class of the user's own": described(replace(layout_of(), sources=OWN), "model.4.bn"),
    "where in a class of the user's own": cause_of(LOST, replace(layout_of(), sources=OWN), {}).why,
    **{f"{len(found)} episodes": course(finding_of(episodes=found)) for found in (BACK, OFTEN)},
    **{f"rate {asked}": causes.lower_rate(asked) for asked in ({}, {"lr0": 0.02}, TRAINING)},
    **{f"rate of auto, fitted {one is FITTED}": causes.lower_rate(one) for one in (AUTO, FITTED)},
    **{
        f"epoch {epoch}": causes.moment(TRAINING, finding("spike", epoch=epoch)) or "nothing"
        for epoch in (1, 3, 4, 90, 91, 92)
    },
    **{f"{own} of {all_}": message("dead", own, modules=all_).since for own, all_ in OTHERS},
    **{
        f"blocks {others}": message("vanishing", modules=(*others, "model.3")).since
        for others in ((), ("model.1",), ("model.0", "model.1"))
    },
    "a name that begins alike": message(
        "dead", "model.3", layout=NAMESAKES, modules=(CONV, "model.30.conv")
    ).since,
    **{
        f"NaN in {own} of {all_} from {origin}": message(
            "nonfinite", own, modules=all_, origin=origin
        ).cause
        for own, all_, origin in ORIGINS
    },
    **{f"loss {n}": " / ".join(causes.of_loss(one, "model.1")) for n, one in LOSSES.items()},
    **{f"gain {n}": causes.of_gain(one, TRAINING, "model.1").why for n, one in LOSSES.items()},
    **{
        f"{rule} {own} beside {kinds}": message(
            rule, own, layout=built("a", "b", inside=kinds)
        ).cause
        for kinds in (["Identity", "ReLU"], ["SiLU"], ["LeakyReLU"], [])
        for rule in ("dead", "partly_dead")
        for own in ("model.1", "model.0.conv")
    },
}
"""Phrases of messages, and what each depends on."""


def test_phrases_of_messages(golden):
    golden("phrases", "".join(f"{what}\n    {words}\n" for what, words in PHRASES.items()))


# --- every message --------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("training", [TRAINING, AMP, {}])
def test_message_has_all_of_its_parts(rule, training):
    found = message(rule, training=training, step=1234)
    case = Case(HEADED, training, finding(rule), RULES[rule].unit)
    is_about_the_step = rule in {"amp_overflow", "loss_nonfinite"}
    assert found.what.startswith(f"{case.where}: ") != is_about_the_step
    assert "step 1,234" in found.since
    assert found.why or found.cause
    assert bool(found.remedy) == (rule != "amp_overflow")
    assert found.past == found.evidence == ""
    assert "None" not in str(found)


EXTREMES = [
    {},
    {"value": 0.31},
    {"value": 38.0},
    {"value": 3e38},
    {"step": 2_345_678, "epoch": 300},
    {"episodes": 13 * OFTEN[:-1] + BACK[1:]},
    {"epoch": 91},
    {"epoch": 2},
]


@pytest.mark.parametrize("changes", EXTREMES, ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_message_has_whole_sentences_and_no_nan(rule, changes):
    if rule == "weight_growth" and changes.get("value", 0) > 50:
        changes = {"value": 38.0}
    text = str(message(rule, **changes))
    assert re.search(r"\n|  |\.\.|\b(nan|inf|None)\b| 1 times", text) is None
    assert text.endswith(".")


LONG = "model.22.m.0.attn.qkv.conv"
LARGE = replace(
    layout_of(("C3k2", "Detect")),
    modules=(WHOLE, "model.22", LONG, f"{LONG}.x", "model.1", "model.1.a", "model.1.b"),
    types=("DetectionModel", "A2C2f", *["Conv2d"] * 5),
    block_of=("", *["model.22"] * 3, *["model.1"] * 3),
)
"""A layout with the longest names of Ultralytics models."""


@pytest.mark.parametrize("rule", RULES)
def test_message_is_not_too_long(rule):
    name = WORDED[rule][0]
    where = WHOLE if name == WHOLE else "model.22" if RULES[rule].blocks == "origin" else LONG
    given = {"modules": LARGE.modules, "step": 1_234_567, "epoch": 91}
    own = message(rule, where, {**AUTO, "amp": True}, LARGE, **given)
    assert len(str(own)) < 650
    past = [episode_of(1_234_567 + n, 1_234_568 + n) for n in range(63)]
    given = {**given, "episodes": (*past, episode_of(1_234_999, epoch=91)), "evidence": FILE}
    assert len(str(message(rule, where, {**AUTO, "amp": True}, LARGE, **given))) < 950


@pytest.mark.parametrize("rule", [name for name, row in RULES.items() if row.healthy])
@pytest.mark.parametrize("side", [0.9, 1.1])
def test_message_does_not_contradict_the_exceeded_limit(rule, side):
    healthy = RULES[rule].healthy
    limit = healthy * side
    what = message(rule, value=limit, limit=limit).what
    is_low = rule == "total_low"
    assert f"{limit:g}" in what
    assert f"{healthy:,g}" in what
    assert ("too strict" in what) == ((side > 1) == is_low)


# --- episodes and evidence ------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [name for name, row in RULES.items() if row.kind])
def test_recurred_finding_names_its_newest_and_earlier_episodes(rule):
    back = message(rule, episodes=BACK)
    assert "step 40" in back.since
    assert "from step 7 to step 9" in back.past


# --- the cause, by time of the fault --------------------------------------------------------------


@pytest.mark.parametrize(
    "training",
    [
        {},
        {"epochs": 100},
        {"epochs": 100, "close_mosaic": 0},
        {"epochs": 100, "close_mosaic": 100},
        {"epochs": 10, "close_mosaic": 50},
        {"epochs": None, "close_mosaic": None, "warmup_epochs": None},
        {"warmup_epochs": 0},
        {"warmup_epochs": 0.0},
    ],
)
@pytest.mark.parametrize("epoch", [1, 2, 100])
def test_unknown_time_is_not_mentioned(training, epoch):
    assert causes.moment(training, finding("spike", epoch=epoch, warming=False)) == ""


@pytest.mark.parametrize(("step", "is_named"), [(1, False), (2, True)])
def test_warm_up_is_not_blamed_for_a_fault_from_the_first_step(step, is_named):
    assert bool(causes.moment(TRAINING, finding("vanishing", step=step, epoch=1))) == is_named


# --- remedies that depend on the options ----------------------------------------------------------


@pytest.mark.parametrize("rule", RATED)
def test_remedy_names_the_learning_rate_as_the_options_do(rule):
    for training in (TRAINING, AUTO, FITTED):
        assert causes.lower_rate(training) in message(rule, training=training).remedy
