"""Groups alerts into findings, each told once when it begins, grows worse and ends.

Alerts of one rule that begin in the same window have one cause. The finding is named after the
module nearest to the loss, because a gradient is lost or spoiled there and missing upstream.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from yolo_gradwatch.advice import message
from yolo_gradwatch.detect import RULES
from yolo_gradwatch.records import WHOLE, Alert, Change, Event, Finding, Layout, News, Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SPREAD = 2
"""A finding is worse when it has grown to this many times the modules that were told."""


class Findings:
    """Follows the alerts of a run.

    Args:
        layout: Of the model that is watched.
        training: Options of the training that the words of a finding refer to.

    Attributes:
        all: Every finding so far, standing or over, by number.
    """

    def __init__(self, layout: Layout, training: Mapping[str, object]) -> None:
        self._layout = layout
        self._training = training
        self._told: dict[int, int] = {}
        self.all: dict[int, Finding] = {}

    def update(self, window: Window, alerts: Iterable[Alert]) -> list[News]:
        """What the alerts of this window change."""
        standing: dict[str, list[Alert]] = {}
        for alert in alerts:
            standing.setdefault(alert.rule, []).append(alert)
        news = []
        for rule in RULES:
            news += self._follow(rule, window, standing.get(rule, []))
        return news

    def end_all(self, event: Event, epoch: int) -> list[News]:
        """End the findings that stand, because the run begins anew and is judged anew."""
        return [self._end(self.all[number], epoch, event.step) for number in list(self._told)]

    def restore(self, earlier: Iterable[Finding]) -> None:
        """Take the findings that an earlier part of the run has told."""
        for finding in earlier:
            self.all[finding.number] = finding
            if finding.step_end is None:
                self._told[finding.number] = len(finding.modules)

    def _follow(self, rule: str, window: Window, alerts: list[Alert]) -> list[News]:
        names = {alert.module for alert in alerts}
        open_ = [self.all[number] for number in self._told if self.all[number].rule == rule]
        news = [
            self._end(f, window.epoch, window.step_first) for f in open_ if self._is_over(f, names)
        ]
        still = [f for f in open_ if not self._is_over(f, names)]
        fresh = [a for a in alerts if not any(a.module in f.modules for f in still)]
        if fresh and still:
            news += self._spread(still[-1], window, fresh)
        elif fresh:
            news.append(self._start(window, fresh))
        return news

    @staticmethod
    def _is_over(finding: Finding, names: set[str]) -> bool:
        """A notice is told once a run; it would come and go with every overflow of AMP."""
        return finding.severity != "notice" and not names.intersection(finding.modules)

    def _start(self, window: Window, alerts: list[Alert]) -> News:
        first = alerts[-1]
        modules = tuple(alert.module for alert in alerts)
        finding = Finding(
            number=max(self.all, default=0) + 1,
            rule=first.rule,
            severity=first.severity,
            module=common_name(self._layout, modules),
            modules=modules,
            epoch=first.epoch,
            step=first.step,
            step_end=None,
            value=first.value,
            limit=first.limit,
            message="",
        )
        self._told[finding.number] = len(modules)
        return self._tell("start", window, finding)

    def _spread(self, finding: Finding, window: Window, fresh: list[Alert]) -> list[News]:
        """Alerts that join a standing finding; news only if it has grown by much."""
        names = {*finding.modules, *(alert.module for alert in fresh)}
        modules = tuple(name for name in self._layout.modules if name in names)
        grown = replace(finding, modules=modules)
        if len(modules) < SPREAD * self._told[finding.number]:
            self.all[finding.number] = grown
            return []
        self._told[finding.number] = len(modules)
        return [self._tell("worse", window, replace(grown, value=fresh[-1].value))]

    def _end(self, finding: Finding, epoch: int, step: int) -> News:
        del self._told[finding.number]
        over = replace(finding, step_end=step)
        self.all[over.number] = over
        return News("end", epoch, step, over)

    def _tell(self, change: Change, window: Window, finding: Finding) -> News:
        told = replace(finding, message=message(self._layout, self._training, finding))
        self.all[told.number] = told
        return News(change, window.epoch, window.step_first, told)


def common_name(layout: Layout, modules: tuple[str, ...]) -> str:
    """The widest module around the last of ``modules`` that holds nothing but such modules.

    The whole model is named only if every one of its leaf modules is among them.
    """
    leaves = [name for name, leaf in zip(layout.modules, layout.leaf, strict=True) if leaf]
    named = set(modules)
    if named.issuperset(leaves) or WHOLE in named:
        return WHOLE
    name = modules[-1]
    while "." in name:
        parent = name.rpartition(".")[0]
        inside = {leaf for leaf in leaves if leaf == parent or leaf.startswith(f"{parent}.")}
        if parent == WHOLE or not inside <= named:
            break
        name = parent
    return name
