"""Run the trainings for the lessons page, and store their numbers and pictures.

Each variant appends layers to block 4 of a YOLO26n trained from scratch, or changes the training.
The pictures are drawn from the files of the runs.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch
from docs_faults import V8, Example, loss_times
from docs_runs import PICTURES, keep, trained, write_json
from matplotlib.figure import Figure
from torch import nn

from yolo_gradwatch.demo.faults import FAULTS, Fault, after, stack

if TYPE_CHECKING:
    from collections.abc import Callable

    from yolo_gradwatch import Run

STEPS, SPIKE = 30, 32
"""Step 32 measures the weight updates, because it is a power of two."""
AFTER = "model.4.after"


def _stacked(
    depth: int, act: type[nn.Module], change: Callable[[nn.Sequential], Any] | None = None
) -> Fault:
    """Append a plain stack to block 4, modified by ``change``."""

    def make(channels: int) -> nn.Module:
        made = stack(channels, depth, act)
        if change:
            change(made)
        return made

    return Fault(f"{depth} {act.__name__}", change=after(4, make))


class Residual(nn.Sequential):
    """Layers with a residual connection around them."""

    def forward(self, x: Any) -> Any:
        """Add the layers' output to the input."""
        return x + super().forward(x)


def _normalized(made: nn.Sequential) -> None:
    layers = list(made)
    del made[:]
    for layer in layers:
        made.append(layer)
        if isinstance(layer, nn.Conv2d):
            made.append(nn.BatchNorm2d(layer.out_channels))


def _residual(made: nn.Sequential) -> None:
    layers = list(made)
    del made[:]
    for at in range(0, len(layers), 4):
        made.append(Residual(*layers[at : at + 4]))


def _he(made: nn.Sequential) -> None:
    for layer in made:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)


STACKS = {
    "sigmoid": _stacked(12, nn.Sigmoid),
    "sigmoid-norm": _stacked(12, nn.Sigmoid, _normalized),
    "tanh": _stacked(12, nn.Tanh),
    "tanh-residual": _stacked(12, nn.Tanh, _residual),
    "relu": _stacked(12, nn.ReLU),
    "relu-he": _stacked(12, nn.ReLU, _he),
    "silu-norm": _stacked(12, nn.SiLU, _normalized),
    "healthy": FAULTS["healthy"],
}
LABELS = {
    "sigmoid": "Sigmoid",
    "sigmoid-norm": "Sigmoid + BatchNorm",
    "tanh": "Tanh",
    "tanh-residual": "Tanh + residual",
    "relu": "ReLU, default initialization",
    "relu-he": "ReLU, He initialization",
    "silu-norm": "SiLU + BatchNorm",
}


def main() -> None:
    """Run all trainings and draw all pictures."""
    path = PICTURES / "lessons.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for lesson in (stacks, warmup, clipping):
        known[lesson.__name__] = lesson()
        write_json(path, known)


def stacks() -> dict[str, Any]:
    """Compare the gradient along different kinds of stacks."""
    facts, curves = {}, {}
    for name, fault in STACKS.items():
        run = trained(Example(fault, steps=STEPS), name)
        facts[name] = outcome(run)
        if name in LABELS:
            curves[name] = along(run)
            facts[name]["end"], facts[name]["begin"] = curves[name][-1], curves[name][0]
        if name in {"sigmoid", "healthy"}:
            keep(run.plot(), f"lesson-{name}")
        print(name, facts[name], flush=True)
    _draw_stacks(curves)
    return facts


def along(run: Run) -> list[float]:
    """Return the gradient norm at the output of each activation of the stack, in order."""
    first = run.flow[run.flow["step"] == 1]
    kinds = first["type"].isin(["Sigmoid", "Tanh", "ReLU", "SiLU"])
    inside = first[first["module"].str.startswith(AFTER + ".") & kinds]
    return [float(f"{norm:.3g}") for norm in inside["gradient_norm"]]


def outcome(run: Run) -> dict[str, Any]:
    """Return the alarms, and the loss at the start and the end."""
    sums = run.losses[run.losses["item"] == "sum"]["mean"].to_numpy()
    blocks = run.windows[run.windows["module"].isin(["model.3", "model.5"])]
    medians = blocks.groupby("module", observed=True)["norm_mean"].median()
    alarms = [one for one in run.report().findings if one.severity != "notice"]
    return {
        "alarms": [f"{one.rule} {one.module}" for one in alarms],
        "message": alarms[0].message if alarms else "",
        "below": _short(medians["model.3"]),
        "above": _short(medians["model.5"]),
        "loss": [_short(np.mean(sums[:5])), _short(np.mean(sums[-5:]))],
    }


def warmup() -> dict[str, Any]:
    """Compare SGD at a high learning rate with and without Ultralytics' warm-up."""
    facts, series = {}, {}
    for name, epochs in {"without": 0.0, "with": 1.0}.items():
        options = {
            "epochs": 2,
            "optimizer": "SGD",
            "lr0": 0.1,
            "warmup_epochs": epochs,
            "warmup_bias_lr": 0.0,
        }
        run = trained(Example(Fault(""), V8, 60, options), f"warmup-{name}")
        whole = run.windows[run.windows["module"] == "model"]
        moved = whole.dropna(subset=["update_ratio"])
        sums = run.losses[run.losses["item"] == "sum"]
        series[name] = (
            (moved["step_first"].to_numpy(), moved["update_ratio"].to_numpy()),
            (sums["step_first"].to_numpy(), sums["mean"].to_numpy()),
        )
        facts[name] = {
            **outcome(run),
            "update": _short(moved["update_ratio"][moved["step_first"] <= 8].max()),
            "highest loss": _short(sums["mean"].max()),
        }
        print(name, facts[name], flush=True)
    labels = {"without": "without warm-up", "with": "with warm-up"}
    _draw_two(series, labels, "lesson-warmup")
    return facts


def clipping() -> dict[str, Any]:
    """Compare one loss of 100,000 times its size with and without Ultralytics' clipping."""
    facts, series = {}, {}
    for name in ("with", "without"):
        fault = Fault("", begin=loss_times(1e5, SPIKE, SPIKE))
        options = {"optimizer": "SGD", "lr0": 0.002}
        untouched = mock.patch.object(
            torch.nn.utils, "clip_grad_norm_", return_value=torch.tensor(0.0)
        )
        if name == "without":
            untouched.start()
        try:
            run = trained(Example(fault, V8, 60, options), f"clipping-{name}")
        finally:
            if name == "without":
                untouched.stop()
        whole = run.windows[run.windows["module"] == "model"]
        sums = run.losses[run.losses["item"] == "sum"]
        growth = run.windows.query("module == 'model'").dropna(subset=["update_ratio"])
        series[name] = (
            (growth["step_first"].to_numpy(), growth["update_ratio"].to_numpy()),
            (sums["step_first"].to_numpy(), sums["mean"].to_numpy()),
        )
        at = whole[whole["step_first"] == SPIKE]
        facts[name] = {
            **outcome(run),
            "norm": _short(at["norm_max"].iloc[0]),
            "update": _short(at["update_ratio"].iloc[0]),
            "usual norm": _short(whole["norm_mean"].median()),
            "usual update": _short(growth["update_ratio"].median()),
        }
        print(name, facts[name], flush=True)
    labels = {"with": "clipped at 10", "without": "not clipped"}
    _draw_two(series, labels, "lesson-clipping")
    return facts


def _smooth(steps: Any, values: Any) -> tuple[Any, Any]:
    """Return means over 4 steps, one pass over the data."""
    means = [np.mean(values[at : at + 4]) for at in range(len(values) - 3)]
    return steps[3:], means


def _short(number: Any) -> float:
    return float(f"{float(number):.3g}")


def _draw_stacks(curves: dict[str, list[float]]) -> None:
    figure = Figure(figsize=(9, 5), dpi=100, layout="constrained")
    axes = figure.subplots()
    for name, norms in curves.items():
        line = "--" if "-" in name else "-"
        axes.plot(range(1, len(norms) + 1), norms, line, marker=".", label=LABELS[name])
    axes.set(yscale="log", xlabel="layer of the stack, the last one is nearest to the loss")
    axes.set_ylabel("gradient norm at its output, step 1")
    axes.legend(frameon=False, fontsize=9)
    axes.grid(alpha=0.3)
    keep(figure, "lesson-stacks")


def _draw_two(series: dict[str, Any], labels: dict[str, str], name: str) -> None:
    figure = Figure(figsize=(9, 4), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    for key, (updates, losses) in series.items():
        left.plot(*updates, marker=".", label=labels[key])
        right.plot(*_smooth(*losses), label=labels[key])
    left.set(yscale="log", xlabel="optimizer step", title="relative update of all weights")
    right.set(yscale="log", xlabel="optimizer step", title="loss, mean of 4 steps")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=9)
    keep(figure, name)
