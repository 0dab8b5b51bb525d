"""Groups alerts into findings, each reported when it begins, grows worse, ends and comes back.

Alerts of one rule on one path through the model have one cause, and so have the weaker rules that
a stronger one explains. A finding is named after the module nearest to the loss, because a gradient
is lost or spoiled there and missing upstream.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from yolo_gradwatch.advice import message
from yolo_gradwatch.clipping import CLIP_OVERFLOW
from yolo_gradwatch.detect import RULES
from yolo_gradwatch.finding import Alert, Change, Episode, Finding, News
from yolo_gradwatch.graph import Paths, is_in
from yolo_gradwatch.layout import WHOLE, Layout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from yolo_gradwatch.thresholds import Thresholds
    from yolo_gradwatch.windows import Window

SPREAD = 2
"""A finding is worse when its modules or its value in decades are this many times what was
reported, or when clipping multiplies the gradient by 0 by now."""

CALM_WINDOWS = 5
"""Windows without an alert, at the least, before a finding is over."""

PROVEN = ("nonfinite", "spike", "total_high")
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
"""For a finding that stands, the rules whose alerts on its path through the model are redundant."""


class _Now(NamedTuple):
    """When a change is reported: the window that brought it, and the newest step seen."""

    epoch: int
    step: int
    last: int
    reported: int


@dataclass(slots=True)
class _Reported:
    """A finding as it was last reported, and how calm it has been since its last alert.

    Attributes:
        modules: How many it had.
        value: The highest of its alerts.
        calm: Windows without an alert since then.
        calm_since: Epoch and step of the first of them.
        interrupted: Whether the run restarted in an episode that is over by that.
    """

    modules: int
    value: float
    calm: int = 0
    calm_since: tuple[int, int] = (0, 0)
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
        self._paths = Paths(layout)
        self._reported: dict[int, _Reported] = {}
        self.all: dict[int, Finding] = {}

    def update(self, window: Window, alerts: Iterable[Alert], reported: int) -> list[News]:
        """What the alerts of this window change.

        Args:
            window: The newest.
            alerts: Its own.
            reported: Newest optimizer step that has been seen by now.
        """
        now = _Now(window.epoch, window.step_first, window.step_last, reported)
        news = []
        alerted: set[int] = set()
        for rule, fresh in _by_rule(alerts).items():
            rest = fresh
            for finding in [f for f in self._standing() if f.rule == rule]:
                own, rest = self._split(rest, finding)
                if own:
                    alerted.add(finding.number)
                    news += self._go_on(finding, now, own)
            rest = [alert for alert in rest if not self._is_explained(alert)]
            while rest:
                own, rest = self._together(rest)
                earlier = self._earlier(own)
                begun = self._return(earlier, now, own) if earlier else self._start(now, own)
                alerted.add(begun.finding.number)
                if earlier is None or earlier.severity != "notice":
                    news.append(begun)
        calm = [] if window.skipped == window.steps else self._calm_down(now, alerted)
        return [*news, *calm]

    def regroup(self, layout: Layout) -> None:
        """Go on with the modules of another layout."""
        self._layout = layout
        self._paths = Paths(layout)

    def begin_anew(self) -> None:
        """The run restarts: a finding that lasts is over only if it does not come back.

        An episode of something that is not finite is over by that, because weights were restored.
        """
        for finding in self._standing():
            last = self._reported[finding.number]
            last.calm, last.interrupted = 0, finding.rule == "nonfinite"

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
        """Whether a finding that lasts makes an alert of a weaker rule redundant.

        A warning does not, where clipping multiplies the gradient by 0: nothing is learned then.
        """
        is_lost = alert.rule == "total_high" and alert.value > CLIP_OVERFLOW
        return any(
            alert.rule in EXPLAINS.get(finding.rule, ()) and self._meet(alert, finding)
            for finding in self._standing()
            if finding.severity == "critical" or not is_lost
        )

    def _meet(self, alert: Alert, finding: Finding) -> bool:
        """Clipping spreads what is not finite to the whole model, paths or not."""
        is_everywhere = finding.rule == "nonfinite"
        return is_everywhere or self._paths.meet(alert.module, finding.modules)

    def _start(self, now: _Now, alerts: list[Alert]) -> News:
        """A finding that begins for the first time."""
        first = _sources(self._layout, alerts)[-1]
        modules = self._in_order(alerts)
        finding = Finding(
            number=max(self.all, default=0) + 1,
            rule=first.rule,
            severity=first.severity,
            module=self._name(alerts),
            modules=modules,
            origin=modules,
            episodes=(Episode(first.epoch, first.step, None, now.reported, first.value),),
            limit=first.limit,
            message="",
            evidence=self._proof(now, first),
        )
        return self._report("start", now, finding, alerts)

    def _return(self, finding: Finding, now: _Now, alerts: list[Alert]) -> News:
        """A finding that was over and begins again: its next episode."""
        first = _sources(self._layout, alerts)[-1]
        # A rule's evidence may reach back into the calm, but not to where the last episode was.
        over = self._reported[finding.number].calm_since
        epoch, step = max((first.epoch, first.step), over, key=lambda place: place[1])
        again = replace(
            finding,
            modules=self._in_order(alerts, finding.modules),
            episodes=(*finding.episodes, Episode(epoch, step, None, now.reported, first.value)),
            limit=first.limit,
            evidence=self._proof(now, first) or finding.evidence,
        )
        return self._report("start", now, again, alerts)

    def _go_on(self, finding: Finding, now: _Now, alerts: list[Alert]) -> list[News]:
        """A finding that has not been reported to be over."""
        last = self._reported[finding.number]
        if last.interrupted:
            last.calm_since = last.calm_since if last.calm else (now.epoch, now.step)
            end = self._end(finding, now)
            return [end, self._return(end.finding, now, alerts)]
        last.calm = 0
        grown = replace(finding, modules=self._in_order(alerts, finding.modules))
        if grown.modules != finding.modules:
            grown = replace(grown, message=message(self._layout, self._training, grown))
        self.all[finding.number] = grown
        value = max(alert.value for alert in alerts)
        if not self._is_worse(grown, value):
            return []
        episode = replace(finding.episodes[-1], value=value)
        worse = replace(grown, episodes=(*finding.episodes[:-1], episode), limit=alerts[-1].limit)
        return [self._report("worse", now, worse, alerts)]

    def _proof(self, now: _Now, alert: Alert) -> str:
        return self._evidence(alert.step, now.last) if alert.rule in PROVEN else ""

    def _is_worse(self, finding: Finding, value: float) -> bool:
        last = self._reported[finding.number]
        return finding.severity != "notice" and (
            len(finding.modules) >= SPREAD * last.modules
            or last.value <= CLIP_OVERFLOW < value
            or (RULES[finding.rule].is_in_decades and value >= SPREAD * last.value)
        )

    def _calm_down(self, now: _Now, alerted: set[int]) -> list[News]:
        """End what has had no alert for long enough; the end of a notice is not reported."""
        news = []
        for finding in self._standing():
            if finding.number in alerted:
                continue
            last = self._reported[finding.number]
            last.calm_since = last.calm_since if last.calm else (now.epoch, now.step)
            last.calm += 1
            if last.calm >= max(CALM_WINDOWS, RULES[finding.rule].needs(self._limits)):
                ended = self._end(finding, now)
                news += [ended] if finding.severity != "notice" else []
        return news

    def _end(self, finding: Finding, now: _Now) -> News:
        """The end of an episode, with its first calm window."""
        _, step = self._reported[finding.number].calm_since
        episode = replace(finding.episodes[-1], step_end=step)
        over = replace(finding, episodes=(*finding.episodes[:-1], episode))
        self.all[over.number] = over
        return News("end", now.epoch, now.step, over, now.reported)

    def _report(self, change: Change, now: _Now, finding: Finding, alerts: list[Alert]) -> News:
        """Note what is reported, in words too; worse is what is worse than that."""
        value = max(alert.value for alert in alerts)
        last = _Reported(len(finding.modules), value)
        found = replace(finding, message=message(self._layout, self._training, finding))
        self._reported[found.number], self.all[found.number] = last, found
        return News(change, now.epoch, now.step, found, now.reported)

    def _in_order(self, alerts: list[Alert], earlier: tuple[str, ...] = ()) -> tuple[str, ...]:
        """The modules of alerts, those affected and earlier ones, in forward order."""
        names = {*earlier}
        for alert in alerts:
            names.update((alert.module, *alert.affected))
        return tuple(name for name in self._layout.modules if name in names)


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
