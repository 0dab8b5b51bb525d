"""Traces single batches of a training through the modules of its model."""

from __future__ import annotations

import logging
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from yolo_gradwatch.measure import model_layout as layouts
from yolo_gradwatch.measure.flow import Probe
from yolo_gradwatch.watch.ultralytics import training as facts

if TYPE_CHECKING:
    import weakref

    from torch import Tensor

    from yolo_gradwatch.measure.landing import Landing
    from yolo_gradwatch.watch.assembly import Parts

_LOG = logging.getLogger(__name__)

COMPILED = "no flow through the modules: torch.compile leaves no point at which to read it"


class Tracing:
    """Starts and stops the probe, and passes on its traces.

    An error in a probe ends tracing, with a warning and a remark; everything else continues.

    Args:
        trainer: Weak reference to the trainer.
        parts: Parts of the watch; without a schedule, nothing is traced.
    """

    def __init__(self, trainer: weakref.ref[Any], parts: Parts) -> None:
        self._alive = trainer
        self._take = parts.diagnosing.flow
        self._remarks = parts.recorder.remarks
        self._schedule = parts.schedule
        self._probe: Probe | None = None
        self._at = (0, 0)
        self._flying: deque[tuple[tuple[int, int], Landing]] = deque()
        self._begin = 0.0
        self._usual = 0.0
        self._own: float | None = None

    def begin_batch(self, epoch: int, step: int) -> None:
        """Hook the model if this batch is to be traced.

        Args:
            epoch: Epoch number, from 1.
            step: The optimizer step that the batch is part of.
        """
        self._begin = time.perf_counter()
        if self._schedule is None or self._probe is not None or not self._schedule.wants(step):
            return
        trainer = self._alive()
        if facts.is_compiled(trainer):
            self._schedule = None
            self._remarks.append(COMPILED)
            return
        model = facts.model_of(trainer)
        device = next(model.parameters()).device
        scale = partial(_loss_scale, self._alive)
        self._at = (epoch, step)
        self._probe = Probe(layouts.inside(model), device, scale, facts.replicas(trainer))
        self._probe.start()

    def stop(self) -> None:
        """Remove the hooks after the backward pass, and start the copy."""
        probe, self._probe = self._probe, None
        if probe is None:
            return
        landing = probe.stop()
        self._own = probe.seconds
        if landing:
            self._flying.append((self._at, landing))
        if probe.error:
            self._give_up(probe.error)

    def end_batch(self) -> None:
        """Record the cost of a trace: on a GPU, the time beyond that of an untraced batch."""
        took, own, self._own = time.perf_counter() - self._begin, self._own, None
        if own is None:
            self._usual = took
        elif self._schedule:
            is_counted = self._flying and self._flying[-1][1].transfer.slot
            cost = max(own, took - self._usual) if is_counted else own
            self._schedule.note(self._at[1], cost)

    def drain(self, *, wait: bool = False) -> None:
        """Pass on the traces that have landed, or wait for all."""
        while self._flying and (wait or self._flying[0][1].transfer.has_landed):
            (epoch, step), landing = self._flying.popleft()
            self._take(landing.flow(epoch, step))

    def discard(self) -> None:
        """Remove the hooks from a batch that was not completed."""
        probe, self._probe, self._own = self._probe, None, None
        if probe:
            probe.close()
        if self._schedule:
            self._schedule.again()

    def _give_up(self, error: Exception) -> None:
        self._schedule = None
        what = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        self._remarks.append(f"no flow from step {self._at[1]:,} on: {what}")
        _LOG.warning("GradWatch traces no more batches; everything else continues: %s", what)


def _loss_scale(alive: weakref.ref[Any]) -> Tensor | None:
    trainer = alive()
    return None if trainer is None else facts.loss_scale(trainer)
