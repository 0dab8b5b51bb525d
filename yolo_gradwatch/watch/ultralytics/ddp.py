"""Facts about training on several GPUs, in one launched process each.

Read in ultralytics 8.4.0 to 8.4.190. The launching process runs no callbacks; from 8.4.140 on, the
launched ones get a pickle of its callbacks. If torchrun launched the script once per rank,
Ultralytics launches nothing, and in every version the callbacks are those of the script.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from yolo_gradwatch.watch.ultralytics.hooks import replaced
from yolo_gradwatch.watch.ultralytics.training import is_trainer

if TYPE_CHECKING:
    from collections.abc import Callable

_LOG = logging.getLogger(__name__)


def reports() -> bool:
    """Return whether this process reports for the training: the only process, or rank 0."""
    from ultralytics.utils import RANK  # heavy; only a training pays for it

    return RANK in {-1, 0}


def launches_workers(trainer: Any) -> bool:
    """Return whether this trainer launches processes to train in."""
    return bool(getattr(trainer, "ddp", False))


def drops_callbacks() -> bool:
    """Return whether DDP processes get no callbacks, as before 8.4.140."""
    import ultralytics  # heavy; only a training pays for it
    from ultralytics.utils.checks import check_version

    return not check_version(ultralytics.__version__, ">=8.4.140")


def dropped_callbacks() -> str:
    """Return a sentence on the effect of `drops_callbacks`, and what to do."""
    import ultralytics  # heavy; only a training pays for it

    return (
        f"Ultralytics {ultralytics.__version__} drops callbacks when it trains on several GPUs, "
        "so this training is not watched: update it (pip install -U "
        "ultralytics), or train on one GPU"
    )


def may_launch(target: Any) -> bool:
    """Return whether the training of a trainer or a model may launch several processes.

    A trainer knows its devices. A model learns them in ``train()``, so it may if this machine has
    several GPUs, unless a launcher such as torchrun started this process as one rank.
    """
    from ultralytics.utils import LOCAL_RANK  # heavy; only a training pays for it

    if is_trainer(target):
        return launches_workers(target)
    return LOCAL_RANK == -1 and gpus() > 1


def gpus() -> int:
    """Return the number of CUDA devices."""
    import torch  # heavy; only a training pays for it

    return torch.cuda.device_count()


def before_launch(call: Callable[[Any], None]) -> Callable[[], None]:
    """Call ``call`` with each trainer that is about to launch processes.

    The launching process runs no callback (8.4.0 to 8.4.190), so the function that prepares the
    launch is wrapped, for every trainer of this process. No other training calls it.

    Returns:
        A function that removes the wrapper; a second call does nothing.
    """
    from ultralytics.engine import trainer as module  # heavy

    prepare = getattr(module, "generate_ddp_command", None)
    if prepare is None:  # a later Ultralytics: launched runs are not found
        return lambda: None

    def watched_prepare(trainer: Any) -> Any:
        try:
            call(trainer)
        except Exception as error:  # noqa: BLE001  # no session exists yet to catch it
            _LOG.warning("GradWatch cannot find this training again: %s", error)
        return prepare(trainer)

    return replaced(module, "generate_ddp_command", watched_prepare)
