"""Likely causes and remedies, inferred from the layout around a module, options and timing."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from yolo_gradwatch.diagnose.graph import is_in
from yolo_gradwatch.measure.layout import WHOLE, Layout

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from yolo_gradwatch.diagnose.finding import Finding

SATURATING = ("Sigmoid", "Tanh", "Hardsigmoid", "Hardtanh", "LogSigmoid", "Softsign")
"""Activations whose slope approaches zero on one side or both."""

RECTIFYING = ("ReLU", "ReLU6")
"""Activations that can die: their slope is exactly zero below 0."""

MIXING = ("mosaic", "mixup", "copy_paste", "cutmix")
"""Augmentations that ``close_mosaic`` switches off."""

LONG_STACK = 8
"""Minimum number of weights for a block without a known residual connection to be a deep stack."""

RESIDUAL = ("Bottleneck", "C2f", "C3", "C2PSA", "RepNCSP", "ELAN", "HGBlock", "ResNet", "PSA", "A2")
"""Parts of the names of classes in which the gradient can bypass the layers."""


class Cause(NamedTuple):
    """The cause of a finding.

    Attributes:
        why: A clause that follows "Likely cause:" or "Measured:".
        remedy: An imperative clause without capital and full stop.
    """

    why: str
    remedy: str


def of_loss(layout: Layout, name: str) -> Cause:
    """Return why a block may lose the gradient that passes through it."""
    weights, norms = _owned(layout, name, "weight"), _owned(layout, name, "norm")
    saturating = first_of(layout, name, SATURATING)
    if saturating:
        why = (
            f"its {saturating} activations saturate, where their slope is near zero, and no "
            "residual connection bypasses them"
        )
        normalized, smooth = (
            "BatchNorm after each convolution",
            f"SiLU or ReLU instead of {saturating}",
        )
        first = (smooth, normalized) if norms >= weights else (normalized, smooth)
        remedy = f"try {', '.join(first)}, and a residual connection around the block"
        return Cause(why, remedy)
    if weights > 1 and not norms:
        why = "it has no normalization, so signal and gradient shrink from layer to layer"
        remedy = "try BatchNorm after each convolution, He initialization, or a residual connection"
        return Cause(why, remedy)
    kind = layout.types[layout.modules.index(name)]
    if weights >= LONG_STACK and not any(word in kind for word in RESIDUAL):
        why = f"it is a plain stack of {weights} layers without a residual connection"
        return Cause(why, "try a residual connection around every two layers, or fewer layers")
    why = "its output is scaled down, gated or partly detached, in its forward() or right after it"
    remedy = (
        "look for a small factor, a saturated gate or a detach() there, or add a residual "
        "connection around it"
    )
    return Cause(why, remedy)


def of_gain(layout: Layout, training: Mapping[str, object], name: str) -> Cause:
    """Return why a block may multiply the gradient that passes through it."""
    if _owned(layout, name, "weight") > 1 and not _owned(layout, name, "norm"):
        why = "it has no normalization, so signal and gradient grow from layer to layer"
        remedy = (
            "try BatchNorm after each convolution, a smaller initialization, no gain above 1 in "
            f"this block, and {lower_rate(training)}"
        )
        return Cause(why, remedy)
    why = (
        "a large factor in its forward() or right after it multiplies the gradient, or its inputs "
        "are far too small for its normalization"
    )
    remedy = (
        "find and remove the large factor; if there is none, try a smaller initialization of this "
        f"block and {lower_rate(training)}"
    )
    return Cause(why, remedy)


def first_of(layout: Layout, name: str, classes: Sequence[str]) -> str:
    """Return the first of these classes among a block's modules without parameters; else ""."""
    block = name if name == WHOLE else layout.block_of[layout.modules.index(name)]
    inside = dict(zip((b for b, _ in layout.blocks), layout.inside, strict=True)).get(block, ())
    return next((found for found in inside if found in classes), "")


def moment(training: Mapping[str, object], finding: Finding) -> str:
    """Return what the training did when it began, to end a sentence; "" if that says nothing."""
    newest = finding.episodes[-1]
    if newest.epoch == mosaic_closes(training):
        return ". The problem began in the epoch when close_mosaic took effect"
    if newest.step > 1 and finding.warming:
        return ". The problem began during warm-up, while the learning rate was changing"
    return ""


def mosaic_closes(training: Mapping[str, object]) -> int | None:
    """Return the epoch in which ``close_mosaic`` takes effect; None if never, or from the start."""
    epochs, last = at_work(training, "epochs"), training.get("close_mosaic")
    mixes = any(training.get(name, name == "mosaic") for name in MIXING)
    if not mixes or training.get("task") == "classify" or training.get("rect"):
        return None
    if training.get("time"):  # the number of epochs changes during the training
        return None
    if isinstance(epochs, int) and isinstance(last, int) and 0 < last < epochs:
        return epochs - last + 1
    return None


def lower_rate(training: Mapping[str, object]) -> str:
    """Return how to lower the learning rate; with ``optimizer=auto``, lr0 alone is ignored."""
    asked = training.get("optimizer", "")
    if asked is not None and str(asked).lower() != "auto":
        return f"a lower {now(training, 'lr0')}"
    name, rate = at_work(training, "optimizer"), at_work(training, "lr0")
    if name in {None, "auto"} or rate is None:
        return "a named optimizer with a lower lr0 (optimizer=auto ignores lr0)"
    return f"optimizer={name} with lr0 below {rate} (optimizer=auto ignores lr0)"


def at_work(training: Mapping[str, object], option: str) -> object:
    """Return an option as Ultralytics resolved it; None if unknown."""
    fitted = training.get("fitted")
    return (fitted if isinstance(fitted, dict) else {}).get(option, training.get(option))


def number_format(training: Mapping[str, object]) -> str:
    """Return the number format of the forward pass: ``float32``, or what AMP uses."""
    asked = training.get("amp")
    if isinstance(asked, str) and asked.lower() in {"bf16", "bfloat16"}:
        return "bfloat16"
    return "float16" if at_work(training, "amp") else "float32"


def wider_than(number_format: str) -> str:
    """Return the option for a number format that holds larger numbers than this one of AMP."""
    also = "" if number_format == "bfloat16" else " (or amp=bf16 in recent Ultralytics)"
    return f"amp=False{also}"


def now(training: Mapping[str, object], option: str) -> str:
    """Return an option with its value, if known."""
    value = training.get(option)
    return option if value is None else f"{option} (now {value})"


def _owned(layout: Layout, name: str, role: str) -> int:
    """Count the weights, or norm layers, in a module."""
    own = zip(layout.modules, layout.roles, strict=True)
    return sum(is_in(name, module) for module, found in own if found == role)
