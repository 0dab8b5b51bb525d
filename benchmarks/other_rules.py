"""The default rules of other tools, for the same recordings.

Each rule is written from the thresholds that its project publishes; no code is copied. A recording
holds one L2 norm per parameter and optimizer step, so checks that need activations, updates or an
accuracy are left out; each docstring lists them. All rules run at every step; where a tool samples
less often, its docstring says so.

For a tool that reports after the training, the alarm is at the last step unless the tool gives a
step itself. A gradient of exactly zero counts as ``dead`` even if the tool calls it vanishing,
which can only help the tool.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import TypeAlias

    from numpy.typing import NDArray

    Alarm: TypeAlias = tuple[int, str, str]
    Arrays: TypeAlias = Mapping[str, NDArray[Any]]
    Meta: TypeAlias = Mapping[str, Any]
    Floats: TypeAlias = NDArray[np.float64]
    Mask: TypeAlias = NDArray[np.bool_]

MODEL = "model"
"""Module of alarms about the whole net, and of tools that name no layer."""

PRESENT, FROZEN = 0, 2
"""Values of the array ``status``: with a gradient, not trained."""


def sagemaker_debugger(meta: Meta, arrays: Arrays) -> Iterator[Alarm]:
    """Amazon SageMaker Debugger: the built-in rules VanishingGradient and ExplodingTensor.

    Fires if the mean absolute gradient is below 1e-7, the default of ``threshold``, or if a value
    is NaN or infinite, as ``only_nan`` is False. Both are published in
    https://docs.aws.amazon.com/sagemaker/latest/dg/debugger-built-in-rules.html.

    The mean is estimated as that of a normal distribution with the recorded norm,
    ``norm / sqrt(elements) * sqrt(2 / pi)``. Real gradients have heavier tails and so lower means:
    the tool itself would give a few more alarms. A missing gradient is not a tensor and gives no
    alarm. DeadRelu, SaturatedActivation and PoorWeightInitialization need activations,
    WeightUpdateRatio needs updates; AllZero checks no tensor by default.

    Args:
        meta: Label and parameters of the recording.
        arrays: Numbers of the recording.

    Yields:
        Step, kind and module of each alarm.
    """
    names = [parameter["module"] for parameter in meta["params"]]
    elements = np.array([parameter["elements"] for parameter in meta["params"]])
    mean = _norms(arrays) / np.sqrt(elements) * np.sqrt(2 / np.pi)
    yield from _faint_alarms(mean < 1e-7, mean, names)
    yield from _alarms(arrays["nonfinite"] > 0, "nonfinite", names)


def sagemaker_debugger_sampled(meta: Meta, arrays: Arrays) -> Iterator[Alarm]:
    """Amazon SageMaker Debugger, the same rules at every 500th step only.

    500 is the ``save_interval`` of gradients in the default configuration of VanishingGradient,
    published in ``ruleConfigs.json`` of https://github.com/awslabs/sagemaker-debugger-rulesconfig.
    In a short recording, that is only the first step.

    Args:
        meta: Label and parameters of the recording.
        arrays: Numbers of the recording.

    Yields:
        Step, kind and module of each alarm.
    """
    return (alarm for alarm in sagemaker_debugger(meta, arrays) if alarm[0] % 500 == 0)


def autotrainer(meta: Meta, arrays: Arrays) -> Iterator[Alarm]:
    """AutoTrainer (Zhang et al., ICSE 2021): vanishing, exploding, dying ReLU, NaN.

    With r the norm of the first weight's gradient over that of the last: vanishing if r < 1e-3 and
    the first norm < 1e-4, exploding if r > 70, dying ReLU if 70 % of all gradient elements are
    zero. A step with NaN or infinity has no other alarm (the tool calls it exploding). Published in
    the code of the paper, https://github.com/shiningrain/AUTOTRAINER, as beta_1, beta_2, beta_3 and
    gamma of ``default_param`` in ``AutoTrainer/utils/utils.py`` and as ``gradient_issue`` in
    ``AutoTrainer/utils/monitor.py``.

    First and last refer to the order of the model's parameters. The tool checks one batch every
    third epoch, and reports the first three kinds only after 30 % of the epochs and if the best
    accuracy is below 0.7 or never rose by 0.01. A recording has no accuracy, so this condition is
    left out: the tool itself may stay silent on a healthy training. It names no layer.

    Args:
        meta: Label and parameters of the recording.
        arrays: Numbers of the recording.

    Yields:
        Step, kind and ``model`` of each alarm.
    """
    is_weight = np.array([parameter["kind"] == "weight" for parameter in meta["params"]])
    weights = np.flatnonzero(is_weight & (arrays["status"] != FROZEN).any(axis=0))
    first, last = _norms(arrays)[:, weights[[0, -1]]].T
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = first / last
    is_finite = (arrays["nonfinite"] == 0).all(axis=1)
    kinds = {
        "vanishing": is_finite & (ratio < 1e-3) & (first < 1e-4),
        "exploding": is_finite & (ratio > 70),
        "dead": is_finite & (_zero_share(meta, arrays) >= 0.7),
        "nonfinite": ~is_finite,
    }
    for kind, mask in kinds.items():
        yield from _alarms(mask[:, None], kind, [MODEL])


def neural_observatory(meta: Meta, arrays: Arrays) -> Iterator[Alarm]:
    """neural-observatory 0.5.1: the analyzer GradientHealth.

    With m the mean norm of a layer over the run: vanishing if m < 1e-7, if m is six decades below
    the highest m of all layers, or if the last quarter of the steps is below a tenth of the steps
    before; exploding if m > 1e3; NaN and infinity. Published as
    ``gradient_vanishing_threshold`` and ``gradient_exploding_threshold`` in
    ``core/configuration.py``, the others in ``analysis/gradient_health.py`` of
    https://github.com/omidNomiri/Neural_Observatory and
    https://pypi.org/project/neural-observatory.

    The tool gives each finding a severity; from 0.4 on it is a warning, which its formulas reach at
    m <= 2.5e-9 and m >= 1e3 * 10 ** 1.2. Only warnings count as alarms here. The tool measures the
    gradient of a layer's output, replaced here by the gradient of the layer's parameters, and
    reports after the training. Normalization layers are left out, which is its default. DeadNeuron
    and ActivationStatistics need activations, ParameterHealth needs the drift of the weights. The
    spikes of AnomalyDetection, five deviations above the mean, are at most 4 % of the steps, which
    gives a severity of 0.08.

    Args:
        meta: Label and parameters of the recording.
        arrays: Numbers of the recording.

    Yields:
        Step, kind and module of each alarm.
    """
    names, norms, is_present = _layers(meta, arrays, with_normalization=False)
    quarter = max(1, len(norms) // 4)
    mean = _mean(norms, is_present)
    before = _mean(norms[:-quarter], is_present[:-quarter])
    recent = _mean(norms[-quarter:], is_present[-quarter:])
    has_collapsed = (before >= 1e-12) & (recent < 0.1 * before)
    is_low = (mean <= 2.5e-9) | (mean < 1e-6 * np.nanmax(mean, initial=0.0)) | has_collapsed
    end = len(norms) - 1
    yield from _faint_alarms(is_low[None], mean[None], names, end)
    yield from _alarms(mean[None] >= 1e3 * 10**1.2, "exploding", names, end)
    yield from _alarms(np.isnan(norms), "nonfinite", names)


def torchmortem(meta: Meta, arrays: Arrays) -> Iterator[Alarm]:
    """Torchmortem 0.1.1: the detector GradientFlow.

    Vanishing if the mean norm over the second half of the run is 100 times higher in the last layer
    than in the first, naming the three weakest layers; exploding if a layer's norm exceeds 1000;
    stalling if a layer's norm is below 1e-8 on 30 % of the steps. Published as the defaults of
    ``GradientFlowDetector`` in ``src/torchmortem/detectors/gradient_flow.py`` of
    https://github.com/sebseager/torchmortem and https://pypi.org/project/torchmortem.

    The tool measures the gradient of a layer's output, replaced here by the gradient of the layer's
    parameters, and reports after the training. A missing gradient counts as 0, as in the tool. It
    has no rule for NaN. DeadUnit, Saturation and RankCollapse need activations, UpdateRatio needs
    updates; WeightNorm, GradientNoise and LossDynamics cover none of the kinds scored here.

    Args:
        meta: Label and parameters of the recording.
        arrays: Numbers of the recording.

    Yields:
        Step, kind and module of each alarm.
    """
    names, norms, _ = _layers(meta, arrays, with_normalization=True)
    end = len(norms) - 1
    late = norms[len(norms) // 2 :].mean(axis=0)
    if late[0] < 1e-30 or late[-1] >= 100 * late[0]:
        yield from ((end, "vanishing", names[layer]) for layer in np.argsort(late)[:3].tolist())
    yield from _alarms(norms > 1000, "exploding", names)
    is_low = norms < 1e-8
    highest_low = norms.max(axis=0, where=is_low, initial=0.0)
    is_stalled = is_low.mean(axis=0) >= 0.3
    yield from _faint_alarms(is_stalled[None], highest_low[None], names, end)


PEERS: dict[str, Callable[[Meta, Arrays], Iterator[Alarm]]] = {
    "SageMaker Debugger": sagemaker_debugger,
    "SageMaker Debugger, sampled": sagemaker_debugger_sampled,
    "AutoTrainer": autotrainer,
    "neural-observatory": neural_observatory,
    "torchmortem": torchmortem,
}
"""The rules of each tool by its printed name."""


def _alarms(mask: Mask, kind: str, names: Sequence[str], start: int = 0) -> Iterator[Alarm]:
    """Yield an alarm for each true value of (steps, names), with ``start`` as the first step."""
    for step, column in np.argwhere(mask).tolist():
        yield start + step, kind, names[column]


def _faint_alarms(
    mask: Mask, level: Floats, names: Sequence[str], start: int = 0
) -> Iterator[Alarm]:
    """Yield alarms for weak gradients: dead where the level is exactly 0, else vanishing."""
    yield from _alarms(mask & (level == 0), "dead", names, start)
    yield from _alarms(mask & (level != 0), "vanishing", names, start)


def _norms(arrays: Arrays) -> Floats:
    """Return the norms (steps, parameters), NaN where the gradient is missing or not finite."""
    norms: Floats = arrays["grad_norm"].astype(np.float64)
    norms[(arrays["nonfinite"] > 0) | (arrays["status"] != PRESENT)] = np.nan
    return norms


def _mean(norms: Floats, is_present: Mask) -> Floats:
    """Return the mean over the steps with a gradient; NaN without any or with a non-finite one."""
    with np.errstate(invalid="ignore"):
        mean: Floats = norms.sum(axis=0, where=is_present) / is_present.sum(axis=0)
    return mean


def _zero_share(meta: Meta, arrays: Arrays) -> Floats:
    """Return the share of gradient elements that are exactly zero, for each step."""
    elements = np.array([parameter["elements"] for parameter in meta["params"]])
    present = np.where(arrays["status"] == PRESENT, elements, 0)
    zeros = np.nansum(present * arrays["zero_fraction"].astype(np.float64), axis=1)
    share: Floats = zeros / np.maximum(1, present.sum(axis=1))
    return share


def _layers(
    meta: Meta, arrays: Arrays, *, with_normalization: bool
) -> tuple[list[str], Floats, Mask]:
    """Return the trained modules with own parameters, the layers that a tool would watch.

    Args:
        meta: Label and parameters of the recording.
        arrays: Numbers of the recording.
        with_normalization: Whether to include normalization modules.

    Returns:
        The modules in the order of the model's parameters; their norms (steps, modules), 0 without
        a gradient and NaN if not finite; whether they have a gradient (steps, modules).
    """
    is_trained = (arrays["status"] != FROZEN).any(axis=0)
    columns: dict[str, list[int]] = {}
    for column, parameter in enumerate(meta["params"]):
        is_norm = parameter["kind"].startswith("norm_")
        if is_trained[column] and (with_normalization or not is_norm):
            columns.setdefault(parameter["module"], []).append(column)
    is_present = arrays["status"] == PRESENT
    norms = np.where(is_present, _norms(arrays), 0.0)
    layers = [np.linalg.norm(norms[:, own], axis=1) for own in columns.values()]
    have = [is_present[:, own].any(axis=1) for own in columns.values()]
    return list(columns), np.stack(layers, axis=1), np.stack(have, axis=1)
