r"""Record a command in a real terminal as an animated SVG picture, for the documentation.

    python scripts/terminal_recording.py docs/live.svg [--frames 14] -- \
        yolo-gradwatch demo --fault gradient-cut --epochs 6

The command runs in a pseudo-terminal with an emulator (pyte), and frames are taken while the live
panel is on the screen. An unchanged line is stored once, with the time for which it is visible. The
picture loads nothing, needs no script and loops forever; with animations disabled it shows the last
frame.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import tempfile
import termios
import time
from collections import defaultdict
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pyte

if TYPE_CHECKING:
    from collections.abc import Iterator

COLUMNS, LINES = 110, 36
WIDE, HIGH, EDGE, TITLE = 7.8, 17.0, 14.0, 30.0
SECONDS = 0.9
"""Duration of a frame; the last one is longer."""

LAST = 4
"""Duration of the last frame, in frames."""

COLOURS = {
    "default": "#c9d1d9",
    "black": "#6e7681",
    "red": "#ff7b72",
    "green": "#7ee787",
    "brown": "#e3b341",
    "blue": "#79c0ff",
    "magenta": "#d2a8ff",
    "cyan": "#76e3ea",
    "white": "#f0f6fc",
    "brightblack": "#8b949e",
}
Line: TypeAlias = tuple[tuple[int, str, str, bool], ...]
"""Pieces of a line: column, text, colour, bold."""


def main() -> None:
    """Record the command and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("--frames", type=int, default=14)
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    folder = Path(tempfile.gettempdir()) / "yolo"  # the name is visible in the picture
    folder.mkdir()
    try:
        screens = recorded(given.command, folder)
    finally:
        shutil.rmtree(folder)
    shown = [one for one in screens if any(re.search(r"step [1-9]", text(line)) for line in one)]
    step = max(1, len(shown) // (given.frames - 1))
    frames = [*shown[:-1:step][: given.frames - 1], shown[-1]]
    svg = "".join(drawn(frames, " ".join(given.command)))
    given.picture.write_text(svg, encoding="utf-8", newline="\n")
    print(f"{given.picture}: {len(frames)} frames of {len(shown)}, {len(svg):,} bytes")


def recorded(command: list[str], folder: Path) -> list[list[Line]]:
    """Run a command and return its screens, several per second, without repetitions."""
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": ""}
    process = subprocess.Popen(
        command,
        **dict.fromkeys(("stdin", "stdout", "stderr"), slave),
        cwd=folder,
        env=environment,
        start_new_session=True,
    )
    os.set_blocking(master, False)
    screens: list[list[Line]] = []
    while process.poll() is None:
        with suppress(BlockingIOError):
            while True:
                stream.feed(os.read(master, 65536))
        now = [pieces(screen, row) for row in range(LINES)]
        if not screens or now != screens[-1]:
            screens.append(now)
        time.sleep(0.25)
    return screens


def pieces(screen: Any, row: int) -> Line:
    """Return a line of the screen, split where its style changes."""
    found: list[tuple[int, str, str, bool]] = []
    for column in range(COLUMNS):
        cell = screen.buffer[row][column]
        colour = COLOURS.get(cell.fg, f"#{cell.fg}" if len(cell.fg) == 6 else COLOURS["default"])
        if found and found[-1][2:] == (colour, cell.bold):
            at, words, *look = found[-1]
            found[-1] = (at, words + cell.data, *look)  # type: ignore[arg-type]
        else:
            found.append((column, cell.data, colour, cell.bold))
    return tuple(one for one in found if one[1].strip())


def text(line: Line) -> str:
    """Return the text of a line."""
    return " ".join(words for _, words, *_ in line)


def drawn(frames: list[list[Line]], title: str) -> Iterator[str]:
    """Yield the picture in pieces."""
    count = len(frames) - 1 + LAST
    width, height = COLUMNS * WIDE + 2 * EDGE, LINES * HIGH + TITLE + EDGE
    times: dict[tuple[int, Line], list[int]] = defaultdict(list)
    for at, frame in enumerate(frames):
        for row, line in enumerate(frame):
            if line:
                times[row, line].append(at)
    spans = sorted({tuple(when) for when in times.values()})
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" font-family="ui-monospace, Menlo, Consolas, '
        f'\'DejaVu Sans Mono\', monospace" font-size="13">\n<style>\ntext{{white-space:pre}}\n'
    )
    last = len(frames) - 1
    for number, when in enumerate(spans):
        if len(when) <= last:
            yield _timed(number, set(when), last, count)
    yield "@media(prefers-reduced-motion){g{animation:none!important}}\n</style>\n"
    yield '<rect width="100%" height="100%" rx="8" fill="#0d1117"/>\n'
    for x, colour in ((16, "#ff5f56"), (34, "#ffbd2e"), (52, "#27c93f")):
        yield f'<circle cx="{x}" cy="15" r="5.5" fill="{colour}"/>\n'
    yield (
        f'<text x="{width / 2:g}" y="19" fill="#8b949e" text-anchor="middle">'
        f"$ {escape(title)}</text>\n"
    )
    groups: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for (row, line), when in times.items():
        groups[tuple(when)].extend(_line(row, line))
    for number, when in enumerate(spans):
        yield f'<g class="t{number}">{"".join(groups[when])}</g>\n'
    yield "</svg>\n"


def _timed(number: int, when: set[int], last: int, count: int) -> str:
    """Return the animation of lines visible in some frames: stepwise opacity."""
    turns = (at for at in range(last + 1) if at == 0 or (at in when) != (at - 1 in when))
    marks = [f"{100 * at / count:.4g}%{{opacity:{int(at in when)}}}" for at in turns]
    rest = int(last in when)
    return (
        f"@keyframes k{number}{{{''.join(marks)}100%{{opacity:{rest}}}}}"
        f".t{number}{{opacity:{rest};animation:k{number} {count * SECONDS:g}s step-end infinite}}\n"
    )


def _line(row: int, line: Line) -> Iterator[str]:
    y = TITLE + (row + 1) * HIGH - 4
    for column, words, colour, bold in line:
        lead = len(words) - len(words.lstrip())
        kept = words.strip()
        look = ' font-weight="bold"' if bold else ""
        yield (
            f'<text x="{EDGE + (column + lead) * WIDE:g}" y="{y:g}" fill="{colour}"{look} '
            f'textLength="{len(kept) * WIDE:g}">{escape(kept)}</text>'
        )


if __name__ == "__main__":
    main()
