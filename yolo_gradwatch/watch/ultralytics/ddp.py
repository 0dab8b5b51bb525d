"""How Ultralytics trains on several GPUs: in processes that it launches, one for each.

Read in ultralytics 8.4.0 to 8.4.190. The process that launches them runs no callback; from 8.4.140
on the others get a pickle of its callbacks. Where torchrun has launched a script once a rank,
Ultralytics launches nothing, and in every version the callbacks are the script's own.
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
    """Whether this process speaks for the training: the only one, or rank 0 of several."""
    from ultralytics.utils import RANK  # heavy; only a training pays for it

    return RANK in {-1, 0}


def launches_workers(trainer: Any) -> bool:
    """Whether the training runs in processes that this trainer starts."""
    return bool(getattr(trainer, "ddp", False))


def drops_callbacks() -> bool:
    """Whether the processes of a training on several GPUs get no callbacks: before 8.4.140."""
    import ultralytics  # heavy; only a training pays for it
    from ultralytics.utils.checks import check_version

    return not check_version(ultralytics.__version__, ">=8.4.140")


def dropped_callbacks() -> str:
    """In a sentence, what happens where `drops_callbacks` holds, and what to do."""
    import ultralytics  # heavy; only a training pays for it

    return (
        f"Ultralytics {ultralytics.__version__} drops callbacks when it trains on several GPUs, "
        "so this training is not watched: update it (pip install -U "
        "ultralytics), or train on one GPU"
    )


def may_launch(target: Any) -> bool:
    """Whether the training of a trainer or a model may run in several processes.

    A trainer knows its devices. A model gets to know them in ``train()``, so it may if this machine
    has several GPUs, unless somebody else, such as torchrun, has launched this process as one rank.
    """
    from ultralytics.utils import LOCAL_RANK  # heavy; only a training pays for it

    if is_trainer(target):
        return launches_workers(target)
    return LOCAL_RANK == -1 and gpus() > 1


def gpus() -> int:
    """How many CUDA devices there are."""
    import torch  # heavy; only a training pays for it

    return torch.cuda.device_count()


def before_launch(call: Callable[[Any], None]) -> Callable[[], None]:
    """Call ``call`` with each trainer that is about to start processes of its own.

    No callback runs in the process that starts them (8.4.0 to 8.4.190), so the function that
    prepares the start is wrapped, for every trainer of this process. No other training calls it.

    Returns:
        A function that takes the wrap away; a second call does nothing.
    """
    from ultralytics.engine import trainer as module  # heavy

    prepare = getattr(module, "generate_ddp_command", None)
    if prepare is None:  # an Ultralytics of a later day, where a launched run is not found again
        return lambda: None

    def watched_prepare(trainer: Any) -> Any:
        try:
            call(trainer)
        except Exception as error:  # noqa: BLE001  # there is no session yet that would catch it
            _LOG.warning("GradWatch cannot find this training again: %s", error)
        return prepare(trainer)

    return replaced(module, "generate_ddp_command", watched_prepare)
