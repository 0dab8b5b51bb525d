"""Reads the gradients and the weights of a step by torch or numpy, where no kernel does."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from yolo_gradwatch.measure.host import Plan
from yolo_gradwatch.measure.norms import largest_of, nonzeros_of, norms_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class Parts(NamedTuple):
    """What was read in a step.

    Attributes:
        tensors: The norms of the gradients that exist, and on request the counts of their nonzero
            elements, and the norms and the largest values of the weights.
        is_weighed: Whether the weights were read.
    """

    tensors: list[Tensor]
    is_weighed: bool


class Reader:
    """Reads tensors on any device, without synchronization.

    Args:
        parameters: P parameters.
        tensors: Those, and others of which only the largest value is read; none of them empty.
    """

    def __init__(self, parameters: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
        self._parameters, self._tensors = parameters, tensors

    def read(self, gradients: Sequence[Tensor], *, detailed: bool, weighed: bool) -> Parts:
        """Read the gradients that exist, and on request count zeros and read the weights."""
        parts = [norms_of(gradients)] if gradients else []
        counted = [gradients[i] for i in matrices(gradients)] if detailed else []
        if counted:
            parts.append(nonzeros_of(counted))
        if weighed:
            parts += [norms_of(self._parameters), largest_of(self._tensors)]
        return Parts(parts, weighed)


class HostReader(Reader):
    """Reads tensors in the host's memory.

    Nothing has to wait there for a result, so a gradient that is not finite has the weights read
    too: the step is about to damage them, and what is still finite shows where the trouble began.
    """

    def __init__(self, parameters: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
        super().__init__(parameters, tensors)
        self._of_gradients, self._of_weights = Plan(parameters), Plan(tensors)
        self._matrices = matrices(parameters)

    def read(self, gradients: Sequence[Tensor], *, detailed: bool, weighed: bool) -> Parts:
        """As `Reader.read`."""
        is_whole = len(gradients) == len(self._parameters)
        plan = self._of_gradients if is_whole else Plan(gradients)
        found = plan.read(gradients, nonzero=detailed)
        parts = [found.norms]
        if detailed:
            parts.append(found.nonzero[self._matrices if is_whole else matrices(gradients)])
        weighed = weighed or not np.isfinite(found.norms).all()
        if weighed:
            weights = self._of_weights.read(self._tensors, largest=True)
            parts += [weights.norms[: len(self._parameters)], weights.largest]
        return Parts([torch.from_numpy(part) for part in parts], weighed)


def reader_of(parameters: Sequence[Tensor], tensors: Sequence[Tensor]) -> Reader:
    """Return a reader for parameters, at least one, and further tensors on the same device."""
    is_on_host = parameters[0].device.type == "cpu"
    return (HostReader if is_on_host else Reader)(parameters, tensors)


def matrices(gradients: Sequence[Tensor]) -> list[int]:
    """Return the indices of those with two or more dimensions, whose exact zeros are counted."""
    return [i for i, gradient in enumerate(gradients) if gradient.ndim >= 2]
