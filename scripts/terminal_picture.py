"""Turn a terminal's screen into an SVG picture, for the README.

In one terminal, run a watched training inside tmux; while its panel is drawn, in another:

    tmux capture-pane -p -e | python scripts/terminal_picture.py docs/live.svg
"""

import io
import sys

from rich.console import Console
from rich.text import Text


def main(path: str) -> None:
    """Write what standard input holds, escape sequences and all, as a picture."""
    text = Text.from_ansi(sys.stdin.read().rstrip())
    width = max(line.cell_len for line in text.split())
    console = Console(width=width, record=True, file=io.StringIO(), force_terminal=True)
    console.print(text)
    console.save_svg(path, title="a watched training")


if __name__ == "__main__":
    main(sys.argv[1])
