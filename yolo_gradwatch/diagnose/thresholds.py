"""The limits of all rules as one validated value."""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolo_gradwatch.measure.arrays import FLOAT16_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover  # the same library under its older name
    import tomli as tomllib

MOST = 10**9
"""Largest valid count."""

_LOWEST = ("total_low", "small_weights", "slow_branch")  # lower limits: smaller is laxer
_LONGEST = 60  # characters of a value in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Limits of the rules.

    A *decade* is a factor of ten between two gradient norms. Counts are positive integers, the
    other limits positive finite numbers. The evidence is from recorded short runs with every
    optimizer step captured, 45 of them healthy; `benchmarks/detection.py` measures them.

    Attributes:
        amp_grace: Captured steps that AMP's scaler may skip in a row, or as half of the latest
            captured steps, while it looks for a scale. Its first scale, 65536, needs 16 halvings to
            reach 1; healthy runs skip a few steps at the start and one now and then.
        weight_overflow: Largest absolute value of a parameter or buffer that float16 can hold.
        dead_windows: Windows in a row in which a trunk module has a gradient of exactly 0, or none
            at all, before it counts as dead. No healthy recorded run had one such step.
        dead_branch_windows: Windows in a row in which a branch of the head has a gradient of
            exactly 0. In healthy runs a scale without objects has one on up to 82 % of the steps,
            so 50 in a row are no accident.
        zero_fraction: Share of exactly zero elements in a trunk weight's gradient, between 0 and 1.
            Healthy: at most 0.02.
        vanishing: Decades by which a block's gradient is below that of the blocks it feeds.
            Healthy: at most 1.57; faulty: at least 2.19; a cut to 1e-4 loses about 4.
        slow_branch: Relative update of the weights of a branch, as a share of what is usual in the
            trunk, in a block that loses more than ``vanishing`` but lets the gradient pass. Medians
            over a run: gates of attentions 0.18 to 0.5, though 0.03 in single windows; branches
            under AdamW 0.6 to 18; branches scaled by a factor near 0 under SGD 0.007 to 0.02.
        exploding: Decades by which a block's gradient is above that of the blocks it feeds.
            Healthy: at most 1.17.
        leaf: Decades between a weight and the rest of its block. Healthy: at most 1.3.
        spike: Decades by which the whole trunk is above the highest of its last 100 windows.
            Healthy: at most 0.71.
        stray_step: Decades by which the highest norm of a window is above the median of the 10
            windows before, in a training that has converged. Healthy long runs: at most 1.3
            while they learn, 2.4 with memorized images, 4.3 with a solved task, except for two
            single steps at 5.4.
        collapse: Decades by which the whole trunk falls below the median of the 20 windows before.
            Healthy: at most 1.79.
        total_high: Total gradient norm, before clipping. Healthy: at most 3.8e5.
        total_low: Total gradient norm. Healthy: at least 0.36.
        weight_growth: Decades by which the trunk's weights grow in 20 windows: the median, or half
            the growth of the fastest tenth. 0.3 is a factor of two, or of four. Healthy: at most
            0.04, and half of 0.18; a learning rate of 1 or 10: 0.56 to 2.1, and half of 1.0 to 2.4.
        weight_jump: Decades by which the weights move faster than ever before, for the quickest
            tenth of the layers. Healthy: at most 0.3, or 0.8 where weights were rounded to three
            digits; a 50 times higher learning rate: 1.8.
        rate_jump: Decades by which a learning rate is above its previous maximum, after the first
            steps of a warm-up. Healthy: at most 0.3.
        loss_imbalance: Decades by which a loss item is above the sum of all others, while clipping
            shrinks the gradient at least 100 times. Healthy: at most 0.98; squared errors of
            hundreds or thousands: 3.5 to 7.4.
        initial_loss: Largest loss item in the first five windows, with objects in the images.
            Healthy: at most 94 for poses, else 12; initialized too large: 590 to 1,100.
        large_weights: Scale of the weights (norm over the fourth root of the number of elements) at
            the start of a run, as the median over the trunk. Healthy: 0.33 to 0.82 for every usual
            initialization; drawn from normal(0, 1): 13.
        small_weights: Scale (see ``large_weights``) of the weight with the largest scale in a
            block. Healthy: at least 0.15 in any layer; drawn from normal(0, 1e-4): 0.0005 to
            0.0023.

    Raises:
        ValueError: A field has an impossible value.
    """

    amp_grace: int = 12
    weight_overflow: float = FLOAT16_MAX
    dead_windows: int = 3
    dead_branch_windows: int = 50
    zero_fraction: float = 0.5
    vanishing: float = 2.0
    slow_branch: float = 0.05
    exploding: float = 2.5
    leaf: float = 2.0
    spike: float = 1.5
    stray_step: float = 4.5
    collapse: float = 3.0
    total_high: float = 1e7
    total_low: float = 1e-3
    weight_growth: float = 0.3
    weight_jump: float = 1.0
    rate_jump: float = 0.7
    loss_imbalance: float = 2.0
    initial_loss: float = 200.0
    large_weights: float = 4.0
    small_weights: float = 0.015

    def __post_init__(self) -> None:
        for field in fields(self):
            check = check_count if field.type == "int" else check_positive
            check(field.name, getattr(self, field.name))
        if self.zero_fraction >= 1:
            raise ValueError(f"zero_fraction must be below 1, got {shown(self.zero_fraction)}")
        if self.total_low >= self.total_high:
            both = f"{self.total_low:g} and {self.total_high:g}"
            raise ValueError(f"total_low must be below total_high, got {both}")

    def laxer(self) -> dict[str, tuple[float, float]]:
        """Return the limits that let more pass than the defaults, each with its default."""
        usual = Thresholds()
        both = {f.name: (getattr(self, f.name), getattr(usual, f.name)) for f in fields(self)}
        return {
            name: (own, default)
            for name, (own, default) in both.items()
            if (own < default if name in _LOWEST else own > default)
        }

    @classmethod
    def from_mapping(cls, table: Mapping[str, Any]) -> Thresholds:
        """Return thresholds with these limits; others keep their default.

        Raises:
            ValueError: A name is unknown, or a value is impossible.
        """
        names = [field.name for field in fields(cls)]
        unknown = sorted(set(table) - set(names))
        if unknown:
            raise ValueError(f"unknown threshold {unknown[0]!r}; known: {', '.join(names)}")
        return cls(**table)

    @classmethod
    def from_toml(cls, path: str | Path) -> Thresholds:
        """Read limits from a TOML file of ``name = value`` lines; others keep their default.

        This is a convenience for users: nothing else in this package opens a file, and no rule
        calls it.

        Raises:
            ValueError: The file cannot be read, is not TOML, or has an unknown name or an
                impossible value.
        """
        try:
            with Path(path).open("rb") as file:
                table: dict[str, Any] = tomllib.load(file)
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"{path}: cannot read thresholds: {error}") from error
        try:
            return cls.from_mapping(table)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def described() -> dict[str, str]:
    """Return what the docstring says about each limit; nothing under ``python -OO``."""
    _, _, attributes = (inspect.getdoc(Thresholds) or "").partition("Attributes:\n")
    found = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in found}


def check_count(name: str, value: object) -> None:
    """Raise an error if a value is not a valid count.

    Raises:
        ValueError: It is not an integer of at least 1, or is above `MOST`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {shown(value)}")
    if value > MOST:
        raise ValueError(f"{name} must be at most {MOST:,}, got {shown(value)}")


def check_positive(name: str, value: object) -> None:
    """Raise an error if a value is not a positive finite number.

    Raises:
        ValueError: It is not a positive finite number.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (is_number and 0 < value <= sys.float_info.max):  # type: ignore[operator]
        raise ValueError(f"{name} must be a positive number, got {shown(value)}")


def shown(value: object) -> str:
    """Return a value as one line of a message, shortened if it is long."""
    try:
        line = " ".join(repr(value).split())
    except Exception:  # noqa: BLE001  # an integer with too many digits, or a custom repr
        return f"a value of type {type(value).__name__}"
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."
