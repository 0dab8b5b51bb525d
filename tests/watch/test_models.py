"""Models of every kind, trained for a few steps: the watch works and finds nothing."""

from __future__ import annotations

import sys
import zlib
from types import SimpleNamespace

import pytest
from healthy import cases, watched
from PIL import Image
from training import official, shapes, train

pytestmark = pytest.mark.train

full = pytest.mark.full

TWO_STEPS = {"epochs": 1, "batch": 2, "nbs": 2}
"""Of a data set with four images."""

TASKS = cases(
    ("yolo26n.yaml", "coco8"),
    ("yolo26n-seg.yaml", "coco8-seg"),
    ("yolo26n-pose.yaml", "coco8-pose"),
    ("yolo26n-obb.yaml", "dota8"),
    ("yolo26n-cls.yaml", "imagenet10"),
) + cases(
    ("yolo11n-seg.yaml", "coco8-seg"),
    ("yolo11n-cls.yaml", "imagenet10"),
    ("yolo12n-pose.yaml", "coco8-pose"),
    ("yolov8n-obb.yaml", "dota8"),
    ("yolov8n-cls.yaml", "imagenet10"),
    ("yolov9c-seg.yaml", "coco8-seg"),
    marks=full,
)
"""Models, and Ultralytics' data sets for their tasks."""


@pytest.mark.parametrize(("model", "name"), TASKS)
def test_every_task_on_official_data(tmp_path, oracle, model, name):
    steps = 10 if name == "imagenet10" else 4
    watched(tmp_path, oracle, model=model, data=official(name), batch=2, nbs=2, steps=steps)


GENERATIONS = cases("yolov5n.yaml") + cases(
    "yolo11n.yaml",
    "yolo12n.yaml",
    "yolo26n-p2.yaml",
    "yolo26n-p6.yaml",
    "yolov3-tiny.yaml",
    "yolov6n.yaml",
    "yolov8n.yaml",
    "yolov8n-ghost.yaml",
    "yolov9t.yaml",
    "yolov10n.yaml",
    marks=full,
)


@pytest.mark.parametrize("model", GENERATIONS)
def test_every_generation_of_models(tmp_path, oracle, model):
    watched(tmp_path, oracle, model=model, imgsz=128 if "p6" in model else 64, steps=6)


TRANSFORMERS = cases("yolov8n-rtdetr.yaml", "rtdetr-l.yaml", "rtdetr-resnet50.yaml", marks=full)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_detection_transformers(tmp_path, oracle, name):
    from ultralytics import RTDETR

    options = {"model": RTDETR(name), "data": shapes(8), "epochs": 1, "steps": 4}
    options |= {"imgsz": 160, "batch": 2, "nbs": 2}  # 8.4.100 needs a cell for each of 300 queries
    (run,), _ = watched(tmp_path, oracle, **options)
    assert run.layout.blocks[-1] == (run.layout.head, "RTDETRDecoder")


def write_maps(folder, task):
    """A data set of noise with a map per image: of classes, or of depths in millimetres."""
    import numpy as np

    chance = np.random.default_rng(0)
    name, depth = {"sem": ("masks", np.uint8), "depth": ("depth", np.uint16)}[task]
    for split in ("train", "val"):
        for kind, shape in (("images", (64, 64, 3)), (name, (64, 64))):
            (folder / kind / split).mkdir(parents=True)
            for i in range(4):
                highest = 256 if kind == "images" else 3 if task == "sem" else 5000
                values = chance.integers(0, highest, shape, np.uint8 if kind == "images" else depth)
                Image.fromarray(values).save(folder / kind / split / f"{i}.png")
    data = folder / "data.yaml"
    classes = "{0: a, 1: b, 2: c}\nmasks_dir: masks" if task == "sem" else "{0: depth}"
    data.write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames: {classes}\n")
    return str(data)


@full
@pytest.mark.parametrize("task", ["sem", "depth"])
def test_dense_prediction_tasks(tmp_path, oracle, task):
    data = write_maps(tmp_path / "data", task)
    watched(tmp_path, oracle, model=f"yolo26n-{task}.yaml", data=data, steps=2, **TWO_STEPS)


def fake_text_model(monkeypatch):
    """Replaces CLIP and MobileCLIP, which need downloads, with random embeddings per text.

    They embed the class names and are not trained, so everything that is trained is real.
    """
    import torch

    def tokenize(texts):
        return torch.tensor([[zlib.crc32(text.encode())] for text in texts])

    def encode_text(tokens, dtype=torch.float32):
        seeds = [torch.Generator().manual_seed(int(token)) for token in tokens]
        rows = torch.stack([torch.randn(512, generator=seed) for seed in seeds])
        return torch.nn.functional.normalize(rows, dim=-1).to(dtype)

    def build_text_model(variant, device=None):
        return SimpleNamespace(tokenize=tokenize, encode_text=encode_text)

    substitute = SimpleNamespace(build_text_model=build_text_model)
    monkeypatch.setitem(sys.modules, "ultralytics.nn.text_model", substitute)


@full
@pytest.mark.parametrize("name", ["yolov8s-world.yaml", "yolov8s-worldv2.yaml"])
def test_yolo_world_with_a_fake_text_model(tmp_path, oracle, monkeypatch, name):
    from ultralytics import YOLOWorld

    fake_text_model(monkeypatch)
    options = {"model": YOLOWorld(name), "data": shapes(8), "epochs": 1, "steps": 2}
    (run,), _ = watched(tmp_path, oracle, **options)
    assert run.layout.blocks[-1] == (run.layout.head, "WorldDetect")


def prompted(kind, data):
    """A trainer class of YOLOE, and a data set of 80 classes in the format it expects."""
    from ultralytics.models.yolo import yoloe

    mixed = {"train": {"yolo_data": [data]}, "val": {"yolo_data": [data]}}
    is_mixed = kind.endswith(("FromScratch", "VPTrainer"))
    return {"trainer": getattr(yoloe, kind), "data": mixed if is_mixed else data, **TWO_STEPS}


YOLOE_TRAINERS = [
    ("yoloe-v8s.yaml", "YOLOETrainerFromScratch"),
    ("yoloe-11s.yaml", "YOLOETrainerFromScratch"),
    ("yoloe-26s.yaml", "YOLOETrainerFromScratch"),
    ("yoloe-11s.yaml", "YOLOEVPTrainer"),
    ("yoloe-26s.yaml", "YOLOETrainer"),
    ("yoloe-11s-seg.yaml", "YOLOESegTrainer"),
    ("yoloe-26s-seg.yaml", "YOLOESegTrainerFromScratch"),
]


@full
@pytest.mark.parametrize(("name", "kind"), cases(*YOLOE_TRAINERS))
def test_yoloe_with_a_fake_text_model(tmp_path, oracle, monkeypatch, name, kind):
    from ultralytics import YOLOE

    fake_text_model(monkeypatch)
    data = official("coco8-seg" if "-seg" in name else "coco8")
    watched(tmp_path, oracle, model=YOLOE(name), steps=2, **prompted(kind, data))


@full
def test_yoloe_with_only_the_last_layers_trained(tmp_path, oracle, monkeypatch):
    from ultralytics import YOLOE

    fake_text_model(monkeypatch)
    data = official("coco8")
    base = train(
        tmp_path / "base",
        model=YOLOE("yoloe-11s.yaml"),
        **prompted("YOLOETrainerFromScratch", data),
    )
    model = YOLOE(str(base.trainer.last))
    head = model.model.model[-1]
    others = [name for name, _ in head.named_children() if name != "cv3"]
    first = [f"cv3.{scale}.{i}" for scale in range(head.nl) for i in range(2)]
    freeze = [*range(head.i), *(f"{head.i}.{name}" for name in [*others, *first])]
    options = prompted("YOLOEPETrainer", data)
    (run,), _ = watched(tmp_path, oracle, model=model, freeze=freeze, steps=2, **options)
    layers = [
        name
        for name, kind in zip(run.layout.modules, run.layout.types, strict=True)
        if kind == "Conv2d"
    ]
    assert layers == [f"model.{head.i}.cv3.{scale}.2" for scale in range(head.nl)]
