"""Reads the flow of one batch through the modules of a model, without stopping the device.

A forward hook on each module reads its output at once, because the next module may change it in
place; a hook on each output tensor reads the gradient that arrives there. Readings stay on the
device as single numbers, and go to the host in one vector.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from yolo_gradwatch.measure.landing import Called, Landing
from yolo_gradwatch.measure.norms import extent_of, norm_of, precision
from yolo_gradwatch.measure.ring import Ring
from yolo_gradwatch.measure.saturation import ends_of, saturated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn


@dataclass(slots=True)
class _Readings:
    """Readings of tensors, on their device."""

    elements: list[int] = field(default_factory=list)
    norms: list[Tensor] = field(default_factory=list)
    largest: list[Tensor] = field(default_factory=list)
    nonzero: list[Tensor] = field(default_factory=list)
    saturated: list[Tensor] = field(default_factory=list)
    gradients: dict[int, Tensor] = field(default_factory=dict)
    scale: Tensor | None = None

    def add(self, tensor: Tensor) -> int:
        """Read an output and return its index in the lists."""
        self.elements.append(tensor.numel())
        self.norms.append(norm_of(tensor))
        largest, nonzero = extent_of(tensor)
        self.largest.append(largest)
        self.nonzero.append(nonzero)
        return len(self.elements) - 1

    def vector(self, dtype: torch.dtype) -> Tensor:
        """Return all readings as one vector."""
        groups = (self.norms, self.largest, self.nonzero, self.saturated, self.gradients.values())
        scale = [] if self.scale is None else [self.scale]
        parts = [
            torch.cat([one.reshape(1) for one in group]) for group in (scale, *groups) if group
        ]
        return torch.cat([part.to(dtype) for part in parts])


class Probe:
    """Reads one batch and leaves no hook behind.

    None of its errors reaches the training: the first one ends the trace. It keeps no output alive.
    Anything computed without a gradient is left out, and so is whatever checkpointing recomputes in
    the backward pass.

    Args:
        modules: Modules by name; each is read on every call.
        device: Device of the model; tensors elsewhere are left out.
        scale: Returns AMP's loss scale, as the backward pass begins; None without AMP.
        replicas: Further factor by which the loss is multiplied.

    Attributes:
        error: The error that ended the trace early, if any.
        seconds: Time on the host that the hooks took so far.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        device: torch.device,
        scale: Callable[[], Tensor | None],
        replicas: int = 1,
    ) -> None:
        self._modules = modules
        self._device = device
        self._scale = scale
        self._replicas = replicas
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._known: dict[int, tuple[weakref.ref[Tensor], int, int]] = {}
        self._readings = _Readings()
        self._calls: list[Called] = []
        self._counts: dict[str, int] = {}
        self._called_forward: set[str] = set()
        self._goes_back = False
        self._is_on = False
        self.error: Exception | None = None
        self.seconds = 0.0

    def start(self) -> None:
        """Hook every module."""
        self._safely(self._hook)

    def stop(self) -> Landing | None:
        """Remove every hook and start the copy; None if nothing was read, or after an error."""
        self.close()
        landings: list[Landing] = []
        if self._calls and self.error is None:
            self._safely(lambda: landings.append(self._land()))
        return landings[0] if landings else None

    def close(self) -> None:
        """Remove every hook; a second call does nothing."""
        self._is_on = False
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.remove()

    def _hook(self) -> None:
        self._is_on = True
        for name, module in self._modules.items():
            self._handles.append(module.register_forward_hook(partial(self._on_output, name)))

    def _safely(self, call: Callable[..., None], *args: Any) -> None:
        """Call a part of the probe and add its time; an error ends the trace."""
        begin = time.perf_counter()
        try:
            with torch.no_grad():
                call(*args)
        except Exception as error:  # noqa: BLE001  # out of memory, or an unusual module
            self.error = error.with_traceback(None)  # its frames would keep tensors alive
            self._is_on = False
        finally:
            self.seconds += time.perf_counter() - begin

    def _on_output(self, name: str, module: nn.Module, _inputs: Any, output: Any) -> None:
        is_again = self._goes_back and name in self._called_forward
        if self._is_on and torch.is_grad_enabled() and not is_again:
            self._safely(self._take, name, module, output)

    def _take(self, name: str, module: nn.Module, output: Any) -> None:
        """Record a call and read its output."""
        if not self._goes_back:
            self._called_forward.add(name)
        tensors = [
            one for one in {id(t): t for t in tensors_in(output)}.values() if self._reads(one)
        ]
        outputs = tuple(self._place(tensor) for tensor in tensors)
        self._counts[name] = call = self._counts.get(name, 0) + 1
        place, ends = None, ends_of(module)
        if ends and tensors:
            place = len(self._readings.saturated)
            counts = [saturated(tensor.detach(), ends) for tensor in tensors]
            self._readings.saturated.append(torch.stack(counts).sum())
        self._calls.append(Called(name, call, type(module).__name__, outputs, place))

    def _reads(self, tensor: Tensor) -> bool:
        is_plain = tensor.is_floating_point() and tensor.layout is torch.strided
        return is_plain and tensor.device == self._device and tensor.numel() > 0

    def _place(self, tensor: Tensor) -> int:
        """Return the index of a tensor's reading; one that a part passed on is not read again."""
        version = -1 if tensor.is_inference() else tensor._version
        alive, known, place = self._known.get(id(tensor), (None, 0, 0))
        if alive and alive() is tensor and known == version:
            return place
        place = self._readings.add(tensor.detach())
        self._known[id(tensor)] = (weakref.ref(tensor), version, place)
        if tensor.requires_grad:
            self._handles.append(tensor.register_hook(partial(self._on_gradient, place)))
        return place

    def _on_gradient(self, place: int, gradient: Tensor) -> None:
        if self._is_on:
            self._safely(self._take_gradient, place, gradient)

    def _take_gradient(self, place: int, gradient: Tensor) -> None:
        readings = self._readings
        if not self._goes_back:
            self._goes_back = True
            scale = self._scale()  # the optimizer's step changes it in place
            readings.scale = None if scale is None else scale.detach().clone()
        if place not in readings.gradients and gradient.layout is torch.strided:
            readings.gradients[place] = norm_of(gradient.detach())

    def _land(self) -> Landing:
        """Start copying to the host; the first pinned buffer of a size may wait for the device."""
        vector = self._readings.vector(precision(self._device))
        transfer = Ring(self._device, len(vector), count=1).copy([vector])
        readings = self._readings
        return Landing(
            transfer,
            self._calls,
            readings.elements,
            list(readings.gradients),
            scaled=readings.scale is not None,
            replicas=self._replicas,
        )


def tensors_in(output: Any) -> Iterator[Tensor]:
    """Yield the tensors of an output, including those in dicts, lists and tuples."""
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, Mapping):
        for part in output.values():
            yield from tensors_in(part)
    elif isinstance(output, (list, tuple)):
        for part in output:
            yield from tensors_in(part)
