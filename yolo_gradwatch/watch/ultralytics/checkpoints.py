"""Facts about the checkpoints that Ultralytics saves at the end of an epoch.

Read in ultralytics 8.4.0 to 8.4.190: ``save_model`` writes ``last.pt`` in place, whole and from
memory, and ``on_model_save`` follows at once, on rank 0 only. It holds the EMA in half precision
and the optimizer; after the training, ``last.pt`` is rewritten without the optimizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolo_gradwatch.measure.arrays import FLOAT16_MAX

if TYPE_CHECKING:
    import torch
    from torch import Tensor

EVENT = "on_model_save"
"""Runs when the files are complete, before anything else is done with them."""

_STATISTICS = ("running_mean", "running_var")
"""Buffers that must be finite; some others are -Inf on purpose."""


def last_of(trainer: Any) -> Path:
    """Return the path of the newest epoch's checkpoint."""
    return Path(trainer.last)


def saves(trainer: Any) -> bool:
    """Return whether each epoch is saved; if not, only the last one is."""
    return bool(trainer.args.save)


def is_storable(trainer: Any) -> bool:
    """Return whether half precision can hold the saved weights: all finite, none too large.

    From 8.4.100 on, the file does not show this, because it has NaN and Inf replaced. Waits for the
    device.
    """
    from yolo_gradwatch.measure.norms import largest_of  # noqa: PLC0415  # heavy

    ema = trainer.ema.ema
    statistics = (b for n, b in ema.named_buffers() if n.endswith(_STATISTICS))
    by_device: dict[torch.device, list[Tensor]] = {}
    for value in (*ema.parameters(), *statistics):
        if value.is_floating_point() and value.numel():
            by_device.setdefault(value.device, []).append(value.detach())
    return all(bool((largest_of(own) <= FLOAT16_MAX).all()) for own in by_device.values())
