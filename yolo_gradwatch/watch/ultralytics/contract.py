"""What the watch needs of Ultralytics, checked where it can be before a number is read.

Read in ultralytics 8.4.0 to 8.4.190. Where a version, or a trainer of the user's own, breaks a part
of it, the training is not watched and a warning says why: no number is better than a wrong one.
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
"""How the names of functions end that clip, and after which the gradients are unscaled."""

_TRAINED = re.compile(r"\bself\.(model|optimizer)\b")
_STEP = (
    "call self.scaler.unscale_(self.optimizer) there, then clip, then "
    "self.scaler.step(self.optimizer)"
)
_EVENT = "run_callbacks as Ultralytics' trainer does"
_CALLBACK = re.compile(r"^[^#\n]*\brun_callbacks\(\s*[\"'](\w+)", re.MULTILINE)


class Unwatchable(RuntimeError):  # noqa: N818  # says what a training is, as LookupError does not
    """A training whose gradients cannot be read at the right moment: why, and what to do."""


def check_step(kind: type) -> None:
    """Raise if the optimizer step of this trainer class clips before it unscales.

    Judged by its source. One that does not unscale at all is noticed when it steps.

    Raises:
        Unwatchable: It does; the gradients that could be read would be clipped, or scaled by AMP.
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
    """Raise if this trainer class has no such callback; one whose source is not there has all.

    Raises:
        Unwatchable: Ultralytics runs callbacks of other names only.
    """
    mro = inspect.getmro(kind)
    trains = next((owner for owner in mro if "_do_train" in vars(owner)), object)
    known = {name for owner in mro for name in _events(owner)}
    if _events(trains) and event not in known:
        raise Unwatchable(f"{kind.__name__} runs no callback {event}. {_remedy(kind, _EVENT)}")


def skipped_unscale(kind: type) -> Unwatchable:
    """The optimizer of such a trainer stepped, and ``unscale_`` was not called before."""
    owner = next(o for o in inspect.getmro(kind) if "optimizer_step" in vars(o) or o is object)
    return Unwatchable(
        "the optimizer stepped, but scaler.unscale_ was not called before, so the gradients "
        "could not be read unscaled and unclipped. " + _remedy(owner, _STEP)
    )


def never_began(kind: type, event: str) -> Unwatchable:
    """The training of such a trainer went on without an event that has to come before."""
    said = f"{kind.__name__} did not run the callback {event}"
    return Unwatchable(f"{said}. {_remedy(kind, _EVENT)}")


def unknown_bar() -> str:
    """What happens where `shows_bar` does not hold, and what to do."""
    return f"no live panel: the progress bar does not write the way it used to. {_update()}"


def shows_bar(bar: Callable[..., Any]) -> bool:
    """Whether the frames of this progress bar come to the stream that it is given.

    They do by ``progress(bar, frame)`` from 8.4.130 on, by ``write`` before; a bar swallows what a
    stream raises.

    Args:
        bar: A class such as ``ultralytics.utils.tqdm.TQDM``.
    """
    stream = _Probe()
    for _ in bar(range(2), file=stream, disable=False, mininterval=0.0):
        pass
    return stream.frames > 0


def clip_norm(trainer: Any) -> float:
    """The total norm above which this trainer clips, read from the source of its optimizer step."""
    for _, calls in _steps(type(trainer)):
        for name, call in calls:
            if name.endswith(_CLIPS_NORM) and _clips_model(name, call):
                return _limit(call)
    return CLIP_NORM


class _Probe(io.StringIO):
    """A stream that counts the frames of a bar."""

    frames = 0

    def progress(self, bar: object, frame: object) -> None:
        self.frames += isinstance(bar, int) and isinstance(frame, str)

    def write(self, text: str) -> int:
        self.frames += bool(text.strip())
        return len(text)


def _steps(kind: type) -> Iterator[tuple[type, list[tuple[str, ast.Call]]]]:
    """Each class whose optimizer step runs, and its calls: the last one hands on to none."""
    for owner in inspect.getmro(kind):
        if "optimizer_step" in vars(owner):
            calls = list(_calls(vars(owner)["optimizer_step"]))
            yield owner, calls
            if not any(name.endswith(_HANDS_ON) for name, _ in calls):
                return


def _calls(function: object) -> Iterator[tuple[str, ast.Call]]:
    """Name and node of each call in the source of a function, in the order of the source."""
    try:
        tree = ast.parse(dedent(inspect.getsource(function)))  # type: ignore[arg-type]  # or raises
    except (OSError, TypeError, SyntaxError):  # no source, or no function
        return
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for call in sorted(calls, key=lambda call: (call.lineno, call.col_offset)):
        yield ast.unparse(call.func), call


def _clips_model(name: str, call: ast.Call) -> bool:
    """Whether this clips the model that is trained, and not another one of the trainer's."""
    what = ast.unparse(call.args[0]) if call.args else ""
    return name.endswith(_CLIPS) and ("self." not in what or bool(_TRAINED.search(what)))


def _limit(call: ast.Call) -> float:
    """The total norm of a call of ``clip_grad_norm_``; the usual one if it is no constant."""
    named = [word.value for word in call.keywords if word.arg == "max_norm"]
    for value in (*named, *call.args[1:2]):
        if isinstance(value, ast.Constant) and isinstance(value.value, (int, float)):
            return float(value.value)
    return CLIP_NORM


def _events(owner: type) -> frozenset[str]:
    """Names of the callbacks that the module of a class runs."""
    module = inspect.getmodule(owner)
    return _events_of(module) if module else frozenset()


@cache  # by module: a class may be re-created for each training
def _events_of(module: ModuleType) -> frozenset[str]:
    try:
        return frozenset(_CALLBACK.findall(inspect.getsource(module)))
    except (OSError, TypeError):  # no source
        return frozenset()


def _remedy(owner: type, instead: str) -> str:
    """What to do about a class that breaks the contract: Ultralytics' own, or the user's."""
    if owner.__module__.partition(".")[0] in {"ultralytics", "builtins"}:
        return _update()
    return f"Have {owner.__name__} call what it overrides (super()), or {instead}"


def _update() -> str:
    import ultralytics  # heavy; only a training pays for it

    return (
        f"Ultralytics {ultralytics.__version__} works differently from the versions that this "
        "yolo_gradwatch knows: update it (pip install -U yolo-gradwatch)"
    )
