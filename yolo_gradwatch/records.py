"""The values that travel between the modules: frozen, without behaviour.

Axes: P parameters in the order of ``model.named_parameters()``, M modules in the order of
``model.named_modules()`` with the whole model first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Singles: TypeAlias = NDArray[np.float32]
Counts: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]

Severity = Literal["notice", "warning", "critical"]
EventKind = Literal["start", "resume", "nan_recovery", "oom_restart", "thaw"]
Change = Literal["start", "worse", "end"]
Status = Literal["running", "finished", "failed", "interrupted"]
Role = Literal["", "weight", "norm", "other"]

WHOLE = "model"
"""Name of the row that stands for the whole model."""

CLIP_NORM = 10.0
"""Total gradient norm above which Ultralytics clips, where its own code does not tell."""

FLOAT32_MAX = float(np.finfo(np.float32).max)
"""Largest number of float32; a norm in a file that is Inf lies above it."""

CLIP_OVERFLOW = float(np.sqrt(np.finfo(np.float32).max))
"""Total norm above which clipping multiplies by 0, because its square in float32 is Inf."""


@dataclass(frozen=True, slots=True)
class Detail:
    """What is read on the first step of a window only.

    Attributes:
        weight_norms: (P,) L2 norm of each parameter before the step.
        zeros: (P,) exactly zero elements of each gradient; NaN for parameters of fewer than two
            dimensions and where there is no gradient.
    """

    weight_norms: Floats
    zeros: Floats


@dataclass(frozen=True, slots=True)
class Sample:
    """One optimizer step as read from the device.

    Attributes:
        epoch: Counts from 1.
        step: Optimizer step of the run, counts from 1.
        norms: (P,) L2 gradient norm, unscaled, before clipping; 0 where ``missing``.
        missing: (P,) whether the parameter had no gradient (``grad is None``).
        frozen: (P,) whether that is because it was frozen since the training began; None if no
            parameter was.
        skipped: Whether AMP's scaler skips this step because of an overflow.
        scale: Loss scale of AMP; None without a scaler.
        detail: Taken on the first step of a window, else None.
        losses: Loss items of the last batch before the step.
    """

    epoch: int
    step: int
    norms: Floats
    missing: Flags
    skipped: bool = False
    scale: float | None = None
    detail: Detail | None = None
    frozen: Flags | None = None
    losses: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Layout:
    """The modules that own a trainable parameter in their subtree, and how the blocks connect.

    Attributes:
        modules: (M,) names, the whole model (``model``) first.
        types: (M,) class names.
        parameters: (M,) trainable elements of the subtree, shared ones counted once.
        block_of: (M,) name of the top-level block a module belongs to; "" for the whole model.
        roles: (M,) what the module owns itself: a ``weight`` (two or more dimensions above 1), the
            parameters of a ``norm`` layer, some ``other`` parameter, or nothing (""): a container.
        blocks: Name and class of every top-level block in forward order, also of those without
            parameters, if the model is an Ultralytics one.
        inside: For each of these the classes of the modules without parameters in it, such as its
            activations.
        head: Name of the block next to the loss.
        edges: Pairs of block names, from the producer to the consumer of an activation.
        kernels: (M,) positions in the kernel of the module's own weight, 9 for 3x3; 1 for others.
        since: (M,) optimizer step from which each module is watched: later than the first for one
            that was frozen and has thawed. Empty if all are from the beginning.
        attentions: Names of the modules that are an attention by a class that they inherit from;
            files of older versions have none.
    """

    modules: tuple[str, ...]
    types: tuple[str, ...]
    parameters: tuple[int, ...]
    block_of: tuple[str, ...]
    roles: tuple[Role, ...]
    blocks: tuple[tuple[str, str], ...]
    inside: tuple[tuple[str, ...], ...]
    head: str
    edges: tuple[tuple[str, str], ...]
    kernels: tuple[int, ...]
    since: tuple[int, ...] = ()
    attentions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Members:
    """Which parameters make up each module, as one flat list cut into stretches.

    Attributes:
        indices: Parameter indices of module 0, then of module 1, ...
        starts: (M,) where the stretch of each module begins in ``indices``.
        elements: (P,) elements of each parameter.
        weights: (W, 2) pairs of a module and a parameter of two or more dimensions that it owns.
        trunk: For each block but the head, the parameter indices of its weights (two or more
            dimensions); blocks without any are left out.
    """

    indices: Counts
    starts: Counts
    elements: Counts
    weights: Counts
    trunk: tuple[Counts, ...]


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of optimizer steps, one value for each module.

    Attributes:
        epoch: Counts from 1.
        step_first: First captured step of the stretch.
        step_last: Last captured step of the stretch.
        steps: Captured steps in it.
        skipped: How many of these AMP skipped.
        nonfinite: (M,) steps, not skipped, with a NaN or Inf in the norm.
        zero: (M,) steps, not skipped, with a gradient whose norm is exactly 0.
        none: (M,) steps, not skipped, in which no parameter of the module had a gradient, though
            not all were frozen. A module that was frozen has no norm and no count.
        zero_fraction: (M,) share of exactly zero elements in the module's own weight gradient on
            the first step; NaN for a module without a weight of two or more dimensions.
        norm_min: (M,) lowest L2 norm over the finite steps; NaN if there is none.
        norm_mean: (M,) mean L2 norm over the finite steps; NaN if there is none.
        norm_max: (M,) highest L2 norm over the finite steps; NaN if there is none.
        weight_norm: (M,) L2 norm of the module's parameters before the first step; NaN if it was
            not taken, because an anomaly opened the window.
        clipped: Steps, not skipped, with a total norm above the clip; -1 if unknown, as in files of
            format version 1.
    """

    epoch: int
    step_first: int
    step_last: int
    steps: int
    skipped: int
    nonfinite: Counts
    zero: Counts
    none: Counts
    zero_fraction: Singles
    norm_min: Singles
    norm_mean: Singles
    norm_max: Singles
    weight_norm: Singles
    clipped: int = -1


WINDOW_ARRAYS = (
    *("nonfinite", "zero", "none"),
    *("zero_fraction", "norm_min", "norm_mean", "norm_max", "weight_norm"),
)
"""Fields of a window with a value for each module."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The windows of a run as arrays, in the order of their steps: W windows by M modules.

    Attributes:
        epoch: (W,) as in a `Window`, like those that follow.
        step_first: (W,)
        step_last: (W,)
        steps: (W,)
        skipped: (W,)
        nonfinite: (W, M)
        zero: (W, M)
        none: (W, M)
        zero_fraction: (W, M)
        norm_min: (W, M)
        norm_mean: (W, M)
        norm_max: (W, M)
        weight_norm: (W, M)
        clipped: (W,)
    """

    epoch: Counts
    step_first: Counts
    step_last: Counts
    steps: Counts
    skipped: Counts
    nonfinite: Counts
    zero: Counts
    none: Counts
    zero_fraction: Singles
    norm_min: Singles
    norm_mean: Singles
    norm_max: Singles
    weight_norm: Singles
    clipped: Counts


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule that holds for one module in one window.

    Attributes:
        rule: Identifier, see ``catalog.RULES``.
        severity: As the rule says.
        module: Name of the module.
        epoch: Of the first window of its evidence.
        step: First step of that window.
        value: The number that was judged.
        limit: The threshold that it broke.
        affected: Blocks that suffer from it, its own aside.
    """

    rule: str
    severity: Severity
    module: str
    epoch: int
    step: int
    value: float
    limit: float
    affected: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Episode:
    """One stretch of steps over which a finding lasted.

    Attributes:
        epoch: Epoch of its first alert.
        step: Step of its first alert.
        step_end: Step at which it was over; None while it lasts.
        reported: Newest optimizer step that had been seen when its beginning was reported.
        value: The number that was judged when it was last reported.
    """

    epoch: int
    step: int
    step_end: int | None
    reported: int
    value: float


@dataclass(frozen=True, slots=True)
class Finding:
    """Alerts of one cause.

    Attributes:
        number: Counts from 1 within a run.
        rule: Identifier, see ``catalog.RULES``.
        severity: Highest of its alerts.
        module: The module it is about: the one nearest to the loss, or ``model``.
        modules: Every module with an alert so far, in forward order.
        episodes: When it lasted, oldest first; at least one, and only the last may be open.
        limit: The threshold.
        message: What happened, why probably and what to try.
        origin: Those of ``modules`` with which it began.
        evidence: File that holds what its first step was made of; "" if there is none.
    """

    number: int
    rule: str
    severity: Severity
    module: str
    modules: tuple[str, ...]
    episodes: tuple[Episode, ...]
    limit: float
    message: str
    origin: tuple[str, ...] = ()
    evidence: str = ""

    @property
    def epoch(self) -> int:
        """Epoch in which it began for the first time."""
        return self.episodes[0].epoch

    @property
    def step(self) -> int:
        """Step at which it began for the first time."""
        return self.episodes[0].step

    @property
    def step_end(self) -> int | None:
        """Step at which its newest episode was over; None while that lasts."""
        return self.episodes[-1].step_end

    @property
    def value(self) -> float:
        """The number that was judged when it was last reported."""
        return self.episodes[-1].value


@dataclass(frozen=True, slots=True)
class News:
    """A finding that has just begun or come back, grown worse or ended.

    Attributes:
        change: What happened to it.
        epoch: Of the window that brought the change.
        step: First step of that window.
        finding: Its state from now on.
        reported: Newest optimizer step that had been seen when it was reported.
    """

    change: Change
    epoch: int
    step: int
    finding: Finding
    reported: int


@dataclass(frozen=True, slots=True)
class Event:
    """A point at which a run restarts, or takes in layers that have thawed.

    Rules must forget what was before.

    Attributes:
        step: The first optimizer step after it.
        kind: What happened: one of `EventKind`, or what a later version knows.
    """

    step: int
    kind: str


@dataclass(frozen=True, slots=True)
class EpochTelemetry:
    """Clipping and AMP of one pass over an epoch.

    Attributes:
        epoch: Counts from 1; an epoch that is repeated has one entry a pass.
        steps: Captured optimizer steps.
        clipped: How many of these had a total norm above the clip, not skipped.
        skipped: How many of these AMP skipped.
        norm_median: Median total norm over the finite steps; None if there is none.
        norm_max: Highest total norm over the finite steps; None if there is none.
        clip_ratio: Median of total norm over clip in the clipped steps; None if there is none.
        owners: The blocks with the largest shares of the squared norm, in the mean over the
            finite steps.
        scale: Loss scale of AMP at the last step; None without a scaler.
        step_last: Newest optimizer step, captured or not; 0 in files that do not tell.
    """

    epoch: int
    steps: int = 0
    clipped: int = 0
    skipped: int = 0
    norm_median: float | None = None
    norm_max: float | None = None
    clip_ratio: float | None = None
    owners: dict[str, float] = field(default_factory=dict)
    scale: float | None = None
    step_last: int = 0
