"""Findings, epochs and boards for tests of the views."""

import io
import math
from dataclasses import replace

import numpy as np
from rich.console import Console
from values import YOLO26N, layout_of

from yolo_gradwatch.diagnose.finding import Episode, Finding, FindingChange
from yolo_gradwatch.measure.clipping import EpochClipping
from yolo_gradwatch.measure.quantities import QUANTITIES
from yolo_gradwatch.measure.sample import Sample
from yolo_gradwatch.measure.windows import Window
from yolo_gradwatch.views.live import Board
from yolo_gradwatch.views.terminal.console import fitted

YOLO = layout_of(YOLO26N)
ODD = ("$\\frac{", "<b>&amp;</b>", "[bold]x[/]", "层.卷积", "a" * 300, "%s{}", "\U0001f600")
"""Names that look like markup or are hard to draw."""


def norms_of(layout, of_block, total=None):
    """Return (M,) norms of the blocks, by name or one for all, and of the whole model."""
    if not isinstance(of_block, dict):
        of_block = dict.fromkeys(layout.block_of, of_block)
    norms = np.array([of_block.get(block, 1.0) for block in layout.block_of])
    norms[0] = norms[1] if total is None else total
    return norms


def level(block, step):
    """Return a slowly falling, slightly oscillating norm that is higher in later blocks."""
    number = int(block.split(".")[1])
    return 10 ** (1.5 + number / 20 - step / 150 + 0.1 * math.sin(0.7 * step + number))


def sample_of(step=1, *, epoch=1, skipped=False, scale=None):
    return Sample(epoch, step, np.zeros(1), np.zeros(1, np.bool_), skipped, scale)


def board_of(layout=None, *, epochs=0, levels=()):
    """Return a board with one step per level, the norm of all blocks or of each by name."""
    layout = layout or layout_of()
    board = Board(layout, epochs=epochs)
    for step, level in enumerate(levels, 1):
        board.add([sample_of(step)], norms_of(layout, level)[None])
    return board


def window_of(layout, **changes):
    """Return a window of one healthy step."""
    size = len(layout.modules)
    values = {row.name: np.full(size, 0 if row.is_count else 1, row.dtype) for row in QUANTITIES}
    one = Window(epoch=1, step_first=5, step_last=5, steps=1, skipped=0, **values)
    return replace(one, **changes)


def episode_of(step=7, step_end=None, *, epoch=1, reported=None, value=1.0):
    """Return an episode; by default reported at its first step."""
    return Episode(epoch, step, step_end, reported or step, value)


def finding_of(  # noqa: PLR0913  # the fields of its only episode
    rule="nonfinite",
    module="model.3.conv",
    *,
    step=7,
    step_end=None,
    epoch=1,
    value=1.0,
    **changes,
):
    """Return a critical finding that started at step 7 in all of its modules and is active."""
    modules = changes.get("modules", (module,))
    finding = Finding(
        number=1,
        rule=rule,
        severity="critical",
        module=module,
        modules=modules,
        origin=modules,
        episodes=(episode_of(step, step_end, epoch=epoch, value=value),),
        limit=0.0,
        message=f"{module}: a message",
    )
    return replace(finding, **changes)


def ended(finding, step_end):
    """Return the finding with its newest episode ended."""
    newest = replace(finding.episodes[-1], step_end=step_end)
    return replace(finding, episodes=(*finding.episodes[:-1], newest))


def change_of(change, finding, step=9, reported=9):
    return FindingChange(change, 1, step, finding, reported)


def epoch_of(  # noqa: PLR0913  # one argument a field
    epoch=1, *, steps=10, clipped=0, skipped=0, norm_median=3.0, clip_ratio=None, owners=None
):
    return EpochClipping(
        epoch, steps, clipped, skipped, norm_median, norm_median, clip_ratio, owners or {}, None
    )


def fitted_lines(text, width, *, is_terminal=True):
    """Return the lines of a text fitted to a stream of this width."""
    console = Console(
        file=io.StringIO(), width=width, force_terminal=is_terminal, legacy_windows=False
    )
    return fitted(text, console).plain.split("\n")
