"""Files of the last healthy checkpoints."""

from pathlib import Path

import pytest

from yolo_gradwatch.measure.kept import LAST_HEALTHY, ONE_BEFORE, Kept
from yolo_gradwatch.runs.healthy import Shelf


@pytest.fixture
def shelf(tmp_path):
    (tmp_path / "weights").mkdir()
    return Shelf(tmp_path)


def renew(shelf, *epochs):
    """Keep the checkpoints of these epochs, ten steps each, one after the other."""
    for epoch in epochs:
        old = Kept(epoch - 1, 10 * epoch - 10) if shelf.path.exists() else None
        with shelf.renewing(old, 10 * epoch) as draft:
            draft.write_text(str(epoch))


def contents(folder):
    """The contents of both files; "" for a missing one."""
    paths = (folder / LAST_HEALTHY, folder / ONE_BEFORE)
    return [path.read_text() if path.exists() else "" for path in paths]


@pytest.mark.parametrize(
    ("epochs", "aside"), [(1, ""), (2, "1"), (3, "1"), (4, "3"), (5, "3"), (6, "5")]
)
def test_every_second_checkpoint_is_set_aside(shelf, tmp_path, epochs, aside):
    renew(shelf, *range(1, epochs + 1))
    assert contents(tmp_path) == [str(epochs), aside]
    assert shelf.before == (Kept(int(aside), 10 * int(aside)) if aside else None)


@pytest.mark.parametrize(("step", "is_back"), [(30, False), (31, True)])
def test_going_back_restores_a_checkpoint_from_before_the_step(shelf, tmp_path, step, is_back):
    renew(shelf, 1, 2, 3, 4)
    assert shelf.go_back(step) == (Kept(3, 30) if is_back else None)
    assert contents(tmp_path) == (["3", ""] if is_back else ["4", "3"])
    shelf.remove()
    assert contents(tmp_path) == ["", ""]
    assert shelf.before is shelf.go_back(99) is None


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_failed_renewal_keeps_the_previous_checkpoint(shelf, tmp_path, monkeypatch, error):
    """Even if that one had been set aside."""
    renew(shelf, 1)
    usual = Path.replace

    def fail(path, target):
        if path.suffix == ".tmp":
            raise error
        return usual(path, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(error):
        renew(shelf, 2)
    assert contents(tmp_path) == ["1", ""]
    assert shelf.before is None
    assert len([*(tmp_path / "weights").iterdir()]) == 1


def test_deleted_checkpoint_is_not_set_aside(shelf, tmp_path):
    renew(shelf, 1)
    with shelf.renewing(Kept(1, 10), 20) as draft:
        draft.write_text("2")
        shelf.path.unlink()
    assert contents(tmp_path) == ["2", ""]
    assert shelf.before is None
