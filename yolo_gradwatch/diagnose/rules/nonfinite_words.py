"""Messages on NaN or Inf gradients: what was measured, or else what is likely."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose import causes
from yolo_gradwatch.diagnose.causes import Cause
from yolo_gradwatch.diagnose.graph import is_in
from yolo_gradwatch.diagnose.messages import IF_IT_STAYS, LIKELY, Message, described
from yolo_gradwatch.diagnose.phrases import joined, sentence
from yolo_gradwatch.measure.layout import WHOLE

if TYPE_CHECKING:
    from yolo_gradwatch.diagnose.finding import Reason
    from yolo_gradwatch.diagnose.messages import Case

LOOK = "an exp of a large number, a division, a log or a root"
"""What usually turns finite values into NaN or Inf."""


SLOPES = "The operation itself was not measured; suspects are a root, norm or fractional power at 0"
"""Operations whose slope may not be finite."""


def nonfinite_words(case: Case) -> Message:
    """Describe NaN or Inf in steps that were applied, or that AMP skipped in vain."""
    reason = case.finding.reason
    if reason and reason.kind == "often":
        return _often(case, reason)
    cause = _measured(case, reason) if reason else None
    likely = _likely(case)
    remedy = cause.remedy if cause else likely.remedy
    what = f"{case.where}: NaN or Inf in the {_medium(reason)}"
    if case.finding.limit:
        message = Message(
            what=f"{what}; AMP has skipped all {case.finding.value:,.0f} captured steps",
            since=f"{case.since}, so nothing is learned",
            harm="Lowering the loss scale does not help.",
            remedy=f"Try amp=False{IF_IT_STAYS}{remedy}.",
        )
    else:
        is_first = not cause and causes.at_work(case.training, "amp")
        message = Message(
            what=what,
            since=f"{case.since}{case.others(' by now')}",
            harm=_harm(case, reason),
            remedy=f"Try {_wider(case)} first; then {remedy}." if is_first else sentence(remedy),
        )
    if cause:
        return replace(message, measured=cause.why)
    return replace(message, likely=f"{likely.why}.")


def _wider(case: Case) -> str:
    return causes.wider_than(causes.number_format(case.training))


def _medium(reason: Reason | None) -> str:
    """Return the pass in which NaN or Inf shows first."""
    is_forward = reason and reason.kind in {"forward", "call", "input"}
    return "forward pass" if is_forward else "gradient"


def _often(case: Case, reason: Reason) -> Message:
    """Describe a run in which AMP skips half of the steps."""
    skips, steps = reason.values
    return Message(
        what=f"{case.where}: AMP has skipped {skips:,.0f} of {steps:,.0f} captured steps",
        since=f"{case.since}; they are lost, and lowering the loss scale does not help",
        measured="the loss was finite in those steps, so the backward pass overflows: a scale that "
        "fits one batch does not fit the next.",
        remedy=f"Try {_wider(case)}{IF_IT_STAYS}look for a very large slope: "
        "a division by a small number, or a very large loss item.",
    )


def _harm(case: Case, reason: Reason | None) -> str:
    """Describe what the step did to the weights, and what there is to go back to."""
    if reason and reason.values[:1] == (1.0,):
        return (
            "AMP skipped the step, so no weight was damaged, but this is not calibration: the loss "
            "itself is NaN or Inf, at any loss scale."
        )
    spread = "Clipping spreads the NaN to all weights"
    if reason and reason.kind == "weights":
        return "Every step spreads the NaN to all weights."
    if case.finding.kept:
        return f"{spread}; fix the cause, then resume from {case.way_back('')}."
    if case.finding.episodes[-1].epoch == 1:
        return f"{spread}, and in the first epoch there is no checkpoint to go back to."
    epoch = case.finding.episodes[-1].epoch
    return f"{spread}; once fixed, resume from a checkpoint saved before epoch {epoch}."


def _measured(case: Case, reason: Reason) -> Cause | None:
    """Return the cause if it was measured; its ``why`` includes the full stop."""
    kinds = {
        "forward": _of_forward,
        "call": _of_call,
        "input": _of_input,
        "loss items": _of_loss_items,
        "loss": _of_loss,
        "slope": _of_slope,
        "weights": _of_weights,
    }
    return kinds[reason.kind](case, reason) if reason.kind in kinds else None


def _of_forward(case: Case, reason: Reason) -> Cause:
    """Name the blocks between which BatchNorm's buffers show the origin."""
    _, spoiled, clean, *suspects = reason.names
    places = joined([_block(case, name) for name in suspects])
    upto = f", but finite up to {clean}" if clean else ""
    why = (
        "the NaN or Inf arises in the forward pass, in "
        f"{places.replace(' and ', ' or ')} or right after it: the loss is NaN or Inf, and "
        f"BatchNorm's running statistics are not finite from {spoiled} on{upto}."
    )
    return Cause(why, f"look for {LOOK} there, and compute it in float32 or with an epsilon")


def _of_call(case: Case, reason: Reason) -> Cause:
    """Name the call that a trace shows."""
    module, kind, before = reason.names
    if not before:
        return _of_input(case, reason)
    why = (
        f"the NaN or Inf arises in the forward pass: in the traced batch, {module} ({kind}) is the "
        f"first module whose output is NaN or Inf; the output of {before}, just before it, was "
        "finite."
    )
    return Cause(why, f"look for {LOOK} there, and compute it in float32 or with an epsilon")


def _of_input(case: Case, reason: Reason) -> Cause:  # noqa: ARG001  # one signature for all
    """Name the input as the cause: nothing before it was finite."""
    why = (
        f"the NaN or Inf begins in the first layer, {reason.names[0]}, whose weights are finite. "
        "Suspect the images: NaN, Inf or very large values from a file or an augmentation."
    )
    return Cause(why, "check the images of that step and the code that prepares them")


def _of_loss_items(case: Case, reason: Reason) -> Cause:
    """Name the loss items that are not finite, of several."""
    split = reason.names.index("")
    bad, sound = reason.names[:split], reason.names[split + 1 :]
    others = f", but {joined(sound)} {'are' if len(sound) > 1 else 'is'} not" if sound else ""
    many, s = len(bad) > 1, "" if len(bad) > 1 else "s"
    trains = "" if case.finding.module == WHOLE else f", which train{s} {case.finding.module},"
    why = (
        f"{joined(bad)} {'are' if many else 'is'} NaN or Inf{others}. {LIKELY}"
        f"{'these items' if many else bad[0]}{trains} divide{s} by 0, or take{s} a root or log of "
        "0, for some object or pixel."
    )
    it = "these loss items" if many else "that loss item"
    return Cause(why, f"add an epsilon to {it}, and check the labels of that step")


def _of_loss(case: Case, reason: Reason) -> Cause:  # noqa: ARG001  # see above
    """Describe loss items that are all non-finite, of unknown origin."""
    if reason.values[1:] == (1.0,):
        why = (
            "every loss item is NaN or Inf, but BatchNorm's running statistics are finite: "
            "the NaN or Inf arises after the last normalization, in the head's last layers or in "
            "something all items share, such as the targets or their assignment."
        )
    else:
        why = (
            "every loss item is NaN or Inf: the NaN or Inf arises in the forward pass, or in "
            "something all items share."
        )
    return Cause(why, f"look for {LOOK} there, and check the labels of that step")


def _of_slope(case: Case, reason: Reason) -> Cause:  # noqa: ARG001  # see above
    """Describe a finite loss with a non-finite gradient."""
    name, head = case.finding.module, case.layout.head
    has_upstream = any(not is_in(head, origin) for origin in case.finding.origin)
    if name == WHOLE or (is_in(head, name) and has_upstream):
        place = (
            "" if name == WHOLE else f": the NaN enters at {name}, in the loss item that trains it"
        )
        why = f"the loss is finite, but its gradient is not{place}. {SLOPES}, or a division by 0."
    else:
        why = (
            "the loss and the gradient closer to it are finite, so the NaN or Inf arises here or "
            f"right after. {SLOPES}, a division by 0, an exp of a large number, or a very large "
            "factor."
        )
    remedy = "find that operation, and put an epsilon under its root or a clamp before it"
    return Cause(why, remedy)


def _of_weights(case: Case, reason: Reason) -> Cause:
    """Describe weights that were not finite before the step."""
    was_finite = reason.values[1:] == (1.0,)  # and so was the checkpoint
    other = "other code, such as a callback," if was_finite else "the loaded checkpoint"
    why = (
        f"the weights were already not finite when this step began: an earlier step or {other} "
        "damaged them."
    )
    return Cause(why, f"resume from {case.way_back('an earlier checkpoint')}")


def _block(case: Case, name: str) -> str:
    """Return a block with its class, even if it has no parameters."""
    if name in case.layout.modules:
        return described(case.layout, name)
    return f"{name} ({dict(case.layout.blocks).get(name, 'module')})"


def _likely(case: Case) -> Cause:
    """Return why a gradient may be NaN or Inf, by where it was first seen."""
    finding, layout = case.finding, case.layout
    at_the_loss = (
        "look for a missing epsilon in the loss (division by 0, root or log of 0), check the "
        f"labels, or try {case.lower_rate} and more warmup_epochs"
    )
    if finding.module == WHOLE:
        return Cause("the loss itself, since every module is affected", at_the_loss)
    upstream = [name for name in finding.origin if not is_in(layout.head, name)]
    if is_in(layout.head, finding.module) and upstream:
        why = (
            f"the loss item of {finding.module}, not a layer: the NaN enters at the head's outputs "
            "and spreads upstream"
        )
        return Cause(why, at_the_loss)
    why = (
        "an operation here or right after it (division by zero, log or sqrt of 0, exp of a large "
        "number), since everything closer to the loss was finite"
    )
    return Cause(
        why, f"try an epsilon in that operation, a normalization before it, or {case.lower_rate}"
    )
