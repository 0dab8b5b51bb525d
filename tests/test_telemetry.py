import numpy as np
import pytest
from build import sample_of

from yolo_gradwatch.records import CLIP_NORM, EpochTelemetry
from yolo_gradwatch.telemetry import Telemetry


def telemetry(*totals, skipped=(), scales=()):
    """An epoch whose steps have these totals; ``skipped`` counts from 0."""
    collected = Telemetry(3)
    for i, total in enumerate(totals):
        scale = scales[i] if scales else None
        collected.add(sample_of(i + 1, skipped=i in skipped, scale=scale), total)
    return collected.result()


def test_an_epoch_without_a_step():
    assert telemetry() == EpochTelemetry(3, 0, 0, 0, None, None)


@pytest.mark.parametrize(
    ("total", "clipped"),
    [
        (np.nextafter(CLIP_NORM, 0), 0),
        (CLIP_NORM, 0),
        (np.nextafter(CLIP_NORM, np.inf), 1),
        (np.inf, 1),
        (np.nan, 0),
    ],
)
def test_a_step_is_clipped_above_the_limit(total, clipped):
    assert telemetry(total).clipped == clipped


def test_the_median_is_of_finite_steps_that_were_applied():
    epoch = telemetry(1.0, 2.0, 4.0, np.nan, np.inf, 1000.0, skipped=(5,))
    assert epoch.norm_median == 2.0
    assert (epoch.steps, epoch.skipped, epoch.clipped) == (6, 1, 1)


def test_an_epoch_without_a_finite_step_has_no_median():
    assert telemetry(np.nan, np.inf, 5.0, skipped=(2,)).norm_median is None


def test_a_skipped_step_is_not_clipped():
    assert telemetry(11.0, 11.0, skipped=(0,)).clipped == 1


def test_the_scale_is_that_of_the_last_step():
    assert telemetry(1.0, 1.0, scales=(65536.0, 32768.0)).scale == 32768.0
    assert telemetry(1.0).scale is None


def test_a_result_is_a_snapshot_of_plain_numbers():
    collected = Telemetry(1)
    collected.add(sample_of(1), 20.0)
    first = collected.result()
    collected.add(sample_of(2), 40.0)
    assert (first.steps, collected.result().steps) == (1, 2)
    assert collected.result().norm_median == 30.0
    assert type(first.norm_median) is float
    assert type(first.clipped) is int
