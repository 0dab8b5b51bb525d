import pytest
from build import finding_of, layout_of, leaves_of

from yolo_gradwatch import advice
from yolo_gradwatch.detect import RULES
from yolo_gradwatch.records import WHOLE

ON = {"amp": True}
OFF = {"amp": False}


def told(rule, module="model.3.conv", training=OFF, **changes):
    return advice.message(layout_of(), training, finding_of(rule, module, **changes))


def test_every_rule_has_words():
    assert set(advice._WORDS) == set(RULES)


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("module", ["model.3", "model.3.conv", WHOLE])
@pytest.mark.parametrize("training", [ON, OFF, {}])
def test_a_message_is_one_paragraph_of_sentences_with_the_step(rule, module, training):
    message = told(rule, module, training, step=1234)
    assert "step 1234" in message
    assert "\n" not in message
    assert "  " not in message
    assert message.endswith(".")


@pytest.mark.parametrize("rule", sorted(rule for rule in RULES if RULES[rule].kind))
def test_a_message_names_the_module_and_its_class(rule):
    assert told(rule, "model.3.conv").startswith("model.3.conv (Conv2d): ")
    assert told(rule, "model.3").startswith("model.3 (C2PSA): ")
    assert told(rule, WHOLE).startswith("the whole model: ")


def test_described():
    layout = layout_of()
    assert advice.described(layout, WHOLE) == "the whole model"
    assert advice.described(layout, "model.4.bn") == "model.4.bn (BatchNorm2d)"


def test_nan_under_amp_tries_without_it_first():
    assert "try amp=False first, then an epsilon" in told("nonfinite", training=ON)


@pytest.mark.parametrize("training", [OFF, {}])
def test_nan_without_amp_does_not_speak_of_it(training):
    message = told("nonfinite", training=training)
    assert "try an epsilon" in message
    assert "amp" not in message.lower()


def test_nan_in_a_module_blames_it_and_what_follows():
    message = told("nonfinite")
    assert "in this module or right behind it" in message
    assert "the loss itself" not in message


def test_nan_everywhere_blames_the_loss():
    message = told("nonfinite", WHOLE)
    assert "the loss itself" in message
    assert "a lower lr0" in message
    assert "this module" not in message


@pytest.mark.parametrize("module", ["model.3.conv", WHOLE])
def test_too_many_skips_of_amp_are_counted(module):
    message = told("nonfinite", module, ON, value=13.0, limit=12.0)
    assert "AMP skipped 13 steps in a row since step 7" in message
    assert "Try amp=False; if it stays, a" in message
    assert "restart from the last checkpoint" not in message


def test_an_overflow_of_amp_is_called_harmless():
    assert "harmless" in told("amp_overflow", WHOLE, ON, severity="notice")


@pytest.mark.parametrize("rule", ["dead", "no_gradient"])
@pytest.mark.parametrize(
    ("modules", "others"),
    [
        (("model.3.conv",), None),
        (("model.1.bn", "model.3.conv"), "with 1 more module upstream"),
        (("model.0.bn", "model.1.bn", "model.3.conv"), "with 2 more modules upstream"),
    ],
)
def test_modules_upstream_are_counted(rule, modules, others):
    message = told(rule, "model.3.conv", modules=modules)
    if others is None:
        assert "upstream" not in message
    else:
        assert f"since step 7, {others}, so " in message


@pytest.mark.parametrize("rule", ["dead", "no_gradient"])
def test_modules_inside_the_one_that_is_named_are_not_upstream(rule):
    inside = ("model.3.conv", "model.3.bn")
    assert "upstream" not in told(rule, "model.3", modules=inside)
    assert "1 more module upstream" in told(rule, "model.3", modules=("model.1.bn", *inside))


def test_a_name_that_only_begins_alike_is_not_inside():
    layout = layout_of(("Conv",) * 31 + ("Detect",))
    finding = finding_of("dead", "model.3", modules=("model.3.conv", "model.30.conv"))
    assert "1 more module upstream" in advice.message(layout, OFF, finding)


@pytest.mark.parametrize("rule", ["dead", "no_gradient"])
def test_nothing_is_upstream_of_the_whole_model(rule):
    assert "upstream" not in told(rule, WHOLE, modules=leaves_of(layout_of()))
