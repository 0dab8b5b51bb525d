"""Lets a model carry a watch through ``model.tune()``, or warns that it cannot be watched.

Read in ultralytics 8.4.0 to 8.4.190. With ``use_ray=True`` the model is pickled for each trial,
whose process first calls ``reset_callbacks()``, then ``train()``, and reports the ``results_dict``
of its result. Without, each training is a new ``yolo train`` process: it gets only arguments from
this process, and Ultralytics writes no gradients to files.
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
    "model.tune() trains in separate processes that GradWatch cannot reach, so they are not "
    "watched. Use use_ray=True to watch every trial, or model.train(cfg=...) with the "
    "best_hyperparameters.yaml that tune() writes"
)


class Watch(Protocol):
    """The interface of a watch that covers the trials."""

    def attach(self, target: Any) -> None:
        """Attach this watch to a model."""

    def numbers(self) -> Mapping[str, object]:
        """Return the newest training's numbers for a Ray Tune result; never raises."""


class _Method:
    """Replaces a method of one model, and travels with it through pickling.

    It does not keep the model alive.

    Args:
        model: The model.
        watch: The watch attached to it.
        is_elsewhere: Whether both came out of a pickle.
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
        """Call the model's original method."""
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
    """Attaches the watch again after a Ray Tune trial drops all callbacks."""

    name = "reset_callbacks"

    def __call__(self) -> None:
        """Drop all callbacks; in another process, keep the watch."""
        self._call()
        if self._is_elsewhere:
            model, watch = self._model, self._watch
            watch.attach(model)
            _put(model, _Train(model, watch))


class _Tune(_Method):
    """Warns once about trainings that are not watched."""

    name = "tune"
    _has_warned = False

    def __call__(self, use_ray: bool = False, *args: Any, **options: Any) -> Any:  # noqa: FBT001, FBT002  # as Ultralytics has it
        """Tune, after a warning if the trainings cannot be watched."""
        if not use_ray and not self._has_warned:
            self._has_warned = True
            _LOG.warning("GradWatch: %s", NOT_WATCHED)
        return self._call(use_ray, *args, **options)


class _Train(_Method):
    """Adds numbers to a trial's report when its training ends, or stops early."""

    name = "train"

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Train and return the results, with our numbers added."""
        results = self._call(*args, **options)
        if not hasattr(results, "results_dict"):  # None, or results of several data sets
            return results
        return _Results(results, self._watch.numbers())


class _Results:
    """The metrics of a training, with extra numbers in the dict that a trial reports."""

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
    """Remove what `carry` added."""
    for name, value in list(vars(model).items()):
        if isinstance(value, _Method) and value.name == name:
            delattr(model, name)


def _put(model: Any, method: _Method) -> None:
    """Set a method on the model, unless other code has replaced it."""
    if isinstance(vars(model).get(method.name, method), _Method):
        setattr(model, method.name, method)
