"""What a model carries so that each training of ``model.tune()`` is watched, or a warning given.

Read in ultralytics 8.4.0 to 8.4.190. With ``use_ray=True`` the model is pickled for each trial,
whose process first calls ``reset_callbacks()``, then ``train()``, and reports the ``results_dict``
of what that returns. Without, ``yolo train`` is started for each training: its arguments are all
that it gets of this process, and no file of Ultralytics has a gradient.
"""

from __future__ import annotations

import logging
import weakref
from copy import deepcopy
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

_LOG = logging.getLogger(__name__)

NOT_WATCHED = (
    "model.tune() trains in commands of its own, which a watch cannot reach: these trainings are "
    "not watched. With use_ray=True each of them is; so is model.train(cfg=...) with the "
    "best_hyperparameters.yaml that tune() leaves"
)


class Watch(Protocol):
    """What watches the trials."""

    def attach(self, target: Any) -> None:
        """Have a model call this watch when it trains."""

    def numbers(self) -> Mapping[str, object]:
        """What a result of Ray Tune gets of the newest training; never raises."""


class _Method:
    """Stands in for a method of one model, and goes with the model into a pickle.

    It does not keep the model alive.

    Args:
        model: The model.
        watch: That is attached to it.
        is_elsewhere: Whether both came here in a pickle.
    """

    name: ClassVar[str]

    def __init__(self, model: Any, watch: Watch, *, is_elsewhere: bool = False) -> None:
        self._alive = weakref.ref(model)
        self._watch = watch
        self._is_elsewhere = is_elsewhere

    @property
    def _model(self) -> Any:
        return self._alive()

    def _call(self, *args: Any, **options: Any) -> Any:
        """The model's own method."""
        model = self._model
        return getattr(type(model), self.name)(model, *args, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        return _elsewhere, (type(self), self._model, self._watch)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Method:
        model, watch = deepcopy(self._model, memo), deepcopy(self._watch, memo)
        return type(self)(model, watch, is_elsewhere=self._is_elsewhere)


def _elsewhere(kind: type[_Method], model: Any, watch: Watch) -> _Method:
    return kind(model, watch, is_elsewhere=True)


class _ResetCallbacks(_Method):
    """Attaches the watch again where a trial of Ray Tune drops all callbacks."""

    name = "reset_callbacks"

    def __call__(self) -> None:
        """Drop all callbacks; in another process, but the watch."""
        self._call()
        if self._is_elsewhere:
            model, watch = self._model, self._watch
            watch.attach(model)
            _put(model, _Train(model, watch))


class _Tune(_Method):
    """Warns, once, of trainings that are not watched."""

    name = "tune"
    _has_warned = False

    def __call__(self, use_ray: bool = False, *args: Any, **options: Any) -> Any:  # noqa: FBT001, FBT002  # as Ultralytics has it
        """Tune."""
        if not use_ray and not self._has_warned:
            self._has_warned = True
            _LOG.warning("GradWatch: %s", NOT_WATCHED)
        return self._call(use_ray, *args, **options)


class _Train(_Method):
    """Adds to what a trial reports when its training has come to an end, as a stopped one does."""

    name = "train"

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Train."""
        results = self._call(*args, **options)
        if not hasattr(results, "results_dict"):  # none, or those of a list of data sets
            return results
        return _Results(results, self._watch.numbers())


class _Results:
    """The metrics of a training, with more numbers in the dict that a trial reports."""

    def __init__(self, results: Any, numbers: Mapping[str, object]) -> None:
        self._results = results
        self.results_dict = {**results.results_dict, **numbers}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._results, name)


def carry(model: Any, watch: Watch) -> None:
    """Have a model carry what it needs to be tuned with this watch."""
    for kind in (_ResetCallbacks, _Tune):
        if hasattr(type(model), kind.name):
            _put(model, kind(model, watch))


def drop(model: Any) -> None:
    """Take away what `carry` has given it."""
    for name, value in list(vars(model).items()):
        if isinstance(value, _Method) and value.name == name:
            delattr(model, name)


def _put(model: Any, method: _Method) -> None:
    """Put it in its place, unless somebody else has put something there."""
    if isinstance(vars(model).get(method.name, method), _Method):
        setattr(model, method.name, method)
