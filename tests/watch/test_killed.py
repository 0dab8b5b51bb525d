"""Trainings that are killed or interrupted, in their own processes."""

import csv
import json
import random
import re
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager

import numpy as np
import pytest
from places import TESTS
from training import TINY, shapes, small, train

from yolo_gradwatch import load_run
from yolo_gradwatch.cli.main import main
from yolo_gradwatch.runs.schema import WINDOW_COLUMNS, FormatError

pytestmark = pytest.mark.train

CHILD = TESTS / "child.py"


@contextmanager
def training(folder, *places, **options):
    """A training process that waits at these places; it is always killed at the end."""
    options = {**TINY, "imgsz": 32, "model": small(), "data": shapes(), **options}
    arguments = [sys.executable, CHILD, json.dumps({**options, "project": str(folder)}), *places]
    log = folder / "log.txt"
    with log.open("wb") as out, subprocess.Popen(arguments, stdout=out, stderr=out) as process:
        try:
            yield process, log
        finally:
            process.kill()


def wait_until(process, is_there, *, seconds=100):
    """Wait for a condition while the process is alive."""
    deadline = time.monotonic() + seconds
    while not is_there():
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.005)  # let the other process work


def whole_windows(folder):
    """The rows of all complete windows of a run, judged by its number of modules."""
    try:
        layout = json.loads((folder / "gradwatch.json").read_text(encoding="utf-8"))["layout"]
        content = (folder / "gradwatch.csv").read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    rows = list(csv.reader(content[: content.rfind("\n") + 1].splitlines()))[1:]
    return rows[: len(rows) // len(layout["modules"]) * len(layout["modules"])]


def assert_read(folder, rows):
    """The run that is read consists of these rows, in windows without gaps."""
    run = load_run(folder)
    columns = ["epoch", "step_first", "step_last", "module"]
    read = run.windows[columns].astype(str).to_numpy().tolist()
    assert read == [row[:4] for row in rows]
    place = WINDOW_COLUMNS.index("norm_mean")
    norms = np.array([np.float32(row[place] or "nan") for row in rows])
    np.testing.assert_array_equal(run.windows["norm_mean"].to_numpy(np.float32), norms)
    steps = run.windows[run.windows["module"] == "model"][["step_first", "step_last"]].to_numpy()
    assert list(steps[:, 0]) == [1, *(steps[:-1, 1] + 1)][: len(steps)]
    assert run.report().steps == (steps[-1, 1] if len(steps) else 0)
    return run


def resume(folder):
    """Resume the training of ``folder / "run"`` for one epoch and return its watch."""
    from yolo_gradwatch import GradWatch

    def stop(trainer):
        trainer.stop = True

    watch = GradWatch(live=False)
    last = folder / "run" / "weights" / "last.pt"
    calls = [("on_train_epoch_end", stop)]
    train(folder, watch=watch, model=str(last), resume=True, calls=calls)
    return watch


def check_killed(folder, seen, capsys):
    """The files of a killed training can be read, reviewed and resumed."""
    run_dir = folder / "run"
    rows = whole_windows(run_dir)
    assert rows[: len(seen)] == seen
    if not (run_dir / "gradwatch.json").exists():
        with pytest.raises(FormatError, match=re.escape(str(run_dir))):
            load_run(run_dir)
        assert main(["review", str(run_dir)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
        return
    killed = assert_read(run_dir, rows)
    assert (killed.meta.status, killed.status) == ("running", "killed")
    assert main(["review", str(run_dir)]) == 0
    assert "its process is gone" in capsys.readouterr().out
    weights = run_dir / "weights"
    if zipfile.is_zipfile(weights / "last.pt"):  # otherwise there is nothing to resume
        if not zipfile.is_zipfile(weights / "best.pt"):  # Ultralytics cannot load it in the end
            (weights / "best.pt").unlink(missing_ok=True)
        watch = resume(folder)
        again = whole_windows(run_dir)
        assert again[: len(rows)] == rows
        assert len(again) > len(rows)
        run = assert_read(run_dir, again)
        assert run.meta.events[-1].kind == "resume"
        assert run.report() == watch.report()


@pytest.mark.parametrize(
    "moment", [pytest.param(n, marks=pytest.mark.full if n else ()) for n in range(20)]
)
def test_killed_training_loses_nothing_that_was_on_disk(tmp_path, capsys, moment):
    chance = random.Random(moment)  # noqa: S311  # no secret
    table = tmp_path / "run" / "gradwatch.csv"
    with training(tmp_path, epochs=100_000) as (process, _log):
        if moment % 4 == 3:
            time.sleep(chance.uniform(0.2, 8))  # during startup
        else:
            wait_until(process, table.exists)
            time.sleep(chance.uniform(0, 2))
        seen = whole_windows(tmp_path / "run")
        process.send_signal(signal.SIGKILL)
        process.wait()
    check_killed(tmp_path, seen, capsys)


@pytest.mark.parametrize(
    "place",
    [
        "window",
        *(pytest.param(place, marks=pytest.mark.full) for place in ("tables", "meta", "batch")),
    ],
)
def test_training_killed_during_a_write_can_be_resumed(tmp_path, capsys, place):
    with training(tmp_path, place, epochs=3) as (process, log):
        wait_until(process, lambda: f"<{place}>" in log.read_text())
        seen = whole_windows(tmp_path / "run")
        process.send_signal(signal.SIGKILL)
        process.wait()
    check_killed(tmp_path, seen, capsys)


@pytest.mark.parametrize(
    ("live", "places"),
    [
        (True, ["batch", "end"]),
        *(
            pytest.param(live, places, marks=pytest.mark.full)
            for live in (False, True)
            for places in (["batch"], ["batch", "end"], ["batch", "picture"], ["batch", "close"])
        ),
    ],
)
def test_ctrl_c_ends_the_training_as_without_the_watch(tmp_path, live, places):
    """The second Ctrl-C comes while the watch shuts down."""
    with training(tmp_path, *places, epochs=3, live=live) as (process, log):
        for place in places:
            wait_until(process, lambda place=place: f"<{place}>" in log.read_text())
            process.send_signal(signal.SIGINT)
        assert process.wait(60) == -signal.SIGINT
    output = log.read_text()
    assert "<restored>" in output
    assert output.rstrip().splitlines()[-1] == "KeyboardInterrupt"
    assert "GradWatch stops watching" not in output
    run = assert_read(tmp_path / "run", whole_windows(tmp_path / "run"))
    assert run.meta.status == "interrupted"
    assert run.report().steps == 2


@pytest.mark.full
def test_ctrl_c_without_the_watch(tmp_path):
    with training(tmp_path, "batch", epochs=3, watched=False) as (process, log):
        wait_until(process, lambda: "<batch>" in log.read_text())
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == -signal.SIGINT
    assert log.read_text().rstrip().splitlines()[-1] == "KeyboardInterrupt"
    assert not list((tmp_path / "run").glob("gradwatch*"))
