"""Many trainings at once, in separate folders and in one, in real processes."""

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
from many import STEPS, norms_of
from places import TESTS
from training import TINY, shapes, small

from yolo_gradwatch import load_run
from yolo_gradwatch.runs.schema import CLAIM_FILE

MANY = 20
TAKEN = "GradWatch does not watch this training"


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("gradwatch*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_many_processes_write_separate_runs(tmp_path):
    script = [sys.executable, TESTS / "many.py", tmp_path, str(MANY)]
    assert subprocess.run(script, stdout=subprocess.DEVNULL, check=False).returncode == 0
    for number in range(MANY):
        run = load_run(tmp_path / f"run-{number}")
        report = run.report()
        assert (report.status, report.steps, report.remarks) == ("finished", STEPS, ())
        first = run.windows[run.windows["step_first"] == 1].set_index("module")["norm_mean"]
        leaf = first[first.index != "model"].min()
        assert leaf == pytest.approx(norms_of(number, 1)[0])
        assert sum(epoch.steps for epoch in run.meta.epochs) == STEPS
    drafts = [path.name for path in tmp_path.rglob(".gradwatch*")]
    assert drafts == []


@contextmanager
def training(folder, log, *places, **options):
    """A training process, see `child.py`; it is killed at the end."""
    options = {**TINY, "imgsz": 64, "model": small(), "project": str(folder), **options}
    command = [sys.executable, TESTS / "child.py", json.dumps(options), *places]
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process, log, text, seconds=100):
    """Wait until a log contains a text."""
    for _ in range(seconds * 50):
        if text in log.read_text(encoding="utf-8", errors="replace"):
            return
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.02)
    pytest.fail(f"no {text} in {seconds} s")


@pytest.mark.train
def test_second_training_in_a_folder_leaves_the_files_of_the_first_alone(tmp_path):
    data, run = shapes(), tmp_path / "run"
    logs = [tmp_path / f"{name}.txt" for name in ("first", "second")]
    options = {"data": data, "epochs": 3, "longest": 300}
    with training(tmp_path, logs[0], "batch", **options) as first:
        wait_for(first, logs[0], "<batch>")
        before = files(run)
        with training(tmp_path, logs[1], **options) as second:
            assert second.wait(200) == 0
        assert files(run) == before
        first.send_signal(signal.SIGINT)
        assert first.wait(60) == -signal.SIGINT
    said = logs[1].read_text(encoding="utf-8")
    assert said.count(TAKEN) == 1
    assert f"process {first.pid})" in said
    assert "<restored>" in said
    assert load_run(run).status == "interrupted"
    assert load_run(run).report().steps == 2


@pytest.mark.train
@pytest.mark.full
@pytest.mark.parametrize("attempt", range(5))
def test_one_of_simultaneous_trainings_in_a_folder_is_watched(tmp_path, attempt):
    data = shapes(40)
    logs = [tmp_path / f"{number}.txt" for number in range(4)]
    with ExitStack() as stack:
        several = [
            stack.enter_context(training(tmp_path, log, data=data, save=False)) for log in logs
        ]
        for process in several:
            process.wait(300)
    said = [log.read_text(encoding="utf-8", errors="replace") for log in logs]
    watched = [text for text in said if TAKEN not in text]
    assert len(watched) >= 1  # one that starts after another has ended is watched as well
    run = load_run(tmp_path / "run")
    assert run.report().steps == 10
    is_torn = any("is not a loadable checkpoint" in text for text in watched)
    # an error of Ultralytics may make it fail
    assert run.status == "finished" or (is_torn and run.status == "failed")
    assert not (tmp_path / "run" / CLAIM_FILE).exists()


@pytest.mark.train
@pytest.mark.full
def test_many_simultaneous_trainings_lose_nothing(tmp_path):
    data = [shapes(images) for images in (8, 12)]
    names = [f"run-{number}" for number in range(MANY)]
    with ExitStack() as stack:
        several = [
            stack.enter_context(
                training(
                    tmp_path,
                    tmp_path / f"{name}.txt",
                    name=name,
                    data=data[number % 2],
                    seed=number,
                    longest=900,
                )
            )
            for number, name in enumerate(names)
        ]
        assert [process.wait(900) for process in several] == [0] * MANY
    norms = set()
    for number, name in enumerate(names):
        run = load_run(tmp_path / name)
        assert (run.status, run.report().steps, run.remarks) == ("finished", 2 + number % 2, ())
        assert run.meta.process.pid == several[number].pid
        assert run.meta.options.training["seed"] == number
        whole = run.windows[run.windows["module"] == "model"]
        norms.add(tuple(np.asarray(whole["norm_mean"])))
    assert len(norms) == MANY  # each seed has its own norms
