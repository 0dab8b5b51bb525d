"""Short real trainings for the tests, isolated from the user's settings."""

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

# Read by ultralytics when it is imported; each process of the tests has its own settings.
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
"""Every batch is an optimizer step, as small as Ultralytics allows."""


def data_folder():
    """Where the tests' data sets lie, known to Ultralytics' settings."""
    from ultralytics import settings
    from ultralytics.data import utils

    folder = HOME / "datasets"
    known = {"mlflow": False} if "mlflow" in settings else {}  # on wherever it is installed
    folders = {"datasets_dir": str(folder), "runs_dir": str(HOME / "runs")}
    settings.update({**folders, **known, "sync": False})
    utils.DATASETS_DIR = folder  # read from the settings once, when it was imported
    return folder


def official(name):
    """Unpack one of Ultralytics' tiny data sets, or skip the test where there is none."""
    folder = data_folder() / name
    archive = ARCHIVES / f"{name}.zip"
    if not folder.exists():
        if not archive.exists():
            pytest.skip(f"{name} is neither in shared/data nor downloaded")
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder.parent)
    return name if name.startswith("imagenet") else f"{name}.yaml"


def shapes(images=8):
    """A drawn data set with ``images`` to train on: ``images / 4`` steps an epoch."""
    from yolo_gradwatch.demo.shapes import draw_dataset

    data_folder()
    return str(draw_dataset(HOME / f"shapes-{images}", train=images, val=4))


def small():
    """A model file of six blocks, whose training takes a second."""
    blocks = [[-1, 1, "Conv", [8, 3, 2]]] * 5
    content = {"nc": 3, "backbone": blocks, "head": [[[2, 3, 4], 1, "Detect", ["nc"]]]}
    path = HOME / "small.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    return str(path)


def of_trials(folder):
    """The arguments of trials in folders of their own, of eight steps each."""
    options = {**TINY, "model": small(), "data": shapes(16), "project": str(folder), "epochs": 2}
    options |= {"val": True, "warmup_epochs": 0}
    return {name: one for name, one in options.items() if name not in {"name", "exist_ok"}}


def train(  # noqa: PLR0913  # as few as there are kinds of trainings
    folder, *, watch=None, model="yolo26n.yaml", data=None, trainer=None, calls=(), **options
):
    """Train a model, watched or not, and return it.

    It is validated if ``val`` says so, and saved in its last epoch only if ``save`` does not say
    more: both take as long as the training itself.

    Args:
        folder: Project folder; the run is ``folder / "run"``.
        watch: Attached before the callbacks of ``calls``.
        model: A file or a model.
        data: A data set; eight drawn images by default.
        trainer: A trainer class of the test's own.
        calls: Pairs of an event and a callback.
        options: Arguments of ``train`` beside ``TINY``.
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
        trainer = brisk_trainer(model._smart_load("trainer"), saves_last=True)
    model.train(trainer=trainer, data=data, project=str(folder), **options)
    return model


def needs(where, *words):
    """Skip the test if the source of a part of Ultralytics lacks one of these words."""
    source = inspect.getsource(where)
    missing = [word for word in words if word not in source]
    if missing:
        pytest.skip(f"this Ultralytics has no {missing[0]}")


def trainer_of(folder, *, kind=None, model="yolo26n.yaml", data=None, calls=None, **options):
    """A trainer that has not begun; of detection, or of the class that is given.

    Args:
        folder: As in `train`.
        kind: A trainer class.
        model: A file.
        data: As in `train`.
        calls: A model's callbacks, for what happens while the trainer is built.
        options: As in `train`.
    """
    from ultralytics.models.yolo.detect import DetectionTrainer

    data = data or shapes()
    overrides = {**TINY, "model": model, "data": data, "project": str(folder), **options}
    return (kind or DetectionTrainer)(overrides=overrides, _callbacks=calls)


def witness(base=None, *, at=0, fault=""):
    """A trainer class that notes what each optimizer step is made of, and may spoil one.

    Args:
        base: A trainer class; that of detection by default.
        at: The optimizer step of the run that is spoiled.
        fault: ``nan`` makes the last batch of that step NaN, ``spike`` multiplies its gradients.

    Returns:
        The class; its ``notes`` hold a dict for each step, in the order of the steps.
    """
    import torch
    from ultralytics.models.yolo.detect import DetectionTrainer

    class Witness(base or DetectionTrainer):
        notes = []  # noqa: RUF012  # of the class, because the test does not see the instance
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

    return Witness


def amp_trainer(base=None):
    """A trainer class with a loss scaler of 65536, which a CPU does not have by itself."""
    import torch
    from ultralytics.models.yolo.detect import DetectionTrainer

    if not hasattr(torch.amp, "GradScaler"):
        pytest.skip(f"torch {torch.__version__} has no loss scaler for a CPU, 2.3 has")

    class ScaledTrainer(base or DetectionTrainer):
        def _setup_train(self):
            super()._setup_train()
            self.scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)

    return ScaledTrainer


def brisk_trainer(base=None, *, saves_last=False):
    """A trainer class that does not validate, and saves if ``save`` says so, or at the end too.

    Args:
        base: A trainer class; that of detection by default.
        saves_last: Whether it saves its last epoch in any case, as ``YOLO.train`` asks for.
    """
    from ultralytics.models.yolo.detect import DetectionTrainer

    class BriskTrainer(base or DetectionTrainer):
        def validate(self):
            return self.metrics, 0.0

        def save_model(self):
            return (self.args.save or saves_last) and super().save_model() is not False

        def final_eval(self):
            """It would validate what was saved."""

        def _clear_memory(self, threshold=None):
            """A third of the time of a training this short."""

    for name in ("__name__", "__module__"):  # as a user is told of it
        setattr(BriskTrainer, name, getattr(base or DetectionTrainer, name))
    return BriskTrainer
