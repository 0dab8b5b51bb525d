"""Whether the process that writes a run is gone, asked of real processes."""

import os
import platform
import subprocess
import sys
from dataclasses import asdict, replace
from functools import partial

import psutil
import pytest
from yolo_gradwatch.writer import MOST_DRIFT, Writer, _started, is_gone, of_meta, own

from yolo_gradwatch import writer


@pytest.fixture
def child():
    """A process that waits to be told to end, and is not asked how it ended before the test is."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with process:
        yield process
        process.kill()


def writer_of(process):
    return replace(own(), pid=process.pid, started=_started(psutil.Process(process.pid)))


def test_this_process_is_there():
    assert own().pid == os.getpid()
    assert not is_gone(own())


def test_another_process_is_there_until_it_is_killed(child):
    other = writer_of(child)
    assert not is_gone(other)
    child.kill()
    child.wait()
    assert is_gone(other)


def test_a_process_that_was_killed_and_is_not_yet_missed_is_gone(child):
    waitid = getattr(os, "waitid", None) or pytest.skip("no waitid on this system")
    other = writer_of(child)
    child.kill()
    waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # its parent has not asked for it
    assert psutil.pid_exists(child.pid)
    assert is_gone(other)


@pytest.mark.parametrize(
    ("seconds", "gone"), [(-3600.0, False), (MOST_DRIFT - 1, False), (MOST_DRIFT + 1, True)]
)
def test_a_process_that_began_later_has_only_the_same_number(child, seconds, gone):
    other = writer_of(child)
    assert is_gone(replace(other, started=other.started - seconds)) is gone


@pytest.mark.skipif(not psutil.LINUX, reason="elsewhere the beginning of a process is kept")
def test_a_clock_that_is_set_ends_nothing(child, monkeypatch):
    other = writer_of(child)
    boot, begin = psutil.boot_time, psutil.Process.create_time
    monkeypatch.setattr(psutil, "boot_time", lambda: boot() + 3600)
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: begin(process) + 3600)
    assert not is_gone(other)
    assert not is_gone(own())


def test_of_another_machine_nothing_is_known(child):
    other = replace(writer_of(child), host="another")
    child.kill()
    child.wait()
    assert not is_gone(other)


def test_a_process_that_may_not_be_looked_at_counts_as_there(child, monkeypatch):
    def refuse(_process):
        raise psutil.AccessDenied

    other = replace(writer_of(child), started=0.0)
    assert is_gone(other)
    monkeypatch.setattr(psutil.Process, "create_time", refuse)
    assert not is_gone(other)


def test_where_the_system_does_not_tell_there_is_no_writer(monkeypatch):
    def refuse(_process):
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil.Process, "create_time", refuse)
    assert own() is None

    def is_torn():
        raise RuntimeError("line 'btime' not found in /proc/stat")

    monkeypatch.setattr(psutil, "boot_time", is_torn)
    assert own() is None


def test_another_process_of_this_machine_has_the_same_host():
    code = "from yolo_gradwatch.writer import own; print(own().host)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == own().host


@pytest.mark.parametrize(
    ("owner", "name", "value"),
    [(platform, "node", "another"), (os, "getuid", 12345)],
    ids=["machine", "user"],
)
def test_another_machine_or_user_has_another_host(monkeypatch, owner, name, value):
    before = own().host
    monkeypatch.setattr(owner, name, lambda: value)
    assert own().host != before


@pytest.mark.skipif(sys.platform != "linux", reason="a container of Linux")
@pytest.mark.parametrize("name", ["read_text", "readlink"])
def test_a_container_of_the_same_name_has_another_host(monkeypatch, name):
    before = own().host
    monkeypatch.setattr(writer.Path, name, lambda _path, **_options: "another")
    assert own().host != before


def test_the_name_of_the_machine_is_not_told(monkeypatch):
    monkeypatch.setattr(platform, "node", lambda: "cafe")
    assert "cafe" not in own().host
    assert len(own().host) == 16


def test_the_process_reads_back():
    assert of_meta({"process": asdict(own())}) == own()


@pytest.mark.parametrize("meta", [{}, {"process": None}])
def test_files_without_a_process_have_no_writer(meta):
    assert of_meta(meta) is None


@pytest.mark.parametrize(
    "changes", [{"pid": "1"}, {"pid": -1}, {"pid": True}, {"host": 3}, {"started": None}]
)
def test_a_mangled_process_is_told(changes):
    read = partial(of_meta, {"process": {**asdict(own()), **changes}})
    with pytest.raises(ValueError, match=next(iter(changes))):
        read()


@pytest.mark.parametrize("process", ["x", [], 7])
def test_what_is_no_process_is_told(process):
    with pytest.raises(ValueError, match="no table"):
        of_meta({"process": process})


def test_a_number_that_no_process_can_have_is_gone():
    assert is_gone(Writer(10**20, own().host, 0.0))
