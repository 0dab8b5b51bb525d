"""Progress of a check: a line that is redrawn on a terminal, a few lines in a log."""

from __future__ import annotations

from rich.text import Text

from yolo_gradwatch.views.terminal import console
from yolo_gradwatch.views.terminal.check import duration
from yolo_gradwatch.views.terminal.redrawn import RedrawnLine

_IN_LOG = 10
"""Most lines in a log."""


class Progress(RedrawnLine):
    """Reports the completed steps and the remaining time on standard error."""

    def __init__(self) -> None:
        super().__init__()
        self._tenth = -1

    def __call__(self, done: int, steps: int, seconds: float) -> None:
        """Report the progress after a batch.

        Args:
            done: Completed optimizer steps.
            steps: Planned optimizer steps.
            seconds: Estimated remaining time.
        """
        left = f", about {duration(seconds)} left" if done < steps else ""
        line = f"GradWatch check: {done:,} of {steps:,} optimizer steps{left}"
        if self.out.is_terminal:
            self.draw(line)
        elif (tenth := done * _IN_LOG // steps) > self._tenth:
            self._tenth = tenth
            with console.forgiving(self.out):
                self.out.print(Text(line), soft_wrap=True)
