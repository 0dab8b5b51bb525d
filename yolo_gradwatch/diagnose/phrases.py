"""Formatting of numbers and names in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_NAMES = 4
"""If there are more names, only the first are listed."""


def sentence(clause: str) -> str:
    """Return a clause as a sentence."""
    return f"{clause[:1].upper()}{clause[1:]}."


def factor(decades: float) -> str:
    """Format decades as a factor of two digits: 4.5 decades are 32,000 times."""
    return f"{significant(10.0 ** min(decades, 300.0), 2)} times"


def significant(value: float, digits: int) -> str:
    """Format a number with this many significant digits, for reading: 110, 31,000, and 3.1e+07."""
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if 10**digits <= rounded < 1e7 else f"{value:.{digits}g}"


def counted(number: int, noun: str) -> str:
    """Format a count with its noun: ``1 step``, ``1,200 steps``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def joined(names: Sequence[str]) -> str:
    """Join names for a sentence: ``a``, ``a and b``, ``a, b and c``."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def listed(found: Sequence[str]) -> str:
    """List the first of some names, and how many more there are."""
    shown = ", ".join(found[:MOST_NAMES])
    hidden = len(found) - MOST_NAMES
    return f"{shown} and {hidden} more" if hidden > 0 else shown
