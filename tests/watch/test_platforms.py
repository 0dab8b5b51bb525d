"""Differences of other systems that can be tested here: devices, processes, line ends."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from training import HOME, TINY, shapes

from yolo_gradwatch import load_run


def test_nothing_is_computed_in_float64_on_a_device_without_it():
    import torch

    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 5):
        pytest.skip("torch 2.4 and before cannot make such tensors under a mode")
    from torch.utils._python_dispatch import TorchDispatchMode

    from yolo_gradwatch.measure.capture import Capture
    from yolo_gradwatch.measure.losses import MOST_NUMBERS, LossMeter
    from yolo_gradwatch.measure.updates import Updates

    class OnMps(torch.Tensor):
        """A tensor that claims to be on Apple's device."""

        device = property(lambda _self: SimpleNamespace(type="mps"))

    class NoDoubles(TorchDispatchMode):
        """Refuses float64, as that device does."""

        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            result = operation(*args, **(kwargs or {}))
            results = result if isinstance(result, list | tuple) else [result]
            if any(getattr(one, "dtype", None) == torch.float64 for one in results):
                raise TypeError("the MPS framework doesn't support float64")
            return result

    values = [torch.full((3, 3), 2.0), torch.zeros(4), torch.tensor([[3.0, 0.0], [0.0, 4.0]])]
    parameters = [torch.ones_like(value).as_subclass(OnMps) for value in values]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = value.as_subclass(OnMps)
    loss = torch.tensor([1.5]).as_subclass(OnMps)
    with NoDoubles():
        capture = Capture(parameters)
        meter = LossMeter()
        for _ in range(2 * MOST_NUMBERS + 1):
            meter.add(("loss",), [loss])
        capture.take(1, 1, [], meter.take(), detailed=True, weighed=True)
        updates = Updates(parameters)
        updates.begin()
        with torch.no_grad():
            parameters[0].add_(1.0)
        capture.add_change(*updates.end())
        with pytest.raises(TypeError, match="float64"):
            torch.ones(1).double()
    (sample,) = capture.drain(wait=True)
    assert sample.norms.tolist() == [6.0, 0.0, 5.0]
    (items,) = sample.losses
    assert items.rows.tolist() == [[1.5]]
    count = 2.0 * MOST_NUMBERS
    assert items.folded[:, 0].tolist() == [1.5, 1.5, 1.5 * count, count, 0, 0]
    assert sample.detail.weights.norms.tolist() == [3.0, 2.0, 2.0]
    assert sample.detail.weights.largest.tolist() == [1.0, 1.0, 1.0]
    assert sample.change.before.tolist() == [3.0, 2.0, 2.0]
    assert sample.change.moved.tolist() == [3.0, 0.0, 0.0]
    np.testing.assert_array_equal(sample.detail.zeros, [0.0, np.nan, 2.0])


SPAWNED = """
import multiprocessing
from ultralytics import YOLO
from yolo_gradwatch import GradWatch

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    model = YOLO("yolo26n.yaml")
    watch = GradWatch(live=True, on_finding=lambda finding: None).attach(model)
    model.train(**{options!r})
    print(watch.report())
"""


@pytest.mark.train
@pytest.mark.full
def test_spawned_workers_receive_nothing_of_the_watch(tmp_path):
    options = {**TINY, "data": shapes(), "project": str(tmp_path / "runs"), "workers": 2}
    script = tmp_path / "script.py"
    script.write_text(SPAWNED.format(options=options), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "YOLO_CONFIG_DIR": str(HOME)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "GradWatch: no verdict, because only 2 optimizer steps were watched" in done.stdout
    assert load_run(tmp_path / "runs" / "run").report().status == "finished"


@pytest.mark.train
@pytest.mark.full
def test_data_loader_workers_receive_nothing_of_ours(tmp_path):
    cloudpickle = pytest.importorskip("cloudpickle")
    from training import train

    from yolo_gradwatch import GradWatch

    sent = []

    def pack(trainer):
        loader = trainer.train_loader
        sent.extend(map(cloudpickle.dumps, (loader.dataset, loader.collate_fn)))
        # the trainer is watched
        assert "watched_preprocess" in repr(vars(trainer)["preprocess_batch"])

    train(tmp_path, watch=GradWatch(live=False), calls=[("on_train_batch_start", pack)])
    assert len(sent) >= 2
    assert not any(b"yolo_gradwatch" in one for one in sent)
