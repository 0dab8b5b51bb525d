"""Short real trainings for tests, isolated from the user's settings."""

import atexit
import inspect
import json
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

import pytest

ARCHIVES = Path(__file__).parents[2] / "shared" / "data"
HOME = Path(tempfile.mkdtemp(prefix="yolo-home-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)

# Ultralytics reads these on import; each test process has its own settings.
os.environ["YOLO_CONFIG_DIR"] = str(HOME)
os.environ["YOLO_AUTOINSTALL"] = "false"
if ARCHIVES.is_dir():
    os.environ["YOLO_OFFLINE"] = "true"

TINY = {
    "epochs": 1,
    "imgsz": 64,
    "batch": 4,
    "nbs": 4,
    "workers": 0,
    "device": "cpu",
    "amp": False,
    "plots": False,
    "val": False,
    "exist_ok": True,
    "name": "run",
}
"""Options of the smallest training: every batch is an optimizer step."""


def data_folder():
    """Return the folder of the tests' data sets, and set it in Ultralytics' settings."""
    from ultralytics import settings
    from ultralytics.data import utils

    folder = HOME / "datasets"
    known = {"mlflow": False} if "mlflow" in settings else {}  # on by default if it is installed
    folders = {"datasets_dir": str(folder), "runs_dir": str(HOME / "runs")}
    settings.update({**folders, **known, "sync": False})
    utils.DATASETS_DIR = folder  # read from the settings only on import
    return folder


def official(name):
    """Unpack one of Ultralytics' tiny data sets, or skip the test if it is missing."""
    folder = data_folder() / name
    archive = ARCHIVES / f"{name}.zip"
    if not folder.exists():
        if not archive.exists():
            pytest.skip(f"{name} is neither in shared/data nor downloaded")
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder.parent)
    return name if name.startswith("imagenet") else f"{name}.yaml"


def shapes(images=8):
    """Draw a data set with the given number of training images: ``images / 4`` steps per epoch."""
    from yolo_gradwatch.demo.shapes import draw_dataset

    data_folder()
    return str(draw_dataset(HOME / f"shapes-{images}", train=images, val=4))


def outlines(images=8):
    """Draw the data set of `shapes`, with the outline of each box instead of the box."""
    source = Path(shapes(images))
    folder = HOME / f"outlines-{images}"
    shutil.copytree(source.parent, folder, dirs_exist_ok=True)
    for file in folder.glob("labels/*/*.txt"):
        lines = []
        for kind, x, y, width, height in map(str.split, file.read_text().splitlines()):
            left, right = (float(x) + share * float(width) for share in (-0.5, 0.5))
            top, bottom = (float(y) + share * float(height) for share in (-0.5, 0.5))
            lines.append(f"{kind} {left} {top} {right} {top} {right} {bottom} {left} {bottom}\n")
        file.write_text("".join(lines))
    data = folder / "data.yaml"
    data.write_text(source.read_text().replace(str(source.parent), str(folder)))
    return str(data)


def small(head="Detect", *sizes):
    """Write the configuration of a model of six blocks, whose training takes a second.

    Args:
        head: Class of the last block.
        sizes: Its arguments after the number of classes.
    """
    blocks = [[-1, 1, "Conv", [8, 3, 2]]] * 5
    content = {"nc": 3, "backbone": blocks, "head": [[[2, 3, 4], 1, head, ["nc", *sizes]]]}
    path = HOME / ("small.yaml" if head == "Detect" else f"small-{head.lower()}.yaml")
    path.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    return str(path)


def trial_options(folder):
    """Return arguments for trials of eight steps, each in its own folder."""
    options = {**TINY, "model": small(), "data": shapes(16), "project": str(folder), "epochs": 2}
    options |= {"val": True, "warmup_epochs": 0}
    return {name: one for name, one in options.items() if name not in {"name", "exist_ok"}}


def train(  # noqa: PLR0913  # the options of a training
    folder, *, watch=None, model="yolo26n.yaml", data=None, trainer=None, calls=(), **options
):
    """Train a model, optionally watched, and return it.

    By default there is no validation, and only the last epoch is saved: both take as long as the
    training itself. ``val`` and ``save`` change that.

    Args:
        folder: Project folder; the run is ``folder / "run"``.
        watch: Attached before the callbacks of ``calls``.
        model: A file or a model.
        data: A data set; eight drawn images by default.
        trainer: A trainer class of the test.
        calls: Pairs of an event and a callback.
        options: Arguments of ``train`` in addition to ``TINY``.
    """
    from ultralytics import YOLO

    data = data or shapes()
    model = YOLO(model) if isinstance(model, str) else model
    if watch is not None:
        watch.attach(model)
    for event, call in calls:
        model.add_callback(event, call)
    options = {**TINY, "save": False, **options}
    if trainer is None and not options["val"] and not isinstance(data, list):
        trainer = fast_trainer(model._smart_load("trainer"), saves_last=True)
    model.train(trainer=trainer, data=data, project=str(folder), **options)
    return model


def needs(where, *words):
    """Skip the test if a part of Ultralytics lacks one of these words in its source."""
    source = inspect.getsource(where)
    missing = [word for word in words if word not in source]
    if missing:
        pytest.skip(f"this Ultralytics has no {missing[0]}")


def trainer_of(folder, *, kind=None, model="yolo26n.yaml", data=None, calls=None, **options):
    """Return an unstarted trainer, by default for detection.

    Args:
        folder: As in `train`.
        kind: A trainer class.
        model: A model file.
        data: As in `train`.
        calls: Callbacks of a model, also called while the trainer is built.
        options: As in `train`.
    """
    from ultralytics.models.yolo.detect import DetectionTrainer

    data = data or shapes()
    overrides = {**TINY, "model": model, "data": data, "project": str(folder), **options}
    return (kind or DetectionTrainer)(overrides=overrides, _callbacks=calls)


def recording_trainer(base=None, *, at=0, fault=""):
    """Return a trainer class that records the input of each optimizer step and may corrupt one.

    Args:
        base: A trainer class; by default that of detection.
        at: The optimizer step to corrupt.
        fault: ``nan`` makes the last batch of that step NaN, ``spike`` multiplies its gradients.

    Returns:
        The class; its ``notes`` hold a dict for each step in order.
    """
    import torch
    from ultralytics.models.yolo.detect import DetectionTrainer

    class RecordingTrainer(base or DetectionTrainer):
        notes = []  # noqa: RUF012  # on the class, because the test has no instance
        images = []  # noqa: RUF012
        objects = []  # noqa: RUF012

        def preprocess_batch(self, batch):
            self.images.append(list(batch.get("im_file", ())))
            self.objects.append(len(batch["cls"]) if "cls" in batch else None)
            batch = super().preprocess_batch(batch)
            if fault == "nan" and len(self.notes) + 1 == at:
                batch["img"] = batch["img"] * float("nan")
            return batch

        def optimizer_step(self):
            items = self.loss_items
            if not isinstance(items, dict):
                items = dict(zip(self.loss_names, items.reshape(-1), strict=True))
            self.notes.append(
                {
                    "images": self.images[:],
                    "objects": self.objects[:],
                    "losses": {name: float(item) for name, item in items.items()},
                    "learning_rates": [group["lr"] for group in self.optimizer.param_groups],
                    "scale": self.scaler.get_scale() if self.scaler.is_enabled() else None,
                }
            )
            self.images.clear()
            self.objects.clear()
            if fault == "spike" and len(self.notes) == at:
                gradients = (p.grad for p in self.model.parameters())
                torch._foreach_mul_([grad for grad in gradients if grad is not None], 1e4)
            super().optimizer_step()

    return RecordingTrainer


def amp_trainer(base=None):
    """Return a trainer class with a loss scaler of 65536, which a CPU lacks by default."""
    import torch
    from ultralytics.models.yolo.detect import DetectionTrainer

    if not hasattr(torch.amp, "GradScaler"):
        pytest.skip(f"torch {torch.__version__} has no loss scaler for a CPU, 2.3 has")

    class ScaledTrainer(base or DetectionTrainer):
        def _setup_train(self):
            super()._setup_train()
            self.scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)

    return ScaledTrainer


def fast_trainer(base=None, *, saves_last=False):
    """Return a trainer class without validation that saves only if asked to.

    Args:
        base: A trainer class; by default that of detection.
        saves_last: Whether it always saves the last epoch, as ``YOLO.train`` requires.
    """
    from ultralytics.models.yolo.detect import DetectionTrainer

    class FastTrainer(base or DetectionTrainer):
        def validate(self):
            return self.metrics, 0.0

        def save_model(self):
            return (self.args.save or saves_last) and super().save_model() is not False

        def final_eval(self):
            """Skip the validation of the checkpoint."""

        def _clear_memory(self, threshold=None):
            """Skip it: it takes a third of such a short training."""

    for name in ("__name__", "__module__"):  # the names that messages contain
        setattr(FastTrainer, name, getattr(base or DetectionTrainer, name))
    return FastTrainer
