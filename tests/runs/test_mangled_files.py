"""Mangled files, read by every command: the result is a report or a one-sentence error."""

import io
import os
import re
import signal
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from commands import outcome
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mangled import mangled, sound_run
from recording import Recording
from training import train
from values import LAWS, sample

from yolo_gradwatch import FormatError, GradWatch, load_run
from yolo_gradwatch.runs.schema import META_FILE, RUN_FILES
from yolo_gradwatch.views.picture import Picture
from yolo_gradwatch.views.terminal import follow

resource = pytest.importorskip("resource")

SECONDS = 20
ROOM = 2**30
"""Bytes of memory that one command may use on top of what the process already has."""

UNSHRUNK = {
    "phases": [Phase.explicit, Phase.generate],  # shrinking whole files takes minutes
    "suppress_health_check": [*HealthCheck],
}

REVIEWS = (
    *([], ["--csv"], ["--json"], ["--module=*"], ["--top=2"], ["--rule=dead"], ["--epochs=1:2"]),
    *(["--vanishing=0.1"], ["--fail-on=dead"], ["--plot"], ["--modules"], ["--follow"]),
    *(["--follow", "--json"], ["--html={folder}/page.html"]),
)
COMMANDS = (
    *(["review", "{folder}", *options] for options in REVIEWS),
    *(["compare", "{folder}", "{sound}", *form] for form in ([], ["--csv"], ["--json"])),
    ["compare", "{sound}", "{folder}", "--module=model.*"],
    *(["runs", "{folder}", *form] for form in ([], ["--csv"], ["--json"], ["--fail-on=dead"])),
)


@contextmanager
def limited(seconds=SECONDS, room=ROOM):
    """Fail a block that takes longer or needs more memory."""

    def late(_signal, _frame):
        raise TimeoutError(f"took more than {seconds} s")

    def sized():
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])

    before = signal.signal(signal.SIGALRM, late)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    size = sized() * os.sysconf("SC_PAGE_SIZE") + room
    resource.setrlimit(resource.RLIMIT_AS, (size, limits[1]))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, before)


def assert_report_or_error(arguments):
    with limited():
        code, out, err = outcome(*arguments)
    assert code in {0, 1, 2}
    assert "Traceback" not in out + err
    if code == 2:
        assert re.search(r"^Error: [^\n]+\n\Z", err, re.MULTILINE), err
        if "--follow" not in arguments:  # which prints what it could read first
            assert out == ""
    else:
        assert out


def report_or_error(folder):
    """The text of a run's report, or the reason why it cannot be read."""
    try:
        return str(load_run(folder).report())
    except FormatError as error:
        return str(error)


def check(files, data):
    """Mangle one or two files of a run and read it with a command and with `load_run`."""
    names = data.draw(st.sets(st.sampled_from(RUN_FILES), min_size=1, max_size=2), "files")
    with TemporaryDirectory() as name:
        folder, sound = Path(name) / "run", Path(name) / "sound"
        for place in (folder, sound):
            place.mkdir()
            for file, content in files.items():
                (place / file).write_bytes(content)
        for file in sorted(names):
            (folder / file).write_bytes(data.draw(mangled(file, files[file]), file))
        command = data.draw(st.sampled_from(COMMANDS), "command")
        arguments = [word.format(folder=folder, sound=sound) for word in command]
        assert_report_or_error(arguments)
        with limited():
            assert report_or_error(folder).startswith((f"{folder}", "GradWatch: "))


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Follow without pauses and skip the final picture, which takes as long as everything else."""
    monkeypatch.setattr(follow, "SECONDS", 0.001)
    monkeypatch.setattr(Picture, "end", lambda *_arguments: None)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return sound_run(tmp_path_factory.mktemp("built") / "run")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    watch = GradWatch(live=False)
    train(tmp_path_factory.mktemp("trained"), watch=watch, epochs=2)
    return {name: (watch.run_dir / name).read_bytes() for name in RUN_FILES}


def check_resumed(files, data):
    """Mangle one or two files of a run and resume it, in these files or in new ones."""
    names = data.draw(st.sets(st.sampled_from(RUN_FILES), min_size=1, max_size=2), "files")
    with TemporaryDirectory() as name, limited(), redirect_stdout(io.StringIO()):
        folder = Path(name)
        for file, content in files.items():
            changed = data.draw(mangled(file, content), file) if file in names else content
            (folder / file).write_bytes(changed)
        before = {file: (folder / file).read_bytes() for file in RUN_FILES}
        recording = Recording(folder, resumes=True)
        recording.take([sample(recording.first_step + n) for n in range(3)])
        recording.end_epoch()
        recording.finish()
        run = load_run(folder)
        old = {file: (folder / f"{file}.old") for file in RUN_FILES}
        kinds = [event.kind for event in run.meta.events]
        assert kinds[-1] == "resume"
        if old[META_FILE].exists():
            assert kinds == ["resume"]
            assert recording.first_step == 1
            assert run.report().steps == 3
            assert {file: path.read_bytes() for file, path in old.items()} == before
        else:
            assert len(kinds) > 1
            assert run.windows["step_last"].max() == recording.first_step + 2
        assert run.report().findings == recording.report().findings


FULL = pytest.mark.full


@pytest.mark.slow
@pytest.mark.parametrize(
    ("law", "files", "examples"),
    [
        (check, "built", LAWS.max_examples),
        (check_resumed, "built", LAWS.max_examples),
        pytest.param(check, "built", 3000, marks=FULL),
        pytest.param(check_resumed, "built", 300, marks=FULL),
        pytest.param(check, "trained", 300, marks=[FULL, pytest.mark.train]),
    ],
)
def test_mangled_files_give_a_report_a_resumed_run_or_an_error(request, law, files, examples):
    several = settings(LAWS, max_examples=examples, **UNSHRUNK)
    whole = request.getfixturevalue(files)
    several(given(data=st.data())(lambda data: law(whole, data)))()
