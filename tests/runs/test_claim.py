"""Which training owns a run folder, judged by its files and the processes of this machine."""

import json
import os
import time
from dataclasses import asdict, replace

import psutil
import pytest
from short import FAKE, bits_of, warnings_of
from values import window, write_run
from watched import DEAD_PID

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.runs import claim
from yolo_gradwatch.runs.claim import MOST_SECONDS, Taken, claimed
from yolo_gradwatch.runs.process import _started, own
from yolo_gradwatch.runs.schema import CLAIM_FILE, META_FILE, WINDOWS_FILE


def parent():
    """Another process that is alive."""
    process = psutil.Process().parent()
    return replace(own(), pid=process.pid, started=_started(process))


WRITERS = {
    "another": parent,
    "gone": lambda: replace(own(), pid=DEAD_PID),
    "own": own,
    "elsewhere": lambda: replace(own(), host="another machine"),
    "unknown": lambda: None,
}


def run_of(folder, writer, status="running"):
    """Write a run by this writer and return the contents of its files."""
    process = WRITERS[writer]()
    known = {"process": asdict(process)} if process else {}
    write_run(folder, [window(1)], status=status, **known)
    return files(folder)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("resumes", [False, True])
def test_folder_of_a_live_training_in_another_process_is_taken(tmp_path, resumes):
    before = run_of(tmp_path, "another")
    with (
        pytest.raises(Taken, match=rf"process {parent().pid} "),
        claimed(tmp_path, resumes=resumes),
    ):
        pytest.fail("the folder was claimed")
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("writer", "status", "resumes"),
    [
        ("another", "finished", False),
        ("gone", "running", False),
        ("gone", "running", True),
        ("own", "running", False),
        ("elsewhere", "interrupted", False),
        ("elsewhere", "running", True),
        ("unknown", "running", False),
    ],
)
def test_folder_of_a_training_that_ended_is_free(tmp_path, writer, status, resumes):
    before = run_of(tmp_path, writer, status)
    with claimed(tmp_path, resumes=resumes):
        assert files(tmp_path).keys() == {*before, CLAIM_FILE}
    assert files(tmp_path) == before


def test_files_of_a_run_on_another_machine_are_set_aside(tmp_path, caplog):
    before = run_of(tmp_path, "elsewhere")
    with claimed(tmp_path, resumes=False):
        pass
    after = files(tmp_path)
    assert after == {f"{name}.old": content for name, content in before.items()}
    assert len(warnings_of(caplog)) == 1


def test_files_that_cannot_be_renamed_mean_the_folder_is_taken(tmp_path, monkeypatch):
    def refuse(_folder):
        raise PermissionError(13, "used by another process")  # as on Windows

    before = run_of(tmp_path, "elsewhere")
    monkeypatch.setattr(claim, "set_aside", refuse)
    with pytest.raises(Taken, match="used by another process"), claimed(tmp_path, resumes=False):
        pytest.fail("the folder was claimed")
    assert files(tmp_path) == before


@pytest.mark.parametrize("content", ["{", '{"format_version": 99}', "[]", "null"])
def test_unreadable_meta_file_does_not_block_the_folder(tmp_path, content):
    (tmp_path / META_FILE).write_text(content, encoding="utf-8")
    with claimed(tmp_path, resumes=False):
        pass
    assert (tmp_path / META_FILE).read_text(encoding="utf-8") == content


def test_first_of_two_concurrent_claims_wins(tmp_path):
    with claimed(tmp_path, resumes=False):
        with pytest.raises(Taken), claimed(tmp_path, resumes=False):
            pytest.fail("the folder was claimed twice")
        assert (tmp_path / CLAIM_FILE).exists()
    assert not (tmp_path / CLAIM_FILE).exists()
    with claimed(tmp_path, resumes=False):
        pass


@pytest.mark.parametrize(
    ("content", "age", "is_free"),
    [
        (json.dumps(asdict(own())), 0, False),
        (json.dumps(asdict(own())), MOST_SECONDS + 1, True),
        (json.dumps({**asdict(own()), "pid": DEAD_PID}), 0, True),
        (json.dumps({**asdict(own()), "host": "another machine"}), 0, False),
        ("", 0, False),
        ("null", 0, False),
        ("", MOST_SECONDS + 1, True),
    ],
    ids=["own", "own-old", "dead", "elsewhere", "empty", "null", "empty-old"],
)
def test_stale_claim_does_not_block_the_folder(tmp_path, content, age, is_free):
    path = tmp_path / CLAIM_FILE
    path.write_text(content, encoding="utf-8")
    os.utime(path, (time.time() - age,) * 2)
    taken = []
    try:
        with claimed(tmp_path, resumes=False):
            pass
    except Taken as error:
        taken.append(error)
    assert (not taken, not path.exists()) == (is_free, is_free)


def test_claim_ignores_a_missing_folder(tmp_path):
    """The writers report it."""
    with claimed(tmp_path / "gone", resumes=False):
        assert not (tmp_path / "gone").exists()


def test_training_in_a_taken_folder_continues_unwatched(tmp_path, caplog):
    (tmp_path / "run").mkdir()
    before = run_of(tmp_path / "run", "another")
    watch = GradWatch(live=False)
    trainer = FAKE.train(tmp_path, watch=watch)
    assert bits_of(trainer) == bits_of(FAKE.train(tmp_path / "alone"))
    assert len(warnings_of(caplog)) == 1
    report = watch.report()
    assert (report.status, report.steps, len(report.remarks)) == ("failed", 0, 1)
    assert {name: files(tmp_path / "run")[name] for name in before} == before
    assert load_run(tmp_path / "run" / WINDOWS_FILE).report().steps == 1


def test_watched_training_leaves_no_claim(tmp_path):
    FAKE.train(tmp_path, watch=GradWatch(live=False))
    names = set(files(tmp_path / "run"))
    assert CLAIM_FILE not in names
    assert WINDOWS_FILE in names
