"""What torch itself says of the gradients of a training, to hold the file against."""

import numpy as np
import pytest
from training import train

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.layout import clean_name

RELATIVE = 1e-5


class Oracle:
    """What torch says of the gradients at the moment of the clip, step by step."""

    def __init__(self, monkeypatch):
        import torch

        self.model, self.watched = None, set()
        self.norms, self.totals, self.clip, self.weights, self.zeros = [], [], [], [], []
        clip = torch.nn.utils.clip_grad_norm_

        def spied(parameters, max_norm, **options):
            self._look(torch)
            result = clip(parameters, max_norm, **options)
            self.clip.append(float(result))
            return result

        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spied)

    def take_model(self, trainer):
        self.model = trainer.model
        self.watched = {id(p) for p in self.model.parameters() if p.requires_grad}

    def _look(self, torch):
        norms, totals, weights, zeros = {}, {}, {}, {}
        for name, module in self.model.named_modules():
            parameters = [p for p in module.parameters() if id(p) in self.watched]
            if not parameters or name == "model":
                continue
            gradients = [p.grad for p in parameters if p.grad is not None]
            norm = total = float("nan")  # all of it was frozen
            if gradients:
                each = [torch.linalg.vector_norm(g.double()) for g in gradients]
                norm = float(torch.linalg.vector_norm(torch.stack(each)))
                total = float(torch.nn.utils.get_total_norm(gradients))
            norms[clean_name(name)] = norm
            totals[clean_name(name)] = total
            weights[clean_name(name)] = float(
                torch.linalg.vector_norm(
                    torch.cat([p.detach().double().flatten() for p in parameters])
                )
            )
            weight = getattr(module, "weight", None)
            if weight is not None and weight.grad is not None and weight.ndim > 1:
                zeros[clean_name(name)] = float((weight.grad == 0).double().mean())
        self.norms.append(norms)
        self.totals.append(totals)
        self.weights.append(weights)
        self.zeros.append(zeros)

    def check(self, run):
        """Compare every step and module of a run whose windows are single steps."""
        steps = dict(list(run.windows.groupby("step_first")))
        assert len(steps) == len(self.norms) >= 2
        for step, table in steps.items():
            rows = table.set_index("module")
            assert (rows["step_last"] == step).all()
            assert sorted(rows.index) == sorted(self.norms[step - 1])
            for column in ("norm_min", "norm_mean", "norm_max"):
                self._close(rows[column], self.norms[step - 1])
            self._close(rows["norm_mean"], self.totals[step - 1])
            self._close(rows["weight_norm"], self.weights[step - 1])
            assert rows.loc["model", "norm_mean"] == pytest.approx(self.clip[step - 1], RELATIVE)
            fractions = rows["zero_fraction"].dropna()
            assert sorted(fractions.index) == sorted(self.zeros[step - 1])
            self._close(fractions, self.zeros[step - 1])

    @staticmethod
    def _close(column, expected):
        wanted = np.array([expected[name] for name in column.index])
        np.testing.assert_allclose(column.to_numpy(np.float64), wanted, rtol=RELATIVE, atol=1e-12)


def check(tmp_path, oracle, calls=(), **options):
    """Train, watched, and compare the file with the oracle; the run."""
    watch = GradWatch(live=False)
    calls = [("on_train_start", oracle.take_model), *calls]
    train(tmp_path, watch=watch, calls=calls, **options)
    run = load_run(watch.run_dir)
    oracle.check(run)
    return run
