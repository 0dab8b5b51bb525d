"""Protects the random numbers of a training from loggers that draw some."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Restore the random states of Python, numpy and torch (CPU) after a block."""
    import torch  # a training has loaded it

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002  # global
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002  # as above
        torch.set_rng_state(states[2])
