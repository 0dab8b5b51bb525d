"""Our share of a step on host and device: the real trainer with the watch off and on in turns."""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import tempfile
import time
from bisect import bisect_right
from collections import defaultdict
from itertools import accumulate
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import meter
import overhead
import torch
from meter import PARTS
from overhead import Measured
from torch.profiler import ProfilerActivity, profile, record_function
from trainings import FIRST, StepClock, training

from benchmarks.cuda.job import has_cuda, options, quiet
from yolo_gradwatch import GradWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from benchmarks.cuda.job import Job

LATE = 5000
ROUNDS = 3
STEPS = FIRST + 40
PROFILED = range(17, 32)  # steps; no trace is due among them
FOR_PROFILES = 45.0  # seconds
GOAL = (0.0025, 150e-6)  # share of a step, or seconds
MARK = "yolo_gradwatch"


class Way(NamedTuple):
    """A configuration of the watch.

    Attributes:
        watch: Key of `overhead.WATCHES`.
        begin: Number of the first step.
    """

    watch: str
    begin: int


WAYS = {
    "off": Way("off", 1),
    "on": Way("on", 1),
    f"on, as at step {LATE:,}": Way("on", LATE),
}


def measure(job: Job) -> None:
    """Print the step times, our share by part, and the device time of our kernels."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = options(job, Path(folder))
        found, peaks = _rounds(job, chosen)
        rounds = len(found["off"].first)
        where = ", ".join(f"{name} {value}" for name, value in chosen.items() if name != "model")
        what = f"{Path(chosen['model']).stem}, {where}: {rounds} rounds of {_steps(job)} steps"
        job.text(f"The trainer, {what} in turns.")
        job.write(overhead._steps_table(found, found["off"]))  # noqa: SLF001  # reuse its table
        if found["on"].parts:
            job.text(f"Inside of us after the first {FIRST}, µs a step, mean over the rounds:")
            job.write(overhead._parts_table(found))  # noqa: SLF001  # reuse its table
        if peaks:
            job.text(f"Most memory on the device, MB: {_listed(peaks)}.")
        if not has_cuda():
            job.text("Kernels on the device: need CUDA.")
        elif not job.is_small:
            _profiles(job, chosen, found)


def _rounds(job: Job, chosen: dict[str, Any]) -> tuple[dict[str, Measured], dict[str, list[float]]]:
    found = {name: Measured() for name in WAYS}
    peaks: dict[str, list[float]] = defaultdict(list)
    with quiet():
        if not job.is_small:
            overhead.measure("on", 1, 8, chosen)  # warm-up: loads modules
        for number in range(1 if job.is_small else ROUNDS):
            begin = time.perf_counter()
            for name, (watch, first) in WAYS.items():
                gc.collect()  # the trainer before
                if has_cuda():
                    torch.cuda.reset_peak_memory_stats()
                found[name].add(*overhead.measure(watch, first, _steps(job), chosen))
                if has_cuda():
                    peaks[name].append(torch.cuda.max_memory_allocated() / 1e6)
            taken = time.perf_counter() - begin
            if job.left < taken + FOR_PROFILES and number + 1 < ROUNDS:
                break  # no time for another round
    return found, peaks


def _steps(job: Job) -> int:
    return 10 if job.is_small else STEPS


def _listed(peaks: Mapping[str, Sequence[float]]) -> str:
    return "; ".join(f"{name} {max(found):,.1f}" for name, found in peaks.items())


# --- on the device --------------------------------------------------------------------------------


def _profiles(job: Job, chosen: dict[str, Any], found: dict[str, Measured]) -> None:
    job.text(f"What we launch, by torch.profiler in {len(PROFILED)} steps of a further training:")
    job.head("watch", "µs a step on the device", "launches a step", "each")
    for name, (watch, begin) in WAYS.items():
        if watch == "off":
            continue
        spent = device_time(_trace(begin, chosen))
        count = len(PROFILED)
        by_name = sorted(spent.items(), key=lambda one: -one[1].seconds)
        words = [one.words(kind, count) for kind, one in by_name[:6]]
        seconds = sum(one.seconds for one in spent.values()) / count
        launches = sum(one.count for one in spent.values()) / count
        job.row(name, f"{1e6 * seconds:.1f}", f"{launches:.1f}", ", ".join(words))
        if begin == LATE:
            verdict = _verdict(found[name], found["off"], seconds)
    job.text(verdict)


def _verdict(ours: Measured, off: Measured, device: float) -> str:
    host, step = fmean(ours.own_steady), fmean(off.steady)
    share, allowed = (host + device) / step, max(GOAL[0] * step, GOAL[1])
    word = "met" if host + device <= allowed else "missed"
    return (
        f"As at step {LATE:,}: {1e6 * host:.0f} µs on the host and {1e6 * device:.0f} on the "
        f"device, {100 * share:.2f} % of a step; the goal of {1e6 * allowed:.0f} µs is {word}."
    )


def _trace(begin: int, chosen: dict[str, Any]) -> dict[str, Any]:
    """Return a profiler trace of some steps with our calls marked."""
    clock = StepClock()
    profiler = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])

    def attach(trainer: Any) -> None:
        watch = GradWatch(live=False).attach(trainer)
        trainer.add_callback("on_train_start", lambda _: overhead._number_from(begin, watch))  # noqa: SLF001
        trainer.add_callback("on_train_batch_start", tick)

    def tick(_trainer: Any) -> None:
        if len(clock.begins) == PROFILED.start:
            profiler.start()
        elif len(clock.begins) == PROFILED.stop:
            torch.cuda.synchronize()
            profiler.stop()

    with quiet(), _marked():
        training(attach, clock=clock, steps=PROFILED.stop + 1, **chosen)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        trace: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return trace


@contextlib.contextmanager
def _marked() -> Iterator[None]:
    """Mark all our calls for the profiler until the block ends."""
    with contextlib.ExitStack() as stack:
        for owner, name in (function for part in PARTS.values() for function in part):
            original = vars(owner).get(name)
            stack.callback(meter.restore, owner, name, original)  # as a Meter
            setattr(owner, name, _marking(getattr(owner, name)))
        yield


def _marking(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def marked(*args: Any, **kwargs: Any) -> Any:
        with record_function(MARK):
            result = call(*args, **kwargs)
            return list(result) if hasattr(result, "__next__") else result  # exhaust it here

    return marked


class Spent(NamedTuple):
    """Work on the device.

    Attributes:
        count: Number of launches.
        seconds: Total time.
    """

    count: int
    seconds: float

    def words(self, name: str, steps: int) -> str:
        """Describe the launches and time per step."""
        return f"{short(name)} {self.count / steps:.1f} times, {1e6 * self.seconds / steps:.1f} µs"


LAUNCHING = {"cuda_runtime", "cuda_driver"}
RUNNING = {"kernel", "gpu_memcpy", "gpu_memset"}


def device_time(trace: Mapping[str, Any]) -> dict[str, Spent]:
    """Return the device work launched by our calls, by name.

    A launch is ours if it happens during a marked call on its thread. Work on the device has the
    correlation number of its launch.
    """
    events = [event for event in trace["traceEvents"] if "dur" in event]
    calls = defaultdict(list)
    for event in events:
        if event.get("cat") == "user_annotation" and event["name"] == MARK:
            calls[event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    within = {tid: _Within(found) for tid, found in calls.items()}
    ours = {
        event["args"].get("correlation")
        for event in events
        if event.get("cat") in LAUNCHING
        and event["tid"] in within
        and event["ts"] in within[event["tid"]]
    }
    spent: dict[str, Spent] = {}
    for event in events:
        if event.get("cat") in RUNNING and event["args"].get("correlation") in ours:
            count, seconds = spent.get(event["name"], (0, 0.0))
            spent[event["name"]] = Spent(count + 1, seconds + event["dur"] / 1e6)
    return spent


class _Within:
    """A set of times: those within any of several intervals, which may overlap."""

    def __init__(self, intervals: Sequence[tuple[float, float]]) -> None:
        found = sorted(intervals)
        self._begins = [begin for begin, _ in found]
        self._ends = list(accumulate((end for _, end in found), max))

    def __contains__(self, moment: float) -> bool:
        place = bisect_right(self._begins, moment) - 1
        return place >= 0 and moment <= self._ends[place]


def short(name: str) -> str:
    """Return the name of a kernel without types and arguments."""
    return name.partition("<")[0].partition("(")[0].split("::")[-1].strip()[:40].replace("|", "/")
