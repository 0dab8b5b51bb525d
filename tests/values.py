"""Small layouts, samples, windows and runs, built by hand."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from yolo_gradwatch.diagnose.detector import Detector
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.measure.event import Event
from yolo_gradwatch.measure.layout import Layout, Members, dated
from yolo_gradwatch.measure.quantities import MEASURED
from yolo_gradwatch.measure.sample import Detail, Sample
from yolo_gradwatch.measure.windows import Grid, Rollup, Window
from yolo_gradwatch.runs.schema import FORMAT_VERSION, META_FILE
from yolo_gradwatch.runs.writer import RunLog

if TYPE_CHECKING:
    from pathlib import Path

    from yolo_gradwatch.diagnose.finding import Alert

LAWS = settings(deadline=None, derandomize=True, max_examples=40)


class Part(NamedTuple):
    """A parameter of a model that exists on paper only."""

    module: str
    elements: int = 10
    is_weight: bool = True


def plan(
    parts: Sequence[Part], blocks: Sequence[str] = (), edges: Iterable[tuple[str, str]] = ()
) -> tuple[Layout, Members]:
    """What `model_layout.read` would give for a model with these parameters, in this order."""
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
    )
    return layout, members


def around(module: str) -> list[str]:
    """The whole model, every module around this one, and itself."""
    words = module.removeprefix("model").lstrip(".").split(".") if module != "model" else []
    prefix = "model." if module.startswith("model.") else ""
    return ["model", *(prefix + ".".join(words[: n + 1]) for n in range(len(words)))]


def top(module: str) -> str:
    """The top-level block of a module."""
    return (around(module)[1:] or [""])[0]


FORK_EDGES = [
    ("model.0", "model.1"),
    ("model.0", "model.2"),
    ("model.1", "model.3"),
    ("model.2", "model.3"),
    ("model.3", "model.4"),
]
"""Block 0 feeds blocks 1 and 2, which do not see each other; block 3 reads both."""

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
"""Two trunk blocks of a convolution and a norm layer, and a head of two leaves."""

TRUNK = ("model.0.conv", "model.0.bn", "model.1.conv", "model.1.bn")
HEAD = ("model.2.a", "model.2.b")


def sample(  # noqa: PLR0913  # one argument a field
    step: int,
    norms: object = 1.0,
    *,
    size: int = len(MEMBERS.elements),
    epoch: int = 1,
    missing: object = False,
    skipped: bool = False,
    detail: Detail | None = None,
) -> Sample:
    """A step with the same norm everywhere, or with a norm for each of ``size`` parameters."""
    return Sample(
        epoch=epoch,
        step=step,
        norms=np.where(missing, 0.0, np.broadcast_to(np.asarray(norms, float), (size,))),
        missing=np.broadcast_to(np.asarray(missing), (size,)).copy(),
        skipped=skipped,
        detail=detail,
    )


FAR = 1_000_001
"""A step so late that a window holds 20,000 steps."""


def windows_from(
    samples: Iterable[Sample], members: Members = MEMBERS, interval: int = 1
) -> list[Window]:
    """The windows of a run whose samples are looked at one by one."""
    rollup = Rollup(members, interval)
    return [window for one in samples for window in rollup.add([one])] + rollup.close()


Named = Collection[str] | Mapping[str, int]

NORMS = ("norm_min", "norm_mean", "norm_max")


def window(  # noqa: PLR0913  # one argument a field
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
) -> Window:
    """A window in which the named modules were unhealthy, by default in every applied step."""
    applied = steps - skipped
    unknown = {*unknown, *_always(nonfinite, applied), *_always(none, applied)}
    dead = _always(zero, applied)
    norms = [
        np.nan if name in unknown else 0.0 if name in dead else norm for name in layout.modules
    ]
    values = {
        **{row.name: row.unknown(len(norms)) for row in MEASURED},
        "nonfinite": _counts(layout, nonfinite, applied),
        "zero": _counts(layout, zero, applied),
        "none": _counts(layout, none, applied),
        **{name: np.array(norms, np.float32) for name in NORMS},
        "weight_norm": np.full(len(norms), 5.0, np.float32),
    }
    return Window(
        epoch=epoch,
        step_first=step,
        step_last=step + steps - 1,
        steps=steps,
        skipped=skipped,
        **values,
    )


def grid_from(windows: Sequence[Window], layout: Layout = LAYOUT) -> Grid:
    """Windows below each other."""
    empty = {row.name: np.empty((0, len(layout.modules)), row.dtype) for row in MEASURED}
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
    """Equal bit for bit, save that one NaN is as good as another."""
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
    """The files of a run of any layout, without alerts."""
    folder.mkdir(parents=True, exist_ok=True)
    log = RunLog(folder, layout, resume=False)
    log.start()
    for one in windows:
        log.write_window(one)
    log.close()
    put_meta(folder, layout, **meta)
    return folder


def put_meta(folder: Path, layout: Layout = LAYOUT, **changes: Any) -> None:
    """Write the ``gradwatch.json`` of `meta_of`, whether it can be read or not."""
    text = json.dumps(meta_of(layout, **changes))
    (folder / META_FILE).write_text(text, encoding="utf-8")


def meta_of(
    layout: Layout = LAYOUT, events: Sequence[Event] = (Event(1, "start"),), **changes: Any
) -> dict[str, Any]:
    """The content of ``gradwatch.json`` for a run of this layout."""
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
    """Windows whose modules fail and recover, and events between them."""
    windows, events, step, epoch = [], [Event(1, "start")], 1, 1
    for states, kinds in draw(st.lists(_STRETCH, max_size=6)):
        if windows and draw(st.booleans()):
            events.append(Event(step, draw(st.sampled_from(["resume", "nan_recovery"]))))
        elif draw(st.booleans()):
            epoch += 1
        for kind in kinds:
            steps = draw(st.integers(1, 5))
            sick = {
                state: [name for name, found in states.items() if found == state]
                for state in ("nonfinite", "zero", "none")
            }
            if kind == "skip":
                sick = {"unknown": sick["nonfinite"]}
            skipped = steps if kind == "skip" else 0
            windows.append(window(step, steps=steps, skipped=skipped, epoch=epoch, **sick))
            step += steps
    return windows, events


FAMILIES = ("cv2", "cv3", "one2one_cv2", "one2one_cv3")

NET, _ = plan(
    [
        *(Part("model.0.conv"), Part("model.0.bn", is_weight=False)),
        *(Part("model.1.a"), Part("model.1.b"), Part("model.1.c")),
        Part("model.1.bn", is_weight=False),
        *(Part("model.2.conv"), Part("model.2.bn", is_weight=False)),
        *(Part("model.4.conv"), Part("model.4.bn", is_weight=False)),
        *(Part("model.5.conv"), Part("model.5.bn", is_weight=False)),
        *(Part(f"model.6.{family}.{scale}.conv") for family in FAMILIES for scale in range(3)),
    ],
    [f"model.{n}" for n in range(7)],
    [
        *((f"model.{n}", f"model.{n + 1}") for n in range(5)),
        *((f"model.{n}", "model.6") for n in (2, 4, 5)),
    ],
)
"""A chain of blocks, of which number 3 has no parameters, and a head that reads 2, 4 and 5."""


def inside(layout: Layout, *names: str) -> list[str]:
    """The named modules and all that is inside them."""
    return [m for m in layout.modules if any(m == n or m.startswith(f"{n}.") for n in names)]


def normed(
    one: Window,
    norms: Mapping[str, float],
    layout: Layout = NET,
    fields: Sequence[str] = NORMS,
) -> Window:
    """A window with other norms in the named modules and all that is inside them.

    The whole model is named alone: its name stands for its own row.
    """
    columns = {field: getattr(one, field).copy() for field in fields}
    for name, norm in norms.items():
        found = [name] if name == "model" else inside(layout, name)
        rows = [layout.modules.index(module) for module in found]
        for column in columns.values():
            column[rows] = norm
    return replace(one, **columns)


def grown(layout: Layout = LAYOUT, step: int = 5) -> tuple[Layout, Layout]:
    """A layout without its first block, and the whole one, in which that has thawed."""
    rows = [m for m, block in enumerate(layout.block_of) if block != "model.0"]
    columns = ("modules", "types", "parameters", "block_of", "roles", "kernels")
    part = replace(layout, **{c: tuple(getattr(layout, c)[m] for m in rows) for c in columns})
    return part, dated(layout, part, step)


def net(step: int, norms: Any = (), **sick: Any) -> Window:
    """A window of the net; healthy, if nothing else is said."""
    return normed(window(step, layout=NET, **sick), dict(norms))


def lasting(
    count: int, norms: Any = (), *, first: int = 1, layout: Layout = NET, **sick: Any
) -> list[Window]:
    """So many windows of one step with these norms."""
    given, steps = dict(norms), range(first, first + count)
    return [normed(window(n, layout=layout, **sick), given, layout) for n in steps]


def skips(count: int, first: int = 1, **sick: Any) -> list[Window]:
    """Windows of one step each that AMP skipped."""
    return lasting(count, first=first, skipped=1, **sick)


def zeroed(step: int, share: float, module: str = "model.2.conv") -> Window:
    """A window in which some elements of a gradient are exactly zero."""
    fraction = np.zeros(len(NET.modules), np.float32)
    fraction[NET.modules.index(module)] = share
    return replace(net(step), zero_fraction=fraction)


def weighing(step: int, weight: float, *, trunk: bool = True) -> Window:
    """A window in which the weights of the trunk, or those of the head, have a norm."""
    weights = np.full(len(NET.modules), 5.0, np.float32)
    weights[[name.startswith("model.6") is not trunk for name in NET.modules]] = weight
    return replace(net(step), weight_norm=weights)


BLOCKS = [name for name, _ in NET.blocks]


def level(step: int, decades: float, peak: float | None = None) -> Window:
    """A window with the same norm in all modules but the whole, and another highest one."""
    one = net(step, dict.fromkeys(BLOCKS, 10.0**decades))
    highest = dict.fromkeys(BLOCKS, 10.0 ** (decades if peak is None else peak))
    return normed(one, highest, fields=["norm_max"])


def curve(*decades: float, first: int = 1) -> list[Window]:
    """Windows of such levels."""
    return [level(first + n, value) for n, value in enumerate(decades)]


def upstream(norm: float) -> dict[str, float]:
    """The blocks up to number 2 at a norm; what reads them is at 1."""
    return dict.fromkeys(("model.0", "model.1", "model.2"), norm)


def feed(
    windows: Iterable[Window], limits: Thresholds | None = None, layout: Layout = NET
) -> list[list[Alert]]:
    """The alerts of each window."""
    detector = Detector(layout, limits or Thresholds())
    return [detector.update(one) for one in windows]


def fired(
    windows: Sequence[Window],
    rule: str,
    limits: Thresholds | None = None,
    layout: Layout = NET,
) -> list[Alert]:
    """The alerts of a rule in the last of some windows."""
    return [alert for alert in feed(windows, limits, layout)[-1] if alert.rule == rule]


FORK, _ = plan(
    [
        Part(f"model.{block}.{leaf}", is_weight=leaf != "bn")
        for block in range(4)
        for leaf in ("a", "b", "c", "bn")
    ]
    + [Part("model.4.a")],
    edges=FORK_EDGES,
)
"""Four blocks of three weights and a norm layer; block 0 feeds 1 and 2, which feed 3."""
