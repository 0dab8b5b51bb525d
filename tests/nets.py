"""Layouts of a few blocks, and windows of them as input of the rules."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from values import NORMS, Part, plan, window

from yolo_gradwatch.diagnose.detector import Detector
from yolo_gradwatch.diagnose.graph import is_in
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.measure.loss_items import LossItem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from yolo_gradwatch.diagnose.finding import Alert
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.optimizer import Optimizer
    from yolo_gradwatch.measure.windows import Window

FORK_EDGES = [
    ("model.0", "model.1"),
    ("model.0", "model.2"),
    ("model.1", "model.3"),
    ("model.2", "model.3"),
    ("model.3", "model.4"),
]
"""Block 0 feeds blocks 1 and 2, which are parallel; block 3 reads both."""


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
"""A chain of blocks, number 3 without parameters, and a head that reads 2, 4 and 5."""


def inside(layout: Layout, *names: str) -> list[str]:
    """Return the named modules and everything inside them."""
    return [m for m in layout.modules if any(m == n or m.startswith(f"{n}.") for n in names)]


def normed(
    one: Window,
    norms: Mapping[str, float],
    layout: Layout = NET,
    fields: Sequence[str] = NORMS,
) -> Window:
    """Return a window with other norms in the named modules and everything inside them.

    For the whole model, only its own row changes.
    """
    columns = {field: getattr(one, field).copy() for field in fields}
    for name, norm in norms.items():
        found = [name] if name == "model" else inside(layout, name)
        rows = [layout.modules.index(module) for module in found]
        for column in columns.values():
            column[rows] = norm
    return replace(one, **columns)


def net(step: int, norms: Any = (), **faults: Any) -> Window:
    """Return a window of the net; healthy by default."""
    return normed(window(step, layout=NET, **faults), dict(norms))


def lasting(
    count: int, norms: Any = (), *, first: int = 1, layout: Layout = NET, **faults: Any
) -> list[Window]:
    """Return ``count`` windows of one step with these norms."""
    given, steps = dict(norms), range(first, first + count)
    return [normed(window(n, layout=layout, **faults), given, layout) for n in steps]


def skips(count: int, first: int = 1, **faults: Any) -> list[Window]:
    """Return windows of one step each that AMP skipped."""
    return lasting(count, first=first, skipped=1, **faults)


def zeroed(step: int, share: float, module: str = "model.2.conv") -> Window:
    """Return a window with a share of exactly zero gradient elements."""
    fraction = np.zeros(len(NET.modules), np.float32)
    fraction[NET.modules.index(module)] = share
    return replace(net(step), zero_fraction=fraction)


def weighing(step: int, weight: float, *, trunk: bool = True) -> Window:
    """Return a window with this weight norm in the trunk, or in the head."""
    weights = np.full(len(NET.modules), 5.0, np.float32)
    weights[[name.startswith("model.6") is not trunk for name in NET.modules]] = weight
    return replace(net(step), weight_norm=weights)


def costing(one: Window, **values: float) -> Window:
    """Return a window with these loss items in each batch, and ``lr`` as learning rate."""
    steps = one.steps

    def item(name: str, value: float) -> LossItem:
        return LossItem(name, steps, 0, steps * (value == 0), value, value, value)

    named = {"lr/0" if name == "lr" else name: value for name, value in values.items()}
    return replace(one, losses=tuple(item(*pair) for pair in named.items()))


def resting(step: int, *modules: str, ratio: float = 0.0, lr: float = 0.1, **faults: Any) -> Window:
    """Return a window in which all modules except these are updated, with weights of norm 5."""
    ratios = np.full(len(NET.modules), 1e-3, np.float32)
    ratios[[NET.modules.index(name) for name in modules]] = ratio
    one = replace(net(step, **faults), update_ratio=ratios)
    return costing(replace(one, weight_norm=np.full(len(NET.modules), 5, np.float32)), lr=lr)


def moving(one: Window, shares: Mapping[str, float]) -> Window:
    """Return a window whose update is the same everywhere, but smaller in some blocks."""
    moved = replace(one, update_ratio=np.full_like(one.norm_mean, 2.0**-10))
    return normed(moved, {n: s * 2.0**-10 for n, s in shares.items()}, fields=["update_ratio"])


def bad_loss(one: Window, *bad: str, batches: int = 1) -> Window:
    """Return a window of a detection training with some non-finite loss items."""
    names = ("box_loss", "cls_loss", "dfl_loss")
    found = [LossItem(n, batches, batches * (n in bad), 0, 1.0, 1.0, 1.0) for n in names]
    return replace(one, losses=tuple(found))


def beyond(step: int, largest: Mapping[str, float], *, layout: Layout = NET) -> Window:
    """Return a window with weights in which some modules have such a large value.

    The modules around them have the same largest value.
    """
    one = window(step, layout=layout)
    size = len(layout.modules)
    values, norms = np.ones(size, np.float32), np.full(size, 5.0, np.float32)
    for name, value in largest.items():
        for m, outer in enumerate(layout.modules):
            if is_in(outer, name):
                values[m] = value
    return replace(one, weight_norm=norms, weight_max=values)


def heavy(step: int, module: str, weight: float) -> Window:
    """Return a window with such a large parameter in a module."""
    one = beyond(step, {module: weight})
    return replace(one, weight_norm=np.where(one.weight_max == weight, one.weight_max, 5.0))


BLOCKS = [name for name, _ in NET.blocks]


def level(step: int, decades: float, peak: float | None = None) -> Window:
    """Return a window with one mean and one highest norm in all modules but the whole."""
    one = net(step, dict.fromkeys(BLOCKS, 10.0**decades))
    highest = dict.fromkeys(BLOCKS, 10.0 ** (decades if peak is None else peak))
    return normed(one, highest, fields=["norm_max"])


def curve(*decades: float, first: int = 1) -> list[Window]:
    """Return windows with these levels."""
    return [level(first + n, value) for n, value in enumerate(decades)]


def upstream(norm: float) -> dict[str, float]:
    """Return norms of the blocks up to number 2; their readers have a norm of 1."""
    return dict.fromkeys(("model.0", "model.1", "model.2"), norm)


def feed(
    windows: Iterable[Window],
    limits: Thresholds | None = None,
    layout: Layout = NET,
    training: Mapping[str, object] | None = None,
    optimizer: Optimizer | None = None,
) -> list[list[Alert]]:
    """Return the alerts of each window."""
    detector = Detector(layout, limits or Thresholds(), training or {})
    return [detector.update(one, optimizer) for one in windows]


def fired(
    windows: Sequence[Window],
    rule: str,
    limits: Thresholds | None = None,
    layout: Layout = NET,
    **given: Any,
) -> list[Alert]:
    """Return the alerts of a rule in the last window."""
    return [alert for alert in feed(windows, limits, layout, **given)[-1] if alert.rule == rule]


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
