"""Live panel: blocks with their norms and histories, open findings, the progress bar."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.segment import Segment
from rich.text import Text

from yolo_gradwatch.views.live import highest
from yolo_gradwatch.views.terminal.glyphs import (
    DEPTH,
    STYLES,
    bar,
    cut,
    number,
    sparklines,
    state_style,
)
from yolo_gradwatch.views.terminal.lines import clip_line, status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import Console, ConsoleOptions, RenderResult

    from yolo_gradwatch.diagnose.finding import Finding
    from yolo_gradwatch.views.live import BlockRow, Board

_NORM_WIDTH = 8
_LABEL_WIDTH = 18
_STATE_WIDTH = 11
_BAR_WIDTH = 24
_MOST_FINDINGS = 3
_FEWEST_BLOCKS = 3  # lines reserved for blocks in a low terminal


class Panel:
    """The live panel, rendered from the board whenever it is printed.

    It has rules above and below instead of a box, so that the frame of the progress bar, which is
    as wide as the terminal, fits inside.

    Args:
        board: Numbers to show.

    Attributes:
        board: Numbers to show.
        frame: The lowest line; a string is the frame of a progress bar, with escape codes.
    """

    def __init__(self, board: Board) -> None:
        self.board = board
        self.frame: str | Text = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = options.max_width, console.height
        closing = [Text("─" * width, style="dim"), self._lowest()] if self.frame else []
        findings = _finding_lines(_most_severe(self.board.active), console, width)
        owners = [_owners(self.board, width)] if self.board.total is not None else []
        left = height - 4 - len(closing) - len(owners)
        findings = findings[: max(left - _FEWEST_BLOCKS, 1)]
        yield _rule(status(self.board), width)
        yield from owners
        yield from _block_lines(self.board.rows(), width, left - len(findings), console)
        yield from findings
        yield from closing
        yield Text()  # Ctrl+C is echoed here; after a full line, the echo would break the panel

    def _lowest(self) -> Text:
        """Return the lowest line; most frames are replaced before they are drawn."""
        if isinstance(self.frame, Text):
            return self.frame
        line = Text.from_ansi(self.frame)
        line.no_wrap = True
        return line


def _owners(board: Board, width: int) -> Text:
    """Return the clipping factor of the newest step, and the blocks with the largest gradients."""
    line = Text(clip_line(board), "dim")
    line.truncate(width, overflow="ellipsis")
    return line


def _rule(summary: str, width: int) -> Text:
    """Return the upper edge of the panel with its title, abbreviated if it is too long."""
    if len(summary) + 15 > width:
        summary = summary.replace("total norm", "norm")
    title = Text.assemble(("── ", "dim"), ("GradWatch", "bold"), "  ", summary, " ")
    title.append("─" * max(width - title.cell_len, 0), style="dim")
    title.truncate(width, overflow="ellipsis")
    return title


def _most_severe(findings: Iterable[Finding]) -> list[Finding]:
    """Return the first few findings: critical ones first, then the newest."""
    alarms = [finding for finding in findings if finding.severity != "notice"]
    return sorted(alarms, key=lambda f: (f.severity != "critical", -f.number))[:_MOST_FINDINGS]


def _finding_lines(findings: Sequence[Finding], console: Console, width: int) -> list[Text]:
    """Return the first finding in full, because it says what to try; the others in a line each."""
    lines: list[Text] = []
    for i, finding in enumerate(findings):
        word = f"● {finding.severity} {finding.rule}: "
        text = Text.assemble((word, STYLES[finding.severity]), finding.message)
        wrapped = text.wrap(console, max(width, 1))
        most = max(console.height // 3, 1) if i == 0 else 1
        shown = list(wrapped[:most])
        if len(wrapped) > most:
            shown[-1] = Text.assemble(shown[-1], "…")
            shown[-1].truncate(width, overflow="ellipsis")
        lines += shown
    return lines


def _block_lines(
    rows: Sequence[BlockRow], width: int, room: int, console: Console
) -> Iterator[Segment]:
    """Yield a heading and a line per block; unhealthy blocks take precedence if room is short.

    They are segments, because to lay out texts would be most of the cost of a redraw.
    """
    shown = _fitting(rows, max(room, 1))
    label = min(max((len(row.label) for row in rows), default=0), _LABEL_WIDTH)
    rest = max(width - label - _NORM_WIDTH - _STATE_WIDTH - 8, 8)
    bar_width = min(rest // 3, _BAR_WIDTH)
    high = highest(rows)
    sparks = sparklines([row.history for row in shown], rest - bar_width)
    scale = f"1e{high - DEPTH:+.0f} … 1e{high:+.0f}" if any(sparks) else "log scale"
    heading = f"{'block':{label}}  {'norm':>{_NORM_WIDTH}}  {'state':{_STATE_WIDTH}}"
    dim, cyan = console.get_style("dim"), console.get_style("cyan")
    lines = [[Segment(f"{heading}  {cut(scale, bar_width):{bar_width}}  history", dim)]]
    for row, spark in zip(shown, sparks, strict=True):
        name = f"{cut(row.label, label):{label}}  {number(row.norm):>{_NORM_WIDTH}}  "
        state = f"{row.state:{_STATE_WIDTH}}  {bar(row.norm, high, bar_width):{bar_width}}  "
        style = console.get_style(state_style(row.state, row.severity))
        lines.append([Segment(name), Segment(state, style), Segment(spark, cyan)])
    if len(shown) < len(rows):
        more = f"… {len(rows) - len(shown)} more blocks (enlarge the terminal)"
        lines.append([Segment(more, dim)])
    for line in lines:
        yield from Segment.adjust_line_length(line, width, pad=False)
        yield Segment.line()


def _fitting(rows: Sequence[BlockRow], room: int) -> list[BlockRow]:
    """Choose the rows that fit into ``room`` lines, in forward order.

    Unhealthy ones take precedence, those nearest to the loss first: blocks upstream are often only
    affected.
    """
    if len(rows) <= room:
        return list(rows)
    order = sorted(range(len(rows)), key=lambda i: (1, i) if rows[i].severity is None else (0, -i))
    return [rows[i] for i in sorted(order[: room - 1])]
