"""Groups alerts into findings, each told once when it begins, grows worse and ends.

Alerts of one rule on one path through the model have one cause, and so have the weaker rules that
a stronger one explains. A finding is named after the module nearest to the loss, because a gradient
is lost or spoiled there and missing upstream.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from yolo_gradwatch.advice import message
from yolo_gradwatch.detect import RULES
from yolo_gradwatch.graph import Graph, is_in
from yolo_gradwatch.records import WHOLE, Alert, Change, Finding, Layout, News, Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from yolo_gradwatch.thresholds import Thresholds

SPREAD = 2
"""A finding is worse when its modules, its value in decades or its returns are this many times
what was told."""

CALM_WINDOWS = 5
"""Windows without an alert, at the least, before a finding is over."""

PROVEN = ("nonfinite", "spike")
"""Rules whose findings name a file with what their first step was made of."""

_NO_GRADIENT = ("dead_branch", "starved_scale", "partly_dead", "vanishing", "leaf_vanishing")
_STILL = (*_NO_GRADIENT, "leaf_exploding", "exploding", "collapse", "total_low")

EXPLAINS: dict[str, tuple[str, ...]] = {
    "nonfinite": tuple(RULES),
    "dead": (*_STILL, "no_gradient"),
    "no_gradient": (*_STILL, "dead"),
    "dead_branch": ("starved_scale",),
    "vanishing": ("leaf_vanishing", "leaf_exploding", "collapse", "total_low"),
    "exploding": ("leaf_vanishing", "leaf_exploding", "spike", "total_high", "weight_growth"),
    "leaf_exploding": ("spike", "total_high"),
    "collapse": ("total_low",),
    "total_low": ("collapse",),
}
"""For a finding that stands, the rules whose alerts on its path through the model are no news."""


@dataclass(slots=True)
class _Told:
    """How a finding stood when it was last told, and how calm it has been since its last alert."""

    modules: int
    value: float
    times: int = 1
    calm: int = 0
    calm_since: int = 0
    interrupted: bool = False


class Findings:
    """Follows the alerts of a run.

    Args:
        layout: Of the model that is watched.
        limits: Of the rules; they say how many windows a rule needs.
        training: Options of the training that the words of a finding refer to.
        evidence: Gives the file on one of the steps from a first to a last, "" where there is none.

    Attributes:
        all: Every finding so far, standing or over, by number.
    """

    def __init__(
        self,
        layout: Layout,
        limits: Thresholds,
        training: Mapping[str, object],
        evidence: Callable[[int, int], str],
    ) -> None:
        self._evidence = evidence
        self._layout = layout
        self._limits = limits
        self._training = training
        self._paths = _Paths(layout)
        self._told: dict[int, _Told] = {}
        self.all: dict[int, Finding] = {}

    def update(self, window: Window, alerts: Iterable[Alert]) -> list[News]:
        """What the alerts of this window change."""
        news = []
        alerted: set[int] = set()
        for rule, fresh in _by_rule(alerts).items():
            rest = fresh
            for finding in [f for f in self._standing() if f.rule == rule]:
                own, rest = self._split(rest, finding)
                if own:
                    alerted.add(finding.number)
                    news += self._go_on(finding, window, own)
            rest = [alert for alert in rest if not self._is_explained(alert)]
            while rest:
                own, rest = self._together(rest)
                earlier = self._earlier(own)
                if earlier:
                    news += self._go_on(earlier, window, own)
                else:
                    news.append(self._start(window, own))
                alerted.add(earlier.number if earlier else news[-1].finding.number)
        return [*news, *self._calm_down(window, alerted)]

    def begin_anew(self) -> None:
        """The run begins anew: a finding that stands is over only if it does not come back.

        Something that is not finite must come back, because weights were restored.
        """
        for finding in self._standing():
            told = self._told[finding.number]
            told.calm, told.interrupted = 0, finding.rule == "nonfinite"

    def _standing(self) -> list[Finding]:
        return [finding for finding in self.all.values() if finding.step_end is None]

    def _split(self, alerts: list[Alert], finding: Finding) -> tuple[list[Alert], list[Alert]]:
        """Of alerts of its rule, those that have the cause of a finding, and the others."""
        known = set(finding.modules)
        own: list[Alert] = []
        rest: list[Alert] = []
        for alert in alerts:
            belongs = alert.module in known or self._meet(alert, finding)
            (own if belongs else rest).append(alert)
        return own, rest

    def _together(self, alerts: list[Alert]) -> tuple[list[Alert], list[Alert]]:
        """Of alerts that begin, those on one path with the one nearest to the loss, and others."""
        if alerts[0].rule == "nonfinite":
            return alerts, []
        leader = _sources(self._layout, alerts)[-1].module
        own = [alert for alert in alerts if self._paths.meet(alert.module, [leader])]
        return own, [alert for alert in alerts if alert not in own]

    def _earlier(self, alerts: list[Alert]) -> Finding | None:
        """A finding that is over and would be named after the same module."""
        name = self._name(alerts)
        over = (f for f in self.all.values() if f.rule == alerts[0].rule and f.module == name)
        return next(over, None)

    def _name(self, alerts: list[Alert]) -> str:
        sources = _sources(self._layout, alerts)
        return common_name(self._layout, tuple(alert.module for alert in sources))

    def _is_explained(self, alert: Alert) -> bool:
        """Whether a finding that stands makes an alert of a weaker rule no news."""
        return any(
            alert.rule in EXPLAINS.get(finding.rule, ()) and self._meet(alert, finding)
            for finding in self._standing()
        )

    def _meet(self, alert: Alert, finding: Finding) -> bool:
        """Clipping spreads what is not finite to the whole model, paths or not."""
        is_everywhere = finding.rule == "nonfinite"
        return is_everywhere or self._paths.meet(alert.module, finding.modules)

    def _start(self, window: Window, alerts: list[Alert]) -> News:
        first = _sources(self._layout, alerts)[-1]
        modules = self._in_order(alerts)
        finding = Finding(
            number=max(self.all, default=0) + 1,
            rule=first.rule,
            severity=first.severity,
            module=self._name(alerts),
            modules=modules,
            origin=modules,
            epoch=first.epoch,
            step=first.step,
            step_latest=first.step,
            step_end=None,
            value=first.value,
            limit=first.limit,
            message="",
            evidence=self._proof(window, first),
        )
        self._told[finding.number] = _Told(len(modules), max(alert.value for alert in alerts))
        return self._tell("start", window, finding)

    def _go_on(self, finding: Finding, window: Window, alerts: list[Alert]) -> list[News]:
        """A finding that still stands, or stands again."""
        told = self._told[finding.number]
        is_back = finding.step_end is not None or told.interrupted
        told.calm, told.interrupted = 0, False
        first = alerts[-1]
        grown = replace(
            finding,
            modules=self._in_order(alerts, finding.modules),
            step_latest=first.step if is_back else finding.step_latest,
            step_end=None,
            times=finding.times + is_back,
            evidence=(is_back and self._proof(window, first)) or finding.evidence,
        )
        self.all[finding.number] = grown
        value = max(alert.value for alert in alerts)
        if not self._is_worse(grown, value):
            return []
        told.modules, told.value, told.times = len(grown.modules), value, grown.times
        return [self._tell("worse", window, replace(grown, value=value, limit=first.limit))]

    def _proof(self, window: Window, alert: Alert) -> str:
        return self._evidence(alert.step, window.step_last) if alert.rule in PROVEN else ""

    def _is_worse(self, finding: Finding, value: float) -> bool:
        told = self._told[finding.number]
        return finding.severity != "notice" and (
            len(finding.modules) >= SPREAD * told.modules
            or finding.times >= SPREAD * told.times
            or (RULES[finding.rule].is_in_decades and value >= SPREAD * told.value)
        )

    def _calm_down(self, window: Window, alerted: set[int]) -> list[News]:
        """End what has had no alert for long enough; a notice is told once and stays."""
        if window.skipped == window.steps:
            return []
        news = []
        for finding in self._standing():
            if finding.number in alerted or finding.severity == "notice":
                continue
            told = self._told[finding.number]
            told.calm_since = told.calm_since if told.calm else window.step_first
            told.calm += 1
            if told.calm >= max(CALM_WINDOWS, RULES[finding.rule].needs(self._limits)):
                news += self._end(finding, window)
        return news

    def _end(self, finding: Finding, window: Window) -> list[News]:
        """The end of a finding; told only if its last return was told."""
        told = self._told[finding.number]
        over = replace(finding, step_end=told.calm_since)
        self.all[over.number] = over
        is_told = told.times == finding.times
        return [News("end", window.epoch, window.step_first, over)] if is_told else []

    def _tell(self, change: Change, window: Window, finding: Finding) -> News:
        told = replace(finding, message=message(self._layout, self._training, finding))
        self.all[told.number] = told
        return News(change, window.epoch, window.step_first, told)

    def _in_order(self, alerts: list[Alert], earlier: tuple[str, ...] = ()) -> tuple[str, ...]:
        """The modules of alerts, those affected and earlier ones, in forward order."""
        names = {*earlier}
        for alert in alerts:
            names.update((alert.module, *alert.affected))
        return tuple(name for name in self._layout.modules if name in names)


class _Paths:
    """Which modules lie on one path through the model.

    Args:
        layout: Of the model.
    """

    def __init__(self, layout: Layout) -> None:
        graph = Graph(layout)
        self._block_of = dict(zip(layout.modules, layout.block_of, strict=True))
        self._upstream = {
            block: {graph.blocks[a] for a in graph.upstream(b)}
            for b, block in enumerate(graph.blocks)
        }
        self._head = layout.head

    def meet(self, module: str, others: Iterable[str]) -> bool:
        """Whether a gradient passes through a module and one of the others.

        It does if one of the two is the whole model, or lies in the head.
        """
        block = self._block_of[module]
        return any(self._meets(block, other) for other in {self._block_of[o] for o in others})

    def _meets(self, one: str, other: str) -> bool:
        if one == other or {one, other} & {"", self._head}:
            return True
        return one in self._upstream[other] or other in self._upstream[one]


def _by_rule(alerts: Iterable[Alert]) -> dict[str, list[Alert]]:
    """The alerts of each rule that has any, the strongest rule first."""
    found: dict[str, list[Alert]] = {rule: [] for rule in RULES}
    for alert in alerts:
        found[alert.rule].append(alert)
    return {rule: own for rule, own in found.items() if own}


def _sources(layout: Layout, alerts: list[Alert]) -> list[Alert]:
    """The alerts without those of weights that stand still for want of an input.

    Where an output is constant, the weight that reads it has a zero gradient too, though a
    gradient does arrive: the norm layer behind that weight has one.
    """
    if alerts[0].rule != "dead":
        return alerts
    names = {alert.module for alert in alerts}
    parents: dict[str, list[str]] = {}
    for name, role in zip(layout.modules, layout.roles, strict=True):
        if role == "norm":
            parents.setdefault(name.rpartition(".")[0], []).append(name)
    return [
        alert
        for alert in alerts
        if names.issuperset(parents.get(alert.module.rpartition(".")[0], ()))
    ] or alerts


def common_name(layout: Layout, modules: tuple[str, ...]) -> str:
    """The widest module around the last of ``modules`` that holds nothing but such modules.

    The whole model is named only if every one of its leaf modules is among them.
    """
    leaves = [name for name, role in zip(layout.modules, layout.roles, strict=True) if role]
    named = set(modules)
    if named.issuperset(leaves) or WHOLE in named:
        return WHOLE
    name = modules[-1]
    while "." in name:
        parent = name.rpartition(".")[0]
        inside = {leaf for leaf in leaves if is_in(parent, leaf)}
        if parent == WHOLE or not inside <= named:
            break
        name = parent
    return name
