"""The output and time limit of a part of the measurement, and helpers shared by the parts."""

from __future__ import annotations

import contextlib
import json
import os
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from machine import table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


@dataclass
class Job:
    """A part of the measurement.

    Attributes:
        write: Writes a line of Markdown at once.
        seconds: Time limit of the part.
        is_small: Whether to check only that it runs.
    """

    write: Callable[[str], None]
    seconds: float
    is_small: bool = False
    _begun: float = field(default_factory=time.perf_counter)

    @property
    def left(self) -> float:
        """Seconds until the limit."""
        return self.seconds - (time.perf_counter() - self._begun)

    def head(self, *columns: str) -> None:
        """Start a table."""
        self.write(table(columns, []))

    def row(self, *cells: str) -> None:
        """Add a row to the table."""
        self.write(f"| {' | '.join(cells)} |")

    def text(self, words: str) -> None:
        """Add a paragraph."""
        self.write(f"\n{textwrap.fill(words, 120)}\n")


def has_cuda() -> bool:
    """Return whether CUDA is available."""
    return torch.cuda.is_available()


def options(job: Job, folder: Path) -> dict[str, Any]:
    """Return arguments of a typical training, or of a tiny one for a small job."""
    if job.is_small:
        return {"model": tiny_model(folder), "imgsz": 64, "batch": 2, "device": device()}
    shape = {"model": "yolo26n.yaml", "imgsz": 640, "batch": 16}
    return {**shape, "device": device(), "amp": has_cuda()}


def tiny_options(folder: Path) -> dict[str, Any]:
    """Return arguments of a training whose steps take milliseconds."""
    shape = {"model": tiny_model(folder), "imgsz": 64, "batch": 4}
    return {**shape, "device": device(), "amp": has_cuda()}


def tiny_model(folder: Path) -> str:
    """Write the configuration of a model with six blocks, and return its path."""
    blocks = [[-1, 1, "Conv", [8, 3, 2]]] * 5
    content = {"nc": 3, "backbone": blocks, "head": [[[2, 3, 4], 1, "Detect", ["nc"]]]}
    path = folder / "tiny.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    return str(path)


def device() -> str:
    """Return the device in Ultralytics' notation."""
    return "0" if has_cuda() else "cpu"


def numbers(values: Sequence[float], digits: str = ",.0f") -> list[str]:
    """Format numbers as table cells."""
    return [f"{value:{digits}}" for value in values]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Discard standard output until the block ends."""
    with Path(os.devnull).open("w", encoding="utf-8") as stream, contextlib.redirect_stdout(stream):
        yield
