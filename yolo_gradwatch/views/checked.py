"""Numbers shown by ``check``: blocks, parameters, loss items, time and memory."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from yolo_gradwatch.diagnose import causes
from yolo_gradwatch.diagnose.record import plain
from yolo_gradwatch.measure.arrays import FLOAT16_MAX, FLOAT32_MAX, last, median
from yolo_gradwatch.measure.loss_items import RATE, TOTAL

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from yolo_gradwatch.measure.arrays import Values
    from yolo_gradwatch.runs.run import Run

_NEARLY = 0.95  # share of the final learning rate from which the warm-up counts as over


@dataclass(frozen=True, slots=True)
class Cost:
    """Time and memory per batch, and the planned number of batches.

    Attributes:
        seconds: Mean duration of a batch; None if none was measured.
        together: Batches accumulated per optimizer step after the warm-up.
        batches: Batches per epoch.
        epochs: Epochs of the whole training.
        memory: Peak memory in bytes: on the device, or of the process on a CPU.
        device_memory: Memory of the device in bytes; 0 on a CPU.
    """

    seconds: float | None
    together: int
    batches: int
    epochs: int
    memory: int
    device_memory: int = 0

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training, ignoring the warm-up."""
        return self.batches * self.epochs // max(self.together, 1)

    @property
    def step_seconds(self) -> float | None:
        """Duration of an optimizer step after the warm-up."""
        return None if self.seconds is None else self.seconds * self.together

    @property
    def total_seconds(self) -> float | None:
        """Duration of the whole training, without validation."""
        return None if self.seconds is None else self.seconds * self.batches * self.epochs


class Format(NamedTuple):
    """The number format of the activations, and its largest finite number."""

    name: str
    end: float


@dataclass(frozen=True, slots=True)
class BlockNumbers:
    """Numbers of a top-level block; NaN where nothing was measured.

    Attributes:
        name: Name of the module, such as ``model.4``.
        type: Class of the module.
        gradient: Median gradient norm of its parameters over the steps.
        update: Latest relative change of its weights by a step.
        rms_first: RMS of its output in the first traced batch.
        rms: RMS of its output in the last traced batch.
        zeros: Share of exact zeros in its output in the last traced batch.
        largest: Largest absolute output of the block or of a module in it, over all traced
            batches; Inf if an output was not finite.
        weight: Latest largest absolute value of its parameters and buffers; Inf for NaN too.
    """

    name: str
    type: str
    gradient: float
    update: float
    rms_first: float
    rms: float
    zeros: float
    largest: float
    weight: float


@dataclass(frozen=True, slots=True)
class ItemNumbers:
    """Numbers of a loss item.

    Attributes:
        name: Ultralytics' name of the item.
        first: Mean over the first window.
        last: Mean over the last window.
        share: Its share of the sum of all items over the steps; NaN if that sum is not finite or 0.
    """

    name: str
    first: float
    last: float
    share: float


@dataclass(frozen=True, slots=True)
class Untrained:
    """Parameters that are not updated, grouped by cause and named by their module.

    Attributes:
        frozen: Frozen by the training's arguments, or fixed by design, such as ``.dfl``.
        frozen_otherwise: Frozen without such an argument.
        unused: Modules that got no gradient in any step.
        outside: Trainable, but in no parameter group of the optimizer.
        zero_rate: In a parameter group whose learning rate is 0.
    """

    frozen: tuple[str, ...]
    frozen_otherwise: tuple[str, ...]
    unused: tuple[str, ...]
    outside: tuple[str, ...]
    zero_rate: tuple[str, ...]


def counted(number: int, noun: str) -> str:
    """Format a count with its noun: ``1 batch``, ``2,100 batches``."""
    plural = "" if number == 1 else "es" if noun.endswith("ch") and noun != "epoch" else "s"
    return f"{number:,} {noun}{plural}"


def number_format(run: Run) -> Format:
    """Return the format that AMP computes in; float32 without AMP."""
    name = causes.number_format(run.meta.options.training)
    return Format(name, FLOAT16_MAX if name == "float16" else FLOAT32_MAX)


def traced(run: Run) -> tuple[int, int]:
    """Return the first and the last traced step; (0, 0) if no batch was traced."""
    steps = run.flow["step"]
    return (int(steps.min()), int(steps.max())) if len(steps) else (0, 0)


def updated(run: Run) -> int:
    """Return the latest step whose update was measured; 0 if there is none."""
    there = ~np.isnan(run.grid.update_ratio).all(axis=1)
    return int(run.grid.step_first[there].max(initial=0))


def block_numbers(run: Run) -> list[BlockNumbers]:
    """Return the numbers of all top-level blocks in forward order, with or without parameters."""
    grid, place = run.grid, {name: m for m, name in enumerate(run.layout.modules)}
    applied = grid.steps - grid.skipped
    per_module = {
        "gradient": median(grid.norm_mean, applied),
        "update": last(grid.update_ratio, applied),
        "weight": last(grid.weight_max, applied),
    }
    first, newest = (run.flow[run.flow["step"] == step] for step in traced(run))

    def of_parameters(name: str) -> dict[str, float]:
        row = place.get(name)
        return {k: math.nan if row is None else float(v[row]) for k, v in per_module.items()}

    return [
        BlockNumbers(
            name=name,
            type=kind,
            **of_parameters(name),
            rms_first=_own(first, name, "output_rms"),
            rms=_own(newest, name, "output_rms"),
            zeros=_own(newest, name, "output_zero"),
            largest=_largest(run.flow, name),
        )
        for name, kind in run.layout.blocks
    ]


def _own(calls: pd.DataFrame, name: str, column: str) -> float:
    """Return a number of a block's output; Inf if it was not finite, which a trace has as NaN."""
    rows = calls[(calls["module"] == name) & (calls["call"] == 1)]
    if rows.empty:
        return math.nan
    value = float(rows[column].iloc[0])
    return math.inf if math.isnan(value) and rows["elements"].iloc[0] else value


def _largest(calls: pd.DataFrame, name: str) -> float:
    names = calls["module"].astype(str)
    inside = calls[(names == name) | names.str.startswith(f"{name}.")]
    inside = inside[inside["elements"] > 0]
    return float(inside["output_max"].fillna(np.inf).max()) if len(inside) else math.nan


def loss_numbers(run: Run) -> list[ItemNumbers]:
    """Return the numbers of the loss items, in Ultralytics' order."""
    table = run.losses
    names = table["item"].astype(str)
    items = table[~names.str.startswith(RATE) & (names != TOTAL)]
    sums = (items["mean"] * items["steps"]).groupby(items["item"].astype(str), sort=False).sum()
    whole = float(sums.sum())
    found = []
    for name, summed in sums.items():
        means = items[items["item"] == name]["mean"]
        share = float(summed) / whole if whole and math.isfinite(whole) else math.nan
        found.append(ItemNumbers(str(name), float(means.iloc[0]), float(means.iloc[-1]), share))
    return found


def warming(run: Run) -> tuple[float, float] | None:
    """Return the highest rising learning rate, now and after the warm-up.

    None if the warm-up is over, or if that is not known. The rate of the biases does not count: it
    falls from the beginning.
    """
    options, optimizer = run.meta.options, run.meta.optimizer
    epochs = options.fitted.get("warmup_epochs", options.training.get("warmup_epochs"))
    is_over = not isinstance(epochs, (int, float)) or run.grid.epoch.max(initial=0) - 1 >= epochs
    if optimizer is None or is_over:
        return None
    newest = run.losses.groupby(run.losses["item"].astype(str))["mean"].last()
    rates = [
        (float(newest[f"{RATE}{number}"]), group.lr)
        for number, group in enumerate(optimizer.groups)
        if group.lr and f"{RATE}{number}" in newest
    ]
    return max((rate for rate in rates if rate[0] < _NEARLY * rate[1]), default=None)


def untrained(run: Run) -> Untrained:
    """Return the parameters that the training does not update, as known at its end."""
    known = asdict(run.meta.optimizer) if run.meta.optimizer else {}
    names = {
        why: tuple(_widest(known.get(why, ())))
        for why in ("frozen", "frozen_otherwise", "outside", "zero_rate")
    }
    grid = run.grid
    steps = int((grid.steps - grid.skipped).sum())
    lost = _lost(grid.none.sum(axis=0), steps, run.layout.modules) if steps else ()
    return Untrained(**names, unused=tuple(lost))


def _lost(none: Values, steps: int, modules: tuple[str, ...]) -> Iterator[str]:
    """Yield modules without a gradient in any step, outermost ones only."""
    lost = {name for name, count in zip(modules, none.tolist(), strict=True) if count >= steps}
    for name in modules:
        if name in lost and name.rpartition(".")[0] not in lost:
            yield name


def _widest(names: tuple[str, ...]) -> Iterator[str]:
    """Yield the blocks of some parameters, each with its number of them."""
    counts: dict[str, int] = {}
    for name in names:
        block = ".".join(name.split(".")[:2])
        counts[block] = counts.get(block, 0) + 1
    for block, count in counts.items():
        yield f"{block} ({count:,})"


def as_record(run: Run | None, cost: Cost) -> dict[str, object]:
    """Return the numbers of a check for JSON: null where there is no finite number."""
    record: dict[str, object] = {"cost": {**asdict(cost), "total_seconds": cost.total_seconds}}
    if run is not None:
        record |= {
            "blocks": [asdict(block) for block in block_numbers(run)],
            "losses": [asdict(item) for item in loss_numbers(run)],
            "untrained": asdict(untrained(run)),
            "format": number_format(run)._asdict(),
        }
    plained: dict[str, object] = plain(record)
    return plained
