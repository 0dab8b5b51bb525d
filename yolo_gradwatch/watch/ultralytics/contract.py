"""What the watch requires of Ultralytics, checked before reading a number where possible.

Read in ultralytics 8.4.0 to 8.4.190. If a version or a custom trainer breaks a requirement, the
training is not watched and a warning says why: no number is better than a wrong one.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
from functools import cache
from textwrap import dedent
from typing import TYPE_CHECKING, Any

from yolo_gradwatch.measure.clipping import CLIP_NORM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

_CLIPS_NORM = "clip_grad_norm_"
_CLIPS = (_CLIPS_NORM, "clip_grad_value_")
_HANDS_ON = ".optimizer_step"
_READS = ("unscale_", _HANDS_ON)
"""Name endings of functions that clip, and of calls after which the gradients are unscaled."""

_TRAINED = re.compile(r"\bself\.(model|optimizer)\b")
_STEP = (
    "call self.scaler.unscale_(self.optimizer) there, then clip, then "
    "self.scaler.step(self.optimizer)"
)
_EVENT = "run_callbacks as Ultralytics' trainer does"
_CALLBACK = re.compile(r"^[^#\n]*\brun_callbacks\(\s*[\"'](\w+)", re.MULTILINE)


class Unwatchable(RuntimeError):  # noqa: N818  # describes a training
    """A training whose gradients cannot be read at the right moment: why, and what to do."""


def check_step(kind: type) -> None:
    """Raise if the optimizer step of this trainer class clips before it unscales.

    Judged by its source. A step that does not unscale at all is noticed when it runs.

    Raises:
        Unwatchable: It does; the readable gradients would be clipped, or scaled by AMP.
    """
    for owner, calls in _steps(kind):
        clipped = False
        for name, call in calls:
            clipped |= _clips_model(name, call)
            if clipped and name.endswith(_READS):
                raise Unwatchable(
                    f"{owner.__name__}.optimizer_step clips the gradients before scaler.unscale_ "
                    "is called, so the raw gradients cannot be read. Remove that clip, or call "
                    "self.scaler.unscale_(self.optimizer) before it"
                )


def check_event(kind: type, event: str) -> None:
    """Raise if this trainer class runs no such callback; pass it if its source is unavailable.

    Raises:
        Unwatchable: The class runs callbacks, but not this one.
    """
    mro = inspect.getmro(kind)
    trains = next((owner for owner in mro if "_do_train" in vars(owner)), object)
    known = {name for owner in mro for name in _events(owner)}
    if _events(trains) and event not in known:
        raise Unwatchable(f"{kind.__name__} runs no callback {event}. {_remedy(kind, _EVENT)}")


def skipped_unscale(kind: type) -> Unwatchable:
    """Return the error for an optimizer step that did not call ``unscale_`` first."""
    owner = next(o for o in inspect.getmro(kind) if "optimizer_step" in vars(o) or o is object)
    return Unwatchable(
        "the optimizer stepped, but scaler.unscale_ was not called first, so the gradients "
        "could not be read unscaled and unclipped. " + _remedy(owner, _STEP)
    )


def never_began(kind: type, event: str) -> Unwatchable:
    """Return the error for a training that continued without a required earlier event."""
    said = f"{kind.__name__} did not run the callback {event}"
    return Unwatchable(f"{said}. {_remedy(kind, _EVENT)}")


def unknown_bar() -> str:
    """Return the warning to show if `shows_bar` is false, with what to do."""
    return f"no live panel: the progress bar does not write the way it used to. {_update()}"


def shows_bar(bar: Callable[..., Any]) -> bool:
    """Return whether this progress bar writes its frames to the stream that it is given.

    It does so by ``progress(bar, frame)`` from 8.4.130 on, and by ``write`` before; a bar
    swallows exceptions from the stream.

    Args:
        bar: A class such as ``ultralytics.utils.tqdm.TQDM``.
    """
    stream = _Probe()
    for _ in bar(range(2), file=stream, disable=False, mininterval=0.0):
        pass
    return stream.frames > 0


def clip_norm(trainer: Any) -> float:
    """Return the total norm above which this trainer clips, read from its ``optimizer_step``."""
    for _, calls in _steps(type(trainer)):
        for name, call in calls:
            if name.endswith(_CLIPS_NORM) and _clips_model(name, call):
                return _limit(call)
    return CLIP_NORM


class _Probe(io.StringIO):
    """A stream that counts the frames of a progress bar."""

    frames = 0

    def progress(self, bar: object, frame: object) -> None:
        self.frames += isinstance(bar, int) and isinstance(frame, str)

    def write(self, text: str) -> int:
        self.frames += bool(text.strip())
        return len(text)


def _steps(kind: type) -> Iterator[tuple[type, list[tuple[str, ast.Call]]]]:
    """Yield each class whose optimizer step runs, with its calls, down to the last super() call."""
    for owner in inspect.getmro(kind):
        if "optimizer_step" in vars(owner):
            calls = list(_calls(vars(owner)["optimizer_step"]))
            yield owner, calls
            if not any(name.endswith(_HANDS_ON) for name, _ in calls):
                return


def _calls(function: object) -> Iterator[tuple[str, ast.Call]]:
    """Yield name and node of each call in the source of a function, in source order."""
    try:
        tree = ast.parse(dedent(inspect.getsource(function)))  # type: ignore[arg-type]  # or raises
    except (OSError, TypeError, SyntaxError):  # no source, or no function
        return
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for call in sorted(calls, key=lambda call: (call.lineno, call.col_offset)):
        yield ast.unparse(call.func), call


def _clips_model(name: str, call: ast.Call) -> bool:
    """Return whether this call clips the trained model, not another model of the trainer."""
    what = ast.unparse(call.args[0]) if call.args else ""
    return name.endswith(_CLIPS) and ("self." not in what or bool(_TRAINED.search(what)))


def _limit(call: ast.Call) -> float:
    """Return the total norm in a ``clip_grad_norm_`` call; the default if it is not a constant."""
    named = [word.value for word in call.keywords if word.arg == "max_norm"]
    for value in (*named, *call.args[1:2]):
        if isinstance(value, ast.Constant) and isinstance(value.value, (int, float)):
            return float(value.value)
    return CLIP_NORM


def _events(owner: type) -> frozenset[str]:
    """Return the names of the callbacks that a class's module runs."""
    module = inspect.getmodule(owner)
    return _events_of(module) if module else frozenset()


@cache  # by module: a class may be re-created for each training
def _events_of(module: ModuleType) -> frozenset[str]:
    try:
        return frozenset(_CALLBACK.findall(inspect.getsource(module)))
    except (OSError, TypeError):  # no source
        return frozenset()


def _remedy(owner: type, instead: str) -> str:
    """Return what to do about a class that breaks the contract, Ultralytics' own or the user's."""
    if owner.__module__.partition(".")[0] in {"ultralytics", "builtins"}:
        return _update()
    return f"Call super() in {owner.__name__}, or {instead}"


def _update() -> str:
    import ultralytics  # heavy; only a training pays for it

    return (
        f"Ultralytics {ultralytics.__version__} works differently from the versions this "
        "GradWatch knows: update it (pip install -U yolo-gradwatch)"
    )
