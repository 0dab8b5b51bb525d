"""Which training owns a run folder, judged by its files and the processes of this machine."""

import json
import os
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from threading import Thread

import psutil
import pytest
from claims import leave_claim, winners_of
from short import FAKE, at, bits_of, spoil, warnings_of
from values import window, write_run
from watched import DEAD_PID

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.runs import claim
from yolo_gradwatch.runs.claim import MOST_SECONDS, Taken, claimed
from yolo_gradwatch.runs.evidence import FOLDER, OWN_FOLDER
from yolo_gradwatch.runs.process import _started, own
from yolo_gradwatch.runs.schema import CLAIM_FILE, META_FILE, PICTURE_FILE, WINDOWS_FILE


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


@contextmanager
def taken(folder, *, resumes=False):
    """Claim a folder for a training that ends at once."""
    with ExitStack() as over, claimed(folder, resumes=resumes, over=over):
        yield


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("resumes", [False, True])
def test_folder_of_a_live_training_in_another_process_is_taken(tmp_path, resumes):
    before = run_of(tmp_path, "another")
    with (
        pytest.raises(Taken, match=rf"process {parent().pid}\b"),
        taken(tmp_path, resumes=resumes),
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
    with taken(tmp_path, resumes=resumes):
        assert files(tmp_path).keys() == {*before, CLAIM_FILE}
    assert files(tmp_path) == before


def test_files_of_a_run_on_another_machine_are_set_aside(tmp_path, caplog):
    before = run_of(tmp_path, "elsewhere")
    with taken(tmp_path):
        pass
    after = files(tmp_path)
    assert after == {f"{name}.old": content for name, content in before.items()}
    assert len(warnings_of(caplog)) == 1


def test_files_that_cannot_be_renamed_mean_the_folder_is_taken(tmp_path, monkeypatch):
    def refuse(_folder):
        raise PermissionError(13, "used by another process")  # as on Windows

    before = run_of(tmp_path, "elsewhere")
    monkeypatch.setattr(claim, "set_aside", refuse)
    with pytest.raises(Taken, match="used by another process"), taken(tmp_path):
        pytest.fail("the folder was claimed")
    assert files(tmp_path) == before


@pytest.mark.parametrize("content", ["{", '{"format_version": 99}', "[]", "null"])
def test_unreadable_meta_file_does_not_block_the_folder(tmp_path, content):
    (tmp_path / META_FILE).write_text(content, encoding="utf-8")
    with taken(tmp_path):
        pass
    assert (tmp_path / META_FILE).read_text(encoding="utf-8") == content


def test_first_of_two_concurrent_claims_wins(tmp_path):
    with taken(tmp_path):
        with pytest.raises(Taken), taken(tmp_path):
            pytest.fail("the folder was claimed twice")
        assert (tmp_path / CLAIM_FILE).exists()
    assert not (tmp_path / CLAIM_FILE).exists()
    with taken(tmp_path):
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
    refused = []
    try:
        with taken(tmp_path):
            pass
    except Taken as error:
        refused.append(error)
    assert (not refused, not path.exists()) == (is_free, is_free)


def interrupted(monkeypatch, place, call):
    """Call at the given place, of those at which another process can overtake a claim."""
    places = []

    def overtaken(function):
        def then(*args, **options):
            places.append(function)
            if len(places) == place:
                call()
            return function(*args, **options)

        return then

    monkeypatch.setattr(claim.process, "is_gone", overtaken(claim.process.is_gone))
    for name in ("open", "unlink"):
        monkeypatch.setattr(Path, name, overtaken(getattr(Path, name)))
    return places


def gets(stack, path):
    """Return whether a process gets the claim, which it holds until the stack is closed."""
    with suppress(Taken):
        stack.callback(claim._release, claim._hold(path))
        return True
    return False


@pytest.mark.parametrize("others", [1, 2], ids=["one other", "two others"])
@pytest.mark.parametrize("left", range(3))
@pytest.mark.parametrize("place", range(1, 12))
def test_one_of_those_that_see_the_same_stale_claim_gets_the_folder(
    tmp_path, monkeypatch, place, left, others
):
    """The others run between two steps of the first; of two others, the last one stays."""
    path, held = tmp_path / CLAIM_FILE, []
    for i in range(left):
        leave_claim(tmp_path, DEAD_PID + i, after=i)
    with ExitStack() as first, ExitStack() as last:

        def overtake():
            for _ in range(others):
                last.close()
                held.append(gets(last, path))

        places = interrupted(monkeypatch, place, overtake)
        is_held = gets(first, path)
        if len(places) < place:
            overtake()  # the first one has finished
        assert is_held != held[-1]
    assert not list(tmp_path.iterdir())


def test_removing_claims_lets_no_two_get_the_folder(tmp_path, monkeypatch):
    """A process in between puts its claim after a stale one that is about to be removed."""
    leave_claim(tmp_path, DEAD_PID)
    path, early = tmp_path / CLAIM_FILE, []
    with ExitStack() as first, ExitStack() as second, ExitStack() as third:
        assert gets(first, path)
        removals = interrupted(monkeypatch, 2, lambda: early.append(gets(second, path)))
        first.close()
        assert len(removals) >= 2
        assert gets(third, path) != early[0]


@pytest.mark.slow
def test_one_of_eight_concurrent_processes_gets_the_folder(tmp_path):
    folders = [tmp_path / str(i) for i in range(50)]
    for i, folder in enumerate(folders):
        folder.mkdir()
        if i % 4:
            leave_claim(folder, DEAD_PID)
    assert winners_of(folders, 8) == [1] * 50
    assert not [path for folder in folders for path in folder.iterdir()]


def test_folder_that_cannot_be_written_is_reported_by_other_files(tmp_path):
    with taken(tmp_path / "gone"):
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


def test_second_training_of_this_process_in_a_folder_continues_unwatched(tmp_path, caplog):
    """It starts in another thread during the first one."""
    second, watches = [], [GradWatch(live=False), GradWatch(live=False)]

    def train_beside(_trainer):
        other = Thread(target=lambda: second.append(FAKE.train(tmp_path, watch=watches[1])))
        other.start()
        other.join()

    beside = at("on_train_batch_end", 3, train_beside)
    first = FAKE.train(tmp_path, watch=watches[0], calls=[beside])
    assert bits_of(first) == bits_of(*second) == bits_of(FAKE.train(tmp_path / "alone"))
    assert len(warnings_of(caplog)) == 1
    whole, refused = (watch.report() for watch in watches)
    assert (refused.status, refused.steps, len(refused.remarks)) == ("failed", 0, 1)
    assert (whole.status, whole.steps) == ("finished", 8)
    assert load_run(tmp_path / "run").report() == whole
    FAKE.train(tmp_path, watch=watches[1])  # the folder is free again
    assert watches[1].report().status == "finished"


def test_watched_training_leaves_no_claim(tmp_path):
    FAKE.train(tmp_path, watch=GradWatch(live=False))
    names = set(files(tmp_path / "run"))
    assert CLAIM_FILE not in names
    assert WINDOWS_FILE in names


def named_again(folder, run):
    """Load the run that was set aside, under its original names in a new folder."""
    (run / OWN_FOLDER).mkdir(parents=True)
    for path in [*folder.rglob("*.old")]:
        path.rename(run / path.relative_to(folder).with_suffix(""))
    return load_run(run)


def test_trainings_on_two_machines_in_one_folder_lose_nothing(tmp_path, monkeypatch):
    """The second one starts and ends during the first one; both have a finding at step 7."""
    first, second = GradWatch(live=False), GradWatch(live=False)
    evidence = tmp_path / "run" / FOLDER / "step-00002.json"
    picture = tmp_path / "run" / PICTURE_FILE
    high = spoil("model.1.conv.weight", 1e30, at=7)
    drawn = []

    def train_elsewhere(_trainer):
        evidence.parent.mkdir()
        evidence.write_text("{}", encoding="utf-8")
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(claim, "_WATCHED", {})
            elsewhere.setattr(claim.process, "_host", lambda: "another machine")
            FAKE.train(tmp_path, watch=second, calls=[high])
        drawn.append(picture.read_bytes())

    calls = [at("on_train_batch_end", 5, train_elsewhere), high]
    FAKE.train(tmp_path, watch=first, calls=calls)
    files = [[(f.rule, f.evidence) for f in one.report().alarms] for one in (first, second)]
    assert files == [[("total_high", "")], [("total_high", f"{FOLDER}/step-00007.json")]]
    assert picture.read_bytes() == drawn[0]
    run = load_run(tmp_path / "run")
    assert (run.report(), run.report().steps) == (second.report(), 8)
    old = named_again(tmp_path / "run", tmp_path / "old")
    assert old.report() == replace(first.report(), run=old.folder)
    assert (old.folder / FOLDER / evidence.name).exists()
