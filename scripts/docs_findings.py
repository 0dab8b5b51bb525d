"""Write ``docs/findings.md``: a section for each rule, from the catalogue and the measurements.

    python scripts/docs_findings.py

``tests/test_docs.py`` fails while the page is not what this script writes. What comes from where:
meaning, limit and remedy from the catalogue, the evidence from ``Thresholds``, the trials of causes
and remedies from ``benchmarks/RESULTS.md``, the examples from ``docs/pictures/findings.json``. The
arithmetic alone is written here.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolo_gradwatch.diagnose.catalog import RULES
from yolo_gradwatch.diagnose.thresholds import Thresholds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from yolo_gradwatch.diagnose.rule import Rule

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "findings.md"
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
SECTIONS = "<!-- sections: written by scripts/docs_findings.py -->\n"
EXAMPLES = ROOT / "docs" / "pictures" / "findings.json"

ARITHMETIC = {
    "nonfinite": "A step counts if the norm of a gradient is NaN or Inf and the optimizer applied it, or if AMP "
    "skipped it and a loss item was not finite either. One such step is enough. Skipped steps with a finite loss "
    "count only when more than `amp_grace` come in a row, or when half of the newest ones are skipped.",
    "amp_overflow": "AMP's scaler skipped a step and every loss item was finite. The value is the number of skipped "
    "steps.",
    "loss_nonfinite": "A loss item was NaN or Inf in at least one batch, and the norm of every gradient was finite. The "
    "value is the number of such batches.",
    "weight_overflow": "The largest absolute value among the parameters and floating-point buffers of a module, "
    "compared with 65,504, the largest number in half precision. It is read before the newest step that was itself "
    "finite. A buffer outside a BatchNorm counts only if it was smaller before: a mask of -Inf is there on purpose.",
    "dead": "The gradient norm of a layer in the trunk is exactly 0 in `dead_windows` windows in a row. The head is "
    "left out: on a scale without objects, zero is healthy.",
    "no_gradient": "No parameter of the module has a gradient (`grad is None`) in `dead_windows` windows in a row, "
    "although not all of them are frozen.",
    "not_updated": "The parameters are in no group of the optimizer; that is known before the first step. Otherwise: "
    "the update is exactly 0 in `dead_windows` windows in which most modules move, the learning rate is above 0, and "
    "the step was due to move the weights by more than float32 loses in rounding.",
    "dead_branch": "All scales of a branch of the head (boxes, scores, masks, keypoints) have a gradient of exactly 0 "
    "in `dead_branch_windows` windows in a row. A gain of 0 that turns the branch off is reported at once. Boxes also "
    "count if they learn in at most half of the steps, and then with a loss below 1 % of the class loss.",
    "few_objects": "The box branch has no gradient in at least half of the steps of `dead_branch_windows` windows, but "
    "learns in the others.",
    "starved_scale": "A scale of the head learns in less than a tenth of the steps in which another scale does, over at "
    "least 200 steps with objects. A gradient 10,000 times below that of the strongest scale counts as none.",
    "partly_dead": "The share of exactly zero elements in the gradient of a weight is at least `zero_fraction` in each "
    "of six counted windows that span 20 steps or more. Kernel positions that only see padding, attention and gates are "
    "left out.",
    "zero_loss": "A loss item is exactly 0 in every batch, while its branch learns from other items; at once where its "
    "gain is 0.",
    "zero_rate": "Trainable parameters are in a group of the optimizer whose learning rate stays 0.",
    "frozen": "A layer that was trained has `requires_grad=False` in three windows in a row, and `freeze=` does not name "
    "it.",
    "small_weights": "The *scale* of a weight is its L2 norm divided by the fourth root of its number of elements: about "
    "0.5 for every usual initialization, whatever the shape. The rule takes the largest scale in a block; weights of "
    "exactly 0 count nowhere.",
    "vanishing": "For each window, the gradient that arrives at a block is the median norm over its weights, or its "
    "largest norm layer if that is higher. It is compared with the highest among the blocks that read it, in decades "
    "(log10). The median of this loss over ten windows (five are enough) must exceed `vanishing`. Gates and branches, "
    "which the gradient passes, are left out: see [`slow_branch`](#slow_branch). Warm-up, accumulation and the loss "
    "scale cancel out, because both numbers are from the same steps.",
    "slow_branch": "A block loses more than `vanishing` decades, yet the gradient passes it; its weights move by less "
    "than `slow_branch` times the median relative update of the trunk.",
    "exploding": "The gradient of a block's weights, in decades above the highest among the blocks that read it; the "
    "median over five windows (three are enough).",
    "leaf_vanishing": "A weight against the median of the other weights of its block and against the blocks that read "
    "it, whichever is closer, in decades; the median over five windows (three are enough).",
    "leaf_exploding": "The same distance as for [`leaf_vanishing`](#leaf_vanishing), above instead of below.",
    "loss_imbalance": "The largest loss item over the sum of all others, in decades, in each of five windows, while "
    "clipping shrinks the gradient 100-fold or more.",
    "large_weights": "The scale (see [`small_weights`](#small_weights)) that the weights begin with, the median over the "
    "trunk.",
    "initial_loss": "The largest loss item in the first five windows with objects, their median.",
    "rate_jump": "The learning rate against its highest value before, in decades, after three windows with a rate above "
    "0. A warm-up at most doubles it per step.",
    "weight_jump": "How fast the norms of the weights change, in decades per step, for the quickest tenth of the layers, "
    "against the highest speed before. It needs 20 earlier readings of the weights.",
    "stray_step": "In a training that has converged: the highest norm of a window against the median of the ten "
    "windows before it, in decades.",
    "spike": "The median gradient norm over the trunk against its highest value in the last 100 windows (five are "
    "enough), in decades.",
    "collapse": "The median gradient norm over the trunk in three windows in a row, against the median of the 20 "
    "windows before them, in decades.",
    "total_high": "The norm of the whole gradient before clipping, in three windows in a row. Above 1.8e19 one window is "
    "enough: float32 cannot hold the square, so clipping multiplies the gradient by 0.",
    "total_low": "The norm of the whole gradient in ten windows in a row, unless the loss fell with it.",
    "converged": "As [`total_low`](#total_low), but the loss fell as far, or, where it is not known, the norm fell "
    "gradually while the weights did not grow.",
    "weight_growth": "How far the norms of the weights grew within 20 windows, in decades: the median over the layers, "
    "or half of what the quickest tenth grew by.",
}


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8", newline="\n")


def page() -> str:
    """The page with its sections as they should be; what is in front of them is written by hand."""
    front = PAGE.read_text(encoding="utf-8").partition(SECTIONS)[0]
    results = RESULTS.read_text(encoding="utf-8")
    remedies = newest_table(results, "Remedies")
    causes = newest_table(results, "Causes")
    examples = json.loads(EXAMPLES.read_text(encoding="utf-8"))
    rules = sorted(RULES.values(), key=lambda one: ORDER.index(one.severity))
    parts = [section(rule, remedies, causes, examples) for rule in rules]
    return "\n".join([f"{front}{SECTIONS}\n", *parts])


ORDER = ("critical", "warning", "notice")


def section(
    rule: Rule,
    remedies: list[dict[str, str]],
    causes: list[dict[str, str]],
    examples: Mapping[str, Any],
) -> str:
    """All that is known of a rule."""
    lines = [f"## {rule.name} {{ #{rule.name} }}", "", _kind(rule), ""]
    lines += [f"**It means:** {_capital(rule.meaning)}.", ""]
    lines += [f"**It does not mean:** {rule.not_meaning}.", ""]
    lines += [f"**Arithmetic.** {ARITHMETIC[rule.name]}", ""]
    if rule.threshold:
        lines += [f"**Evidence for the limit.** {evidence()[rule.threshold]}", ""]
    lines += [f"**What to try:** {rule.remedy}.", ""]
    lines += [*_tried(rule, remedies), *_measured(rule, causes), *_example(rule, examples)]
    return "\n".join(lines)


def _kind(rule: Rule) -> str:
    parts = [_capital(rule.severity)]
    if rule.kind:
        parts.append(f"kind `{rule.kind}`")
    if rule.threshold:
        limit = getattr(Thresholds(), rule.threshold)
        parts.append(f"limit `{rule.threshold} = {limit:g}`")
    return f"*{', '.join(parts)}*"


def _tried(rule: Rule, remedies: list[dict[str, str]]) -> Iterator[str]:
    """The trials of its remedy."""
    own = [row for row in remedies if row["finding"].startswith(f"`{rule.name}`")]
    if not own:
        if rule.severity != "notice":
            yield from ("No trial of this remedy has been run.", "")
        return
    helped = sum(row["helped"] == "yes" for row in own)
    yield f"**Was it proven?** The first advice helped in {helped} of {len(own)} planted faults:"
    yield ""
    yield "| planted fault | model | first advice | loss with the fault | loss after | helped |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for row in own:
        keys = ("fault", "model", "first advice", "loss", "loss after", "helped")
        yield f"| {' | '.join(row[key] for key in keys)} |"
    yield ""


def _measured(rule: Rule, causes: list[dict[str, str]]) -> Iterator[str]:
    """How often its cause was measured rightly."""
    own = [row for row in causes if row["rule"] == rule.name]
    if not own:
        return
    right = sum(row["call right"] == "yes" and row["mechanism right"] == "yes" for row in own)
    kinds = sorted({row["measured"].partition(":")[0] for row in own} - {"none"})
    means = f" Mechanisms seen: {', '.join(f'`{kind}`' for kind in kinds)}." if kinds else ""
    yield f"**Measured causes.** Right in {right} of {len(own)} trainings with a planted fault.{means}"
    yield ""


def _example(rule: Rule, examples: Mapping[str, Any]) -> Iterator[str]:
    """A real run that shows it."""
    if not (own := examples.get(rule.name)):
        yield "No planted fault shows this rule in a short training."
        yield ""
        return
    yield f"**Example.** {own['model']}, {own['steps']} steps, planted: {own['fault']}."
    yield ""
    yield f"> {own['message']}"
    yield ""
    yield f"![Heat map of the run with the finding {rule.name}](pictures/finding-{rule.name}.png)"
    yield ""


def evidence() -> dict[str, str]:
    """What ``Thresholds`` says of each limit."""
    text = inspect.getdoc(Thresholds) or ""
    attributes = text.partition("Attributes:\n")[2].partition("\n\nRaises:")[0]
    found = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE)
    return {name: re.sub(r"``([^`]+)``", r"`\1`", " ".join(words.split())) for name, words in found}


def newest_table(results: str, title: str) -> list[dict[str, str]]:
    """The rows of the newest table under a title, by column."""
    part = re.split(rf"^## {title}, .*$", results, flags=re.MULTILINE)[-1]
    head, _, *rows = re.findall(r"^\|(.*)\|$", part.partition("\n## ")[0], re.MULTILINE)
    names = [cell.strip() for cell in head.split("|")]
    cells = ([cell.strip() for cell in row.split("|")] for row in rows)
    return [dict(zip(names, row, strict=True)) for row in cells]


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


if __name__ == "__main__":
    main()
