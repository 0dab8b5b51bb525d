"""Healthy trainings of every task: the watch finds nothing."""

from __future__ import annotations

import pytest
from training import official, train

from yolo_gradwatch import GradWatch

TASKS = {
    "yolo26n.yaml": "coco8",
    "yolo11n-seg.yaml": "coco8-seg",
    "yolov8n-pose.yaml": "coco8-pose",
    "yolo26n-obb.yaml": "dota8",
    "yolo11n-cls.yaml": "imagenet10",
}


def silent(folder, model, data, epochs):
    """Train, check that nothing was found, and return the checkpoint."""
    watch = GradWatch(live=False)
    train(folder, watch=watch, model=model, data=data, epochs=epochs, batch=2, nbs=2)
    report = watch.report()
    assert report.steps >= 20
    assert report.healthy, report
    return report.run / "weights" / "last.pt"


@pytest.mark.train
@pytest.mark.parametrize(
    "model",
    [pytest.param(m, marks=() if m == "yolo26n.yaml" else pytest.mark.full) for m in TASKS],
)
def test_healthy_training_is_silent_from_scratch_and_fine_tuned(tmp_path, model):
    data = official(TASKS[model])
    weights = silent(tmp_path / "scratch", model, data, epochs=12)
    silent(tmp_path / "tuned", str(weights), data, epochs=10)


@pytest.mark.train
def test_images_of_one_pixel_at_the_last_scale_are_healthy(tmp_path):
    watch = GradWatch(live=False)
    train(tmp_path, watch=watch, epochs=8, imgsz=32)
    assert watch.report().healthy, watch.report()
