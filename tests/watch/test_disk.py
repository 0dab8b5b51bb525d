"""A disk that is full, and folders that are locked, gone, or moved back mid-training."""

import errno
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from short import assert_nothing_left, at, bits_of, real, streams, warnings_of

from yolo_gradwatch import FormatError, GradWatch, load_run


@contextmanager
def small_disk(folder, size):
    """A disk of this size, mounted at a folder."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S607


def lock(folder):
    """Prevent everyone, even root, from creating files in a folder."""
    if os.geteuid():
        folder.chmod(0o555)
    elif shutil.which("chattr") is None or _chattr("+i", folder):
        pytest.skip("root may write everywhere here")


def unlock(folder):
    """Undo `lock`."""
    if os.geteuid():
        folder.chmod(0o755)
    else:
        _chattr("-i", folder)


def _chattr(flag, folder):
    return subprocess.run(["chattr", flag, str(folder)], check=False).returncode  # noqa: S607


def second_epoch(call, event="on_train_batch_end", count=3):
    """Call with the run's folder at an event of the second epoch, once."""
    return at(event, count, lambda trainer: call(trainer.save_dir))


def check(way, folder, caplog, *, live, warning, calls=()):  # noqa: PLR0913  # cases
    """Training and live report work as usual; each output that fails warns once."""
    before, watch = streams(), GradWatch(live=live)
    trainer = way.spoiled(folder, watch=watch, calls=calls)
    assert streams() == before
    assert_nothing_left(trainer)
    assert bits_of(trainer) == way.bare()
    said = warnings_of(caplog)
    assert len({one.partition(".")[0] for one in said}) == len(said)  # one for each output
    assert all(warning in one for one in said)
    assert said
    assert not [f.path for f in psutil.Process().open_files() if str(folder) in f.path]
    report = watch.report()
    assert (report.status, report.steps) == ("finished", 8)
    assert [finding.rule for finding in report.findings] == ["nonfinite"]
    printed = sys.stdout.getvalue()
    assert printed.count(f"GradWatch: {report.verdict.split()[0]}") == 1
    assert ("GradWatch epoch 4/4" in printed) == (not live)
    return folder / "run"


both = pytest.mark.parametrize("live", [False, True])


@both
def test_full_disk_costs_only_the_files(way, tmp_path, caplog, terminal, live):
    terminal()
    way.bare()
    with small_disk(tmp_path, 72 * 1024 if way.is_real else 24 * 1024):
        read = load_run(check(way, tmp_path, caplog, live=live, warning="No space left on device"))
        assert 0 < read.report().steps < 8
        assert list(read.windows["step_first"].unique()) == list(range(1, read.report().steps + 1))
        assert not (read.folder / "gradwatch.png").exists()


@pytest.mark.parametrize("name", ["gradwatch.csv", "gradwatch_alerts.csv"])
def test_table_that_cannot_be_written_costs_a_warning(faked, tmp_path, caplog, terminal, name):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    terminal()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to("/dev/full")
    check(faked, tmp_path, caplog, live=False, warning="No space left on device")


@both
def test_locked_folder_costs_only_the_files(faked, tmp_path, caplog, terminal, live):
    terminal()
    warning = os.strerror(errno.EACCES if os.geteuid() else errno.EPERM)
    try:
        calls = [second_epoch(lock)]
        check(faked, tmp_path, caplog, live=live, calls=calls, warning=warning)
    finally:
        unlock(tmp_path / "run")
    assert load_run(tmp_path / "run").report().steps >= 3


@both
def test_missing_folder_costs_only_the_files(way, tmp_path, caplog, terminal, live):
    terminal()
    calls = [second_epoch(shutil.rmtree)]
    folder = check(way, tmp_path, caplog, live=live, calls=calls, warning="No such file")
    left = [path.name for path in folder.iterdir()] if folder.exists() else []
    assert left == ["results.csv"] * way.is_real  # as without the watch


@pytest.mark.train
@pytest.mark.full
def test_training_that_saves_recreates_its_folder_as_usual(tmp_path, caplog):
    weights = []
    for watch in (None, GradWatch(live=False)):
        calls = [second_epoch(shutil.rmtree)]
        trainer = real().train(tmp_path, watch=watch, calls=calls, save=True)
        weights.append(bits_of(trainer))
        left = {path.name for path in (tmp_path / "run").iterdir()}
        assert left == {"results.csv", "weights"}
    assert weights[0] == weights[1]
    (one,) = warnings_of(caplog)
    assert "No such file or directory" in one


@both
def test_folder_that_comes_back_empty_has_no_table(faked, tmp_path, caplog, terminal, live):
    def empty(folder):
        shutil.rmtree(folder)
        folder.mkdir()

    terminal()
    calls = [second_epoch(empty)]
    folder = check(faked, tmp_path, caplog, live=live, calls=calls, warning="gradwatch.csv")
    with pytest.raises(FormatError, match=r"gradwatch\.csv: .*No such file"):
        load_run(folder)


@both
def test_folder_that_is_moved_away_and_back_is_complete(faked, tmp_path, caplog, terminal, live):
    terminal()
    away, before, watch = tmp_path / "away", streams(), GradWatch(live=live)
    calls = [
        second_epoch(lambda folder: folder.rename(away), "on_train_epoch_start", 2),
        second_epoch(away.rename),
    ]
    trainer = faked.spoiled(tmp_path, watch=watch, calls=calls)
    assert streams() == before
    assert bits_of(trainer) == faked.bare()
    assert warnings_of(caplog) == []
    assert load_run(watch.run_dir).report() == watch.report()
