"""Weights & Biases: a run has one row counter, and only Ultralytics may move it."""

from __future__ import annotations

import inspect
from io import StringIO
from typing import TYPE_CHECKING, Any

from yolo_gradwatch.loggers.ending import COLUMNS
from yolo_gradwatch.loggers.logger import Logger, loaded

if TYPE_CHECKING:
    from yolo_gradwatch.diagnose.finding import FindingChange
    from yolo_gradwatch.loggers.ending import Ending

STEP = "gradwatch/step"
"""Our own step, separate from W&B's counter, which can only go up."""

_LEVELS = {"critical": "ERROR", "warning": "WARN", "notice": "INFO"}


class WandB(Logger):
    """Logs to ``wandb.run``.

    Before 8.4.184, Ultralytics logs with ``step=epoch + 1``: a row of ours would move W&B's counter
    past that, and W&B would drop every metric of the training. With those versions, our numbers
    join the row that is already open, one set per epoch.
    """

    name, title, integration = "wandb", "Weights & Biases", "wb"
    axis = f"each window, by `{STEP}`; each epoch before Ultralytics 8.4.184"
    findings_as = "summary; an alert when one begins or grows worse"
    verdict_as = "summary `gradwatch/verdict`"
    pictures_as = "`gradwatch`, `gradwatch/flow`"
    page_as = "`gradwatch/page`, with Plotly"
    table_as = "`gradwatch/findings`"

    def find(self) -> Any:
        """Return the run of the process."""
        return loaded("wandb", "run")

    def begin(self, live: Any) -> None:
        """Give our numbers their own axis."""
        log = loaded("ultralytics.utils.callbacks.wb", "on_fit_epoch_end")
        self.by_epoch = log is not None and "step=" in inspect.getsource(log)
        live.define_metric(STEP, hidden=True)
        live.define_metric("gradwatch/*", step_metric=STEP, step_sync=False)

    def send(self, live: Any, numbers: dict[str, float], step: int) -> None:
        """See `Logger`."""
        live.log({**numbers, STEP: step}, commit=not self.by_epoch)

    def tell(self, live: Any, change: FindingChange, text: str) -> None:
        """See `Logger`."""
        finding = change.finding
        name = f"{finding.rule} in {finding.module}"
        live.summary[f"gradwatch/finding {finding.number}"] = f"{change.change}: {text}"
        if change.change != "end" and finding.severity != "notice":
            live.alert(f"GradWatch: {name}", text, level=_LEVELS[finding.severity])

    def finish(self, live: Any, ending: Ending) -> None:
        """Add to Ultralytics' last row, except ``gradwatch.png``, which Ultralytics sends."""
        live.summary["gradwatch/verdict"] = ending.verdict
        table = loaded("wandb", "Table")
        row: dict[str, Any] = {STEP: ending.step}
        row["gradwatch/findings"] = table(list(COLUMNS), list(ending.rows))
        image = loaded("wandb", "Image")
        for path in ending.pictures:
            if path.stem != "gradwatch":
                row[f"gradwatch/{path.stem}"] = image(str(path))
        if page := ending.page():
            row["gradwatch/page"] = loaded("wandb", "Html")(StringIO(page), inject=False)
        live.log(row, commit=False)
