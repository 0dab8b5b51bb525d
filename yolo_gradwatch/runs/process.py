"""The process that writes a run, and whether it is known to be gone."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import psutil

MOST_DRIFT = 60.0
"""Seconds by which the start of one process may seem to move as the system's clock is set."""


_UNKNOWN = (psutil.Error, OSError, RuntimeError)
"""Raised by psutil where the system gives no answer; the last one if /proc/stat is not whole."""


@dataclass(frozen=True, slots=True)
class Process:
    """The process of a training.

    Attributes:
        pid: Its number.
        host: Stands for the machine and the user by whom that number is understood, see `_host`.
        started: When it began, in seconds since 1970; on Linux since the machine was started, which
            does not move as the clock is set.
    """

    pid: int
    host: str
    started: float

    def __post_init__(self) -> None:
        if self.pid < 0:
            raise ValueError(f"pid must be at least 0, got {self.pid}")


def own() -> Process | None:
    """This process; None where the system gives no answer."""
    try:
        return Process(os.getpid(), _host(), _started(psutil.Process()))
    except _UNKNOWN:
        return None


def is_own(writer: Process) -> bool:
    """Whether it is this process."""
    return writer.pid == os.getpid() and writer.host == _host() and not is_gone(writer)


def is_gone(writer: Process) -> bool:
    """Whether a process has ended for sure; False where this process cannot know."""
    return _is_there(writer) is False


def is_alive(writer: Process) -> bool:
    """Whether a process runs for sure; False where this process cannot know."""
    return _is_there(writer) is True


def _is_there(writer: Process) -> bool | None:
    """Whether a process runs; None where this process cannot know."""
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
    """See `Process`; psutil adds the two up on Linux, and is asked for both at once."""
    boot = psutil.boot_time() if psutil.LINUX else 0.0
    return float(process.create_time() - boot)


def _host() -> str:
    """A hash of the machine, the user, and what else must be the same for numbers of processes.

    A container may share its host's name and not its numbers, and another user's processes may be
    hidden. A hash, because files are shared and a machine's name is nobody's business; on Linux the
    number of the boot, which is random, keeps it from being guessed.
    """
    parts = [platform.node(), str(getattr(os, "getuid", int)())]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return sha256("\n".join(parts).encode()).hexdigest()[:16]
