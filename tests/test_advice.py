from __future__ import annotations

import re
from dataclasses import replace

import pytest
from build import episode_of, finding_of, layout_of, leaves_of
from values import Part, plan

from yolo_gradwatch import advice
from yolo_gradwatch.arrays import FLOAT32_MAX
from yolo_gradwatch.detect import RULES
from yolo_gradwatch.layout import WHOLE
from yolo_gradwatch.thresholds import Thresholds

ON = {"amp": True}
OFF = {"amp": False}

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

BRANCH = "model.4.cv2"

HEADED, _ = plan(
    [
        *(Part(f"model.{b}.{x}", is_weight=x == "conv") for b in range(4) for x in ("conv", "bn")),
        *(Part(f"{BRANCH}.{scale}.{x}") for scale in range(3) for x in ("conv", "out")),
    ],
    edges=[(f"model.{b}", f"model.{b + 1}") for b in range(4)],
)
"""A chain of four blocks and a head with a family of three scales."""

THRICE = tuple(episode_of(7 + 10 * n, 9 + 10 * n, epoch=20, value=4.0 + n) for n in range(3))
BACK = (*THRICE[:1], episode_of(40, epoch=20, value=4.5))
OFTEN = (*THRICE, THRICE[0], episode_of(1040, epoch=20, value=4.5))
"""Episodes of a finding that came back once, and of one that came back four times."""

LIMITS = Thresholds()

CASES = {
    "nonfinite": ("model.3.conv", 1.0, 0.0),
    "amp_overflow": (WHOLE, 1.0, 12.0),
    "dead": ("model.3.conv", 3.0, 3.0),
    "no_gradient": ("model.3.conv", 3.0, 3.0),
    "dead_branch": (BRANCH, 50.0, 50.0),
    "starved_scale": (f"{BRANCH}.2", 50.0, 50.0),
    "partly_dead": ("model.3.conv", 0.8, LIMITS.zero_fraction),
    "frozen": ("model.3.conv", 3.0, 3.0),
    "vanishing": ("model.3", 4.5, LIMITS.vanishing),
    "exploding": ("model.3", 3.5, LIMITS.exploding),
    "leaf_vanishing": ("model.3.conv", 2.5, LIMITS.leaf),
    "leaf_exploding": ("model.3.conv", 2.5, LIMITS.leaf),
    "spike": (WHOLE, 1.7, LIMITS.spike),
    "collapse": (WHOLE, 3.3, LIMITS.collapse),
    "total_high": (WHOLE, 2.5e7, LIMITS.total_high),
    "total_low": (WHOLE, 2.5e-5, LIMITS.total_low),
    "weight_growth": (WHOLE, 0.7, LIMITS.weight_growth),
}
"""A module, a value and a limit for each rule."""

DECADES = [name for name, rule in RULES.items() if rule.is_in_decades]
LOCAL = [name for name, (module, *_) in CASES.items() if module != WHOLE]


TRUNK = tuple(f"model.{b}" for b in range(4))


def told(rule, module=None, training=TRAINING, layout=HEADED, **changes):
    """The words on a finding of a rule, as in ``CASES`` where nothing else is said."""
    name, value, limit = CASES[rule]
    severity = RULES[rule].severity
    given = {"epoch": 20, "value": value, "limit": limit, "severity": severity, **changes}
    return advice.message(layout, training, finding_of(rule, module or name, **given))


def built(*parts, inside=(), kind="Block"):
    """A layout whose block 1 holds these weights and norm layers and modules without parameters."""
    own = [Part(f"model.1.{name}", is_weight=not name.endswith("bn")) for name in parts]
    layout, _ = plan([Part("model.0.conv"), *own, Part("model.2.conv")])
    types = tuple(
        kind if name == "model.1" else cls
        for name, cls in zip(layout.modules, layout.types, strict=True)
    )
    return replace(layout, types=types, inside=((), tuple(inside), ()))


# --- every message --------------------------------------------------------------------------------


def test_every_rule_has_words_and_a_case():
    assert set(advice._WORDS) == set(RULES) == set(CASES)


VARIANTS = {
    "nonfinite under AMP": ("nonfinite", {"training": {**TRAINING, "amp": True}}),
    "nonfinite in all modules": ("nonfinite", {"module": WHOLE}),
    "nonfinite in the head and upstream": (
        "nonfinite",
        {
            "module": BRANCH,
            "modules": (spread := ("model.3.conv", f"{BRANCH}.0.conv", f"{BRANCH}.0.out")),
            "origin": spread,
        },
    ),
    "nonfinite that began in the head alone": (
        "nonfinite",
        {
            "module": f"{BRANCH}.0.conv",
            "modules": ("model.3.conv", f"{BRANCH}.0.conv"),
            "origin": (f"{BRANCH}.0.conv",),
        },
    ),
    "nonfinite that AMP skipped": ("nonfinite", {"value": 13.0, "limit": 12.0}),
    "nonfinite that came back": (
        "nonfinite",
        {"episodes": BACK, "evidence": "gradwatch_evidence/step-00040.json"},
    ),
    "total_high that clipping multiplies by 0": ("total_high", {"value": 1e30}),
    "total_high beyond float32": ("total_high", {"value": FLOAT32_MAX}),
    "dead with ReLU": ("dead", {"module": "model.1", "layout": built("a", inside=["ReLU"])}),
    "dead upstream": ("dead", {"modules": ("model.0.conv", "model.1.bn", "model.3.conv")}),
    "vanishing with Sigmoid": (
        "vanishing",
        {"module": "model.1", "layout": built("a", inside=["Sigmoid"])},
    ),
    "vanishing without normalization": (
        "vanishing",
        {"module": "model.1", "layout": built("a", "b")},
    ),
    "vanishing upstream": ("vanishing", {"modules": ("model.0", "model.2", "model.3")}),
    "vanishing that came back": ("vanishing", {"episodes": OFTEN}),
    "vanishing on both sides": ("vanishing", {"module": "model.2", "modules": TRUNK}),
    "vanishing under a lower limit": ("vanishing", {"value": 1.2, "limit": 1.0}),
    "total_low under a higher limit": ("total_low", {"value": 0.4, "limit": 0.5}),
    "dead downstream": ("dead", {"module": "model.1", "modules": ("model.1.bn", "model.2.conv")}),
    "exploding in the warm-up": ("exploding", {"epoch": 2}),
    "spike as close_mosaic": ("spike", {"epoch": 91}),
    "weight_growth in the warm-up": ("weight_growth", {"epoch": 2}),
    "weight_growth with auto": ("weight_growth", {"training": {**TRAINING, "optimizer": "auto"}}),
}
"""A rule and what is different from its case in ``CASES``."""


def test_the_words_of_every_rule(golden):
    lines = [f"{rule}\n    {told(rule)}\n" for rule in RULES]
    lines += [f"{what}\n    {told(rule, **how)}\n" for what, (rule, how) in VARIANTS.items()]
    golden("messages", "".join(lines))


WHY = ("Probably", "probably", "Either", "calibration", "Normal where", "a callback or")
TRY = ("Try ", "try ", "Look at", "check ", "harmless unless", "Fine if")


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("training", [TRAINING, {**TRAINING, "amp": True}, {}])
def test_a_message_says_what_since_when_why_and_what_to_try(rule, training):
    message = told(rule, training=training, step=1234)
    assert "step 1,234" in message
    assert any(word in message for word in WHY)
    assert any(word in message for word in TRY)
    assert max(map(message.find, WHY)) < max(map(message.find, TRY))


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"amp_overflow"}))
def test_a_message_begins_with_the_module_and_its_class(rule):
    module, *_ = CASES[rule]
    name = "the whole model" if module == WHOLE else advice.described(HEADED, module)
    assert told(rule).startswith(f"{name}: ")


def test_a_message_speaks_of_the_module_of_its_finding():
    assert told("vanishing", "model.0").startswith("model.0 (Block): ")
    assert told("dead", "model.1.bn").startswith("model.1.bn (Conv2d): ")
    assert told("nonfinite", WHOLE).startswith("the whole model: ")
    assert told("no_gradient", WHOLE).startswith("the whole model: ")


LONG = "model.22.m.0.attn.qkv.conv"
LARGE = replace(
    layout_of(("C3k2", "Detect")),
    modules=(WHOLE, "model.22", LONG, f"{LONG}.x", "model.1", "model.1.a", "model.1.b"),
    types=("DetectionModel", "A2C2f", *["Conv2d"] * 5),
    block_of=("", *["model.22"] * 3, *["model.1"] * 3),
)
"""A layout with names as long as those of Ultralytics' models get."""

EXTREMES = [
    {},
    {"value": 0.31},
    {"value": 44.9},
    {"value": 83.0},
    {"value": 3e38},
    {"step": 2_345_678, "epoch": 300},
    {"episodes": BACK},
    {"episodes": 13 * OFTEN[:-1] + BACK[1:]},
    {"epoch": 91},
    {"epoch": 2},
]


@pytest.mark.parametrize("changes", EXTREMES, ids=str)
@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_message_is_a_paragraph_of_whole_sentences_without_a_nan(rule, changes):
    if rule == "weight_growth" and changes.get("value", 0) > 50:
        changes = {"value": 38.0}
    message = told(rule, **changes)
    assert "\n" not in message
    assert "  " not in message
    assert message.endswith(".")
    assert ".." not in message
    assert not re.search(r"\b(nan|inf|None)\b", message)
    assert " 1 times" not in message
    assert all(sentence[0] != " " for sentence in message.split(". "))


def longest(rule, **changes):
    """The words on a finding with long names, large numbers and all options of the training."""
    blocks = {"vanishing", "exploding"}
    where = WHOLE if CASES[rule][0] == WHOLE else "model.22" if rule in blocks else LONG
    training = {**TRAINING, "amp": True, "optimizer": "auto"}
    changes = {"modules": LARGE.modules, "step": 1_234_567, "epoch": 91, **changes}
    return told(rule, where, training, LARGE, **changes)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_message_has_fewer_than_600_characters(rule):
    assert len(longest(rule)) < 650


@pytest.mark.parametrize("rule", ["nonfinite", "spike"])
def test_a_message_with_its_past_and_its_evidence_has_fewer_than_900_characters(rule):
    evidence = "gradwatch_evidence/step-1234567.json"
    past = tuple(episode_of(1_234_567 + n, 1_234_568 + n) for n in range(63))
    episodes = (*past, episode_of(1_234_999, epoch=91))
    assert len(longest(rule, episodes=episodes, evidence=evidence)) < 900


@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_message_needs_no_option_of_the_training(rule):
    assert "None" not in told(rule, training={})


def test_described():
    layout = layout_of()
    assert advice.described(layout, WHOLE) == "the whole model"
    assert advice.described(layout, "model.4.bn") == "model.4.bn (BatchNorm2d)"


@pytest.mark.parametrize(
    ("decades", "words"),
    [
        (1.0, "10 times"),
        (1.5, "32 times"),
        (2.0, "100 times"),
        (4.5, "32,000 times"),
        (6.9, "7,900,000 times"),
        (7.0, "1e+07 times"),
        (45.0, "1e+45 times"),
        (1e9, "1e+300 times"),
    ],
)
def test_a_factor_in_words(decades, words):
    assert advice.factor(decades) == words


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("vanishing", "32,000 times weaker than that of the blocks that read it (4.5 decades;"),
        ("exploding", "3,200 times stronger than that of the blocks that read it (3.5 decades;"),
        ("leaf_vanishing", "320 times weaker than that of its neighbours in model.3 (Block)"),
        ("leaf_exploding", "320 times stronger than that of its neighbours in model.3 (Block)"),
        ("spike", "at step 7 (epoch 20) the gradient jumped to 50 times the highest before"),
        ("collapse", "at step 7 (epoch 20) the gradient became 2,000 times weaker"),
        ("total_high", "total gradient norm 2.5e+07 since step 7, above 1e+07"),
        ("total_low", "total gradient norm 2.5e-05 since step 7, below 0.001"),
        ("weight_growth", "grown 5.0-fold"),
        ("partly_dead", "80% of the elements of its weight"),
        ("dead_branch", "for 50 windows, since step 7"),
    ],
)
def test_the_number_is_told(rule, words):
    assert words in told(rule)


@pytest.mark.parametrize(
    ("rule", "value", "limit", "words"),
    [
        ("total_high", 1.6e7, 1.5e7, "1.6e+07 since step 7, above 1.5e+07"),
        ("total_low", 1.4e-3, 1.5e-3, "0.0014 since step 7, below 0.0015"),
    ],
)
def test_a_limit_of_two_digits_is_not_rounded_past_the_value(rule, value, limit, words):
    assert words in told(rule, value=value, limit=limit)


# --- NaN ------------------------------------------------------------------------------------------


def test_nan_under_amp_tries_without_it_first():
    assert "Try amp=False or bfloat16 first, then an epsilon" in told("nonfinite", training=ON)


@pytest.mark.parametrize("training", [OFF, {}])
def test_nan_without_amp_does_not_speak_of_it(training):
    message = told("nonfinite", training=training)
    assert "Try an epsilon" in message
    assert "amp" not in message.lower()
    assert "bfloat16" not in message


def test_nan_in_a_module_blames_it_and_what_follows():
    message = told("nonfinite")
    assert "Probably it arises here or right behind it" in message
    assert "because what lies nearer to the loss was finite then" in message
    assert "the loss" not in message.replace("nearer to the loss", "")


def test_nan_everywhere_blames_the_loss():
    message = told("nonfinite", WHOLE)
    assert "the loss itself" in message
    assert "a lower lr0" in message
    assert "it arises here" not in message


@pytest.mark.parametrize("branch", [f"{BRANCH}.1", f"{BRANCH}.1.out", "model.4"])
def test_nan_in_the_head_and_upstream_blames_its_term_of_the_loss(branch):
    everywhere = ("model.3.conv", f"{BRANCH}.1.out")
    message = told("nonfinite", branch, modules=everywhere, origin=everywhere)
    assert f"the term of the loss that belongs to {branch}" in message
    assert "it arises here" not in message


def test_nan_in_the_head_alone_blames_the_head_also_once_clipping_has_spread_it():
    first = (f"{BRANCH}.1.conv",)
    for now in (first, ("model.3.conv", *first)):
        message = told("nonfinite", first[0], modules=now, origin=first)
        assert "it arises here or right behind it" in message
        assert "the loss" not in message.replace("nearer to the loss", "")


@pytest.mark.parametrize("module", ["model.3.conv", WHOLE])
def test_too_many_skips_of_amp_are_counted(module):
    message = told("nonfinite", module, ON, value=13.0, limit=12.0)
    assert "AMP skipped each of the 13 steps captured since step 7" in message
    assert "Try amp=False; if it stays, a" in message
    assert "restart from the last checkpoint" not in message


def test_an_overflow_of_amp_is_called_harmless():
    assert "harmless" in told("amp_overflow", WHOLE, ON)


def test_nan_that_came_back_doubts_the_checkpoint():
    assert "last.pt" not in told("nonfinite")
    message = told("nonfinite", episodes=BACK)
    assert "since step 40" in message
    assert "come back once; earlier: from step 7 until step 9." in message
    assert "last.pt" in message
    assert "an earlier checkpoint" in message


@pytest.mark.parametrize("rule", sorted(rule for rule in RULES if RULES[rule].kind))
def test_what_came_back_names_its_newest_episode_and_the_earlier_ones(rule):
    message = told(rule, episodes=BACK)
    assert "step 40" in message
    assert message.index("step 40") < message.index("from step 7 until step 9")
    often = told(rule, episodes=OFTEN)
    assert "come back 4 times" in often
    assert often.count(" until ") == 3
    assert "and 1 before" in often
    assert "come back" not in told(rule)


def test_each_earlier_episode_has_its_own_value():
    assert "(4 decades), from step 17 until step 19 (5 decades)." in told(
        "vanishing", episodes=(*THRICE[:2], episode_of(40))
    )
    assert "until step 9 (80%)." in told(
        "partly_dead", episodes=(episode_of(7, 9, value=0.8), *BACK[1:])
    )
    assert "until step 9 (norm 2e-05)." in told(
        "total_low", episodes=(episode_of(7, 9, value=2e-5), *BACK[1:])
    )


@pytest.mark.parametrize(
    ("rule", "value", "limit", "is_within"),
    [
        ("vanishing", 2.1, 2.0, False),
        ("vanishing", 1.7, 1.6, False),
        ("vanishing", 1.2, 1.0, True),
        ("exploding", 1.15, 1.1, True),
        ("leaf_vanishing", 1.1, 1.0, True),
        ("total_high", 2e5, 1e5, True),
        ("total_high", 2e7, 1e7, False),
        ("total_low", 0.4, 0.5, True),
        ("total_low", 0.0004, 0.001, False),
    ],
)
def test_a_message_does_not_deny_the_limit_that_was_broken(rule, value, limit, is_within):
    message = told(rule, value=value, limit=limit)
    assert f"{limit:g}" in message
    assert f"{advice.REACHED[rule]:,g}" in message
    assert ("though healthy" in message) == is_within


def test_the_course_of_a_finding_names_the_newest_of_many_episodes():
    assert advice.course(finding_of(episodes=BACK)) == "from step 7 until step 9, since step 40"
    often = advice.course(finding_of(episodes=OFTEN))
    assert often.startswith("in 5 episodes, ")
    assert often.endswith("since step 1,040")


@pytest.mark.parametrize("rule", ["nonfinite", "spike"])
def test_the_file_of_the_evidence_is_named_last(rule):
    message = told(rule, episodes=BACK, evidence="gradwatch_evidence/step-00007.json")
    assert message.endswith("gradwatch_evidence/step-00007.json.")
    assert "Images" in message


# --- how many more --------------------------------------------------------------------------------

MORE = ["dead", "no_gradient", "partly_dead"]


@pytest.mark.parametrize("rule", MORE)
@pytest.mark.parametrize(
    ("modules", "others"),
    [
        (("model.3.conv",), None),
        (("model.1.bn", "model.3.conv"), "with 1 more module upstream"),
        (("model.0.bn", "model.1.bn", "model.3.conv"), "with 2 more modules upstream"),
        (("model.3.bn", "model.3.conv"), "with 1 more module in the same block"),
        (("model.3.conv", f"{BRANCH}.0.out"), "with 1 more module downstream"),
        (
            ("model.0.bn", "model.3.bn", "model.3.conv", f"{BRANCH}.0.out"),
            "with 3 more modules (1 upstream, 1 downstream, 1 in the same block)",
        ),
    ],
)
def test_other_modules_are_counted_where_they_lie(rule, modules, others):
    message = told(rule, "model.3.conv", modules=modules)
    if others is None:
        assert "upstream" not in message
    else:
        assert f"since step 7, {others}" in message


@pytest.mark.parametrize("rule", MORE)
def test_modules_inside_the_one_that_is_named_are_not_upstream(rule):
    inside = ("model.3.conv", "model.3.bn")
    assert "upstream" not in told(rule, "model.3", modules=inside)
    assert "1 more module upstream" in told(rule, "model.3", modules=("model.1.bn", *inside))


def test_a_name_that_only_begins_alike_is_not_inside():
    layout = layout_of(("Conv",) * 31 + ("Detect",))
    message = told("dead", "model.3", layout=layout, modules=("model.3.conv", "model.30.conv"))
    assert "1 more module downstream" in message


@pytest.mark.parametrize("rule", MORE)
def test_nothing_is_upstream_of_the_whole_model(rule):
    layout = layout_of()
    assert "upstream" not in told(rule, WHOLE, layout=layout, modules=leaves_of(layout))


@pytest.mark.parametrize("rule", ["vanishing", "exploding"])
@pytest.mark.parametrize(
    ("others", "words"),
    [
        ((), None),
        (("model.1",), "1 block upstream is affected"),
        (("model.0", "model.1"), "2 blocks upstream are affected"),
    ],
)
def test_blocks_that_suffer_are_counted(rule, others, words):
    message = told(rule, modules=(*others, "model.3"))
    if words is None:
        assert "upstream" not in message
    else:
        assert words in message


def test_more_frozen_layers_are_counted():
    message = told("frozen", modules=("model.0.conv", "model.3.conv"))
    assert "with 1 more module upstream" in message
    assert "freeze (now [0, 1]) does not name it" in told("frozen", training={"freeze": [0, 1]})


@pytest.mark.parametrize("training", [{}, {"freeze": None}])
def test_an_option_that_is_not_known_is_named_without_a_value(training):
    assert "though freeze does not name it" in told("frozen", training=training)
    assert "else check imgsz and the sizes" in told("starved_scale", training=training)


# --- the cause, from the layout -------------------------------------------------------------------

SATURATED = "activations saturate, where their slope is near zero"
BARE = "it has no normalization"
STACK = "it is a plain stack of"
GATED = "its output is scaled down, gated or partly detached"

PLAIN = tuple(f"{n}.{x}" for n in range(8) for x in ("conv", "bn"))


@pytest.mark.parametrize(
    ("layout", "cause"),
    [
        (built("a", "b", inside=["Sigmoid"]), f"its Sigmoid {SATURATED}"),
        (built("a", "b.bn", inside=["Identity", "Tanh"]), f"its Tanh {SATURATED}"),
        (built(*PLAIN, inside=["Hardsigmoid", "SiLU"]), f"its Hardsigmoid {SATURATED}"),
        (built("a", "b", inside=["SiLU", "ReLU"]), BARE),
        (built("a"), GATED),
        (built("a", "a.bn"), GATED),
        (built("a", "b", "b.bn", inside=["SiLU"]), GATED),
        (built(*PLAIN), f"{STACK} 8 layers without a residual connection"),
        (built(*PLAIN[2:]), GATED),
        (built(*PLAIN, kind="C3k2"), GATED),
        (built(*PLAIN, kind="ResNetLayer"), GATED),
        (built(*PLAIN[::2]), BARE),
    ],
)
def test_why_a_block_loses_its_gradient(layout, cause):
    message = told("vanishing", "model.1", layout=layout)
    assert f"Probably {cause}" in message
    assert sum(words in message for words in (SATURATED, BARE, STACK, GATED)) == 1


def test_saturated_activations_of_another_block_are_not_blamed():
    layout = built("a", "b", inside=["Sigmoid"])
    assert SATURATED in told("vanishing", "model.1", layout=layout)
    assert SATURATED not in told("vanishing", "model.0", layout=layout)


@pytest.mark.parametrize(
    ("layout", "remedy"),
    [
        (built("a", inside=["Tanh"]), "SiLU or ReLU instead of Tanh"),
        (built("a", "b"), "BatchNorm after each convolution"),
        (built(*PLAIN), "a residual connection around every two layers"),
        (built("a"), "find the small factor, saturated gate or detach() there"),
    ],
)
def test_what_to_try_fits_the_cause(layout, remedy):
    _, _, tried = told("vanishing", "model.1", layout=layout).partition(" Try ")
    assert remedy in tried


@pytest.mark.parametrize(
    ("layout", "is_bare"),
    [(built("a", "b"), True), (built("a", "b", "b.bn"), False), (built("a"), False)],
)
def test_why_a_block_explodes(layout, is_bare):
    message = told("exploding", "model.1", layout=layout)
    assert (BARE in message) == is_bare
    assert ("a large factor in its forward" in message) == (not is_bare)


@pytest.mark.parametrize(
    ("rule", "module", "words"),
    [
        ("dead", "model.1.a", "its ReLU units have died"),
        ("dead", "model.1", "its ReLU units have died"),
        ("dead", "model.0.conv", "a gain or weight that is zero, a mask"),
        ("partly_dead", "model.1.a", "units of its ReLU have died"),
        ("partly_dead", "model.0.conv", "units behind it have died"),
    ],
)
def test_relu_units_die(rule, module, words):
    layout = built("a", "b", inside=["Identity", "ReLU"])
    assert f"Probably {words}" in told(rule, module, layout=layout).replace(
        "its output is multiplied by zero behind it: units that died, ", ""
    )


@pytest.mark.parametrize("inside", [["SiLU"], ["LeakyReLU"], []])
def test_units_that_cannot_die_are_not_blamed(inside):
    message = told("dead", "model.1", layout=built("a", inside=inside))
    assert "ReLU units" not in message


def test_a_weight_of_a_block_without_a_cause_in_it():
    for rule, words in (("leaf_vanishing", "shrinks its output"), ("leaf_exploding", "multiplies")):
        assert words in told(rule)


# --- the cause, from the moment -------------------------------------------------------------------

TIMED = ["dead", "partly_dead", "vanishing", "exploding", "leaf_vanishing", "leaf_exploding"]
TIMED += ["spike", "collapse", "total_high", "total_low", "weight_growth"]

MOSAIC, WARMUP = "the epoch in which close_mosaic took effect", "during the warm-up"


@pytest.mark.parametrize("rule", TIMED)
@pytest.mark.parametrize(
    ("epoch", "words"),
    [(1, WARMUP), (3, WARMUP), (4, None), (90, None), (91, MOSAIC), (92, None)],
)
def test_what_the_training_did_when_it_began(rule, epoch, words):
    message = told(rule, epoch=epoch)
    assert [said for said in (MOSAIC, WARMUP) if said in message] == [words] * bool(words)


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
def test_a_moment_that_is_not_known_is_not_told(training, epoch):
    message = told("spike", training=training, epoch=epoch)
    assert MOSAIC not in message
    assert WARMUP not in message


def test_what_is_there_from_the_first_step_is_not_the_fault_of_the_warm_up():
    assert WARMUP not in told("vanishing", step=1, epoch=1)
    assert WARMUP in told("vanishing", step=2, epoch=1)


# --- what to try, from the options ----------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [
        *("nonfinite", "dead", "partly_dead", "exploding", "spike", "collapse", "total_high"),
        *("total_low", "weight_growth"),
    ],
)
@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({}, "a lower lr0"),
        ({"lr0": 0.02}, "a lower lr0 (now 0.02)"),
        ({"lr0": 0.02, "optimizer": "AdamW"}, "a lower lr0 (now 0.02)"),
        ({"lr0": 0.02, "optimizer": "auto"}, "a named optimizer"),
        (
            {"lr0": 0.01, "optimizer": "auto", "fitted": {"optimizer": "AdamW", "lr0": 0.001}},
            "optimizer=AdamW with lr0 below 0.001",
        ),
    ],
)
def test_the_learning_rate_that_is_to_be_lower(rule, training, words):
    message = told(rule, training=training)
    assert words in message
    assert ("ignores lr0" in message) == (training.get("optimizer") == "auto")
    assert "(now" not in message or "(now 0.02)" in message


# --- the head -------------------------------------------------------------------------------------


def test_a_starved_scale_is_not_dead():
    message = told("starved_scale")
    assert "no object lands on this scale" in message
    assert "the other scales learn, so this branch is not dead" in message
    assert "imgsz (now 640)" in message
    assert "Try" not in message


def test_a_dead_branch_asks_for_the_labels_first():
    message = told("dead_branch")
    assert "at every scale of the head" in message
    assert message.index("Look at the labels first") < message.index("detach()")
    assert "not dead" not in message
