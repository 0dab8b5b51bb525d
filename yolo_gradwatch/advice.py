"""Puts a finding into words: what happened, why probably, and what to try."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolo_gradwatch.records import WHOLE, Finding, Layout

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def message(layout: Layout, training: Mapping[str, object], finding: Finding) -> str:
    """One paragraph on a finding.

    Args:
        layout: Of the model that is watched.
        training: Options of the training; ``amp`` says whether a loss scaler is at work.
        finding: What was found; its ``message`` is not read.
    """
    return _WORDS[finding.rule](layout, training, finding)


def described(layout: Layout, name: str) -> str:
    """A module's name with its class, as in ``model.10 (C2PSA)``."""
    if name == WHOLE:
        return "the whole model"
    return f"{name} ({layout.types[layout.modules.index(name)]})"


def _nonfinite(layout: Layout, training: Mapping[str, object], finding: Finding) -> str:
    where = described(layout, finding.module)
    if finding.limit:
        return (
            f"{where}: NaN or Inf in the gradient, AMP skipped {finding.value:.0f} steps in a row "
            f"since step {finding.step}: lowering the loss scale does not help, nothing is learnt. "
            f"{_nonfinite_cause(finding)} Try amp=False; if it stays, {_nonfinite_remedy(finding)}"
        )
    tail = "try amp=False first, then " if training.get("amp") else "try "
    return (
        f"{where}: NaN or Inf in the gradient since step {finding.step}. "
        f"{_nonfinite_cause(finding)} Clipping spreads it to every weight, so restart from the "
        f"last checkpoint: {tail}{_nonfinite_remedy(finding)}"
    )


def _nonfinite_cause(finding: Finding) -> str:
    if finding.module == WHOLE:
        return "It reaches every module, so it probably comes from the loss itself."
    return (
        "Modules nearer to the loss are finite, so it probably arises in this module or right "
        "behind it (division by zero, log or sqrt of 0, exp of a large number)."
    )


def _nonfinite_remedy(finding: Finding) -> str:
    if finding.module == WHOLE:
        return "a lower lr0, longer warmup_epochs, and a look at the labels and a custom loss."
    return "an epsilon in that operation, a normalization before it, or a lower lr0."


def _amp_overflow(layout: Layout, training: Mapping[str, object], finding: Finding) -> str:
    del layout, training
    return (
        f"AMP skipped a step, at step {finding.step} or soon after, and lowered its loss scale. "
        "That is calibration and harmless unless it happens many times in a row."
    )


def _dead(layout: Layout, training: Mapping[str, object], finding: Finding) -> str:
    del training
    return (
        f"{described(layout, finding.module)}: gradient exactly zero since step {finding.step}"
        f"{_others(finding)}, so its weights stand still. Probably its output is multiplied by "
        "zero behind it: ReLU units that died, a gain or weight that is zero, a mask. Try SiLU or "
        "LeakyReLU with BatchNorm, a lower lr0, and a non-zero initialization."
    )


def _no_gradient(layout: Layout, training: Mapping[str, object], finding: Finding) -> str:
    del training
    return (
        f"{described(layout, finding.module)}: no gradient at all since step {finding.step}"
        f"{_others(finding)}, so it is not trained. Probably its output does not lead to the loss: "
        "unused in forward, or cut off by detach(), torch.no_grad() or .data. Try to connect it, "
        "or freeze it if that is meant."
    )


def _others(finding: Finding) -> str:
    """How many more modules are affected, in words."""
    inside = sum(f"{name}.".startswith(f"{finding.module}.") for name in finding.modules)
    others = len(finding.modules) - inside
    if finding.module == WHOLE or not others:
        return ""
    return f", with {others} more module{'s' if others > 1 else ''} upstream"


_WORDS: dict[str, Callable[[Layout, Mapping[str, object], Finding], str]] = {
    "nonfinite": _nonfinite,
    "amp_overflow": _amp_overflow,
    "dead": _dead,
    "no_gradient": _no_gradient,
}
