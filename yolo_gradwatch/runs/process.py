"""Identifies the process that writes a run, and whether it is known to be gone."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import psutil

MOST_DRIFT = 60.0
"""Seconds by which a process's start time may seem to move when the system clock is set."""


_UNKNOWN = (psutil.Error, OSError, RuntimeError)
"""Raised by psutil if the system gives no answer; the last one if /proc/stat is incomplete."""


@dataclass(frozen=True, slots=True)
class Process:
    """The process of a training.

    Attributes:
        pid: Its process id.
        host: Identifies the machine and user to which the pid refers, see `_host`.
        started: When it began, in seconds since 1970; on Linux since boot, which does not change
            when the clock is set.
    """

    pid: int
    host: str
    started: float

    def __post_init__(self) -> None:
        if self.pid < 0:
            raise ValueError(f"pid must be at least 0, got {self.pid}")


def own() -> Process | None:
    """Return this process; None if the system gives no answer."""
    try:
        return Process(os.getpid(), _host(), _started(psutil.Process()))
    except _UNKNOWN:
        return None


def is_own(writer: Process) -> bool:
    """Return whether it is this process."""
    return writer.pid == os.getpid() and writer.host == _host() and not is_gone(writer)


def is_gone(writer: Process) -> bool:
    """Return whether a process has certainly ended; False if this process cannot know."""
    return _is_there(writer) is False


def is_alive(writer: Process) -> bool:
    """Return whether a process is certainly running; False if this process cannot know."""
    return _is_there(writer) is True


def _is_there(writer: Process) -> bool | None:
    """Return whether a process is running; None if this process cannot know."""
    if writer.host != _host():
        return None
    try:
        process = psutil.Process(writer.pid)
        is_another = _started(process) - writer.started > MOST_DRIFT
        return not (is_another or process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except _UNKNOWN:
        return None


def _started(process: psutil.Process) -> float:
    """Return the start time for `Process`; psutil adds the boot time on Linux, so subtract it."""
    boot = psutil.boot_time() if psutil.LINUX else 0.0
    return float(process.create_time() - boot)


def _host() -> str:
    """Return a hash of machine, user, and all else that makes process ids comparable.

    A container may share its host's name but not its process ids, and another user's processes may
    be hidden. It is hashed because files are shared and a machine's name is private; on Linux, the
    random boot id keeps it from being guessed.
    """
    parts = [platform.node(), str(getattr(os, "getuid", int)())]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return sha256("\n".join(parts).encode()).hexdigest()[:16]
