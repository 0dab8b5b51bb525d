"""The limits of all rules in one validated value."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover  # the same library under its older name
    import tomli as tomllib

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Limits of the rules; every field counts windows or steps and must be a positive integer.

    Attributes:
        amp_grace: Steps in a row that AMP's scaler may skip while it looks for a scale. Its first
            scale, 65536, needs 16 halvings to reach 1; healthy trainings skip a few steps at the
            start and one now and then.
        dead_windows: Windows in a row in which a trunk module has a gradient of exactly 0, or
            none at all, before it counts as dead. No healthy recorded training had one such step.

    Raises:
        ValueError: A field is not a positive integer.
    """

    amp_grace: int = 12
    dead_windows: int = 3

    def __post_init__(self) -> None:
        for field in fields(self):
            check_count(field.name, getattr(self, field.name))

    @classmethod
    def from_toml(cls, path: str | Path) -> Thresholds:
        """Read limits from a TOML file of ``name = value`` lines; others keep their default.

        Raises:
            ValueError: The file cannot be read, is not TOML, or holds an unknown name or an
                impossible value.
        """
        try:
            with open(path, "rb") as file:  # noqa: PTH123  # takes text as well as Path
                table: dict[str, Any] = tomllib.load(file)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: cannot read thresholds: {error}") from error
        names = [field.name for field in fields(cls)]
        unknown = sorted(set(table) - set(names))
        if unknown:
            raise ValueError(f"{path}: unknown threshold {unknown[0]!r}; known: {', '.join(names)}")
        try:
            return cls(**table)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def check_count(name: str, value: object) -> None:
    """Raise if a value does not count something.

    Raises:
        ValueError: It is not an integer of at least 1.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
