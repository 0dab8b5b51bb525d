"""Labelled recordings of trainings, as the layout and samples that the watch would see."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from yolo_gradwatch.measure.doubling import Doubling
from yolo_gradwatch.measure.layout import WHOLE, Layout, Members, Role
from yolo_gradwatch.measure.sample import Detail, Sample, Weights
from yolo_gradwatch.measure.weighing import RARELY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

NO_GRADIENT, FROZEN = 1, 2
"""Values of the array ``status``."""

_ALONE = {"weight": "weight", "norm_bias": "norm_bias"}
"""Kinds that the rules over parameters use: weights, and biases of norm layers."""

_ROLES: dict[str, Role] = {"weight": "weight", "norm_weight": "norm", "norm_bias": "norm"}


@dataclass(frozen=True)
class Recording:
    """One training.

    Attributes:
        name: File name without its suffix.
        meta: Label, parameters and blocks.
        arrays: ``grad_norm`` and other arrays over steps and parameters.
        layout: Layout of the model.
        members: The watched parameters of each module.
        watched: (P,) whether a parameter is watched: all but those frozen by the training.
    """

    name: str
    meta: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    layout: Layout
    members: Members
    watched: NDArray[np.bool_]

    def samples(self, offset: int = 0) -> Iterator[Sample]:
        """Yield the optimizer steps with their details, numbered from ``1 + offset``.

        Largest values were not recorded, so the norm replaces them as their upper bound.
        """
        status = self.arrays["status"][:, self.watched]
        bad = self.arrays["nonfinite"][:, self.watched] > 0
        missing, frozen = status == NO_GRADIENT, status == FROZEN
        norms = np.where(missing | frozen, 0.0, self.arrays["grad_norm"][:, self.watched])
        norms = np.where(bad, np.nan, norms).astype(np.float64)
        zeros = self.arrays["zero_fraction"][:, self.watched] * self.members.elements
        weights = self.arrays["weight_norm"][:, self.watched].astype(np.float64)
        epoch = self.arrays["steps"][:, self.meta["step_columns"].index("epoch")].astype(int)
        weighed = Doubling()
        for t in range(len(norms)):
            step = t + 1 + offset
            is_weighed = step > RARELY or weighed.is_due(step)
            yield Sample(
                epoch=int(epoch[t]) + 1,
                step=step,
                norms=norms[t],
                missing=missing[t] | frozen[t],
                frozen=frozen[t] if frozen[t].any() else None,
                skipped=bool(self.meta["scaler"] and bad[t].any()),
                detail=Detail(
                    zeros[t].astype(np.float64),
                    Weights(weights[t], largest=weights[t]) if is_weighed else None,
                ),
            )


def load(path: Path, *, by_parameter: bool = False) -> Recording:
    """Read a recording from its ``.npz`` file.

    Args:
        path: The file.
        by_parameter: Whether to treat each parameter as a module, to compare the rules' results.
    """
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    meta = json.loads(str(arrays.pop("meta")))
    for parameter in meta["params"] if by_parameter else ():
        parameter["module"] = parameter["name"]
        parameter["kind"] = _ALONE.get(parameter["kind"], "other")
    wanted = [any(f in p["name"] for f in meta["freeze_names"]) for p in meta["params"]]
    watched = ~((arrays["status"] == FROZEN).all(axis=0) & np.array(wanted))
    layout, members = _layout_of(meta, watched)
    return Recording(path.stem, meta, arrays, layout, members, watched)


def _layout_of(meta: dict[str, Any], watched: NDArray[np.bool_]) -> tuple[Layout, Members]:
    """Build the layout of a model from the names and kinds of its parameters."""
    parameters = [p for p, keep in zip(meta["params"], watched, strict=True) if keep]
    rows: dict[str, list[int]] = {}
    for i, parameter in enumerate(parameters):
        for name in _around(parameter["module"]):
            rows.setdefault(name, []).append(i)
    types = {p["module"]: p["type"] for p in parameters}
    roles = _roles(parameters)
    blocks = [f"{WHOLE}.{n}" for n in range(meta["blocks"])]
    layout = Layout(
        modules=tuple(rows),
        types=tuple(types.get(name, "Module") for name in rows),
        parameters=tuple(sum(parameters[i]["elements"] for i in own) for own in rows.values()),
        block_of=tuple(".".join(name.split(".")[:2]) if "." in name else "" for name in rows),
        roles=tuple(roles.get(name, "") for name in rows),
        blocks=tuple((block, "Module") for block in blocks),
        inside=tuple(() for _ in blocks),
        head=blocks[-1],
        edges=tuple((blocks[source], blocks[target]) for source, target in meta["edges"]),
        kernels=tuple(1 for _ in rows),
    )
    return layout, _members(parameters, rows, blocks)


def _members(
    parameters: list[dict[str, Any]], rows: dict[str, list[int]], blocks: list[str]
) -> Members:
    index = {name: m for m, name in enumerate(rows)}
    weights = [(index[p["module"]], i) for i, p in enumerate(parameters) if p["kind"] == "weight"]
    trunk = [[i for _, i in weights if i in rows.get(block, [])] for block in blocks[:-1]]
    return Members(
        indices=np.array([i for own in rows.values() for i in own], np.int64),
        starts=np.cumsum([0, *map(len, rows.values())], dtype=np.int64)[:-1],
        elements=np.array([p["elements"] for p in parameters], np.int64),
        weights=np.array(weights, np.int64).reshape(-1, 2),
        trunk=tuple(np.array(found, np.int64) for found in trunk if found),
        held=np.array([i for own in rows.values() for i in own], np.int64),
        held_starts=np.cumsum([0, *map(len, rows.values())], dtype=np.int64)[:-1],
        names=tuple(p["name"] for p in parameters),
    )


def _roles(parameters: list[dict[str, Any]]) -> dict[str, Role]:
    """Return each module's role; weights take precedence over a norm layer's parameters."""
    roles: dict[str, Role] = {}
    for parameter in parameters:
        role = _ROLES.get(parameter["kind"], "other")
        if role != "other" or parameter["module"] not in roles:
            roles[parameter["module"]] = role
    return roles


def _around(module: str) -> list[str]:
    """Return the whole model, all modules around this one, and itself."""
    words = module.split(".")
    names = [".".join(words[:n]) for n in range(1, len(words) + 1)]
    return list(dict.fromkeys([WHOLE, *names]))
