"""Time, synchronizations and memory of the alternatives that a user could pick.

    python benchmarks/peers.py [--model yolo26n.yaml] [--imgsz 160] [--batch 4] [--steps 60]
        [--rounds 3] [--device cpu] >> benchmarks/RESULTS.md

Each tool watches the same training and is attached as its documentation shows, to all parameters,
at every step. The other tools are the optional group ``peers``; a missing one is skipped and noted
in the table. A round is one training with each, in turns, each in a separate process so that no
hook or cache of one tool affects the next. Work at the end of an epoch or run is not part of a
step.

Seconds are those of the median step after the first ``WARM``. Most of the default steps are among
our first 50, each of which is a window: our most expensive ones.

PyTorch's profiler counts synchronizations in ``PROFILED`` further steps, less those of the bare
run. On CUDA these are the calls in which the host waits for the device (``SYNCHRONIZING``). A CPU
has no device to wait for, so reads of a tensor's value count (``.item()`` and its callers), each of
which would wait on CUDA. Copies of tensors to the host, which also wait on CUDA, cannot be seen on
a CPU: ``wandb.watch`` makes one per parameter.

Memory is the peak of the process before the profiler starts, including the tool's code and its
child processes (``wandb`` has one); on CUDA, the peak on the device is listed too.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil
import torch
from machine import heading, peak_memory, spread, table
from torch.profiler import ProfilerActivity, profile

from yolo_gradwatch import GradWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

WARM = 5
PROFILED = 3
SYNCHRONIZING = {
    "cpu": {"aten::_local_scalar_dense"},
    "cuda": {"cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize"},
}
"""Names of the profiler events that count, by device type."""

OPTIONS = ("model", "imgsz", "batch", "steps", "device")


# --- ways -----------------------------------------------------------------------------------------


def nothing(trainer: Any) -> None:
    """Attach nothing."""


def gradwatch(trainer: Any) -> None:
    """Attach our watch with its defaults; without a terminal there is no panel."""
    GradWatch().attach(trainer)


def item_a_parameter(trainer: Any) -> None:
    """Read each norm in a hook on the parameter, as in Ultralytics' issue #21672.

    Callbacks see no gradients: the optimizer step zeroes them before the next callback. Hooks do,
    but before the scaler unscales them, so under AMP their values include the scale.
    """
    norms = {}

    def reading(name: str) -> Callable[[torch.Tensor], None]:
        def read(gradient: torch.Tensor) -> None:
            norms[name] = gradient.norm().item()

        return read

    def hook(trainer: Any) -> None:
        for name, parameter in trainer.model.named_parameters():
            if parameter.requires_grad:
                parameter.register_hook(reading(name))

    trainer.add_callback("on_train_start", hook)


def wandb_watch(trainer: Any) -> None:
    """Watch the model with W&B, offline, and log each step with its loss."""
    import wandb  # noqa: PLC0415  # from the group peers
    from trainings import HOME  # noqa: PLC0415  # changes Ultralytics' settings

    run = wandb.init(mode="offline", project="peers", dir=HOME)
    trainer.add_callback(
        "on_train_start", lambda trainer: run.watch(trainer.model, log="gradients", log_freq=1)
    )
    trainer.add_callback(
        "on_train_batch_end", lambda trainer: run.log({"loss": trainer.loss.item()})
    )
    trainer.add_callback("on_train_end", lambda _trainer: run.finish())


def torchmortem(trainer: Any) -> None:
    """Attach an autopsy with its defaults and pass it the loss of each step."""
    from torchmortem import Autopsy  # noqa: PLC0415  # from the group peers

    def attach(trainer: Any) -> None:
        autopsy = Autopsy(trainer.model, optimizer=trainer.optimizer)
        autopsy.attach()
        trainer.add_callback(
            "on_train_batch_end", lambda trainer: autopsy.step(loss=trainer.loss.item())
        )
        trainer.add_callback("on_train_end", lambda _trainer: autopsy.detach())

    trainer.add_callback("on_train_start", attach)


def monitorch(trainer: Any) -> None:
    """Watch the gradients of weights and biases through separate lenses.

    One lens for both would skip modules without a bias, as most convolutions are.
    """
    from monitorch.inspector import PyTorchInspector  # noqa: PLC0415  # from the group peers
    from monitorch.lens import ParameterGradientGeometry  # noqa: PLC0415

    lenses = [ParameterGradientGeometry(parameters=[name]) for name in ("weight", "bias")]
    inspector = PyTorchInspector(lenses=lenses, visualizer="matplotlib")
    trainer.add_callback("on_train_start", lambda trainer: inspector.attach(trainer.model))
    trainer.add_callback("on_train_epoch_end", lambda _trainer: inspector.tick_epoch())


def lightning_grad_norm(trainer: Any) -> None:
    """Call Lightning's ``grad_norm`` before each optimizer step, as in its documentation.

    Ultralytics has no hook there, so the trainer's ``optimizer_step`` is overridden.
    """
    from pytorch_lightning.utilities import grad_norm  # noqa: PLC0415  # from the group peers

    step = trainer.optimizer_step

    def watched_step() -> None:
        trainer.grad_norms = grad_norm(trainer.model, norm_type=2)
        step()

    trainer.optimizer_step = watched_step


class Way(NamedTuple):
    """A way to watch a training.

    Attributes:
        attach: Attaches it to a trainer.
        package: Import name of the package that it needs.
    """

    attach: Callable[[Any], None]
    package: str | None = None


BARE = "bare run"
WAYS = {
    BARE: Way(nothing),
    "yolo_gradwatch": Way(gradwatch),
    "an .item() a parameter": Way(item_a_parameter),
    "wandb.watch": Way(wandb_watch, "wandb"),
    "torchmortem": Way(torchmortem, "torchmortem"),
    "monitorch": Way(monitorch, "monitorch"),
    "Lightning grad_norm": Way(lightning_grad_norm, "pytorch_lightning"),
}


# --- measuring ------------------------------------------------------------------------------------


class SyncCounter:
    """Counts how often the host waits for the device, or would have to with one.

    Args:
        device: The model's device.
    """

    def __init__(self, device: torch.device) -> None:
        self._names = SYNCHRONIZING[device.type]
        activities = [ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._profiler = profile(activities=activities)

    def start(self) -> None:
        """Start counting."""
        self._profiler.start()

    def stop(self) -> int:
        """Stop counting and return the count."""
        self._profiler.stop()
        events = self._profiler.key_averages()
        return sum(event.count for event in events if event.key in self._names)


@dataclass(frozen=True)
class Measured:
    """Measurements of one training.

    Attributes:
        seconds: Duration of the median step.
        synchronizations: Synchronizations per step, including those of the training itself.
        memory: Peak of the process plus its children, in MB.
        device_memory: Peak on the device, in MB; 0 on a CPU.
    """

    seconds: float
    synchronizations: float
    memory: float
    device_memory: float


class Gauge:
    """Measures memory and synchronizations after the timed steps.

    Args:
        steps: Number of steps that only the clock measures.

    Attributes:
        memory: Peak of the process plus its children, in MB.
        device_memory: Peak on the device, in MB.
        synchronizations: Synchronizations in the profiled steps.
    """

    def __init__(self, steps: int) -> None:
        self._begun = -steps
        self.memory = self.device_memory = 0.0
        self.synchronizations = 0

    def tick(self, trainer: Any) -> None:
        """Measure at the start of a step."""
        if self._begun == 0:
            self.memory = peak_memory() + _memory_of_children()
            if trainer.device.type == "cuda":
                self.device_memory = torch.cuda.max_memory_allocated() / 1e6
            self._counter = SyncCounter(trainer.device)
            self._counter.start()
        elif self._begun == PROFILED:
            self.synchronizations = self._counter.stop()
        self._begun += 1


def _memory_of_children() -> float:
    children = psutil.Process().children(recursive=True)
    return sum(child.memory_info().rss for child in children) / 1e6


def measure(name: str, steps: int, **options: Any) -> Measured:
    """Train in this process with the named tool."""
    from trainings import StepClock, training  # noqa: PLC0415  # changes Ultralytics' settings

    clock, gauge = StepClock(), Gauge(steps)

    def attach(trainer: Any) -> None:
        WAYS[name].attach(trainer)
        trainer.add_callback("on_train_batch_start", gauge.tick)

    training(attach, clock=clock, steps=steps + PROFILED + 1, amp=False, **options)
    return Measured(
        median(clock.seconds[WARM:steps]),
        gauge.synchronizations / PROFILED,
        gauge.memory,
        gauge.device_memory,
    )


def measure_apart(name: str, options: Mapping[str, Any]) -> Measured | str:
    """Train in a separate process; without a result, return the reason."""
    package = WAYS[name].package
    if package and not importlib.util.find_spec(package):
        return "not installed"
    words = [word for key in OPTIONS for word in (f"--{key}", str(options[key]))]
    command = [sys.executable, str(Path(__file__)), *words, "--way", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # ours
    if done.returncode:
        return f"failed: {reason(done.stderr) or f'exit code {done.returncode}'}"
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def reason(printed: str) -> str:
    """Return the last printed error, else the last line, short enough for a table."""
    lines = [line for line in printed.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
    return (errors or lines or [""])[-1].replace("|", "/")[:80]


# --- report ---------------------------------------------------------------------------------------


def report(options: Mapping[str, Any], found: Mapping[str, Sequence[Measured | str]]) -> str:
    """Return the table of all measurements.

    Args:
        options: Options of the trainings.
        found: For each tool, the measurements of each round, or the reason for a missing one.
    """
    title = f"Other ways to watch {options['model'].removesuffix('.yaml')} at {options['imgsz']}"
    there = [name for _, name in WAYS.values() if name and importlib.util.find_spec(name)]
    where = f"{options['device']}, batch {options['batch']}"
    count = f"{len(found[BARE])} rounds of {options['steps']} steps in turns"
    columns = ["way", "ms a step", "to the bare run", "synchronizations a step"]
    columns += ["memory, MB", "above the bare run, MB", "on the device, MB"]
    rows = [[name, *_row(results, found[BARE])] for name, results in found.items()]
    packages = ("torch", "ultralytics", *there)
    return f"{heading(title, packages, where, count)}\n{table(columns, rows)}\n"


def _row(results: Sequence[Measured | str], bare: Sequence[Measured | str]) -> list[str]:
    words = [one for one in (*results, *bare) if isinstance(one, str)]
    if words:
        return [words[0], *["-"] * 5]
    pairs = list(zip(results, bare, strict=True))
    device = max(one.device_memory for one in results)
    return [
        spread([1e3 * one.seconds for one in results]),
        spread([one.seconds / other.seconds for one, other in pairs], ".3f"),
        f"{fmean(one.synchronizations - other.synchronizations for one, other in pairs):.0f}",
        f"{median(one.memory for one in results):.0f}",
        spread([one.memory - other.memory for one, other in pairs], ".0f"),
        f"{device:.0f}" if device else "-",
    ]


def main() -> None:
    """Train with each tool and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="yolo26n.yaml")
    parser.add_argument("--imgsz", type=int, default=160)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)  # one training, as JSON
    chosen = parser.parse_args()
    options = {name: getattr(chosen, name) for name in OPTIONS}
    if chosen.way:
        print("\n" + json.dumps(asdict(measure(chosen.way, **options))))
        return
    found: dict[str, list[Measured | str]] = {name: [] for name in WAYS}
    for _ in range(chosen.rounds):
        for name, results in found.items():
            results.append(measure_apart(name, options))
    print(report(options, found))


if __name__ == "__main__":
    sys.exit(main())
