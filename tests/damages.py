"""Damaged files of a run, and where a reader must locate each damage."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, fields, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from values import LAYOUT, window
from watched import DEAD, EPOCH, watch

from yolo_gradwatch.measure.layout import Layout
from yolo_gradwatch.measure.quantities import QUANTITIES
from yolo_gradwatch.runs import process
from yolo_gradwatch.runs.schema import (
    ALERT_COLUMNS,
    ALERT_NEEDED,
    ALERTS_FILE,
    META_FILE,
    WINDOW_COLUMNS,
    WINDOW_NEEDED,
    WINDOWS_FILE,
)

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = len(LAYOUT.modules)  # lines of a window
WINDOWS = 11
LINES = 1 + WINDOWS * ROWS
HEADER = ",".join(WINDOW_COLUMNS)


FLOAT_COLUMNS = [row.name for row in QUANTITIES if not row.is_count]
COUNTS = (
    "epoch",
    "step_first",
    "step_last",
    "parameters",
    "steps",
    "skipped",
    *(row.name for row in QUANTITIES if row.is_count),
)
DEEP = "[" * 100_000
BINARY = bytes(range(256)) * 8
RESULTS = b"epoch,time,train/box_loss,metrics/mAP50(B),lr/pg0\n1,2.5,1.4,0.1,0.01\n"


class Damage(NamedTuple):
    """A change to a file of `whole_run`, and the location that a reader must report."""

    file: str
    change: Callable[[bytes], bytes]
    line: int | None = None
    column: str = ""
    place: str = ""


def whole_run(folder):
    """Write a run of 11 windows of 10 modules, with a finding that ends, on lines 2 and 3."""
    folder.mkdir(parents=True)
    own, epoch = asdict(process.own()), asdict(replace(EPOCH, steps=3))
    watch(folder, [*DEAD, *map(window, range(4, WINDOWS + 1))], epochs=[epoch], process=own)
    return folder


def spoil(folder, name, change, end="LF"):
    """Change a file of a run and its line endings."""
    content = change((folder / name).read_bytes())
    (folder / name).write_bytes(with_crlf(content) if end == "CRLF" else content)


def with_crlf(content):
    return content.replace(b"\n", b"\r\n")


def instead(content):
    content = content if isinstance(content, bytes) else content.encode("latin-1")
    return lambda _old: content


def lines(change):
    """Return a change of a table's lines, counted from 0 with the header."""

    def on_bytes(content):
        new = change(content.decode().splitlines())
        return "".join(f"{line}\n" for line in new).encode()

    return on_bytes


def cell(line, column, text):
    """Return a change of a cell; lines count from 1, as in the messages."""

    def change(old):
        row = old[line - 1].split(",")
        row[old[0].split(",").index(column)] = text
        return [*old[: line - 1], ",".join(row), *old[line:]]

    return lines(change)


def without(column):
    """Return a change that removes a column."""

    def change(old):
        place = old[0].split(",").index(column)
        rows = (line.split(",") for line in old)
        return [",".join([*row[:place], *row[place + 1 :]]) for row in rows]

    return lines(change)


def between(line, *new):
    return lines(lambda old: [*old[: line - 1], *new, *old[line - 1 :]])


def resized(line, by):
    """Return a change of a line to fewer or more cells."""

    def change(old):
        row = old[line - 1].split(",")
        row = row[:by] if by < 0 else [*row, *"99"[:by]]
        return [*old[: line - 1], ",".join(row), *old[line:]]

    return lines(change)


def both(*changes):
    def change(content):
        for one in changes:
            content = one(content)
        return content

    return change


_W, _A, _J = (partial(Damage, name) for name in (WINDOWS_FILE, ALERTS_FILE, META_FILE))
_OTHER_TOOL = ["a,b\n1,2\n", "\n", "hello\n", '{\n "a": 1\n}\n', "\x00\xff\n", RESULTS, BINARY]
_CELLS = [
    *((5, "steps", text) for text in ("x", "-1", "0", "", "1.5", "1_0", "٣", str(2**64))),
    *((5, "epoch", "0"), (5, "epoch", "inf"), (14, "norm_mean", "1.2.3"), (LINES, "zero", "1e")),
    *((14, "norm_mean", "nan"), (14, "norm_min", "1 2"), (14, "norm_max", "1.5\x00")),
    (9, "type", "Conv\x00"),
]
_ALERT_CELLS = {"finding": "one", "step": "-1", "epoch": "", "value": "high", "reported": "0"}


def _again(old):
    return [f"{line},{line.split(',')[0]}" for line in old]


TABLES = {
    **{f"windows: no {name}": _W(without(name), 1, name) for name in WINDOW_NEEDED},
    **{f"alerts: no {name}": _A(without(name), 1, name) for name in ALERT_NEEDED},
    **{f"windows: {name} {text!r}": _W(cell(n, name, text), n, name) for n, name, text in _CELLS},
    **{f"alerts: {name} {x!r}": _A(cell(3, name, x), 3, name) for name, x in _ALERT_CELLS.items()},
    **{f"windows: other {n}": _W(instead(text), 1) for n, text in enumerate(_OTHER_TOOL)},
    **{f"alerts: other {n}": _A(instead(text), 1) for n, text in enumerate(_OTHER_TOOL)},
    **{f"windows: {n} by {by}": _W(resized(n, by), n) for n in (2, LINES) for by in (-9, -1, 1, 2)},
    **{f"windows: an empty line {line}": _W(between(line, ""), line) for line in (2, 12)},
    **{f"windows: a header on {n}": _W(between(n, HEADER), n) for n in (2, 3, 12)},
    "windows: alerts": _W(instead(",".join(ALERT_COLUMNS) + "\n"), 1),
    "alerts: windows": _A(instead(HEADER + "\n"), 1),
    "windows: empty": _W(instead(b"")),
    "alerts: empty": _A(instead(b"")),
    "windows: no whole line": _W(instead(HEADER + "\r")),
    "alerts: no whole line": _A(instead("finding,ev")),
    "windows: a column again": _W(lines(_again), 1),
    "alerts: a column again": _A(lines(_again), 1),
    "alerts: a comma": _A(cell(2, "limit", "1,5"), 2),
    "windows: a short header": _W(lambda old: old.replace(b"zero,", b"", 1), 2),
    "windows: short before long": _W(both(resized(11, -1), resized(12, 1)), 11),
    "windows: long before short": _W(both(resized(12, -1), resized(11, 1)), 11),
    "windows: long rows": _W(lines(lambda old: [old[0], *(f"{line}," for line in old[1:])]), 2),
    "windows: an open quote": _W(cell(5, "module", '"model.0'), 5),
    "windows: quotes": _W(both(cell(9, "zero", "x"), cell(3, "type", '"a ""b"""')), 9, "zero"),
    "windows: two cells": _W(both(cell(20, "zero", "?"), cell(9, "zero", "?")), 9, "zero"),
    "windows: torn too": _W(both(cell(5, "zero", "x"), lambda old: old[:-10]), 5, "zero"),
    "windows: two runs": _W(lambda old: old * 2, LINES + 1),
    "alerts: two runs": _A(lambda old: old * 2, 4),
    **{
        f"windows: {name} again": _W(lines(change), line, "step_first")
        for name, change, line in [
            ("all", lambda old: [*old, *old[1:]], LINES + 1),
            ("window 2", lambda old: [*old[:21], *old[11:21], *old[21:]], 22),
            ("the last window", lambda old: [*old, *old[-ROWS:]], LINES + 1),
            ("a row", lambda old: [*old[:15], old[13], *old[15:]], 16),
            ("window 1 after 2", lambda old: [old[0], *old[11:21], *old[1:11], *old[21:]], 12),
        ]
    },
}
"""Damages of tables, with the first line reported."""

GONE = object()


def part(path, value):
    """Return a change of a value in the JSON, such as ``layout.modules.3``, or its removal."""
    *parents, last = (int(word) if word.isdigit() else word for word in path.split("."))

    def change(content):
        meta = inner = json.loads(content)
        for name in parents:
            inner = inner[name]
        if value is GONE:
            del inner[last]
        else:
            inner[last] = value
        return json.dumps(meta).encode()

    return change


_REQUIRED = [field.name for field in fields(Layout) if field.default is MISSING]
_PARTS = [
    *(
        ("format_version", x, "$.format_version")
        for x in (GONE, 0, -1, "1", None, True, 1.0, 3, 17)
    ),
    *((f"layout.{name}", GONE, "$.layout") for name in _REQUIRED),
    *(("layout", GONE, "$"), ("events.0.kind", GONE, "$.events[0]")),
    *((name, ["x"], f"$.{name}") for name in ("versions", "status", "options", "process")),
    *((name, 3, f"$.{name}") for name in ("layout", "thresholds", "events", "epochs", "process")),
    *((f"layout.{name}", [1], f"$.layout.{name}") for name in ("since", "head")),
    *(("layout.types", [], "$.layout.types"), ("layout.modules", "model", "$.layout.modules")),
    *(("layout.modules.1", 1, "$.layout.modules[1]"), ("layout.head", "x", "$.layout.head")),
    *(("layout.modules.0", "whole", "$.layout.modules"), ("layout.blocks", [], "$.layout.inside")),
    *(("layout.modules.9", f"model.2.{x}", "$.layout.modules") for x in ("a", "x.b", "\x1b[31m")),
    *((f"layout.types.{n}", "\x1b[31m", "$.layout.types") for n in (1, 9)),
    *(("layout.block_of.9", block, "$.layout.block_of") for block in ("model.2.bn", "model.0")),
    *(("layout.roles.1", role, "$.layout.roles[1]") for role in ("weights", "\x1b[31m")),
    *(("layout.blocks.0", ["model.0"] * n, "$.layout.blocks[0]") for n in (1, 3)),
    *(
        ("layout.blocks.0.1", "\x1b[31m", "$.layout.blocks"),
        ("layout.inside", [], "$.layout.inside"),
    ),
    *(("layout.edges", [["model.0", "x"]], "$.layout.edges"), ("status", "\x1b[2J", "$.status")),
    *(("options.interval", value, "$.options.interval") for value in (0, "1", 1.5)),
    *((f"options.training{x}", ["x"], f"$.options.training{x}") for x in ("", ".clip", ".fitted")),
    ("options.training.epochs", "many", "$.options.training.epochs"),
    *(("last_step", value, "$.last_step") for value in (-1, 10**16, "3", 1.5)),
    *(("events.0.step", x, "$.events[0].step") for x in ("3", 1.5, True, None, -1, 10**30)),
    *((f"epochs.0.{x}", "x", f"$.epochs[0].{x}") for x in ("steps", "norm_median", "owners")),
    ("epochs.0.owners", {"model.1": "most"}, "$.epochs[0].owners[...]"),
    *(("thresholds.spike", -1, "$.thresholds"), ("thresholds.spike", "x", "$.thresholds.spike")),
    *(("process.pid", -1, "$.process"), ("process.pid", True, "$.process.pid")),
]
_TORN = [
    (b"", 1),
    (b"{", 1),
    (b'{"a": 1', 1),
    (b'{"a":\n1\nb}', 3),
    (b"not json", 1),
    (BINARY, None),
]
JSON = {
    **{f"json: {n}": _J(instead(text), line) for n, (text, line) in enumerate(_TORN)},
    "json: deep": _J(instead(DEEP)),
    "json: half": _J(lambda old: old[: len(old) // 2], 1),
    "json: twice": _J(lambda old: old * 2, 1),
    **{f"json: {x}": _J(instead(x), place="$") for x in ("[]", "1", "null", '"gradwatch"')},
    **{
        f"json: {x} {'gone' if y is GONE else ascii(y)}": _J(part(x, y), place=z)
        for x, y, z in _PARTS
    },
}
"""Damages of ``gradwatch.json``, with the path reported."""

REMARKED = {
    "windows: torn": (WINDOWS_FILE, lambda old: old[:-3], WINDOWS - 1),
    "windows: a row missing": (WINDOWS_FILE, lines(lambda old: old[:-1]), WINDOWS - 1),
    "windows: a row too many": (WINDOWS_FILE, lambda old: old + b"1,12,12,model", WINDOWS),
    "windows: zeros": (WINDOWS_FILE, lambda old: old + bytes(4096), WINDOWS),
    "windows: rows missing": (WINDOWS_FILE, lines(lambda old: old[: 1 + 2 * ROWS]), 2),
    "alerts: torn": (ALERTS_FILE, lambda old: old[:-3], WINDOWS),
    "windows: no norm_min": (WINDOWS_FILE, without("norm_min"), WINDOWS),
}
"""Damages of tables that are still readable, with a remark: file, change and readable windows."""

UNREADABLE = {
    **dict.fromkeys(COUNTS, ("", "many", "1.5", "-", "--1", "0x1F", "1e", "1 2", "-7", "9" * 30)),
    **dict.fromkeys(FLOAT_COLUMNS, ("many", "1.2.3", "1e", "e5", "-", "--1", "0x1F", "1_0.5")),
}
"""Invalid texts for each column."""
