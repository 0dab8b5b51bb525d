"""Reactions to a finding besides reporting it: call a function, stop the training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from yolo_gradwatch.diagnose.vocabulary import matches
from yolo_gradwatch.runs.outputs import OutputBase
from yolo_gradwatch.views.terminal.lines import stop_line
from yolo_gradwatch.watch.ultralytics import hooks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.text import Text

    from yolo_gradwatch.diagnose.finding import Finding, FindingChange


class Callback(OutputBase):
    """Calls a user-defined function with each change of a finding except its end."""

    def __init__(self, function: Callable[[Finding], None]) -> None:
        self.name = getattr(function, "__qualname__", type(function).__qualname__)
        self._function = function

    def findings(self, changes: Sequence[FindingChange]) -> None:
        """Call the function once for each change."""
        for change in changes:
            if change.change != "end":
                self._function(change.finding)


class StopRule(OutputBase):
    """Requests a stop at the first finding of certain rules.

    Args:
        words: Rules or kinds of rules.
        say: Prints a line.

    Attributes:
        wanted: The finding that requests the stop; None if there is none yet.
    """

    def __init__(self, words: tuple[str, ...], say: Callable[[Text], None]) -> None:
        self._words = words
        self._say = say
        self.wanted: Finding | None = None

    def findings(self, changes: Sequence[FindingChange]) -> None:
        """Look for the first finding that stops the training."""
        for change in changes:
            is_new = self.wanted is None and change.change in {"start", "worse"}
            if is_new and matches(change.finding, self._words):
                self.wanted = change.finding
                self._say(stop_line(change.finding))

    def stop(self, trainer: Any, remarks: list[str]) -> None:
        """Stop a trainer if a finding requests it, with a remark that says which."""
        if self.wanted is None:
            return
        where = f"{self.wanted.rule} in {self.wanted.module} at step {self.wanted.step:,}"
        remark = f"stop_on ended the training: {where}"
        if remark not in remarks:
            remarks.append(remark)
        hooks.stop(trainer)
