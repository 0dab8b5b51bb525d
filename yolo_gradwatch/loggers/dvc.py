"""DVCLive: one step for everything, Ultralytics' epoch; files are rewritten as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from yolo_gradwatch.loggers.ending import COLUMNS
from yolo_gradwatch.loggers.logger import Logger, loaded

if TYPE_CHECKING:
    from yolo_gradwatch.diagnose.finding import FindingChange
    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.loggers.ending import Ending
    from yolo_gradwatch.measure.windows import Window


class DVCLive(Logger):
    """Logs to the ``live`` object of Ultralytics' callbacks."""

    name, title, integration = "dvc", "DVCLive", "dvc"
    axis = "each epoch; the total norm also by optimizer step"
    findings_as = "`metrics.json`"
    verdict_as = "`metrics.json`"
    pictures_as = "images, in a DVC repository"
    page_as = ""
    table_as = "plot `gradwatch_findings`"

    _is_over = False

    def begin(self, live: Any) -> None:
        """See `Logger`."""
        del live
        self.by_epoch = True
        self._points: list[dict[str, float]] = []

    def find(self) -> Any:
        """Return the object that Ultralytics opened, until it has our outcome and is ended."""
        return None if self._is_over else loaded("ultralytics.utils.callbacks.dvc", "live")

    def window(self, window: Window) -> None:
        """Keep the total norm for the plot."""
        super().window(window)
        if self.is_open:
            norm = float(window.norm_mean[0])
            self._points.append({"step": window.step_last, "norm": norm})

    def send(self, live: Any, numbers: dict[str, float], step: int) -> None:
        """See `Logger`; a plot has its own steps, and its file is rewritten each time."""
        del step
        for name, number in numbers.items():
            live.log_metric(name, number)
        live.log_plot("gradwatch_model", self._points, x="step", y="norm")

    def tell(self, live: Any, change: FindingChange, text: str) -> None:
        """See `Logger`."""
        key = f"finding {change.finding.number}"
        live.summary.setdefault("gradwatch", {})[key] = f"{change.change}: {text}"

    def finish(self, live: Any, ending: Ending) -> None:
        """See `Logger`."""
        live.summary.setdefault("gradwatch", {})["verdict"] = ending.verdict
        rows = [dict(zip(COLUMNS, row, strict=True)) for row in ending.rows]
        if rows:
            live.log_plot("gradwatch_findings", rows, x="step", y="value", template="scatter")
        has_repository = getattr(live, "_dvc_repo", None) is not None
        for path in ending.pictures if has_repository else ():  # else DVCLive fails at its end
            live.log_image(f"gradwatch/{path.name}", str(path))

    def end(self, report: Report) -> None:
        """Send the outcome, once."""
        super().end(report)
        self._is_over = True
