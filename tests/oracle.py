"""Torch's own numbers for the gradients of a training, to compare the files with."""

from itertools import groupby

import numpy as np
import pytest
from training import train

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.measure.model_layout import clean_name

RELATIVE = 1e-5
FLOAT32 = 1e-4
"""Tolerance for torch's own float32 sums on a CPU, such as that of the clip."""

INEXACT = 5e-4  # the tolerance if a parameter has MANY elements
MANY = 1_000_000
LARGEST = 10.0  # the norm to which Ultralytics clips


def total_norm(tensors):
    """Return the norm by torch's own function, or before torch 2.6 by its formula."""
    import torch

    if hasattr(torch.nn.utils, "get_total_norm"):
        return float(torch.nn.utils.get_total_norm(tensors))
    norms = [torch.linalg.vector_norm(tensor) for tensor in tensors]
    return float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0


class Oracle:
    """Torch's numbers for the gradients at the clip of each step."""

    def __init__(self, monkeypatch):
        import torch

        self.trainer, self.watched = None, set()
        self.starts, self.epochs = [], []
        self.norms, self.clip, self.weights, self.zeros = [], [], [], []
        self.largest_values, self.updates = [], []
        clip = torch.nn.utils.clip_grad_norm_

        def spied(parameters, max_norm, **options):
            if self.trainer is None:
                return clip(parameters, max_norm, **options)
            self._look(torch)
            result = clip(parameters, max_norm, **options)
            self.clip.append(float(result))
            return result

        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spied)

    def take_model(self, trainer):
        """Record this training from now on; a resumed one continues the steps."""
        self.trainer = trainer
        self.watched = {id(p) for p in trainer.model.parameters() if p.requires_grad}
        if not trainer.resume:
            self.starts.append(len(self.norms))
        step = trainer.optimizer.step

        def spied(*args, **options):
            before = {id(p): p.detach().clone() for p in trainer.model.parameters()}
            result = step(*args, **options)
            self.updates[-1] = self._change(before)
            return result

        trainer.optimizer.step = spied

    def _change(self, before):
        """Return the relative change of each module's weights."""
        found = {}
        for path, module in self.trainer.model.named_modules():
            inside = [p for p in module.parameters() if id(p) in self.watched]
            moved = total_norm([p.detach().double() - before[id(p)].double() for p in inside])
            whole = total_norm([before[id(p)].double() for p in inside])
            found.setdefault(clean_name(path), moved / whole if whole else float("nan"))
        return found

    def _look(self, torch):
        norms, weights, zeros, largest = {}, {}, {}, {}
        self.watched |= {id(p) for p in self.trainer.model.parameters() if p.requires_grad}
        watched = [p for p in self.trainer.model.parameters() if id(p) in self.watched]
        gradient = {id(p): p.grad.double() for p in watched if p.grad is not None}
        value = {id(p): p.detach().double() for p in watched}
        for path, module in self.trainer.model.named_modules():
            name = clean_name(path)
            inside = [id(p) for p in module.parameters() if id(p) in self.watched]
            if not inside or name in norms:  # Ultralytics' list of blocks has the name of the whole
                continue
            found = [gradient[i] for i in inside if i in gradient]
            norms[name] = total_norm(found) if found else float("nan")  # all frozen
            weights[name] = total_norm([value[i] for i in inside])
            held = [*module.parameters(), *module.buffers()]
            held = torch.cat([t.detach().double().flatten() for t in held if t.is_floating_point()])
            most = float(torch.linalg.vector_norm(held, torch.inf))
            largest[name] = float("inf") if np.isnan(most) else most
            own = [p.grad for p in module.parameters(recurse=False) if p.ndim > 1]
            elements = [g.flatten() for g in own if g is not None]
            if elements:
                zeros[name] = float((torch.cat(elements) == 0).double().mean())
        self.norms.append(norms)
        self.weights.append(weights)
        self.largest_values.append(largest)
        self.updates.append(None)  # set after the optimizer step
        self.zeros.append(zeros)
        self.epochs.append(self.trainer.epoch + 1)
        self.largest = max(p.numel() for p in watched)

    def steps_of(self, training):
        """Return the steps of a training; trainings count from 0."""
        ends = [*self.starts[1:], len(self.norms)]
        return range(self.starts[training], ends[training])

    def epochs_of(self, training):
        """Return number, steps and clipped steps of each epoch of a training."""
        seen = self.steps_of(training)
        epochs = [list(steps) for _, steps in groupby(seen, self.epochs.__getitem__)]
        return [
            (self.epochs[steps[0]], len(steps), sum(self.clip[i] > LARGEST for i in steps))
            for steps in epochs
        ]

    def check(self, run, training=0):
        """Compare every step and module of a run whose windows are single steps."""
        steps = dict(list(run.windows.groupby("step_first")))
        seen = self.steps_of(training)
        assert len(seen) >= 2
        assert list(steps) == list(range(1, len(seen) + 1))
        weighed = self._weighed(seen)
        for i, (step, table) in zip(seen, steps.items(), strict=True):
            rows = table.set_index("module")
            assert (rows["step_last"] == step).all()
            assert (rows["epoch"] == self.epochs[i]).all()
            assert sorted(rows.index) == sorted(self.norms[i])
            for column in ("norm_min", "norm_mean", "norm_max"):
                self._close(rows[column], self.norms[i])
            self._check_weights(rows, i, is_due=step in weighed)
            if np.isfinite(self.clip[i]):
                clip = pytest.approx(self.clip[i], FLOAT32 if self.largest < MANY else INEXACT)
                assert rows.loc["model", "norm_mean"] == clip
            if not rows["skipped"].any():
                assert (rows["clipped"] == int(self.clip[i] > LARGEST)).all()
            fractions = rows["zero_fraction"].dropna()
            assert sorted(fractions.index) == sorted(self.zeros[i])
            self._close(fractions, self.zeros[i])

    def _weighed(self, seen):
        """Return the steps that read the weights, including those after a non-finite one."""
        due, bad = [], -100
        for step, i in enumerate(seen, 1):
            begins = i > seen[0] and self.epochs[i] != self.epochs[i - 1]
            is_late = begins and step - due[-1] >= 8
            if step > 50 or not step & (step - 1) or is_late or step - bad <= 10:
                due.append(step)
            bad = bad if np.isfinite(self.clip[i]) else step
        return set(due)

    def _check_weights(self, rows, i, *, is_due):
        is_bad = not np.isfinite(self.clip[i])  # read before the step corrupts them
        if not is_due:
            assert rows["update_ratio"].isna().all()
        if not is_due and not is_bad:
            assert rows[["weight_norm", "weight_max"]].isna().all(axis=None)
            return
        self._close(rows["weight_norm"], self.weights[i])
        self._close(rows["weight_max"], self.largest_values[i])
        if rows["skipped"].any():
            assert rows["update_ratio"].isna().all()
        elif is_due:
            self._close(rows["update_ratio"], self.updates[i])

    @staticmethod
    def _close(column, expected):
        wanted = np.array([expected[name] for name in column.index])
        np.testing.assert_allclose(column.to_numpy(np.float64), wanted, rtol=RELATIVE, atol=1e-12)


def check(tmp_path, oracle, calls=(), **options):
    """Run a watched training, compare its file with the oracle, and return the run."""
    watch = GradWatch(live=False)
    calls = [("on_train_start", oracle.take_model), *calls]
    train(tmp_path, watch=watch, calls=calls, **options)
    run = load_run(watch.run_dir)
    oracle.check(run)
    return run
