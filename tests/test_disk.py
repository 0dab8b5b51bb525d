"""A disk that is full, and folders that are locked, gone, or back again in mid-training."""

import errno
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from short import assert_nothing_left, bare, bits_of, run, streams, told
from training import small, train

from yolo_gradwatch import FormatError, GradWatch, load_run

pytestmark = pytest.mark.train


@contextmanager
def small_disk(folder, size):
    """A disk of so many bytes, mounted at a folder."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S607


def lock(folder):
    """Let nobody make a file in a folder, not even root."""
    if os.geteuid():
        folder.chmod(0o555)
    elif shutil.which("chattr") is None or _chattr("+i", folder):
        pytest.skip("root may write everywhere here")


def unlock(folder):
    """As it was."""
    if os.geteuid():
        folder.chmod(0o755)
    else:
        _chattr("-i", folder)


def _chattr(flag, folder):
    return subprocess.run(["chattr", flag, str(folder)], check=False).returncode  # noqa: S607


def at(epoch, call, event="on_train_batch_end"):
    """Call with the run's folder at an event of an epoch, once."""
    done = []

    def once(trainer):
        if trainer.epoch + 1 == epoch and not done:
            done.append(trainer)
            call(trainer.save_dir)

    return (event, once)


def check(folder, caplog, *, live, calls=(), warning):
    """The training is as it is unwatched, its live report too, and the files cost one warning."""
    before = streams()
    watch = GradWatch(live=live)
    trainer = run(folder, watch=watch, calls=calls)
    assert streams() == before
    assert_nothing_left(trainer)
    assert bits_of(trainer) == bare()
    (one,) = told(caplog)
    assert warning in one
    assert not [f.path for f in psutil.Process().open_files() if str(folder) in f.path]
    report = watch.report()
    assert (report.status, report.steps) == ("finished", 8)
    assert [finding.rule for finding in report.findings] == ["nonfinite"]
    printed = sys.stdout.getvalue()
    assert printed.count("GradWatch: unhealthy") == 1
    assert ("GradWatch epoch 4/4" in printed) == (not live)
    return watch


@pytest.mark.parametrize("live", [False, pytest.param(True, marks=pytest.mark.full)])
def test_a_disk_that_fills_up_costs_the_files_and_nothing_else(tmp_path, caplog, terminal, live):
    terminal()
    bare()
    with small_disk(tmp_path, 48 * 1024):
        watch = check(tmp_path, caplog, live=live, warning="No space left on device")
        read = load_run(watch.run_dir)
        assert 0 < read.report().steps < 8
        assert list(read.windows["step_first"].unique()) == list(range(1, read.report().steps + 1))
        assert not (watch.run_dir / "gradwatch.png").exists()


@pytest.mark.parametrize("name", ["gradwatch.csv", "gradwatch_alerts.csv"])
def test_a_table_that_cannot_be_written_costs_a_warning(tmp_path, caplog, terminal, name):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    terminal()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to("/dev/full")
    check(tmp_path, caplog, live=False, warning="No space left on device")


@pytest.mark.parametrize("live", [False, pytest.param(True, marks=pytest.mark.full)])
def test_a_folder_that_is_locked_costs_the_files_and_nothing_else(tmp_path, caplog, terminal, live):
    terminal()
    try:
        calls = [at(2, lock)]
        warning = os.strerror(errno.EACCES if os.geteuid() else errno.EPERM)
        check(tmp_path, caplog, live=live, calls=calls, warning=warning)
    finally:
        unlock(tmp_path / "run")
    assert load_run(tmp_path / "run").report().steps >= 3


@pytest.mark.parametrize("live", [False, pytest.param(True, marks=pytest.mark.full)])
def test_a_folder_that_is_gone_costs_the_files_and_nothing_else(tmp_path, caplog, terminal, live):
    terminal()
    calls = [at(2, shutil.rmtree)]
    check(tmp_path, caplog, live=live, calls=calls, warning="No such file or directory")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["results.csv"]  # as without us


@pytest.mark.full
def test_a_training_that_saves_makes_its_folder_anew_as_ever(tmp_path, caplog):
    weights = []
    for watch in (None, GradWatch(live=False)):
        calls = [at(2, shutil.rmtree)]
        trainer = train(
            tmp_path, watch=watch, model=small(), imgsz=32, epochs=4, calls=calls
        ).trainer
        weights.append(bits_of(trainer))
        left = {path.name for path in (tmp_path / "run").iterdir()}
        assert left == {"results.csv", "weights"}
    assert weights[0] == weights[1]
    (one,) = told(caplog)
    assert "No such file or directory" in one


@pytest.mark.full
@pytest.mark.parametrize("live", [False, True])
def test_a_folder_that_comes_back_empty_has_no_table(tmp_path, caplog, terminal, live):
    def empty(folder):
        shutil.rmtree(folder)
        folder.mkdir()

    terminal()
    check(tmp_path, caplog, live=live, calls=[at(2, empty)], warning="gradwatch.csv")
    with pytest.raises(FormatError, match=r"gradwatch\.csv: .*No such file"):
        load_run(tmp_path / "run")


@pytest.mark.full
@pytest.mark.parametrize("live", [False, True])
def test_a_folder_that_is_moved_and_back_has_everything(tmp_path, caplog, terminal, live):
    terminal()
    away = tmp_path / "away"
    before = streams()
    watch = GradWatch(live=live)
    calls = [at(2, lambda folder: folder.rename(away), "on_train_epoch_start"), at(2, away.rename)]
    trainer = run(tmp_path, watch=watch, calls=calls)
    assert streams() == before
    assert bits_of(trainer) == bare()
    assert told(caplog) == []
    assert load_run(watch.run_dir).report() == watch.report()
