"""Renders the live panel, the table of an epoch, the news and the end report."""

from __future__ import annotations

import math
import sys
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.text import Text

from yolo_gradwatch.advice import lasted
from yolo_gradwatch.report import finding_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from rich.console import ConsoleOptions, RenderResult

    from yolo_gradwatch.arrays import Floats
    from yolo_gradwatch.board import BlockRow, Board
    from yolo_gradwatch.finding import Finding, News, Severity
    from yolo_gradwatch.report import Report

STYLES: dict[Severity | None, str] = {
    None: "green",
    "notice": "cyan",
    "warning": "yellow",
    "critical": "bold red",
}

_SPARKS = "▁▂▃▄▅▆▇█"
_PARTS = " ▏▎▍▌▋▊▉"
_NORM_WIDTH = 8
_LABEL_WIDTH = 18
_STATE_WIDTH = 11
_BAR_WIDTH = 24
_LOG_WIDTH = 80
_INDENT = 4
_SPAN = 2.0  # decades: a history that moves less is drawn flat instead of as noise
_FEWEST_BLOCKS = 3  # lines of blocks that findings leave in a low terminal
_DEPTH = 6.0  # decades below the highest norm that a bar can show


class _Console(Console):
    """A console that leaves a broken pipe to its caller; rich's own ends the process.

    In a notebook it writes to its stream as elsewhere; rich's own makes an HTML display of each
    text, which is not wrapped and passes by a stream that somebody has put in its place.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, force_jupyter=False, **options)

    def on_broken_pipe(self) -> None:
        """Raise the error again."""
        raise  # noqa: PLE0704  # rich calls this while it handles the error


def plain_console(*, on_stderr: bool = False) -> Console:
    """A console on a standard stream, for text that is not drawn anew."""
    return _Console(file=sys.stderr if on_stderr else sys.stdout)


def live_console(terminal: Any) -> Console:
    """A console on a stream that is a terminal, for a panel and for what is printed above it."""
    return _Console(file=terminal, force_terminal=True)


class _Forgiving:
    """A stream that drops what the real one does not take, as where there is no reader any more.

    Args:
        stream: The real one; as a stand-in of somebody's, it may lack every method.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write it, if the real stream does."""
        try:
            return self._stream.write(text)
        except Exception:  # noqa: BLE001  # a broken pipe, a closed file, other people's code
            return len(text)

    def flush(self) -> None:
        """Flush the real stream, if it can be."""
        try:
            self._stream.flush()
        except Exception:  # noqa: BLE001  # as above
            return

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def forgiving(console: Console) -> Iterator[None]:
    """Keep back what the stream of a console raises; what the rendering raises comes through."""
    stream = console.file
    console.file = _Forgiving(stream)  # type: ignore[assignment]  # what a console needs of one
    try:
        yield
    finally:
        console.file = stream


class Panel:
    """The live report: drawn anew from the board whenever it is printed.

    Ruled above and below instead of boxed, so that the progress bar's frame, which is as wide as
    the terminal, fits inside.

    Args:
        board: The numbers.

    Attributes:
        board: The numbers.
        frame: The lowest line: that of a progress bar, as a rule.
    """

    def __init__(self, board: Board) -> None:
        self.board = board
        self.frame = Text()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = options.max_width, console.height
        closing = [Text("─" * width, style="dim"), self.frame] if self.frame else []
        news = _standing(_gravest(self.board.standing), console, width)
        owners = [_owners(self.board, width)] if self.board.total is not None else []
        left = height - 4 - len(closing) - len(owners)
        news = news[: max(left - _FEWEST_BLOCKS, 1)]
        room = left - len(news)
        yield _rule(_summary(self.board), width)
        yield from owners
        yield Group(*_block_lines(self.board.rows(), width, room))
        yield from news
        yield from closing
        yield Text()  # Ctrl+C is echoed here; at the end of a full line it would tear the panel


def epoch_table(board: Board) -> Text:
    """The blocks at the end of an epoch in up to three columns, for logs: nothing is cut."""
    rows = board.rows()
    tables = (_in_columns(rows, count) for count in (3, 2, 1))
    fitting = (lines for lines in tables if all(line.cell_len <= _LOG_WIDTH for line in lines))
    lines = next(fitting, None) or _in_columns(rows, 1)
    return Text("\n").join([Text(f"GradWatch {_summary(board)}", style="bold"), *lines])


def _in_columns(rows: Sequence[BlockRow], count: int) -> list[Text]:
    """Label, norm and state of each block, one below the other in so many columns."""
    depth = max(math.ceil(len(rows) / count), 1)
    lines = [Text() for _ in range(depth)]
    for begin in range(0, len(rows), depth):
        part = rows[begin : begin + depth]
        label = max(cell_len(row.label) for row in part)
        state = max(len(row.state) for row in part) if begin + depth < len(rows) else 0
        for line, row in zip(lines, part, strict=False):
            line.append(f"{'   ' if begin else ''}{set_cell_size(row.label, label)}")
            line.append(f" {number(row.norm):>7} ")
            line.append(f"{row.state:{state}}", STYLES[row.severity])
    return lines


def news_line(news: News) -> Text:
    """What has just begun, come back, grown worse or ended."""
    finding = news.finding
    newest = finding.episodes[-1]
    if news.change == "end":
        text = f"{finding.rule} in {finding.module}, which lasted {lasted(newest)}"
        return Text.assemble(("GradWatch resolved: ", "green"), text)
    again = " (again)" if newest is not finding.episodes[0] else ""
    change = " (worse)" if news.change == "worse" else again
    word = f"GradWatch {finding.severity} {finding.rule}{change}: "
    return Text.assemble((word, STYLES[finding.severity]), finding.message)


def stop_line(finding: Finding) -> Text:
    """That the training is stopped, by whose wish, and because of what."""
    reason = f"{finding.rule} in {finding.module}"
    return Text(f"GradWatch stops the training, as stop_on says: {reason}", "bold red")


def end_report(report: Report) -> Text:
    """The verdict, the findings, and what could not be judged."""
    parts = [verdict(report), *map(told, report.findings), *map(Text, report.facts())]
    return Text("\n").join(parts)


def verdict(report: Report) -> Text:
    """The outcome in a line."""
    style = "bold green" if report.healthy else "bold red"
    return Text(f"GradWatch: {report.verdict}", style if report.steps else "bold yellow")


def told(finding: Finding) -> Text:
    """A finding in full."""
    return Text(finding_line(finding), STYLES[finding.severity])


def file_list(files: Iterable[Path]) -> Text:
    """Where the files are; not to be wrapped, so that a path can be copied."""
    return Text("\n").join([Text(f"  {path}", style="dim") for path in files])


def fitted(text: Text, console: Console) -> Text:
    """Lines wrapped between words on a terminal; whole in a file, where tools read them."""
    if not console.is_terminal:
        return text
    lines: list[Text] = []
    for line in text.split():
        room = console.width if line.cell_len <= console.width else console.width - _INDENT
        first, *rest = line.wrap(console, max(room, 1)) or [line]
        lines += [first, *(Text(" " * _INDENT).append_text(part) for part in rest)]
    return Text("\n").join(lines)


def encodable(text: Text, console: Console) -> Text:
    """A text in which "?" stands for what the encoding of a log lacks."""
    encoding = console.encoding
    try:
        shown = text.plain.encode(encoding, "replace").decode(encoding)
    except LookupError:  # a stand-in for a stream may say anything
        return text
    if shown != text.plain:
        text = text.copy()
        text.plain = shown  # as many characters, so that colours stay in their places
    return text


def _summary(board: Board) -> str:
    epoch = f"{board.epoch}/{board.epochs}" if board.epochs else str(board.epoch)
    captured = f" (1 in {board.interval:,})" if board.interval > 1 else ""
    return (
        f"epoch {epoch}  step {board.step:,}{captured}  total norm {number(board.total)}  "
        f"clipped {board.clipped:.0%}  AMP skips {board.skipped:,}"
    )


def _owners(board: Board, width: int) -> Text:
    """What clipping leaves of the newest step, and which blocks its norm comes from."""
    left = f"factor {board.factor:.2g}"
    if math.isnan(board.factor):
        left = "spreads what is not finite to every weight"
    line = Text(f"clip at {board.clip:g}: {left}", "dim")
    shares = [f"{name} {share:.0%}" for name, share in board.owners.items() if share >= 0.01]
    if shares:
        line.append(f"  shares of the squared norm: {', '.join(shares)}")
    line.truncate(width, overflow="ellipsis")
    return line


def _rule(summary: str, width: int) -> Text:
    """The upper edge of the panel with its title; a long one is shortened rather than cut."""
    if len(summary) + 15 > width:
        summary = summary.replace("total norm", "norm")
    title = Text.assemble(("── ", "dim"), ("GradWatch", "bold"), "  ", summary, " ")
    title.append("─" * max(width - title.cell_len, 0), style="dim")
    title.truncate(width, overflow="ellipsis")
    return title


def _gravest(standing: Iterable[Finding]) -> list[Finding]:
    """At most three findings, critical ones first, of these the newest."""
    alarms = [finding for finding in standing if finding.severity != "notice"]
    return sorted(alarms, key=lambda f: (f.severity != "critical", -f.number))[:3]


def _standing(findings: Sequence[Finding], console: Console, width: int) -> list[Text]:
    """The first finding in full, because it says what to try; the others in a line each."""
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


def _block_lines(rows: Sequence[BlockRow], width: int, room: int) -> list[Text]:
    """A heading and a line a block; sick blocks stay when there is no room for all."""
    shown = _fitting(rows, max(room, 1))
    label = min(max((len(row.label) for row in rows), default=0), _LABEL_WIDTH)
    rest = max(width - label - _NORM_WIDTH - _STATE_WIDTH - 8, 8)
    bar = min(rest // 3, _BAR_WIDTH)
    spark = rest - bar
    high = _highest(rows)
    seen = any(row.history.size for row in rows)
    scale = f"1e{high - _DEPTH:+.0f} … 1e{high:+.0f}" if seen else "log scale"
    heading = f"{'block':{label}}  {'norm':>{_NORM_WIDTH}}  {'state':{_STATE_WIDTH}}"
    lines = [Text(f"{heading}  {_cut(scale, bar):{bar}}  history", style="dim")]
    lines[0].truncate(width)
    for row in shown:
        style = STYLES[row.severity]
        line = Text(f"{_cut(row.label, label):{label}}  {number(row.norm):>{_NORM_WIDTH}}  ")
        line.append(f"{row.state:{_STATE_WIDTH}}  ", style=style)
        line.append(f"{_bar(row.norm, high, bar):{bar}}  ", style=style)
        line.append(sparkline(row.history, spark), style="cyan")
        line.truncate(width)
        lines.append(line)
    if len(shown) < len(rows):
        lines.append(Text(f"… {len(rows) - len(shown)} more blocks (enlarge the window)", "dim"))
        lines[-1].truncate(width)
    return lines


def _fitting(rows: Sequence[BlockRow], room: int) -> list[BlockRow]:
    """The rows that fit into ``room`` lines, in forward order.

    Sick ones stay, of these the ones near the loss: what is upstream often suffers with them.
    """
    if len(rows) <= room:
        return list(rows)
    order = sorted(range(len(rows)), key=lambda i: (1, i) if rows[i].severity is None else (0, -i))
    return [rows[i] for i in sorted(order[: room - 1])]


def _highest(rows: Sequence[BlockRow]) -> float:
    """The upper end of the bars' scale: a whole decade above every norm of the run."""
    levels = [row.history[np.isfinite(row.history)] for row in rows]
    return math.ceil(max((float(level.max()) for level in levels if level.size), default=0.0))


def _bar(norm: float | None, high: float, width: int) -> str:
    if norm is None or not math.isfinite(norm) or norm <= 0:
        return ""
    share = min(max((math.log10(norm) - high + _DEPTH) / _DEPTH, 0.0), 1.0)
    whole, part = divmod(round(share * width * 8), 8)
    return "█" * whole + (_PARTS[part] if part else "")


def sparkline(history: Floats, width: int) -> str:
    """A line of blocks for log10 levels, over at least two decades.

    Args:
        history: (H,) levels, oldest first; NaN is drawn as ``!``, -Inf as ``·``.
        width: Cells at the most; the newest point is on the right.
    """
    if not history.size:
        return ""
    points = _resampled(history, width)
    is_finite = np.isfinite(points)
    cells = np.where(points == -np.inf, "·", "!")
    if is_finite.any():
        low, high = points[is_finite].min(), points[is_finite].max()
        span = max(high - low, _SPAN)
        shares = (points[is_finite] - (high + low) / 2) / span + 0.5
        levels = np.clip((shares * len(_SPARKS)).astype(int), 0, len(_SPARKS) - 1)
        cells[is_finite] = np.array(list(_SPARKS))[levels]
    return "".join(cells.tolist())


def _resampled(history: Floats, width: int) -> Floats:
    """At most ``width`` points: each the mean of its neighbours."""
    if history.size <= width:
        return history
    parts = np.arange(width + 1)
    begins = parts * (history.size // width) + np.minimum(parts, history.size % width)
    means: Floats = np.add.reduceat(history, begins[:-1]) / np.diff(begins)
    return means


def number(value: float | None) -> str:
    """A norm in at most 7 cells."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Inf"
    if value and not 0.01 <= value < 99_999:
        return f"{value:.1e}"
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
