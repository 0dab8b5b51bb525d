"""Whether the process that writes a run is gone, tested with real processes."""

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
    """A process that waits for input; it is reaped only after the test."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with process:
        yield process
        process.kill()


def refuse(_process):
    raise psutil.AccessDenied


def identity_of(process):
    return replace(own(), pid=process.pid, started=_started(psutil.Process(process.pid)))


def test_process_is_gone_once_it_is_killed(child):
    other = identity_of(child)
    assert (own().pid, is_gone(own()), is_gone(other)) == (os.getpid(), False, False)
    child.kill()
    child.wait()
    assert is_gone(other)
    assert is_gone(replace(own(), pid=10**20))  # impossible for a process


def test_zombie_process_is_gone(child):
    waitid = getattr(os, "waitid", None) or pytest.skip("no waitid on this system")
    other = identity_of(child)
    child.kill()
    waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # does not reap it
    assert psutil.pid_exists(child.pid)
    assert is_gone(other)


@pytest.mark.parametrize(
    ("seconds", "gone"), [(-3600.0, False), (MOST_DRIFT - 1, False), (MOST_DRIFT + 1, True)]
)
def test_later_process_with_the_same_pid_is_another(child, seconds, gone):
    other = identity_of(child)
    assert is_gone(replace(other, started=other.started - seconds)) is gone


@pytest.mark.skipif(not psutil.LINUX, reason="other systems store the start time of a process")
def test_changing_the_system_clock_does_not_matter(child, monkeypatch):
    other = identity_of(child)
    boot, begin = psutil.boot_time, psutil.Process.create_time
    monkeypatch.setattr(psutil, "boot_time", lambda: boot() + 3600)
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: begin(process) + 3600)
    assert not is_gone(other)
    assert not is_gone(own())


def test_process_on_another_machine_never_counts_as_gone(child):
    other = replace(identity_of(child), host="another")
    child.kill()
    child.wait()
    assert not is_gone(other)


def test_process_without_access_does_not_count_as_gone(child, monkeypatch):
    other = replace(identity_of(child), started=0.0)
    assert is_gone(other)
    monkeypatch.setattr(psutil.Process, "create_time", refuse)
    assert not is_gone(other)


def test_own_process_is_none_if_its_start_time_is_unknown(monkeypatch):
    monkeypatch.setattr(psutil.Process, "create_time", refuse)
    assert own() is None

    def is_torn():
        raise RuntimeError("line 'btime' not found in /proc/stat")

    monkeypatch.setattr(psutil, "boot_time", is_torn)
    assert own() is None


def test_processes_of_this_machine_share_the_host():
    code = "from yolo_gradwatch.runs.process import own; print(own().host)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == own().host


ELSEWHERE = [(platform, "node", "another"), (os, "getuid", 12345)]
if sys.platform == "linux":  # a container of the same name
    ELSEWHERE += [(Path, "read_text", "another"), (Path, "readlink", "another")]


@pytest.mark.parametrize(("owner", "name", "value"), ELSEWHERE)
def test_machine_user_and_container_change_the_host(monkeypatch, owner, name, value):
    before = own().host
    monkeypatch.setattr(owner, name, lambda *_path, **_options: value)
    assert own().host != before


def test_host_does_not_contain_the_machine_name(monkeypatch):
    monkeypatch.setattr(platform, "node", lambda: "cafe")
    assert "cafe" not in own().host
    assert len(own().host) == 16
