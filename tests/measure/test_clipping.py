import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shown import norms_of, sample_of
from values import LAWS, grid_from, layout_of, window
from values import LAYOUT as CHAIN

from yolo_gradwatch.measure.clipping import CLIP_NORM, Clipping, EpochClipping, epochs_of

LAYOUT = layout_of()
BLOCKS = ("model.0", "model.1", "model.3", "model.4")
"""The blocks of ``LAYOUT`` that have parameters."""


def clipping(*totals, skipped=(), scales=(), clip=CLIP_NORM):
    """An epoch whose steps have these total norms; ``skipped`` counts from 0."""
    collected = Clipping(3, clip, LAYOUT)
    for i, total in enumerate(totals):
        step = sample_of(i + 1, skipped=i in skipped, scale=scales[i] if scales else None)
        collected.add([step], norms_of(LAYOUT, 1.0, total=total)[None])
    return collected.result()


def test_epoch_without_a_step():
    assert clipping() == EpochClipping(3, 0, 0, 0, None, None, None, {}, None)


@pytest.mark.parametrize("clip", [CLIP_NORM, 0.1, 1e6])
def test_step_is_clipped_above_the_limit(clip):
    totals = (np.nextafter(clip, 0), clip, np.nextafter(clip, np.inf))
    assert [clipping(total, clip=clip).clipped for total in totals] == [0, 0, 1]


def test_clip_ratio_is_relative_to_the_clip():
    assert clipping(1.0, 2.0, clip=0.5).clip_ratio == 3.0


def test_scale_is_the_one_of_the_last_step():
    assert clipping(1.0, 1.0, scales=(65536.0, 32768.0)).scale == 32768.0


def test_result_is_a_snapshot_of_plain_numbers():
    collected = Clipping(1, CLIP_NORM, LAYOUT)
    collected.add([sample_of(1)], norms_of(LAYOUT, 1.0, total=20.0)[None])
    first = collected.result()
    collected.add([sample_of(2)], norms_of(LAYOUT, 1.0, total=40.0)[None])
    assert (first.steps, collected.result().steps) == (1, 2)
    floats = (first.norm_median, first.norm_max, first.clip_ratio, *first.owners.values())
    assert {type(value) for value in floats} == {float}
    assert type(first.clipped) is int


def test_first_blocks_are_named_if_shares_are_equal():
    collected = Clipping(1, CLIP_NORM, LAYOUT)
    collected.add([sample_of(1)], norms_of(LAYOUT, 1.0, total=2.0)[None])
    assert list(collected.result().owners.items()) == [(name, 0.25) for name in BLOCKS[:3]]


NORM = st.one_of(
    st.floats(1e-6, 1e6), st.sampled_from([0.0, 1e-30, 1.0, 1e9, 1e150, np.nan, np.inf])
)
STEP = st.tuples(st.tuples(NORM, NORM, NORM, NORM), st.booleans())


@LAWS
@given(st.lists(STEP, max_size=8))
def test_epoch_agrees_with_loops_over_its_steps(steps):
    collected = Clipping(1, CLIP_NORM, LAYOUT)
    totals, shares, counted = [], dict.fromkeys(BLOCKS, 0.0), 0
    for i, (norms, skipped) in enumerate(steps):
        squares = [norm * norm for norm in norms]
        total = math.sqrt(sum(squares))
        by_name = dict(zip(BLOCKS, norms, strict=True))
        collected.add([sample_of(i, skipped=skipped)], norms_of(LAYOUT, by_name, total)[None])
        if not skipped:
            totals.append(total)
        if skipped or not total or not math.isfinite(total):
            continue
        counted += 1
        for name, square in zip(BLOCKS, squares, strict=True):
            shares[name] += square / (total * total)
    epoch = collected.result()
    finite = [total for total in totals if math.isfinite(total)]
    over = [total for total in finite if total > CLIP_NORM]
    assert (epoch.steps, epoch.skipped) == (len(steps), sum(skipped for _, skipped in steps))
    assert epoch.clipped == sum(total > CLIP_NORM for total in totals)
    assert epoch.norm_max == (max(finite) if finite else None)
    assert epoch.norm_median == (np.median(finite) if finite else None)
    assert epoch.clip_ratio == (pytest.approx(np.median(over) / CLIP_NORM) if over else None)
    largest = sorted((share / max(counted, 1) for share in shares.values()), reverse=True)[:3]
    found = list(epoch.owners.values())
    assert found == sorted(found, reverse=True)
    assert found == pytest.approx([share for share in largest if share > 0], abs=6e-5)
    for name, share in epoch.owners.items():
        assert share == pytest.approx(shares[name] / counted, abs=6e-5)


def test_unwritten_epochs_are_rebuilt_from_the_windows():
    """Of a killed run: the first three steps are known, later ones are not."""
    grid = grid_from(
        [
            *(window(step, epoch=1) for step in (1, 2, 3)),
            replace(window(4, steps=2, epoch=2, norm=4.0), clipped=1),
            replace(window(6, steps=2, skipped=1, epoch=2, norm=8.0), clipped=0),
            replace(window(8, epoch=3, nonfinite=CHAIN.modules), clipped=0),
        ]
    )
    for norms in (grid.norm_mean, grid.norm_max):
        norms[:, 1:] *= 0.5  # only the whole model counts
    assert list(epochs_of(grid, 3)) == [
        EpochClipping(2, steps=4, clipped=1, skipped=1, norm_median=4.0, norm_max=8.0, step_last=7),
        EpochClipping(3, steps=1, step_last=8),
    ]
    assert [epoch.epoch for epoch in epochs_of(grid, 0)] == [1, 2, 3]
    assert list(epochs_of(grid, 8)) == list(epochs_of(grid, 100)) == []
