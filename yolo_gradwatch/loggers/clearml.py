"""ClearML: one chart with a line for each block; it records TensorBoard by itself."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING, Any

from yolo_gradwatch.loggers.ending import COLUMNS
from yolo_gradwatch.loggers.logger import Logger, loaded

if TYPE_CHECKING:
    from yolo_gradwatch.diagnose.finding import FindingChange
    from yolo_gradwatch.loggers.ending import Ending

TITLE = "gradwatch"


class ClearML(Logger):
    """Reports to the current task."""

    name, title, integration = "clearml", "ClearML", "clearml"
    records_tensorboard = True
    axis = "each window, by optimizer step"
    findings_as = "the console log"
    verdict_as = "the console log; `gradwatch/alarms` counts them"
    pictures_as = "debug samples"
    page_as = "debug samples, with Plotly"
    table_as = "plots"

    def find(self) -> Any:
        """Return the current task."""
        task = loaded("clearml", "Task")
        return task.current_task() if task else None

    def send(self, live: Any, numbers: dict[str, float], step: int) -> None:
        """See `Logger`."""
        for name, number in () if self.is_relayed else numbers.items():
            series = name.removeprefix("gradwatch/")
            live.get_logger().report_scalar(TITLE, series, number, iteration=step)

    def tell(self, live: Any, change: FindingChange, text: str) -> None:
        """See `Logger`."""
        line = f"GradWatch, {change.change}: {text}"
        live.get_logger().report_text(line, print_console=False)

    def finish(self, live: Any, ending: Ending) -> None:
        """Send the outcome, except ``gradwatch.png``, which Ultralytics sends itself."""
        logger, step = live.get_logger(), ending.step
        logger.report_text(f"GradWatch, verdict: {ending.verdict}", print_console=False)
        logger.report_single_value("gradwatch/alarms", ending.alarms)
        if ending.rows:
            rows = [list(COLUMNS), *map(list, ending.rows)]
            logger.report_table(TITLE, "findings", iteration=step, table_plot=rows)
        for path in () if self.is_relayed else ending.pictures:
            if path.stem != "gradwatch":
                logger.report_image(TITLE, path.stem, iteration=step, local_path=str(path))
        if page := ending.page():
            stream = StringIO(page)
            logger.report_media(TITLE, "page", iteration=step, stream=stream, file_extension="html")
