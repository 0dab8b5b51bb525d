"""Comet: every metric has its own step; it records TensorBoard by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from yolo_gradwatch.loggers.ending import COLUMNS
from yolo_gradwatch.loggers.logger import Logger, loaded

if TYPE_CHECKING:
    from yolo_gradwatch.diagnose.finding import FindingChange
    from yolo_gradwatch.loggers.ending import Ending


class Comet(Logger):
    """Logs to the running experiment."""

    name, title, integration = "comet", "Comet", "comet"
    records_tensorboard = True
    axis = "each window, by optimizer step"
    findings_as = "text; a tag when one begins"
    verdict_as = "other `gradwatch/verdict`"
    pictures_as = "graphics"
    page_as = "the HTML tab, with Plotly"
    table_as = "`gradwatch/findings.csv`"

    def find(self) -> Any:
        """Return the running experiment."""
        running = loaded("comet_ml", "get_running_experiment")
        return running() if running else None

    def send(self, live: Any, numbers: dict[str, float], step: int) -> None:
        """See `Logger`."""
        if not self.is_relayed:
            live.log_metrics(numbers, step=step)

    def tell(self, live: Any, change: FindingChange, text: str) -> None:
        """See `Logger`."""
        finding = change.finding
        live.log_text(f"GradWatch, {change.change}: {text}", step=change.reported)
        if change.change == "start":
            live.add_tag(f"gradwatch: {finding.rule}")

    def finish(self, live: Any, ending: Ending) -> None:
        """See `Logger`."""
        live.log_other("gradwatch/verdict", ending.verdict)
        if ending.rows:
            rows = [list(row) for row in ending.rows]
            live.log_table("gradwatch/findings.csv", tabular_data=rows, headers=list(COLUMNS))
        for path in () if self.is_relayed else ending.pictures:
            live.log_image(str(path), name=f"gradwatch/{path.name}", step=ending.step)
        if page := ending.page():
            live.log_html(page)
