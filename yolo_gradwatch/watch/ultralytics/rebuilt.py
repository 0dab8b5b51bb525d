"""Detects changes to a model that Ultralytics drops when it rebuilds the model for training.

Read in ultralytics 8.4.0 to 8.4.190. After ``on_pretrain_routine_start`` the network is built from
its YAML by ``trainer.get_model``, and weights alone are carried over. In some versions the model
already has the new network when the training begins.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.measure.model_layout import clean_name
from yolo_gradwatch.plain import printable
from yolo_gradwatch.watch.ultralytics.hooks import replaced
from yolo_gradwatch.watch.ultralytics.training import model_of, resumes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    from yolo_gradwatch.watch.guard import Guard

Models: TypeAlias = Iterable[weakref.ref[Any]]
"""Models that may no longer exist."""

_BUILDERS = ("get_model", "setup_model")
"""Trainer methods that a custom class overrides to build its own network."""

_CHANGED_BY_ULTRALYTICS = ("YOLOE", "Distillation")
"""Name prefixes of the classes whose networks Ultralytics changes itself."""

_MOST = 3
"""Differences named in a message; further ones are only counted."""

_LOG = logging.getLogger(__name__)


class _Part(NamedTuple):
    """A module of a network.

    Attributes:
        kind: Name of its class.
        counts: Whether it holds parameters or other modules.
    """

    kind: str
    counts: bool


_NOTHING = _Part("none", counts=False)


class _Difference(NamedTuple):
    """A module that differs between two networks, and its class in each."""

    name: str
    passed: str
    other: str


class _Passed(NamedTuple):
    """A model as it was passed.

    Attributes:
        model: Weak reference to it.
        parts: The modules of its network.
        is_older: Whether it comes from a file written by another version.
    """

    model: weakref.ref[Any]
    parts: Mapping[str, _Part]
    is_older: bool


class Networks:
    """The networks of some models as a training begins, and the one that Ultralytics builds.

    It keeps neither the models nor the trainer alive.

    Args:
        trainer: A trainer just created, which has no network yet.
        models: Models that it may be about to train.
        guard: Guard of the watch; when the watch is over, nothing is left in the trainer.
    """

    def __init__(self, trainer: Any, models: Models, guard: Guard) -> None:
        known = [_Passed(model, _passed(model()), _is_older(model())) for model in models]
        self._passed = [one for one in known if one.parts]
        self._built: dict[str, _Part] = {}
        self._yaml = ""
        self._undo: Callable[[], Callable[[], None] | None] = lambda: None
        if self._passed and all(_is_ultralytics(getattr(trainer, n, None)) for n in _BUILDERS):
            take = partial(guard.safely, self._take)
            self._undo = weakref.ref(_after_build(trainer, take))
            guard.undo.callback(self.release)

    def release(self) -> None:
        """Restore the trainer; a second call does nothing."""
        undo = self._undo()
        if undo:
            undo()

    def warn(self, trainer: Any, remarks: list[str]) -> None:
        """Log and add to the remarks what the training is missing; see `dropped`."""
        said = self.dropped(trainer)
        if said:
            remarks.append(said)
            _LOG.warning("GradWatch: %s", said)

    def dropped(self, trainer: Any) -> str:
        """Return in words what the training is missing of the passed model; "" if nothing.

        Args:
            trainer: A trainer that is fully set up.
        """
        self.release()
        found = [one for one in self._passed if _trainer_of(one.model()) is trainer]
        if not (found and self._built) or resumes(trainer):
            return ""
        lost = [*_differences(found[0], self._built)]
        if lost:  # a user's callback may have restored it
            trained = _parts(model_of(trainer))
            lost = [one for one in lost if trained.get(one.name, _NOTHING).kind != one.passed]
        return _words(lost, self._yaml) if lost else ""

    def _take(self, network: Any) -> None:
        self._built = _parts(network)
        content = getattr(network, "yaml", None)
        file = content.get("yaml_file") if isinstance(content, Mapping) else None
        self._yaml = Path(str(file)).name if file else "its YAML"


def _after_build(trainer: Any, call: Callable[[Any], object]) -> Callable[[], None]:
    """Call ``call`` with the first network that a trainer builds.

    Returns:
        A function that removes the wrapper; the trainer keeps it alive.
    """
    build = trainer.get_model

    def watched_build(*args: Any, **kwargs: Any) -> Any:
        undo()
        network = build(*args, **kwargs)
        call(network)
        return network

    undo = replaced(trainer, "get_model", watched_build)
    return undo


def _passed(model: Any) -> dict[str, _Part]:
    """Return the modules of a model's network; empty if they cannot be compared."""
    network: Any = getattr(model, "model", None)
    if not hasattr(network, "named_modules") or _is_fused(network):
        return {}
    if type(network).__name__.startswith(_CHANGED_BY_ULTRALYTICS):
        return {}
    return _parts(network)


def _parts(network: nn.Module) -> dict[str, _Part]:
    """Return the modules of a network by name: the whole model, and those in its list of blocks.

    Ultralytics' own classes of a whole model count as equal: the class depends on the task.
    """
    is_own = _is_ultralytics(type(network))
    found = {WHOLE: _Part("Ultralytics' own" if is_own else type(network).__name__, counts=True)}
    for name, module in network.named_modules():
        cleaned = clean_name(name)
        if cleaned.startswith(WHOLE):
            counts = any(True for _ in module.children()) or any(True for _ in module.parameters())
            found.setdefault(cleaned, _Part(type(module).__name__, counts))
    return found


def _differences(passed: _Passed, built: Mapping[str, _Part]) -> Iterator[_Difference]:
    """Yield modules whose class differs or that exist in one network only, outermost alone.

    Modules that only one network has in its head may depend on data and arguments, and those
    in a block on the version, so they are ignored.
    """
    parts = passed.parts
    head = f"{_head(parts)}."
    around: tuple[str, ...] = ()
    for name in dict.fromkeys((*parts, *built)):
        one, two = parts.get(name, _NOTHING), built.get(name, _NOTHING)
        is_free = name.startswith(head) and _NOTHING in {one, two}
        is_free |= passed.is_older and name.count(".") > 1
        if one.kind == two.kind or is_free or not (one.counts or two.counts):
            continue
        if not name.startswith(around):
            around = (*around, f"{name}.")
            yield _Difference(name, one.kind, two.kind)


def _head(parts: Mapping[str, _Part]) -> str:
    """Return the name of the last block."""
    blocks = [name for name in parts if name.count(".") == 1]
    return blocks[-1] if blocks else WHOLE


def _words(lost: list[_Difference], source: str) -> str:
    shown = [f"{one.name}: {one.passed} in yours, {one.other} in training" for one in lost[:_MOST]]
    more = f", and {len(lost) - _MOST} more" if len(lost) > _MOST else ""
    said: str = printable(
        "the trained model is not the one that was passed: Ultralytics rebuilt it from "
        f"{source}, without the changes made to it ({'; '.join(shown)}{more}). Make the change "
        "in get_model() of a custom trainer, or in the YAML."
    )
    return said


def _is_ultralytics(one: Any) -> bool:
    """Return whether a class or a function is Ultralytics' own."""
    return str(getattr(one, "__module__", "")).partition(".")[0] == "ultralytics"


def _is_fused(network: Any) -> bool:
    """Return whether layers were merged for faster prediction."""
    forwards = (vars(module).get("forward") for module in network.modules())
    return any(getattr(one, "__name__", "").startswith("forward_fuse") for one in forwards)


def _is_older(model: Any) -> bool:
    """Return whether a model comes from a file written by another version."""
    from ultralytics import __version__  # heavy

    checkpoint = {} if model is None else vars(model).get("ckpt")
    version = checkpoint.get("version") if isinstance(checkpoint, Mapping) else None
    return version not in {None, __version__}


def _trainer_of(model: Any) -> Any:
    return None if model is None else vars(model).get("trainer")
