"""Consoles for the standard streams, and wrapping of text to their width."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

_INDENT = 4


class _Console(Console):
    """A console that raises on a broken pipe, where rich would end the process.

    In a notebook it writes to its stream as well. Rich would create an HTML display for each text,
    which is not wrapped and bypasses a replaced stream.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, force_jupyter=False, **options)

    def on_broken_pipe(self) -> None:
        """Raise the error again."""
        raise  # noqa: PLE0704  # rich calls this while it handles the error


def plain_console(*, on_stderr: bool = False) -> Console:
    """Return a console on a standard stream, for text that is not redrawn."""
    return _Console(file=sys.stderr if on_stderr else sys.stdout)


def live_console(terminal: Any) -> Console:
    """Return a console on a terminal stream, for the panel and for lines printed above it."""
    return _Console(file=terminal, force_terminal=True)


class _Forgiving:
    """A stream that drops text the real one fails to write, such as after a broken pipe.

    Args:
        stream: Real stream; if other code has replaced it, it may lack any method.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write to the real stream, ignoring its errors."""
        try:
            return self._stream.write(text)
        except Exception:  # noqa: BLE001  # a broken pipe, a closed file, other people's code
            return len(text)

    def flush(self) -> None:
        """Flush the real stream, ignoring its errors."""
        try:
            self._stream.flush()
        except Exception:  # noqa: BLE001  # as above
            return

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def forgiving(console: Console) -> Iterator[None]:
    """Suppress errors of a console's stream; errors while rendering are still raised."""
    stream = console.file
    console.file = _Forgiving(stream)  # type: ignore[assignment]  # what a console needs of one
    try:
        yield
    finally:
        console.file = stream


def fitted(text: Text, console: Console) -> Text:
    """Wrap lines between words on a terminal; leave them whole in a file, where tools read them."""
    if not console.is_terminal:
        return text
    lines: list[Text] = []
    for line in text.split():
        room = console.width if line.cell_len <= console.width else console.width - _INDENT
        first, *rest = line.wrap(console, max(room, 1)) or [line]
        lines += [first, *(Text(" " * _INDENT).append_text(part) for part in rest)]
    return Text("\n").join(lines)
