"""Whether the process that writes a run is gone, asked of real processes."""

import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from yolo_gradwatch.runs.process import MOST_DRIFT, _started, is_gone, own


@pytest.fixture
def child():
    """A process that waits to be told to end, and is not asked how it ended before the test is."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with process:
        yield process
        process.kill()


def refuse(_process):
    raise psutil.AccessDenied


def started_by_us(process):
    return replace(own(), pid=process.pid, started=_started(psutil.Process(process.pid)))


def test_another_process_is_there_until_it_is_killed(child):
    other = started_by_us(child)
    assert (own().pid, is_gone(own()), is_gone(other)) == (os.getpid(), False, False)
    child.kill()
    child.wait()
    assert is_gone(other)
    assert is_gone(replace(own(), pid=10**20))  # which no process can have


def test_a_process_that_was_killed_and_is_not_yet_missed_is_gone(child):
    waitid = getattr(os, "waitid", None) or pytest.skip("no waitid on this system")
    other = started_by_us(child)
    child.kill()
    waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # its parent has not asked for it
    assert psutil.pid_exists(child.pid)
    assert is_gone(other)


@pytest.mark.parametrize(
    ("seconds", "gone"), [(-3600.0, False), (MOST_DRIFT - 1, False), (MOST_DRIFT + 1, True)]
)
def test_a_process_that_began_later_has_only_the_same_number(child, seconds, gone):
    other = started_by_us(child)
    assert is_gone(replace(other, started=other.started - seconds)) is gone


@pytest.mark.skipif(not psutil.LINUX, reason="elsewhere the beginning of a process is kept")
def test_a_clock_that_is_set_ends_nothing(child, monkeypatch):
    other = started_by_us(child)
    boot, begin = psutil.boot_time, psutil.Process.create_time
    monkeypatch.setattr(psutil, "boot_time", lambda: boot() + 3600)
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: begin(process) + 3600)
    assert not is_gone(other)
    assert not is_gone(own())


def test_of_another_machine_nothing_is_known(child):
    other = replace(started_by_us(child), host="another")
    child.kill()
    child.wait()
    assert not is_gone(other)


def test_a_process_that_may_not_be_looked_at_counts_as_there(child, monkeypatch):
    other = replace(started_by_us(child), started=0.0)
    assert is_gone(other)
    monkeypatch.setattr(psutil.Process, "create_time", refuse)
    assert not is_gone(other)


def test_where_the_system_does_not_tell_there_is_no_process(monkeypatch):
    monkeypatch.setattr(psutil.Process, "create_time", refuse)
    assert own() is None

    def is_torn():
        raise RuntimeError("line 'btime' not found in /proc/stat")

    monkeypatch.setattr(psutil, "boot_time", is_torn)
    assert own() is None


def test_another_process_of_this_machine_has_the_same_host():
    code = "from yolo_gradwatch.runs.process import own; print(own().host)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == own().host


ELSEWHERE = [(platform, "node", "another"), (os, "getuid", 12345)]
if sys.platform == "linux":  # a container of the same name
    ELSEWHERE += [(Path, "read_text", "another"), (Path, "readlink", "another")]


@pytest.mark.parametrize(("owner", "name", "value"), ELSEWHERE)
def test_another_machine_user_or_container_has_another_host(monkeypatch, owner, name, value):
    before = own().host
    monkeypatch.setattr(owner, name, lambda *_path, **_options: value)
    assert own().host != before


def test_the_name_of_the_machine_is_not_in_the_files(monkeypatch):
    monkeypatch.setattr(platform, "node", lambda: "cafe")
    assert "cafe" not in own().host
    assert len(own().host) == 16
