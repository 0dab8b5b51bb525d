"""Text from outside, made safe for a terminal."""

from __future__ import annotations

from typing import Any


def printable(value: Any) -> Any:
    """Return a JSON value with "?" in place of every character that could steer a terminal."""
    if isinstance(value, str):
        if value.isprintable():
            return value
        return "".join(sign if sign.isprintable() else "?" for sign in value)
    if isinstance(value, list):
        return [printable(one) for one in value]
    if isinstance(value, dict):
        return {printable(name): printable(one) for name, one in value.items()}
    return value
