"""MLflow: every metric has its own step; nothing waits for the server."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from yolo_gradwatch.loggers.ending import COLUMNS, as_markdown
from yolo_gradwatch.loggers.logger import Logger, loaded

if TYPE_CHECKING:
    from yolo_gradwatch.diagnose.finding import FindingChange
    from yolo_gradwatch.loggers.ending import Ending

_LONGEST_TAG = 4900
"""Characters; MLflow accepts 5000, and 8000 from 2.13 on."""

DESCRIPTION = "mlflow.note.content"
"""The tag that MLflow's run page shows in full, as Markdown; it cuts others to a few words."""

VERDICT = "gradwatch.verdict"


class MLflow(Logger):
    """Logs to the active run of the training's thread.

    Each call first checks that this run is still active: without one, MLflow's functions would
    open another.
    """

    name, title, integration = "mlflow", "MLflow", "mlflow"
    axis = "each window, by optimizer step"
    findings_as = "tags `gradwatch.finding.N`"
    verdict_as = "tag `gradwatch.verdict`; the description, unless you have written one"
    pictures_as = "artifacts"
    page_as = "artifact `gradwatch/gradwatch.html`, with Plotly"
    table_as = "the description; artifact `gradwatch/findings.json`"

    def find(self) -> Any:
        """Return the active run; None while MLflow is only partly imported."""
        active = loaded("mlflow", "active_run")
        return active() if active else None

    def send(self, live: Any, numbers: dict[str, float], step: int) -> None:
        """See `Logger`."""
        del live
        named = {re.sub(r"[^\w\-. /]", "_", name): number for name, number in numbers.items()}
        loaded("mlflow", "log_metrics")(named, step=step, synchronous=False)

    def tell(self, live: Any, change: FindingChange, text: str) -> None:
        """See `Logger`."""
        del live
        value = f"{change.change}: {text}"[:_LONGEST_TAG]
        key = f"gradwatch.finding.{change.finding.number}"
        loaded("mlflow", "set_tag")(key, value, synchronous=False)

    def finish(self, live: Any, ending: Ending) -> None:
        """Wait for pending data, because Ultralytics closes the run next, then send the outcome."""
        loaded("mlflow", "flush_async_logging")()
        tags = {VERDICT: ending.verdict}
        if _is_free(loaded("mlflow", "get_run")(live.info.run_id).data.tags):
            tags[DESCRIPTION] = ending.markdown
        cut = {name: text[:_LONGEST_TAG] for name, text in tags.items()}
        loaded("mlflow", "set_tags")(cut)
        for path in ending.pictures:
            loaded("mlflow", "log_artifact")(str(path), "gradwatch")
        columns = dict(zip(COLUMNS, map(list, zip(*ending.rows, strict=True)), strict=False))
        if columns:
            loaded("mlflow", "log_table")(columns, "gradwatch/findings.json")
        if page := ending.page():
            loaded("mlflow", "log_text")(page, "gradwatch/gradwatch.html")


def _is_free(tags: dict[str, str]) -> bool:
    """Whether the description is empty, or ours from an earlier training of this run."""
    text, verdict = tags.get(DESCRIPTION, ""), tags.get(VERDICT)
    return not text or (verdict is not None and text.startswith(as_markdown(verdict)))
