"""Shared by the screenshot scripts: a local server and a small picture."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import urlopen

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SECONDS = 300
"""How long to wait for a server to respond."""


def free_port() -> int:
    """Return an unused local port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(command: Sequence[str], address: str, **environment: str) -> Iterator[None]:
    """Run a server until the block ends; the block starts once the server responds."""
    server = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # to end its child processes with it
    )
    try:
        _wait_for(address)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def _wait_for(address: str) -> None:
    """Wait until the server responds."""
    for _ in range(SECONDS):
        with suppress(URLError, ConnectionError), urlopen(address):  # noqa: S310  # this machine
            return
        time.sleep(1)
    raise TimeoutError(address)


def keep(pictures: Sequence[bytes], path: Path) -> None:
    """Stack pictures vertically and write them as one file with few colours."""
    images = [Image.open(io.BytesIO(one)).convert("RGB") for one in pictures]
    width, height = max(one.width for one in images), sum(one.height for one in images)
    whole, top = Image.new("RGB", (width, height), "white"), 0
    for one in images:
        whole.paste(one, (0, top))
        top += one.height
    few = whole.quantize(128, dither=Image.Dither.NONE)
    few.save(path, "png", optimize=True)
    print(f"{path}: {path.stat().st_size:,} bytes")
