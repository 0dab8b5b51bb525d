"""What a destination of numbers must do, what it gets, and what happens when it raises."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

import numpy as np

from yolo_gradwatch.layout import WHOLE, Layout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from yolo_gradwatch.windows import Window

_LOG = logging.getLogger(__name__)


class Sink(Protocol):
    """A destination such as the user's experiment logger."""

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Take the scalars of the window that ends with ``step``."""

    def close(self) -> None:
        """The training is over, or `write` has raised; called once a training."""


class Fanout:
    """Calls objects of the user's during one training, each until it raises or is closed.

    The first exception of an object costs one warning, its one ``close()``, if it has one, and
    every later call; the others go on. What is no `Exception`, such as Ctrl+C, passes.
    """

    def __init__(self) -> None:
        self._over: list[object] = []

    def call(self, output: object, method: str, *args: object) -> None:
        """Call a method of an object, ``__call__`` for a function, unless its time is over."""
        if any(one is output for one in self._over):
            return
        try:
            getattr(output, method)(*args)
        except Exception as error:  # noqa: BLE001  # other people's code
            self._over.append(output)
            _warn(output, method, error)
            _close_failed(output)

    def close(self, output: object) -> None:
        """Close an object, unless its time is over."""
        if any(one is output for one in self._over):
            return
        self._over.append(output)
        try:
            output.close()  # type: ignore[attr-defined]  # a sink has one
        except Exception as error:  # noqa: BLE001  # other people's code
            _warn(output, "close", error)


def _warn(output: object, method: str, error: Exception) -> None:
    kind = type(output).__qualname__
    is_call = method == "__call__"
    name = getattr(output, "__qualname__", kind) if is_call else f"{kind}.{method}"
    _LOG.warning(
        "GradWatch: %s raised %s: %s; it is not called any more in this training",
        name,
        type(error).__name__,
        error,
        exc_info=_LOG.isEnabledFor(logging.DEBUG),
    )


def _close_failed(output: object) -> None:
    """Close an object that has raised, so that it can let go of what it holds."""
    try:
        getattr(output, "close", lambda: None)()
    except Exception:  # noqa: BLE001  # the user has one warning of it already
        _LOG.debug("GradWatch: %s.close raised too", type(output).__qualname__, exc_info=True)


def scalars(layout: Layout, window: Window) -> dict[str, float]:
    """Norms of the whole model and of each top-level block, and AMP's skips.

    Bounded by the number of blocks, some thirty, so that a logger's pages stay usable. A norm that
    has no finite step is left out.
    """
    blocks = dict(layout.blocks)
    norms = {
        f"gradwatch/{name}": float(window.norm_mean[m])
        for m, name in enumerate(layout.modules)
        if (name == WHOLE or name in blocks) and np.isfinite(window.norm_mean[m])
    }
    return {**norms, "gradwatch/skipped": float(window.skipped)}
