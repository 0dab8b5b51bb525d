"""Builds a second model that trains like the first and leaves it unchanged.

Read in ultralytics 8.4.0 to 8.4.190, whose ``Model.train`` replaces the model's network and
checkpoint with the trained ones, and overwrites the number of classes in its ``yaml``.
"""

from __future__ import annotations

from collections import defaultdict
from copy import copy, deepcopy
from typing import Any

_HISTORY = ("trainer", "predictor", "metrics", "session")
"""Results of earlier trainings and predictions; a session sends them to Ultralytics' Hub."""


def twin_of(model: Any) -> Any:
    """Return a model with its own network, arguments and lists of the same callbacks."""
    own = {name: copy(one) if _may_change(one) else one for name, one in vars(model).items()}
    own |= dict.fromkeys(name for name in _HISTORY if name in own)
    own["callbacks"] = defaultdict(list, {e: [*calls] for e, calls in model.callbacks.items()})
    own["_modules"] = {name: deepcopy(one) for name, one in own.get("_modules", {}).items()}
    own["overrides"] = deepcopy(own.get("overrides", {}))
    twin = object.__new__(type(model))
    vars(twin).update(own)
    return twin


def _may_change(value: object) -> bool:
    return isinstance(value, (dict, list, set))
