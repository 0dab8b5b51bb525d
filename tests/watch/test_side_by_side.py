"""Two simultaneous trainings, in threads of one process."""

import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, get_ident

import pytest
from short import assert_nothing_left, streams, warnings_of
from training import fast_trainer, shapes, small, trainer_of

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.watch.gradwatch import sessions_of

pytestmark = pytest.mark.train

IMAGES = {"first": 8, "second": 12}
"""For four epochs each, so that one run has eight steps and the other twelve."""


@pytest.fixture
def clips(monkeypatch):
    """The total gradient norms that torch's clipping returns, by thread."""
    import torch

    said = {}
    clip = torch.nn.utils.clip_grad_norm_

    def spied(*args, **options):
        said.setdefault(get_ident(), []).append(clip(*args, **options))
        return said[get_ident()][-1]

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spied)
    return said


def train_both(folder, watches):
    """Train in two threads in lockstep; returns threads with trainers, and the streams used."""
    from ultralytics import YOLO

    together, outputs = Barrier(2, timeout=60), []
    options = {"kind": fast_trainer(), "model": small(), "epochs": 4, "imgsz": 32}
    data = {name: shapes(images) for name, images in IMAGES.items()}

    def meet(_trainer):
        outputs.append(sys.stdout)
        together.wait()

    def training(name, watch):
        model = YOLO(options["model"])
        watch.attach(model)
        model.add_callback("on_train_epoch_start", meet)
        named = {"name": name, "data": data[name]}
        trainer = trainer_of(folder, calls=model.callbacks, **named, **options)
        try:
            trainer.train()
        except BaseException:
            together.abort()  # the other one must not wait for it
            raise
        return get_ident(), trainer

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(training, *pair) for pair in zip(IMAGES, watches, strict=True)]
        return [future.result() for future in futures], outputs


@pytest.mark.parametrize(
    ("live", "share"),
    [
        (True, False),
        *(pytest.param(*case, marks=pytest.mark.full) for case in ((False, False), (True, True))),
    ],
)
def test_simultaneous_trainings_have_their_own_files(  # noqa: PLR0913, PLR0917  # cases
    tmp_path, caplog, terminal, clips, live, share
):
    terminal()
    before = streams()
    watches = [GradWatch(live=live)] * 2 if share else [GradWatch(live=live) for _ in range(2)]
    trained, outputs = train_both(tmp_path, watches)
    assert streams() == before
    assert warnings_of(caplog) == []
    for (thread, trainer), images in zip(trained, IMAGES.values(), strict=True):
        assert_nothing_left(trainer)
        run = load_run(trainer.save_dir)
        whole = run.windows[run.windows["module"] == "model"]
        assert list(whole["step_first"]) == list(range(1, images + 1))
        assert list(whole["norm_mean"]) == pytest.approx([float(c) for c in clips[thread]], 1e-5)
    reports = {s.folder: s.report() for watch in watches for s in sessions_of(watch)}
    assert reports == {t.save_dir: load_run(t.save_dir).report() for _, t in trained}
    shown = sys.stdout.getvalue()
    assert shown.count("GradWatch: healthy") == 2
    assert shown.count("GradWatch epoch") == (4 if live else 8)
    if live:
        assert all(output.stream is sys.stdout for output in outputs)
