"""What a resumed training inherits from the run in its folder."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from yolo_gradwatch.diagnose.diagnosis import replay
from yolo_gradwatch.measure.clipping import epochs_of
from yolo_gradwatch.measure.layout import dated
from yolo_gradwatch.measure.windows import windows_of
from yolo_gradwatch.runs import traces
from yolo_gradwatch.runs.evidence import by_step
from yolo_gradwatch.runs.healthy import kept_of
from yolo_gradwatch.runs.losses import with_losses
from yolo_gradwatch.runs.meta import encoded
from yolo_gradwatch.runs.repair import mend, mend_flow, set_aside
from yolo_gradwatch.runs.run import load_run
from yolo_gradwatch.runs.schema import FLOW_FILE, LOSSES_FILE, META_FILE, FormatError
from yolo_gradwatch.runs.tables import grid_of, read_losses

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from yolo_gradwatch.diagnose.diagnosis import Diagnosis
    from yolo_gradwatch.measure.clipping import EpochClipping
    from yolo_gradwatch.measure.event import Event
    from yolo_gradwatch.measure.kept import Kept
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.optimizer import Optimizer
    from yolo_gradwatch.runs.run import Run

_LOG = logging.getLogger(__name__)

_ONE_ASIDE = "GradWatch starts a new %s; the old one is kept as *.old: %s"


@dataclass(frozen=True, slots=True)
class Past:
    """A run up to the point at which a resumed training continues it.

    Attributes:
        first_step: Optimizer step at which the training continues.
        steps: Captured steps so far.
        events: Its restarts.
        epochs: Its passes over an epoch.
        optimizers: What its optimizers moved, by step; empty if unknown.
        remarks: Sentences on what was not measured.
        others: Parts of ``gradwatch.json`` from a later version, which are written back.
        traces: Number of batches that were traced through the modules.
        kept: Records of kept checkpoints, if the file still exists.
    """

    first_step: int
    steps: int
    events: tuple[Event, ...]
    epochs: tuple[EpochClipping, ...]
    optimizers: tuple[Optimizer, ...] = ()
    remarks: tuple[str, ...] = ()
    others: dict[str, object] = field(default_factory=dict)
    traces: int = 0
    kept: tuple[Kept, ...] = ()


def earlier_run(folder: Path) -> Run | None:
    """Return the run to resume, if its first part was watched and its files can be continued."""
    if not (folder / META_FILE).exists():
        return None
    try:
        run = load_run(folder)
        encoded(run.meta)  # much of it is written back
        _next_step(run)
    except Exception as error:  # noqa: BLE001  # a file may contain anything
        _set_aside(folder, error)
        return None
    return run


def continued(
    run: Run, layout: Layout, diagnose: Callable[[Layout], Diagnosis]
) -> tuple[Layout, Diagnosis, Past | None]:
    """Take over a run; on failure, set its files aside so that the training begins new ones.

    Args:
        run: The run that is resumed.
        layout: Layout of the current model.
        diagnose: Returns a new diagnosis for a layout.

    Returns:
        The layout with the steps from which modules are watched, the diagnosis with the findings
        so far, and the other inherited data.
    """
    try:
        known = dated(layout, run.layout, _next_step(run))
        diagnosis = diagnose(known)
        past = _taken_over(run, known, diagnosis)
    except Exception as error:  # noqa: BLE001  # as above
        _set_aside(run.folder, error)
        return layout, diagnose(layout), None
    return known, diagnosis, past


def _taken_over(run: Run, layout: Layout, diagnosis: Diagnosis) -> Past:
    epochs = list(run.meta.epochs)
    epochs += epochs_of(run.grid, sum(epoch.steps for epoch in epochs))
    windows = list(with_losses(windows_of(grid_of(run.windows, layout)), run.losses))
    _check_losses(run.folder)
    count, kept = _traces(run), kept_of(run.folder, run.meta)
    replay(
        diagnosis,
        windows,
        run.meta.events,
        run.reported,
        by_step(run.folder),
        optimizers=run.meta.optimizers,
        flows=traces.all_of(run.folder / FLOW_FILE),
        kept=kept,
    )
    mend(run.folder, run.layout.modules[-1])
    return Past(
        first_step=_next_step(run),
        steps=sum(window.steps for window in windows),
        events=run.meta.events,
        epochs=tuple(epochs),
        optimizers=run.meta.optimizers,
        remarks=run.meta.remarks,
        others=run.meta.others,
        traces=count,
        kept=kept,
    )


def _check_losses(folder: Path) -> None:
    """Set a damaged table of loss items aside: the rest of the run can be continued."""
    try:
        read_losses(folder / LOSSES_FILE, math.inf)
    except FormatError as error:
        _LOG.warning(_ONE_ASIDE, LOSSES_FILE, error)
        set_aside(folder, [LOSSES_FILE])


def _traces(run: Run) -> int:
    """Prepare the table of traces for more; return how many it keeps, from completed steps."""
    try:
        steps = run.flow["step"].to_numpy()
    except FormatError as error:
        _LOG.warning(_ONE_ASIDE, FLOW_FILE, error)
        mend_flow(run.folder, 0)
        return 0
    kept = steps[steps < _next_step(run)]
    mend_flow(run.folder, 1 + len(kept))
    return len(set(kept.tolist()))


def as_asked(options: dict[str, object], earlier: Run | None) -> dict[str, object]:
    """Return a resumed training's options as the user gave them to its first part.

    A checkpoint holds what Ultralytics made of them, such as AdamW for ``optimizer=auto``, as if
    the user had requested it. None where the first part has no record of it.
    """
    is_known = earlier is not None and earlier.meta.format_version > 1
    first: dict[str, Any] = earlier.meta.options.training if earlier and is_known else {}
    model = {"model": first["model"]} if "model" in first else {}  # otherwise the checkpoint
    if not is_known and options.get("optimizer") != "auto":
        first = {"optimizer": None, "lr0": None}
        first["fitted"] = {name: options.get(name) for name in first}
    made = {n: v for n, v in first.get("fitted", {}).items() if n in first and options.get(n) == v}
    fitted = {**made, **cast("dict[str, object]", options.get("fitted", {}))}
    return {**options, **model, **{name: first[name] for name in made}, "fitted": fitted}


def _set_aside(folder: Path, error: Exception) -> None:
    """Set aside files that cannot be continued, and warn why."""
    _LOG.warning(
        "GradWatch starts new files; the old ones are kept as *.old: %s",
        error,
        exc_info=_LOG.isEnabledFor(logging.DEBUG),
    )
    set_aside(folder)


def _next_step(run: Run) -> int:
    """Return the optimizer step at which a resumed run continues."""
    begun = (event.step for event in run.meta.events)
    last = max(int(run.grid.step_last.max(initial=0)), run.meta.last_step)
    return max([last + 1, *begun])
