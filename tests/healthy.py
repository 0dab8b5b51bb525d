"""Checks that every healthy training must pass, for any model, data and options."""

import pytest
from PIL import Image
from training import shapes, train

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.runs.schema import ALERT_COLUMNS

NOTICES = {"amp_overflow", "starved_scale", "few_objects"}
"""Notices that a healthy training may have."""


def watched(  # noqa: PLR0913  # the options of a training
    folder, oracle, *, steps, watch=None, data=None, calls=(), **options
):
    """Train two epochs with the oracle and check everything.

    Args:
        folder: As in ``train``.
        oracle: The oracle of the test.
        steps: Expected number of optimizer steps over all trainings.
        watch: The watch; a new one by default.
        data: A data set or a list of them; by default twelve drawn images, three batches.
        calls: As in ``train``.
        options: As in ``train``.

    Returns:
        The run of each training, and the model.
    """
    watch = watch or GradWatch(live=False)
    calls = [("on_train_start", oracle.take_model), *calls]
    options = {"epochs": 2, "data": data or shapes(12), **options}
    model = train(folder, watch=watch, calls=calls, **options)
    assert len(oracle.norms) == steps
    return assert_healthy_trainings(watch._attachment.sessions, oracle), model


def assert_healthy_trainings(sessions, oracle):
    """Check each training and return the runs."""
    assert len(sessions) == len(oracle.starts) >= 1
    return [assert_healthy(session, oracle, i) for i, session in enumerate(sessions)]


def assert_healthy(session, oracle, training):
    """Check one training: complete files, the oracle's numbers, the live report, no alarm."""
    run, live = load_run(session.folder), session.report()
    oracle.check(run, training)
    assert (run.meta.status, live.status) == ("finished", "finished")
    epochs = [(epoch.epoch, epoch.steps, epoch.clipped) for epoch in live.epochs]
    assert epochs == oracle.epochs_of(training)
    assert run.report() == live
    assert list(run.alerts) == list(ALERT_COLUMNS)
    assert {finding.rule for finding in live.findings} <= NOTICES, live
    with Image.open(session.folder / "gradwatch.png") as picture:
        picture.load()
    return run


def cases(*values, marks=()):
    """Return test parameters, each a value or a tuple, with their values as ids."""
    return [
        pytest.param(*one, marks=marks, id=" ".join(map(str, one)))
        for one in (value if isinstance(value, tuple) else (value,) for value in values)
    ]
