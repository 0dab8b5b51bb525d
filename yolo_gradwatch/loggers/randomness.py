"""Leaves the random numbers of a training as they are: some loggers draw from them."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Restore the random states of Python, numpy and torch (CPU) behind a block."""
    import torch  # a training has loaded it

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002  # theirs
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002  # as above
        torch.set_rng_state(states[2])
