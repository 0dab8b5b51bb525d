"""What every healthy training must have, whatever is trained and however."""

import pytest
from PIL import Image
from training import shapes, train

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.runs.schema import ALERT_COLUMNS

NOTICES = {"amp_overflow", "starved_scale", "few_objects"}
"""What may be said of a healthy training."""


def watched(  # noqa: PLR0913  # as few as there are kinds of trainings
    folder, oracle, *, steps, watch=None, data=None, calls=(), **options
):
    """Train two epochs under the eyes of the oracle, and check everything.

    Args:
        folder: As for ``train``, and all other arguments too.
        oracle: Of the test.
        steps: The optimizer steps of all trainings together.
        watch: One that is attached already; a new one by default.
        data: A data set or a list of them; twelve drawn images by default, three batches.
        calls: As for ``train``.
        options: As for ``train``.

    Returns:
        The run of each training, and the model.
    """
    watch = watch or GradWatch(live=False)
    calls = [("on_train_start", oracle.take_model), *calls]
    options = {"epochs": 2, "data": data or shapes(12), **options}
    model = train(folder, watch=watch, calls=calls, **options)
    assert len(oracle.norms) == steps
    return holds(watch._attachment.sessions, oracle), model


def holds(sessions, oracle):
    """Check each training; their runs."""
    assert len(sessions) == len(oracle.starts) >= 1
    return [hold(session, oracle, i) for i, session in enumerate(sessions)]


def hold(session, oracle, training):
    """Check for one training: whole files, the oracle's numbers, the live report, no alarm."""
    run, live = load_run(session.folder), session.report()
    oracle.check(run, training)
    assert (run.meta.status, live.status) == ("finished", "finished")
    told = [(epoch.epoch, epoch.steps, epoch.clipped) for epoch in live.epochs]
    assert told == oracle.epochs_of(training)
    assert run.report() == live
    assert list(run.alerts) == list(ALERT_COLUMNS)
    assert {finding.rule for finding in live.findings} <= NOTICES, live
    with Image.open(session.folder / "gradwatch.png") as picture:
        picture.load()
    return run


def cases(*values, marks=()):
    """Parameters of a test, a value or a tuple of them each, named as they are."""
    return [
        pytest.param(*one, marks=marks, id=" ".join(map(str, one)))
        for one in (value if isinstance(value, tuple) else (value,) for value in values)
    ]
