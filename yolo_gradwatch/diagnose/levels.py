"""Rows of the catalogue about orders of magnitude: weights, loss items, rates, a solved task."""

from __future__ import annotations

from yolo_gradwatch.diagnose.rule import Rule
from yolo_gradwatch.diagnose.rules import losses, low, rates, weights

SMALL = (
    Rule(
        name="small_weights",
        kind="vanishing",
        severity="warning",
        threshold="small_weights",
        unit="scale",
        judge=weights.small_weights,
        needs=lambda _: 1,
        words=weights.small_weights_words,
        meaning="all weights of a block are 30 times below a usual initialization, or of most "
        "blocks",
        not_meaning="weights of exactly zero, which a branch may begin with",
        remedy="the initialization of Ultralytics, or one by the fan in",
        state="tiny",
        explains=("vanishing", "exploding", "leaf_vanishing", "leaf_exploding", "total_low"),
    ),
)
"""Weaker than what is dead, stronger than what vanishes."""

LARGE = (
    Rule(
        name="loss_imbalance",
        kind="exploding",
        severity="critical",
        threshold="loss_imbalance",
        unit="decades",
        judge=losses.loss_imbalance,
        needs=lambda _: losses.LARGE_WINDOWS,
        words=losses.loss_imbalance_words,
        meaning="one loss item is 100 times all others together, and clipping leaves less than a "
        "hundredth of the gradient",
        not_meaning="items of different size: healthy trainings reach 10 times",
        remedy="divide the target by its spread, or a small gain",
        state="drowned",
        explains=("spike", "total_high", "initial_loss"),
    ),
    Rule(
        name="large_weights",
        kind="exploding",
        severity="warning",
        threshold="large_weights",
        unit="scale",
        judge=weights.large_weights,
        needs=lambda _: 1,
        words=weights.large_weights_words,
        meaning="the weights begin 10 times above a usual initialization",
        not_meaning="weights that grow",
        remedy="the initialization of Ultralytics, or one by the fan in",
        state="large",
        explains=("loss_imbalance", "initial_loss", "total_high"),
    ),
    Rule(
        name="initial_loss",
        kind="exploding",
        severity="warning",
        threshold="initial_loss",
        unit="loss",
        judge=losses.initial_loss,
        needs=lambda _: losses.LARGE_WINDOWS,
        words=losses.initial_loss_words,
        meaning="a loss begins far above all that is usual, and the gradient with it",
        not_meaning="the class loss of images without objects",
        remedy="a smaller initialization of the head's last convolutions; units of the targets",
        state="far off",
        explains=("total_high",),
    ),
    Rule(
        name="rate_jump",
        kind="exploding",
        severity="warning",
        threshold="rate_jump",
        unit="decades",
        judge=rates.rate_jump,
        needs=lambda _: rates.RATE_BEFORE + 1,
        words=rates.rate_jump_words,
        meaning="a learning rate jumped to 5 times its highest so far, or more",
        not_meaning="a warm-up or a schedule",
        remedy="the callback, scheduler or resume that set it",
        state="rate up",
        explains=("weight_jump", "weight_growth"),
    ),
    Rule(
        name="weight_jump",
        kind="exploding",
        severity="warning",
        threshold="weight_jump",
        unit="decades",
        judge=rates.weight_jump,
        needs=lambda _: rates.SPEED_BEFORE + 2,
        words=rates.weight_jump_words,
        meaning="the weights move 10 times faster than ever before",
        not_meaning="a warm-up",
        remedy="the checkpoint before it; what sets the learning rate",
        state="moving",
        explains=("weight_growth",),
    ),
)
"""Stronger than what the whole net shows of them."""

SOLVED = (
    Rule(
        name="converged",
        severity="notice",
        threshold="total_low",
        unit="norm",
        judge=low.converged,
        needs=lambda _: low.LOW_WINDOWS + 1,
        words=low.converged_words,
        meaning="the total norm fell below the limit as the loss did, or, where the loss is not "
        "known, gradually",
        not_meaning="a fault: the task is solved, or the images are memorized",
        remedy="nothing; more data or augmentation if the validation loss is far higher",
    ),
)
"""A notice beside `total_low`."""
