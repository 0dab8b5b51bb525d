"""Puts a finding into words: what happened, why probably, and what to try."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from yolo_gradwatch import causes
from yolo_gradwatch.arrays import FLOAT32_MAX
from yolo_gradwatch.causes import at_work, first_of, lower_rate, moment, now
from yolo_gradwatch.clipping import CLIP_OVERFLOW
from yolo_gradwatch.detect import RULES
from yolo_gradwatch.graph import Paths, is_in
from yolo_gradwatch.layout import WHOLE, Layout

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from yolo_gradwatch.finding import Episode, Finding
    from yolo_gradwatch.graph import Place

MOST_EPISODES = 3
"""Of more episodes, only the newest are named one by one."""

REACHED = {
    "vanishing": 1.6,
    "exploding": 1.2,
    "leaf_vanishing": 1.3,
    "leaf_exploding": 1.3,
    "total_high": 4e5,
    "total_low": 0.3,
}
"""The value farthest out in recorded trainings that were healthy."""

PLACES: dict[Place, str] = {
    "upstream": "upstream",
    "downstream": "downstream",
    "inside": "in the same block",
    "elsewhere": "elsewhere",
}
"""Words for where a module lies, seen from the one that a finding is about."""


def message(layout: Layout, training: Mapping[str, object], finding: Finding) -> str:
    """One paragraph on a finding.

    Args:
        layout: Of the model that is watched.
        training: Options of the training; ``amp`` says whether a loss scaler is at work.
        finding: What was found; its ``message`` is not read.
    """
    told = [_WORDS[finding.rule](layout, training, finding)]
    if len(finding.episodes) > 1:
        told.append(_again(finding))
    if finding.evidence:
        told.append(f"Images, losses and norms: {finding.evidence}.")
    return " ".join(told)


def described(layout: Layout, name: str) -> str:
    """A module's name with its class, as in ``model.10 (C2PSA)``."""
    if name == WHOLE:
        return "the whole model"
    return f"{name} ({layout.types[layout.modules.index(name)]})"


def factor(decades: float) -> str:
    """How many times that is, in words of two digits: 4.5 decades are 32,000 times."""
    times = 10.0 ** min(decades, 300.0)
    return f"{float(f'{times:.2g}'):,.0f} times" if times < 1e7 else f"{times:.0e} times"


def lasted(episode: Episode) -> str:
    """When an episode began, and when it was over."""
    if episode.step_end is None:
        return f"since step {episode.step:,}"
    return f"from step {episode.step:,} until step {episode.step_end:,}"


def course(finding: Finding) -> str:
    """When each episode of a finding began and was over; of many, the newest."""
    newest = ", ".join(map(lasted, finding.episodes[-MOST_EPISODES:]))
    count = len(finding.episodes)
    return newest if count <= MOST_EPISODES else f"in {count} episodes, the newest {newest}"


def _again(finding: Finding) -> str:
    """How often it has come back, and its earlier episodes with their values."""
    earlier = finding.episodes[:-1]
    times = "once" if len(earlier) == 1 else f"{len(earlier)} times"
    named = [f"{lasted(e)}{_measured(finding, e)}" for e in earlier[-MOST_EPISODES:]]
    hidden = len(earlier) - len(named)
    more = f", and {hidden} before" if hidden else ""
    back = f"It has come back {times}; earlier: {', '.join(named)}{more}."
    if finding.rule != "nonfinite":
        return back
    return (
        f"{back} So last.pt, from which Ultralytics recovers, is probably spoiled as well; start "
        "from an earlier checkpoint."
    )


def _measured(finding: Finding, episode: Episode) -> str:
    """The value of an episode in parentheses, where it is more than a count of windows."""
    if RULES[finding.rule].is_in_decades:
        return f" ({episode.value:.3g} decades)"
    if finding.rule == "partly_dead":
        return f" ({episode.value:.0%})"
    return f" (norm {episode.value:.2g})" if finding.rule.startswith("total_") else ""


def _since(finding: Finding) -> str:
    """When its newest episode began."""
    return f"since step {finding.episodes[-1].step:,}"


def _at(finding: Finding) -> str:
    newest = finding.episodes[-1]
    return f"at step {newest.step:,} (epoch {newest.epoch})"


def _decades(finding: Finding) -> str:
    """The value beside the limit that it broke."""
    return f"{finding.value:.3g} decades; limit {finding.limit:g}, {_reached(finding)}"


def _reached(finding: Finding) -> str:
    """What healthy trainings have reached, which a limit of the user's may lie within."""
    reached, is_low = REACHED[finding.rule], finding.rule == "total_low"
    is_within = finding.limit > reached if is_low else finding.limit < reached
    though = "though " if is_within else ""
    return f"{though}healthy recorded trainings {'fall to' if is_low else 'reach'} {reached:,g}"


def _nonfinite(layout: Layout, training: Mapping[str, object], finding: Finding) -> str:
    where = described(layout, finding.module)
    why, remedy = causes.of_nonfinite(layout, training, finding)
    if finding.limit:
        return (
            f"{where}: NaN or Inf in the gradient, AMP skipped each of the "
            f"{finding.value:.0f} steps captured {_since(finding)}: lowering the loss "
            f"scale does not help, nothing is learned. Probably {why}. Try amp=False; if it stays, "
            f"{remedy}."
        )
    first = "amp=False or bfloat16 first, then " if at_work(training, "amp") else ""
    return (
        f"{where}: NaN or Inf in the gradient {_since(finding)}"
        f"{_others(layout, finding, ' by now')}. "
        f"Probably {why}. Clipping spreads it to every weight, so restart from the last "
        f"checkpoint. Try {first}{remedy}."
    )


def _amp_overflow(layout: Layout, training: Mapping[str, object], finding: Finding) -> str:
    del layout, training
    return (
        f"AMP skipped a step, at step {finding.episodes[-1].step:,} or soon after, and lowered "
        "its loss scale. That is calibration and harmless unless it happens many times in a row."
    )


def _dead(layout: Layout, training: Mapping[str, object], finding: Finding) -> str:
    relu = first_of(layout, finding.module, causes.RECTIFYING)
    why = (
        f"its {relu} units have died: they put out zero for every input"
        if relu
        else "its output is multiplied by zero behind it: units that died, a gain or weight that "
        "is zero, a mask"
    )
    return (
        f"{described(layout, finding.module)}: gradient exactly zero {_since(finding)}"
        f"{_others(layout, finding)}, so its weights stand still. Probably {why}"
        f"{moment(training, finding)}. Try SiLU or LeakyReLU with BatchNorm, a non-zero "
        f"initialization, and {lower_rate(training)}."
    )


def _no_gradient(layout: Layout, training: Mapping[str, object], finding: Finding) -> str:
    del training
    return (
        f"{described(layout, finding.module)}: no gradient at all {_since(finding)}"
        f"{_others(layout, finding)}, so it is not trained. Probably its output does not lead to "
        "the loss: unused in forward, or cut off by detach(), torch.no_grad() or .data. Try to "
        "connect it, or freeze it if that is meant."
    )


def _dead_branch(layout: Layout, training: Mapping[str, object], finding: Finding) -> str:
    del training
    return (
        f"{described(layout, finding.module)}: gradient exactly zero at every scale of the head "
        f"for {finding.value:.0f} windows, {_since(finding)}. Either no image has an "
        "object that it could learn from, or its output is cut off from the loss. Look at the "
        "labels first (train_batch0.jpg, and the 'backgrounds' that Ultralytics counts); if they "
        "are right, look for a gain of zero or a detach() behind this branch."
    )


def _starved_scale(layout: Layout, training: Mapping[str, object], finding: Finding) -> str:
    return (
        f"{described(layout, finding.module)}: no object lands on this scale of the head "
        f"{_since(finding)}; the other scales learn, so this branch is not dead. Normal where "
        f"objects have one size; else check {now(training, 'imgsz')} and the sizes of the boxes."
    )


def _partly_dead(layout: Layout, training: Mapping[str, object], finding: Finding) -> str:
    relu = first_of(layout, finding.module, causes.RECTIFYING)
    why = f"units of its {relu} have" if relu else "units behind it have"
    return (
        f"{described(layout, finding.module)}: {finding.value:.0%} of the elements of its weight "
        f"get a gradient of exactly zero {_since(finding)}{_others(layout, finding)}. Probably "
        f"{why} died{moment(training, finding)}. Try SiLU or LeakyReLU with BatchNorm, and "
        f"{lower_rate(training)}."
    )


def _frozen(layout: Layout, training: Mapping[str, object], finding: Finding) -> str:
    option = now(training, "freeze")
    why = (
        f"as {option} asks for"
        if _freezes(training, finding.module)
        else f"though {option} does not name it: a callback or the model's own code set "
        "requires_grad=False. Fine if that is meant"
    )
    return (
        f"{described(layout, finding.module)}: frozen {_since(finding)}"
        f"{_others(layout, finding)}, {why}."
    )


def _freezes(training: Mapping[str, object], name: str) -> bool:
    """Whether the option ``freeze`` names the block of a module."""
    freeze = training.get("freeze")
    layers = range(freeze) if isinstance(freeze, int) else freeze
    return isinstance(layers, Iterable) and any(is_in(f"{WHOLE}.{i}", name) for i in layers)


def _vanishing(layout: Layout, training: Mapping[str, object], finding: Finding) -> str:
    why, remedy = causes.of_loss(layout, finding.module)
    return (
        f"{described(layout, finding.module)}: its gradient is {factor(finding.value)} weaker than "
        f"that of the blocks that read it ({_decades(finding)}), "
        f"{_since(finding)}{_affected(layout, finding)}. Probably {why}"
        f"{moment(training, finding)}. Try {remedy}."
    )


def _exploding(layout: Layout, training: Mapping[str, object], finding: Finding) -> str:
    why, remedy = causes.of_gain(layout, training, finding.module)
    return (
        f"{described(layout, finding.module)}: the gradient of its weights is "
        f"{factor(finding.value)} stronger than that of the blocks that read it "
        f"({_decades(finding)}), {_since(finding)}"
        f"{_affected(layout, finding)}. Clipping then leaves next to nothing for all other blocks. "
        f"Probably {why}{moment(training, finding)}. Try {remedy}."
    )


def _leaf(layout: Layout, training: Mapping[str, object], finding: Finding) -> str:
    is_low = finding.rule == "leaf_vanishing"
    block = layout.block_of[layout.modules.index(finding.module)]
    comparison, cause, remedy = (
        ("weaker", "shrinks its output: a gate, a gain near zero, a saturated activation", "that")
        if is_low
        else ("stronger", "multiplies its output: a gain, a very small input", "that factor")
    )
    return (
        f"{described(layout, finding.module)}: its gradient is {factor(finding.value)} "
        f"{comparison} than that of its neighbours in {described(layout, block)} "
        f"({_decades(finding)}), {_since(finding)}. Probably "
        f"something behind this layer alone {cause}{moment(training, finding)}. Try to remove "
        f"{remedy}, and put a BatchNorm behind the layer."
    )


def _spike(layout: Layout, training: Mapping[str, object], finding: Finding) -> str:
    del layout
    return (
        f"the whole model: {_at(finding)} the gradient jumped to "
        f"{factor(finding.value)} the highest before. Probably the loss of that step: an outlier "
        f"among labels or images, a very small last batch, a loss without bounds"
        f"{moment(training, finding)}. Clipping limits that step; try to look at its images and "
        f"labels, and {lower_rate(training)} if it comes back."
    )


def _collapse(layout: Layout, training: Mapping[str, object], finding: Finding) -> str:
    del layout
    return (
        f"the whole model: {_at(finding)} the gradient became "
        f"{factor(finding.value)} weaker in all blocks at once. "
        "Probably the loss is near zero or constant: a loss weight that became tiny, no labels "
        f"any more, or weights that a high learning rate has destroyed{moment(training, finding)}."
        f" Try the last checkpoint before that step with {lower_rate(training)}, and look at the "
        "loss columns of results.csv."
    )


def _total_high(layout: Layout, training: Mapping[str, object], finding: Finding) -> str:
    del layout
    norm = f"{finding.value:.2g}" if finding.value < FLOAT32_MAX else "beyond 3.4e38"
    clipping = "Clipping hides that, half precision does not: it overflows"
    if finding.value > CLIP_OVERFLOW:
        clipping = (
            "Clipping computes in float32, in which its square is Inf, so it multiplies every "
            "gradient by 0: nothing is learned"
        )
    return (
        f"the whole model: total gradient norm {norm} {_since(finding)}, above "
        f"{finding.limit:g} ({_reached(finding)}). {clipping}. Probably the loss or "
        "its weights (box, cls, dfl) are far too large, or the initialization is"
        f"{moment(training, finding)}. Try to scale the loss, a normalization in every block, "
        f"and {lower_rate(training)}."
    )


def _total_low(layout: Layout, training: Mapping[str, object], finding: Finding) -> str:
    del layout
    return (
        f"the whole model: total gradient norm {finding.value:.2g} {_since(finding)}, "
        f"below {finding.limit:g} ({_reached(finding)}): nothing is learned any "
        "more. Probably the loss or its weights are far too small, or a high learning rate has "
        f"destroyed the weights{moment(training, finding)}. Try to scale the loss up, or the "
        f"last good checkpoint with {lower_rate(training)}."
    )


def _weight_growth(layout: Layout, training: Mapping[str, object], finding: Finding) -> str:
    del layout
    return (
        f"the whole model: the weights have grown {10**finding.value:.1f}-fold within a few "
        f"windows {_since(finding)}. Probably the learning rate is far too high"
        f"{moment(training, finding)}. Most such trainings end with a gradient near zero. "
        f"Try {lower_rate(training)} and longer warmup_epochs."
    )


def _affected(layout: Layout, finding: Finding) -> str:
    """How many blocks suffer with the named one, and where they lie, in words."""
    places = _places(layout, finding, "block")
    if not places:
        return ""
    return f"; {places} {'is' if places.startswith('1 block ') else 'are'} affected"


def _others(layout: Layout, finding: Finding, when: str = "") -> str:
    """How many more modules are affected, and where they lie, in words."""
    places = _places(layout, finding, "more module")
    return f", with {places}{when}" if places else ""


def _places(layout: Layout, finding: Finding, noun: str) -> str:
    """How many modules aside from the named one lie where, as in ``2 blocks upstream``."""
    if finding.module == WHOLE:
        return ""
    others = [n for n in finding.modules if n != WHOLE and not is_in(finding.module, n)]
    if not others:
        return ""
    paths = Paths(layout)
    counts = Counter(paths.place(name, finding.module) for name in others)
    found = [(counts[place], where) for place, where in PLACES.items() if counts[place]]
    parts = ", ".join(f"{count} {where}" for count, where in found)
    where = found[0][1] if len(found) == 1 else f"({parts})"
    return f"{len(others)} {noun}{'' if len(others) == 1 else 's'} {where}"


_WORDS: dict[str, Callable[[Layout, Mapping[str, object], Finding], str]] = {
    "nonfinite": _nonfinite,
    "amp_overflow": _amp_overflow,
    "dead": _dead,
    "no_gradient": _no_gradient,
    "dead_branch": _dead_branch,
    "starved_scale": _starved_scale,
    "partly_dead": _partly_dead,
    "frozen": _frozen,
    "vanishing": _vanishing,
    "exploding": _exploding,
    "leaf_vanishing": _leaf,
    "leaf_exploding": _leaf,
    "spike": _spike,
    "collapse": _collapse,
    "total_high": _total_high,
    "total_low": _total_low,
    "weight_growth": _weight_growth,
}
