"""TensorBoard: every tag has its own axis."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolo_gradwatch.loggers.ending import as_markdown
from yolo_gradwatch.loggers.logger import Logger, loaded

if TYPE_CHECKING:
    from yolo_gradwatch.diagnose.finding import FindingChange
    from yolo_gradwatch.loggers.ending import Ending


class TensorBoard(Logger):
    """Writes to the event file that Ultralytics has opened in the run's folder."""

    name, title, integration = "tensorboard", "TensorBoard", "tensorboard"
    axis = "each window, by optimizer step"
    findings_as = "text"
    verdict_as = "text `gradwatch/report`"
    pictures_as = "images"
    page_as = ""
    table_as = "in `gradwatch/report`"

    def find(self) -> Any:
        """Return the writer if it belongs to this run: early versions leave the last one open."""
        writer = loaded("ultralytics.utils.callbacks.tensorboard", "WRITER")
        folder = getattr(writer, "log_dir", None)
        is_ours = folder is not None and Path(folder).resolve() == self._folder.resolve()
        return writer if is_ours else None

    def send(self, live: Any, numbers: dict[str, float], step: int) -> None:
        """See `Logger`."""
        for name, number in numbers.items():
            live.add_scalar(name, number, step)

    def tell(self, live: Any, change: FindingChange, text: str) -> None:
        """See `Logger`."""
        finding = change.finding
        live.add_text(
            f"gradwatch/findings/{finding.number}-{finding.rule}",
            f"{change.change}: {as_markdown(text)}",
            change.reported,
        )

    def finish(self, live: Any, ending: Ending) -> None:
        """See `Logger`."""
        from matplotlib.image import imread  # noqa: PLC0415  # only the end pays for it

        live.add_text("gradwatch/report", ending.markdown, ending.step)
        for path in ending.pictures:
            tag = f"gradwatch/{path.stem}"
            live.add_image(tag, imread(path), ending.step, dataformats="HWC")
        live.flush()
