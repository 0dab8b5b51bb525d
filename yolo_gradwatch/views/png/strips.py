"""Strips below the heat map: the norm of the whole model, clipping, and Ultralytics' curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.diagnose.phrases import significant
from yolo_gradwatch.views.png.look import DARK, GREY, LINES, log_axis, short

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

    from yolo_gradwatch.measure.arrays import Floats
    from yolo_gradwatch.views.heatmap import Heatmap
    from yolo_gradwatch.views.timeline import Timeline

    Strip = tuple[float, Callable[[Axes, Heatmap, Timeline], None]]

_CLIPPED, _PERHAPS, _SKIPPED = "#b4b4b4", "#e4e4e4", "#e07b00"
_WIDE = 20.0  # ratio of highest to lowest value above which an axis is logarithmic
_BESIDE = 1.006  # horizontal place of the words on the right of a strip


def strips(picture: Heatmap) -> list[Strip]:
    """Return height in inches and drawing function of each strip with data, from top to bottom."""
    curves = picture.curves
    found: list[Strip] = [(1.05, _total), (0.4, _shares)]
    optional: tuple[tuple[object, Strip], ...] = (
        (curves.losses, (0.75, _losses)),
        (curves.scores, (0.6, _scores)),
        (curves.rates, (0.6, _rates)),
    )
    return found + [strip for numbers, strip in optional if numbers]


def _total(axes: Axes, picture: Heatmap, timeline: Timeline) -> None:
    """Draw the norm of the whole model, and the limit above which it is clipped."""
    low, mean, high = np.repeat(_levels(picture.totals), 2, axis=1)
    x = _sides(timeline.left, timeline.right)
    axes.fill_between(x, low, high, color="#9ecae1", linewidth=0)
    axes.plot(x, mean, color=LINES[0], linewidth=1)
    there = [*low[~np.isnan(low)], *high[~np.isnan(high)]]
    if picture.clip > 0:
        clip = float(np.log10(picture.clip))
        axes.axhline(clip, color=DARK, linestyle="--", linewidth=0.8)
        _word(axes, clip, f"clipped above {picture.clip:g}", DARK, axes.get_yaxis_transform())
        there.append(clip)
    log_axis(axes, min(there, default=0.0), max(there, default=0.0))
    _title(axes, "norm of the\nwhole model")


def _shares(axes: Axes, picture: Heatmap, timeline: Timeline) -> None:
    """Draw the shares of steps that were clipped, and that AMP skipped."""
    least, most = picture.clipped
    x = _sides(timeline.left, timeline.right)
    for share, colour in ((most, _PERHAPS), (least, _CLIPPED), (picture.skipped, _SKIPPED)):
        axes.fill_between(x, np.repeat(share, 2), color=colour, linewidth=0)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 1], ["0%", "100%"])
    words = [("clipped", GREY)]
    if (least < most).any():
        words.append(("light: share unknown", GREY))
    if picture.skipped.any():
        words.append(("AMP skipped", _SKIPPED))
    _words(axes, words)
    _title(axes, "share of\nthe steps")


def _losses(axes: Axes, picture: Heatmap, timeline: Timeline) -> None:
    """Draw the mean of each loss item over each epoch."""
    _curves(axes, picture, timeline, picture.curves.losses)
    _title(axes, "loss")


def _rates(axes: Axes, picture: Heatmap, timeline: Timeline) -> None:
    """Draw the learning rates at the end of each epoch."""
    _curves(axes, picture, timeline, picture.curves.rates)
    _title(axes, "learning\nrate")


def _curves(axes: Axes, picture: Heatmap, timeline: Timeline, curves: dict[str, Floats]) -> None:
    """Draw curves with a value per epoch, each over the width of its epoch."""
    values = np.stack(list(curves.values()))
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    is_wide = low > 0 and high / low > _WIDE
    shown = _levels(values) if is_wide else values
    x = _sides(*_spans(picture, timeline))
    for line, colour in zip(np.repeat(shown, 2, axis=1), LINES, strict=False):
        axes.plot(x, line, color=colour, linewidth=1.1)
    if is_wide:
        log_axis(axes, float(np.nanmin(shown)), float(np.nanmax(shown)))
    else:
        _from_zero(axes, low, high)
    _words(axes, [(short(name), colour) for name, colour in zip(curves, LINES, strict=False)])


def _scores(axes: Axes, picture: Heatmap, timeline: Timeline) -> None:
    """Draw the validation scores at the end of each epoch."""
    _, ends = _spans(picture, timeline)
    curves = picture.curves.scores
    for values, colour in zip(curves.values(), LINES, strict=False):
        known = np.isfinite(values) & np.isfinite(ends)
        axes.plot(
            ends[known], values[known], color=colour, linewidth=1.1, marker=".", ms=5, clip_on=False
        )
    every = np.stack(list(curves.values()))
    _from_zero(axes, float(np.nanmin(every)), float(np.nanmax(every)))
    _words(axes, [(short(name), colour) for name, colour in zip(curves, LINES, strict=False)])
    _title(axes, "validation")


def _spans(picture: Heatmap, timeline: Timeline) -> tuple[Floats, Floats]:
    """Return where each epoch of the curves begins and ends; NaN if it has no window."""
    begins: dict[int, float] = {}
    ends: dict[int, float] = {}
    windows = zip(picture.epoch.tolist(), timeline.left, timeline.right, strict=True)
    for epoch, left, right in windows:
        begins.setdefault(epoch, left)
        ends[epoch] = right
    epochs = picture.curves.epochs.tolist()
    left, right = ([side.get(epoch, np.nan) for epoch in epochs] for side in (begins, ends))
    return np.array(left), np.array(right)


def _levels(values: Floats) -> Floats:
    """Return log10 of values; NaN where it is not finite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        levels = np.log10(values)
    return np.where(np.isfinite(levels), levels, np.nan)


def _sides(left: Floats, right: Floats) -> Floats:
    """Interleave left and right ends, for lines that are level in between."""
    return np.stack([left, right], axis=1).ravel()


def _from_zero(axes: Axes, low: float, high: float) -> None:
    """Set a linear axis from zero, or from a negative lowest value, with a round label."""
    top = high if high > 0 else 1.0
    axes.set_ylim(min(low, 0.0) * 1.05, top * 1.1)
    power = 10.0 ** np.floor(np.log10(top))
    ticks = [0.0, np.floor(top / power) * power]
    axes.set_yticks(ticks, [significant(tick, 3) for tick in ticks])


def _title(axes: Axes, words: str) -> None:
    axes.set_ylabel(words, fontsize=8, rotation=0, ha="right", va="center", labelpad=4)
    axes.tick_params(labelsize=7, axis="y")
    axes.grid(axis="y", linewidth=0.3, color="#b0b0b0")


def _words(axes: Axes, words: list[tuple[str, str]]) -> None:
    """Write the legend of a strip, one word per line, on its right."""
    for i, (word, colour) in enumerate(words):
        height = 1 - (i + 0.5) / max(len(words), 3)
        _word(axes, height, word, colour, axes.transAxes)


def _word(axes: Axes, height: float, word: str, colour: str, transform: object) -> None:
    axes.text(_BESIDE, height, word, transform=transform, fontsize=7, va="center", color=colour)
