"""What loggers store of real trainings: Ultralytics' metrics unchanged, and ours next to them.

Ultralytics disables loggers under pytest, so these trainings run offline in separate processes.
"""

import json
from collections import defaultdict
from importlib.util import find_spec

import numpy as np
import pytest
import ultralytics
from logging_run import train
from packaging.version import Version
from stores import PACKAGES

from yolo_gradwatch import load_run
from yolo_gradwatch.loggers.catalog import LOGGERS
from yolo_gradwatch.loggers.scalars import scalars

NAMES = ("tensorboard", "wandb", "mlflow")
HAS_ROWS_OF_EPOCHS = Version(ultralytics.__version__) < Version("8.4.184")
"""Whether W&B gets one set of numbers per epoch."""

pytestmark = [
    pytest.mark.train,
    pytest.mark.skipif(not all(map(find_spec, NAMES)), reason="a logger is not installed"),
]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """An unwatched training."""
    return train(tmp_path_factory.mktemp("alone"), settings=NAMES)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """The same training, watched; every logger draws random numbers."""
    return train(tmp_path_factory.mktemp("watched"), settings=NAMES, watch={}, draws=True)


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """Watched too: MLflow's third call raises, TensorBoard is off, W&B's run is the user's."""
    watch = {"loggers": NAMES, "share_names": True}
    folder = tmp_path_factory.mktemp("broken")
    return train(folder, settings=NAMES[1:], watch=watch, breaks="mlflow", opens="wandb")


def expected(ran, name):
    """The scalars of a run's windows by name, at the steps at which the logger stores them."""
    run = load_run(ran.folder / "run")
    windows = list(run.windows_in_order())
    ends = {window.epoch: window.step_last for window in windows}
    by_epoch = name == "wandb" and HAS_ROWS_OF_EPOCHS
    found = defaultdict(dict)  # by epoch, the newest value wins
    for window in windows:
        step = ends[window.epoch] if by_epoch else window.step_last
        for number, value in scalars(run.layout, window, 10.0).items():
            found[number][step] = value
    return {number: [*pairs.items()] for number, pairs in found.items()}


def assert_complete(ran, name):
    """Each of our scalars is stored once, at its step, in a single run."""
    stored = ran.stored(name)
    numbers, wanted = stored.ours(), expected(ran, name)
    assert len(wanted["gradwatch/model"]) == (4 if HAS_ROWS_OF_EPOCHS and name == "wandb" else 16)
    assert set(wanted) <= set(numbers)
    assert set(numbers) - set(wanted) <= {"gradwatch/step"}
    for number, pairs in wanted.items():
        own = numbers[number]
        assert [step for step, _ in own] == [step for step, _ in pairs]
        np.testing.assert_allclose([v for _, v in own], [v for _, v in pairs], rtol=1e-6)
    assert stored.runs == 1


def test_unwatched_training_logs_nothing_of_gradwatch(alone):
    assert alone.code == 0, alone.said
    assert len(alone.weights) == 64
    assert not any(alone.stored(name).ours() for name in NAMES)


def test_weights_are_identical_bit_for_bit(alone, watched):
    assert watched.code == 0, watched.said
    assert watched.weights == alone.weights


def test_weights_are_identical_if_a_logger_raises(alone, broken):
    assert broken.code == 0, broken.said
    assert broken.weights == alone.weights


@pytest.mark.parametrize("name", NAMES)
def test_ultralytics_metrics_are_unchanged_at_every_step(alone, watched, broken, name):
    metrics = alone.stored(name).ultralytics_metrics()
    assert len(metrics["train/box_loss"]) == 4
    assert watched.stored(name).ultralytics_metrics() == metrics
    assert broken.stored(name).ultralytics_metrics() == (metrics if name != "tensorboard" else {})


@pytest.mark.parametrize("name", NAMES)
def test_every_window_is_stored_at_its_optimizer_step(watched, name):
    assert_complete(watched, name)


def test_wandb_rows_of_ultralytics_are_unchanged(alone, watched):
    """Our scalars neither join W&B's row of an epoch nor split it in two."""
    rows = [
        [set(row) for row in ran.stored("wandb").rows if "train/box_loss" in row]
        for ran in (alone, watched)
    ]
    if HAS_ROWS_OF_EPOCHS:
        rows[1] = [{name for name in row if not name.startswith("gradwatch")} for row in rows[1]]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 4


def test_failing_logger_disables_only_itself(broken):
    assert_complete(broken, "wandb")
    assert len(broken.stored("mlflow").ours()["gradwatch/model"]) == 2
    assert "gradwatch.verdict" not in broken.stored("mlflow").texts
    assert broken.stored("mlflow").texts["status"] == "FINISHED"
    assert broken.said.count("no network") == 1


def texts(ran, name):
    """What a logger stored: start and end of a finding, verdict, table, pictures and page."""
    found = ran.stored(name).texts
    if name == "tensorboard":
        begin, end = found["gradwatch/findings/1-dead/text_summary"]
        (report,) = found["gradwatch/report/text_summary"]
        pictures = found["gradwatch/gradwatch"] + found["gradwatch/flow"]
        return begin, end, report, report, pictures, None
    if name == "mlflow":
        end = found["gradwatch.finding.1"]
        assert found["description"][0].startswith(found["gradwatch.verdict"])
        pictures = [found["gradwatch.png"], found["flow.png"]]
        rest = found["findings.json"], pictures, found["gradwatch.html"]
        return None, end, found["gradwatch.verdict"], *rest
    (alert,) = [text for title, text in found.items() if title.startswith("alert")]
    (media,) = ran.folder.rglob("offline-run-*/files/media")
    pictures = [one.read_bytes()[:4] for one in media.rglob("*.png")]
    (table,), (page,) = media.rglob("*.table.json"), media.rglob("*.html")
    end, verdict = found["gradwatch/finding 1"], found["gradwatch/verdict"]
    return alert, end, verdict, table.read_text("utf-8"), pictures, page.read_text("utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_findings_verdict_table_pictures_and_page(watched, name):
    begin, end, verdict, table, pictures, page = texts(watched, name)
    report = load_run(watched.folder / "run").report()
    (finding,) = report.findings
    assert begin is None or finding.message in begin
    assert end.startswith("end: ")
    assert finding.message in end
    assert verdict.startswith(report.verdict)
    assert json.dumps(finding.message)[1:-1] in table
    assert len(pictures) == 2
    assert {one[:4] for one in pictures} == {b"\x89PNG"}
    assert page is None or page.startswith("<!doctype html>")
    assert (page is None) == (not LOGGERS[name].page_as)


@pytest.mark.parametrize("name", NAMES)
def test_no_absolute_path_is_sent_unless_asked_for(watched, broken, name):
    """Ultralytics itself sends its arguments; only our own texts are checked."""
    for ran in (watched, broken) if name == "wandb" else (watched,):
        sent = "\n".join(text for text in texts(ran, name) if isinstance(text, str))
        assert (str(ran.folder) in sent) == (ran is broken)


def test_failed_training_logs_its_verdict(tmp_path):
    ran = train(tmp_path, settings=NAMES[:2], watch={}, fails=3)
    assert ran.code == 1
    verdict = load_run(tmp_path / "run").report().verdict
    assert "failed" in verdict
    assert ran.stored("wandb").texts["gradwatch/verdict"] == verdict
    assert ran.stored("tensorboard").texts["gradwatch/report/text_summary"][0].startswith(verdict)
    assert ran.stored("wandb").runs == ran.stored("tensorboard").runs == 1


def test_disabled_logger_is_not_imported_and_warns_once_if_named(broken):
    assert broken.loaded == ["wandb", "mlflow"]
    assert broken.said.count("has no open run") == 1
    assert not list(broken.folder.rglob("*tfevents*"))


OTHERS = [("comet",), ("clearml",), ("dvc",), ("comet", "tensorboard"), ("clearml", "tensorboard")]


@pytest.mark.full
@pytest.mark.parametrize("on", OTHERS, ids="-".join)
def test_other_loggers(tmp_path, on):
    """Some record TensorBoard on their own: no scalar is stored twice."""
    name = on[0]
    if not find_spec(PACKAGES[name]):
        pytest.skip(f"{PACKAGES[name]} is not installed")
    bare, ran = (train(tmp_path / str(w), settings=on, watch=w) for w in (None, {}))
    assert bare.code == ran.code == 0, bare.said + ran.said
    assert bare.weights == ran.weights
    stored = ran.stored(name)
    assert stored.ultralytics_metrics() == bare.stored(name).ultralytics_metrics()
    assert stored.runs == 1
    run = load_run(ran.folder / "run")
    steps = [0, 1, 2, 3] if name == "dvc" else [w.step_last for w in run.windows_in_order()]
    assert [step for step, _ in stored.ours()["gradwatch/model"]] == steps
    assert len(stored.ours()) >= 2 * 7 + 2
    texts = [str(text) for text in stored.texts.values()]
    for words in (run.report().findings[0].message[:40], run.report().verdict):
        assert any(words in text for text in texts)
