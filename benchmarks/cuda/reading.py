"""One reading of all gradients by our kernel, by ``_foreach_norm`` and by the trainer's clip.

The gradients are random; there is no training. Device time is measured between two CUDA events; the
device sleeps before the first one, so that all launches are queued when it starts, and its caches
are overwritten. Host time is measured until the call returns, with an idle device.
"""

from __future__ import annotations

import contextlib
import time
from statistics import median
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from scale import wide
from trainings import YOLO

from benchmarks.cuda.job import has_cuda, numbers
from yolo_gradwatch.measure import capture as capture_module
from yolo_gradwatch.measure import model_layout
from yolo_gradwatch.measure.capture import Capture
from yolo_gradwatch.measure.norms import norms_of
from yolo_gradwatch.measure.ring import RING, Slot
from yolo_gradwatch.measure.table import Table
from yolo_gradwatch.measure.updates import Updates

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from benchmarks.cuda.job import Job

REPEATS = 40
ASLEEP = 20_000_000
"""Least cycles that the device sleeps, about 10 ms."""

CYCLES = 4e9
"""Cycles for each second that the host needs for the launches: twice the clock rate of any GPU."""

FLUSHED = 2**28  # bytes, more than any cache holds
COPIED = 2**30  # bytes


def measure(job: Job) -> None:
    """Print a row for each size of YOLO26 and for a model of 5,000 modules."""
    with contextlib.ExitStack() as stack:
        if not has_cuda():  # without CUDA there is no stream
            stack.enter_context(mock.patch.object(torch.cuda, "current_stream", return_value=None))
        _measure(job)


def _measure(job: Job) -> None:
    clock = Clock(5 if job.is_small else REPEATS)
    bandwidth = clock.bandwidth()
    if bandwidth:
        job.text(f"A copy on the device moves {bandwidth / 1e12:.2f} TB/s, to and fro.")
    job.head("model", "tensors", "MB", "µs that its bytes take", *COLUMNS)
    models = ["yolo26n", "yolo26s", "yolo26m", "yolo26l", "yolo26x", "5,000 modules"]
    for name in models[:1] if job.is_small else models:
        parameters = _parameters(name)
        size = sum(4 * one.numel() for one in parameters)
        floor = 1e6 * size / bandwidth if bandwidth else 0.0
        cells = [f"{len(parameters):,}", f"{size / 1e6:.1f}", f"{floor:.1f}" if floor else "-"]
        job.row(name, *cells, *_costs(parameters, floor, clock))
    job.text(NOTE.strip())


COLUMNS = (
    *("kernel, µs", "to its bytes", "reading with its copy, µs", "with weights, µs"),
    *("update, µs", "foreach, µs", "clip, µs"),
    *("host: reading, µs", "without launches, µs", "foreach, µs", "clip, µs"),
)
NOTE = """
All but the last four columns are time on the device. *Kernel* reads every gradient once, *to its
bytes* is its time over that which its bytes take at the speed of a copy (goal: 1.5 from YOLO26m
on); *reading* is what a step costs, *with weights* and *update* come in addition on the first step
of a window. *Foreach* is `_foreach_norm` with float64 and a stack, *clip* is
`torch.nn.utils.clip_grad_norm_`. *Without launches*: on the host, a kernel is replaced by a call
that does nothing. Medians; before each call the caches of the device are filled with something
else.
"""


class Clock:
    """Measures the time of calls on the host and, with CUDA, on the device.

    Args:
        repeats: Number of calls for the median.
    """

    def __init__(self, repeats: int = REPEATS) -> None:
        self._repeats = repeats
        size = FLUSHED if has_cuda() else 8
        self._other = torch.empty(size, dtype=torch.uint8, device=_device())

    def bandwidth(self) -> float:
        """Return the bytes per second that a device copy reads and writes; 0 on a CPU."""
        if not has_cuda():
            return 0.0
        a, b = (torch.empty(COPIED, dtype=torch.uint8, device=_device()) for _ in range(2))
        return 2e6 * COPIED / self.on_device(lambda: a.copy_(b))

    def on_device(self, call: Callable[[], object], after: Callable[[], object] = list) -> float:
        """Return the device microseconds of the median call."""
        asleep = max(ASLEEP, round(CYCLES * 1e-6 * self.on_host(call, after, repeats=3)))
        taken = []
        for _ in range(self._repeats):
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            self._other.zero_()
            torch.cuda._sleep(asleep)  # noqa: SLF001  # no public API
            events[0].record()
            call()
            events[1].record()
            torch.cuda.synchronize()
            taken.append(1e3 * events[0].elapsed_time(events[1]))
            after()
        return median(taken)

    def on_host(
        self, call: Callable[[], object], after: Callable[[], object] = list, repeats: int = 0
    ) -> float:
        """Return the microseconds until the median call returns."""
        call()
        after()
        taken = []
        for _ in range(repeats or self._repeats):
            if has_cuda():
                torch.cuda.synchronize()
            begin = time.perf_counter()
            call()
            taken.append(1e6 * (time.perf_counter() - begin))
            after()
        return median(taken)


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if has_cuda() else torch.device("cpu")


def _parameters(name: str) -> list[nn.Parameter]:
    is_yolo = name.startswith("yolo")
    model = (YOLO(f"{name}.yaml").model if is_yolo else wide(5000)).to(_device())
    parameters: list[nn.Parameter] = list(model_layout.watched(model))
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    return parameters


def _costs(parameters: list[nn.Parameter], floor: float, clock: Clock) -> list[str]:
    capture, bare = Capture(parameters), idle_capture(parameters)
    gradients = [one.grad for one in parameters if one.grad is not None]

    def taking(one: Capture, *, weighed: bool = False) -> tuple[Callable[[], None], Any]:
        def take() -> None:
            one.take(1, 1, [], detailed=weighed, weighed=weighed)

        return take, lambda: list(one.drain(wait=True))

    def foreach() -> None:
        norms_of(gradients)

    def clip() -> None:
        torch.nn.utils.clip_grad_norm_(parameters, 10.0)

    host = [clock.on_host(*taking(capture)), clock.on_host(*taking(bare))]
    host += [clock.on_host(foreach), clock.on_host(clip)]
    if not has_cuda():
        return ["-"] * 7 + numbers(host)
    kernel = _kernel(capture, gradients, clock)
    reading, weighed = (clock.on_device(*taking(capture, weighed=w)) for w in (False, True))
    device = [reading, weighed - reading, _update(parameters, clock)]
    device += [clock.on_device(foreach), clock.on_device(clip)]
    alone = [f"{kernel:.1f}", f"{kernel / floor:.2f}"] if kernel else ["none built", "-"]
    return [*alone, *numbers(device), *numbers(host)]


def _kernel(capture: Capture, gradients: list[torch.Tensor], clock: Clock) -> float:
    """Return the microseconds of the kernel launch alone; 0 without a kernel."""
    if not capture._tables:  # noqa: SLF001  # the parts of a reading
        return 0.0
    table, slot = capture._tables[0], capture._ring.slots[0]  # noqa: SLF001
    return clock.on_device(lambda: table.read(gradients, slot.device, slot.ints, 0))


def _update(parameters: list[nn.Parameter], clock: Clock) -> float:
    updates = Updates(parameters)

    def compare() -> None:
        updates.begin()
        updates.end()

    return clock.on_device(compare)


# --- without launches -----------------------------------------------------------------------------


class _Idle:
    """A kernel that does nothing, and an event that is always complete."""

    def __getitem__(self, _grid: object) -> Callable[..., None]:
        return lambda *_args, **_options: None

    def record(self, _stream: object) -> None:
        """Do nothing."""

    def query(self) -> bool:
        """Return that the event is complete."""
        return True


def idle_capture(parameters: list[nn.Parameter]) -> Capture:
    """Return a capture with the host's work of a reading but an idle kernel, on any machine."""
    idle: Any = _Idle()
    kernel = SimpleNamespace(BLOCK=1024, read=idle, keep=idle, compare=idle)

    def table_of(tensors: list[torch.Tensor]) -> Table:
        return Table([one.numel() for one in tensors], tensors[0].device, kernel)

    with mock.patch.object(capture_module, "table_of", table_of):
        capture = Capture(parameters)
    slots = capture._ring.slots  # noqa: SLF001  # on a CPU there are none
    if not slots:
        size = 1000 + sum(one.chunks.numbers for one in capture._tables or ())  # noqa: SLF001
        for host in torch.zeros(RING, size + size % 2, dtype=torch.float64):
            slots.append(Slot(host, idle, host, host.view(torch.int32)))
    return capture
