"""What all benchmarks print with their numbers: machine, versions, median and range."""

from __future__ import annotations

import os
import platform
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def heading(title: str, packages: Sequence[str], *notes: str) -> str:
    """Return the title with the date, and a line with machine, versions and notes."""
    found = ", ".join(f"{name} {version(name)}" for name in packages)
    facts = [_processor(), *_device(), f"Python {platform.python_version()}", found]
    date = f"{datetime.now(timezone.utc):%Y-%m-%d}"
    return f"## {title}, {date}\n\n{'; '.join([', '.join(facts), *notes])}.\n"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: Sequence[float], digits: str = ".3g") -> str:
    """Return the median with the lowest and highest value."""
    low, high = min(values), max(values)
    return f"{median(values):{digits}} ({low:{digits}} to {high:{digits}})"


def peak_memory() -> float:
    """Return the peak memory of this process in MB.

    The usual ``ru_maxrss`` includes the parent's memory at the time of the fork.
    """
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("no VmHWM in /proc/self/status: this benchmark needs Linux")


def _processor() -> str:
    names = Path("/proc/cpuinfo")
    lines = names.read_text(encoding="utf-8").splitlines() if names.exists() else []
    found = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores ({(found or [platform.processor()])[0] or platform.machine()})"


def _device() -> list[str]:
    if "torch" not in sys.modules:
        return []
    import torch  # noqa: PLC0415  # only benchmarks that train have loaded it

    return [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
