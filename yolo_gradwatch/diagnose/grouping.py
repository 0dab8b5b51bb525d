"""Grouping of alerts by cause, and naming of the findings.

Alerts of one rule on one path through the model have one cause, and so do weaker rules that a
stronger one explains. A finding is named after the module nearest to the loss, because that is
where a gradient is lost or becomes non-finite; further upstream it is only missing. Findings about
dead units are named after the module farthest from the loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.catalog import RULES
from yolo_gradwatch.diagnose.graph import Paths, is_in
from yolo_gradwatch.measure.clipping import CLIP_OVERFLOW
from yolo_gradwatch.measure.layout import WHOLE, Layout

if TYPE_CHECKING:
    from collections.abc import Iterable

    from yolo_gradwatch.diagnose.finding import Alert, Finding


class Grouping:
    """Decides what belongs together in one model.

    Args:
        layout: Layout of the watched model.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._paths = Paths(layout)

    def split(self, alerts: list[Alert], finding: Finding) -> tuple[list[Alert], list[Alert]]:
        """Split alerts of a finding's rule into those with its cause and the others."""
        if RULES[finding.rule].one_cause:
            return alerts, []
        known = set(finding.modules)
        own: list[Alert] = []
        rest: list[Alert] = []
        for alert in alerts:
            # It continues the finding if it is in it already or on a gradient path with it.
            belongs = alert.module in known or self._meet(alert, finding)
            (own if belongs else rest).append(alert)
        return own, rest

    def together(self, alerts: list[Alert]) -> tuple[list[Alert], list[Alert]]:
        """Split new alerts into those on a path with the one nearest to the loss, and others."""
        if RULES[alerts[0].rule].spreads or RULES[alerts[0].rule].one_cause:
            return alerts, []
        leader = self.source(alerts).module  # nearest to the loss: the cause on its paths
        own = [alert for alert in alerts if self._paths.meet(alert.module, [leader])]
        return own, [alert for alert in alerts if alert not in own]

    def is_explained(self, alert: Alert, lasting: Iterable[Finding]) -> bool:
        """Return whether a lasting finding makes an alert of a weaker rule redundant.

        A warning does not if clipping multiplies the gradient by 0: nothing is learned then.
        """
        if RULES[alert.rule].is_beside:
            return False
        # Beyond this norm, clipping zeroes the gradient: only a critical finding explains that.
        is_lost = RULES[alert.rule].unit == "norm" and alert.value > CLIP_OVERFLOW
        return any(
            RULES[finding.rule].makes_redundant(alert.rule) and self._meet(alert, finding)
            for finding in lasting
            if not RULES[finding.rule].is_passing
            if not self._stays_away(finding, alert)
            if finding.severity == "critical" or not is_lost
        )

    def earlier(self, alerts: list[Alert], findings: Iterable[Finding]) -> Finding | None:
        """Return the ended finding that would be named after the same module, if any."""
        name = self.name(alerts)
        return next((f for f in findings if f.rule == alerts[0].rule and f.module == name), None)

    def source(self, alerts: list[Alert]) -> Alert:
        """Return the alert that gives a finding its module and step."""
        return self._sources(alerts)[-1]

    def name(self, alerts: list[Alert]) -> str:
        """Return the module that a finding of these alerts is about."""
        return common_name(self._layout, tuple(alert.module for alert in self._sources(alerts)))

    def modules(self, alerts: list[Alert], earlier: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Return the modules of alerts, those affected and earlier ones, in forward order."""
        names = {*earlier}
        for alert in alerts:
            names.update((alert.module, *alert.affected))
        return tuple(name for name in self._layout.modules if name in names)

    def _stays_away(self, finding: Finding, alert: Alert) -> bool:
        """Return whether one of the two is only about part of the head, the other elsewhere."""
        one, row = alert.module, RULES[finding.rule]
        if row.spreads or any(is_in(one, m) or is_in(m, one) for m in finding.modules):
            return False
        head = self._layout.head
        is_found_there = all(is_in(head, module) for module in finding.modules)
        return (row.stays_in_head and is_found_there) or (
            RULES[alert.rule].stays_in_head and is_in(head, one)
        )

    def _meet(self, alert: Alert, finding: Finding) -> bool:
        """Return whether an alert and a finding share a gradient path.

        Clipping spreads non-finite values to the whole model, whatever the paths.
        """
        is_everywhere = RULES[finding.rule].spreads
        return is_everywhere or self._paths.meet(alert.module, finding.modules)

    def _sources(self, alerts: list[Alert]) -> list[Alert]:
        """Return the alerts except those of weights whose input is constant.

        Such a weight also has a zero gradient, but a gradient does arrive: the norm layer after it
        has one. If only part of the input is constant, the source is the first alert.
        """
        if RULES[alerts[0].rule].begins_upstream:
            return alerts[:1]
        if not RULES[alerts[0].rule].starves_readers:
            return alerts
        # A weight is starved, not a source, if the norm layer next to it still has a gradient.
        names = {alert.module for alert in alerts}
        parents: dict[str, list[str]] = {}
        for name, role in zip(self._layout.modules, self._layout.roles, strict=True):
            if role == "norm":
                parents.setdefault(name.rpartition(".")[0], []).append(name)
        return [
            alert
            for alert in alerts
            if names.issuperset(parents.get(alert.module.rpartition(".")[0], ()))
        ] or alerts


def by_rule(alerts: Iterable[Alert]) -> dict[str, list[Alert]]:
    """Return the alerts of each rule that has any, the strongest rule first."""
    found: dict[str, list[Alert]] = {rule: [] for rule in RULES}
    for alert in alerts:
        found[alert.rule].append(alert)
    return {rule: own for rule, own in found.items() if own}


def common_name(layout: Layout, modules: tuple[str, ...]) -> str:
    """Return the widest module around the last of ``modules`` that contains only such modules.

    The whole model is named only if all its leaf modules are among them.
    """
    leaves = [name for name, role in zip(layout.modules, layout.roles, strict=True) if role]
    named = set(modules)
    if named.issuperset(leaves) or WHOLE in named:
        return WHOLE
    name = modules[-1]
    # Widen it to its parent as long as all leaf modules in there have an alert.
    while "." in name:
        parent = name.rpartition(".")[0]
        inside = {leaf for leaf in leaves if is_in(parent, leaf)}
        if parent == WHOLE or not inside <= named:
            break
        name = parent
    return name
