"""Small handmade layouts, samples, windows and runs."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.measure.event import Event
from yolo_gradwatch.measure.layout import WHOLE, Layout, Members, dated
from yolo_gradwatch.measure.quantities import QUANTITIES
from yolo_gradwatch.measure.rollup import Rollup
from yolo_gradwatch.measure.sample import Detail, Sample
from yolo_gradwatch.measure.windows import Grid, Window
from yolo_gradwatch.runs.schema import FORMAT_VERSION, META_FILE
from yolo_gradwatch.runs.writer import RunLog

if TYPE_CHECKING:
    from pathlib import Path

    from yolo_gradwatch.measure.loss_items import LossItem


LAWS = settings(derandomize=True, max_examples=40)
FEWER = settings(LAWS, max_examples=25)


class Part(NamedTuple):
    """A parameter of an imaginary model."""

    module: str
    elements: int = 10
    is_weight: bool = True


def plan(
    parts: Sequence[Part], blocks: Sequence[str] = (), edges: Iterable[tuple[str, str]] = ()
) -> tuple[Layout, Members]:
    """Return what `model_layout.read` would for a model with these parameters in this order."""
    rows: dict[str, list[int]] = {}
    for p, part in enumerate(parts):
        for name in around(part.module):
            rows.setdefault(name, []).append(p)
    blocks = blocks or list(dict.fromkeys(block for part in parts if (block := top(part.module))))
    roles = {p.module: "norm" if p.module.endswith("bn") else "other" for p in parts}
    roles |= {part.module: "weight" for part in parts if part.is_weight}
    layout = Layout(
        modules=tuple(rows),
        types=tuple("Conv2d" if name in roles else "Block" for name in rows),
        parameters=tuple(sum(parts[p].elements for p in found) for found in rows.values()),
        block_of=tuple(top(name) for name in rows),
        roles=tuple(roles.get(name, "") for name in rows),
        blocks=tuple((block, "Block") for block in blocks),
        inside=tuple(() for _ in blocks),
        head=blocks[-1],
        edges=tuple(edges),
        kernels=tuple(1 for _ in rows),
    )
    index = {name: m for m, name in enumerate(rows)}
    weights = [(index[part.module], p) for p, part in enumerate(parts) if part.is_weight]
    trunk = [[p for _, p in weights if top(parts[p].module) == block] for block in blocks[:-1]]
    members = Members(
        indices=np.array([p for found in rows.values() for p in found], np.int64),
        starts=np.cumsum([0, *map(len, rows.values())], dtype=np.int64)[:-1],
        elements=np.array([part.elements for part in parts], np.int64),
        weights=np.array(weights, np.int64).reshape(-1, 2),
        trunk=tuple(np.array(found) for found in trunk if found),
        held=np.array([p for found in rows.values() for p in found], np.int64),
        held_starts=np.cumsum([0, *map(len, rows.values())], dtype=np.int64)[:-1],
        names=tuple(f"{part.module}.{p}" for p, part in enumerate(parts)),
    )
    return layout, members


def around(module: str) -> list[str]:
    """Return the whole model, every module around this one, and itself."""
    words = module.removeprefix("model").lstrip(".").split(".") if module != "model" else []
    prefix = "model." if module.startswith("model.") else ""
    return ["model", *(prefix + ".".join(words[: n + 1]) for n in range(len(words)))]


def top(module: str) -> str:
    """Return the top-level block of a module."""
    return (around(module)[1:] or [""])[0]


LAYOUT, MEMBERS = plan(
    [
        Part("model.0.conv", 12),
        Part("model.0.bn", 2, is_weight=False),
        Part("model.0.bn", 2, is_weight=False),
        Part("model.1.conv", 6),
        Part("model.1.bn", 3, is_weight=False),
        Part("model.2.a", 8),
        Part("model.2.a", 4, is_weight=False),
        Part("model.2.b", 5),
    ]
)
"""Two trunk blocks with a convolution and a norm layer each, and a head of two leaves."""

TRUNK = ("model.0.conv", "model.0.bn", "model.1.conv", "model.1.bn")
HEAD = ("model.2.a", "model.2.b")


def sample(  # noqa: PLR0913  # one argument per field
    step: int,
    norms: object = 1.0,
    *,
    size: int = len(MEMBERS.elements),
    epoch: int = 1,
    missing: object = False,
    skipped: bool = False,
    detail: Detail | None = None,
) -> Sample:
    """Return a step with one norm for all ``size`` parameters, or one for each."""
    return Sample(
        epoch=epoch,
        step=step,
        norms=np.where(missing, 0.0, np.broadcast_to(np.asarray(norms, float), (size,))),
        missing=np.broadcast_to(np.asarray(missing), (size,)).copy(),
        skipped=skipped,
        detail=detail,
    )


EMPTY = ("Upsample", "Concat")
"""Classes of blocks without parameters."""


SMALL = ("Conv", "C3k2", "Upsample", "C2PSA", "Detect")


YOLO26N = (
    *("Conv", "Conv", "C3k2", "Conv", "C3k2", "Conv", "C3k2", "Conv", "C3k2", "SPPF", "C2PSA"),
    *("Upsample", "Concat", "C3k2", "Upsample", "Concat", "C3k2", "Conv", "Concat", "C3k2"),
    *("Conv", "Concat", "C3k2", "Detect"),
)


def layout_of(classes=SMALL):
    """Return a chain of blocks, each a convolution with normalization except the empty ones."""
    blocks = tuple((f"{WHOLE}.{i}", name) for i, name in enumerate(classes))
    rows = [(WHOLE, "DetectionModel", "", "")]
    for block, name in blocks:
        if name not in EMPTY:
            rows.append((block, name, block, ""))
            rows.append((f"{block}.conv", "Conv2d", block, "weight"))
            rows.append((f"{block}.bn", "BatchNorm2d", block, "norm"))
    modules, types, block_of, roles = zip(*rows, strict=True)
    return Layout(
        modules=modules,
        types=types,
        parameters=tuple(10 for _ in rows),
        block_of=block_of,
        roles=roles,
        blocks=blocks,
        inside=tuple(() for _ in blocks),
        head=blocks[-1][0],
        edges=tuple((a[0], b[0]) for a, b in pairwise(blocks)),
        kernels=tuple(1 for _ in rows),
    )


def leaves_of(layout):
    return tuple(name for name, role in zip(layout.modules, layout.roles, strict=True) if role)


FAR = 1_000_001
"""A step so late that a window holds 20,000 steps."""


def windows_from(
    samples: Iterable[Sample], members: Members = MEMBERS, interval: int = 1
) -> list[Window]:
    """Return the windows of a run whose samples arrive one at a time."""
    rollup = Rollup(members, interval)
    return [window for one in samples for window in rollup.add([one])] + rollup.close()


Named = Collection[str] | Mapping[str, int]

NORMS = ("norm_min", "norm_mean", "norm_max")


def window(  # noqa: PLR0913  # one argument per field
    step: int,
    *,
    steps: int = 1,
    skipped: int = 0,
    epoch: int = 1,
    nonfinite: Named = (),
    zero: Named = (),
    none: Named = (),
    unknown: Collection[str] = (),
    norm: float = 1.0,
    layout: Layout = LAYOUT,
    losses: tuple[LossItem, ...] = (),
) -> Window:
    """Return a window with unhealthy modules, by default in every applied step."""
    applied = steps - skipped
    unknown = {*unknown, *_always(nonfinite, applied), *_always(none, applied)}
    dead = _always(zero, applied)
    norms = [
        np.nan if name in unknown else 0.0 if name in dead else norm for name in layout.modules
    ]
    values = {
        **{row.name: row.unknown(len(norms)) for row in QUANTITIES},
        "nonfinite": _counts(layout, nonfinite, applied),
        "zero": _counts(layout, zero, applied),
        "none": _counts(layout, none, applied),
        **{name: np.array(norms, np.float32) for name in NORMS},
        "weight_norm": np.full(len(norms), 5.0, np.float32),
        "weight_max": np.full(len(norms), 1.0, np.float32),
    }
    return Window(
        epoch=epoch,
        step_first=step,
        step_last=step + steps - 1,
        steps=steps,
        skipped=skipped,
        losses=losses,
        **values,
    )


def grid_from(windows: Sequence[Window], layout: Layout = LAYOUT) -> Grid:
    """Stack windows into a grid."""
    empty = {row.name: np.empty((0, len(layout.modules)), row.dtype) for row in QUANTITIES}
    columns = {field.name: [getattr(one, field.name) for one in windows] for field in fields(Grid)}
    return Grid(
        **{
            name: np.array(rows) if rows else empty.get(name, np.empty(0, np.int64))
            for name, rows in columns.items()
        }
    )


def _counts(layout: Layout, named: Named, applied: int) -> np.ndarray:
    counts = named if isinstance(named, Mapping) else dict.fromkeys(named, applied)
    return np.array([counts.get(name, 0) for name in layout.modules], np.int64)


def _always(named: Named, applied: int) -> set[str]:
    return {n for n in named if applied and (not isinstance(named, Mapping) or named[n] == applied)}


def assert_same(found: Window, expected: Window) -> None:
    """Assert that windows are equal bit for bit, with any NaN equal to any other."""
    for field in fields(Window):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(other, np.ndarray):
            assert one.dtype == other.dtype, field.name
            np.testing.assert_array_equal(one, other, field.name)
            signs = (np.signbit(np.nan_to_num(values)) for values in (one, other))
            np.testing.assert_array_equal(*signs, field.name)
        else:
            assert (type(one), one) == (type(other), other), field.name


def write_run(
    folder: Path, windows: Iterable[Window], layout: Layout = LAYOUT, **meta: Any
) -> Path:
    """Write the files of a run without alerts."""
    folder.mkdir(parents=True, exist_ok=True)
    log = RunLog(folder, layout, resume=False)
    log.start()
    for one in windows:
        log.write_window(one)
    log.close()
    put_meta(folder, layout, **meta)
    return folder


def put_meta(folder: Path, layout: Layout = LAYOUT, **changes: Any) -> None:
    """Write the ``gradwatch.json`` of `meta_of`, readable or not."""
    text = json.dumps(meta_of(layout, **changes))
    (folder / META_FILE).write_text(text, encoding="utf-8")


def meta_of(
    layout: Layout = LAYOUT, events: Sequence[Event] = (Event(1, "start"),), **changes: Any
) -> dict[str, Any]:
    """Return the content of ``gradwatch.json`` for a run of this layout."""
    meta = {
        "format_version": FORMAT_VERSION,
        "status": "finished",
        "versions": {"yolo-gradwatch": "0.1.0"},
        "options": {"interval": 1, "stop_on": [], "training": {"amp": False}},
        "thresholds": asdict(Thresholds()),
        "layout": asdict(layout),
        "events": [asdict(event) for event in events],
        "epochs": [],
    }
    return {**meta, **changes}


_STATES = st.fixed_dictionaries(
    {name: st.sampled_from(["ok", "ok", "nonfinite", "zero", "none"]) for name in (*TRUNK, *HEAD)}
)
_STRETCH = st.tuples(
    _STATES, st.lists(st.sampled_from(["apply", "apply", "skip"]), min_size=1, max_size=5)
)


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[Window], list[Event]]:
    """Draw windows whose modules fail and recover, and events between them."""
    windows, events, step, epoch = [], [Event(1, "start")], 1, 1
    for states, kinds in draw(st.lists(_STRETCH, max_size=6)):
        if windows and draw(st.booleans()):
            events.append(Event(step, draw(st.sampled_from(["resume", "nan_recovery"]))))
        elif draw(st.booleans()):
            epoch += 1
        for kind in kinds:
            steps = draw(st.integers(1, 5))
            bad = {
                state: [name for name, found in states.items() if found == state]
                for state in ("nonfinite", "zero", "none")
            }
            if kind == "skip":
                bad = {"unknown": bad["nonfinite"]}
            skipped = steps if kind == "skip" else 0
            windows.append(window(step, steps=steps, skipped=skipped, epoch=epoch, **bad))
            step += steps
    return windows, events


def grown(layout: Layout = LAYOUT, step: int = 5) -> tuple[Layout, Layout]:
    """Return a layout without its first block, and the full one after the block is unfrozen."""
    rows = [m for m, block in enumerate(layout.block_of) if block != "model.0"]
    columns = ("modules", "types", "parameters", "block_of", "roles", "kernels")
    part = replace(layout, **{c: tuple(getattr(layout, c)[m] for m in rows) for c in columns})
    return part, dated(layout, part, step)
