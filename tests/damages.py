"""Everything that may be wrong with a file of a run, and what a reader must say of it."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, fields, replace
from typing import TYPE_CHECKING, NamedTuple

from test_review import DEAD, EPOCH, watch
from values import LAYOUT, window

from yolo_gradwatch import process
from yolo_gradwatch.records import Layout
from yolo_gradwatch.runlog import COUNT_COLUMNS, FLOAT_COLUMNS, WINDOW_COLUMNS
from yolo_gradwatch.schema import (
    ALERT_COLUMNS,
    ALERT_NEEDED,
    ALERTS_FILE,
    META_FILE,
    WINDOW_NEEDED,
    WINDOWS_FILE,
)

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = len(LAYOUT.modules)  # lines of a window
WINDOWS = 11
LINES = 1 + WINDOWS * ROWS
HEADER = ",".join(WINDOW_COLUMNS)
COUNTS = ("epoch", "step_first", "step_last", "parameters", "steps", "skipped", *COUNT_COLUMNS)
DEEP = "[" * 100_000
BINARY = bytes(range(256)) * 8
RESULTS = b"epoch,time,train/box_loss,metrics/mAP50(B),lr/pg0\n1,2.5,1.4,0.1,0.01\n"


class Damage(NamedTuple):
    """A file of `whole_run` with a change, and where a reader must point to."""

    file: str
    change: Callable[[bytes], bytes]
    line: int | None = None
    column: str = ""
    place: str = ""


def whole_run(folder):
    """The files of a run of 11 windows of 10 modules, with a finding that ends, on line 2 and 3."""
    folder.mkdir(parents=True)
    own, epoch = asdict(process.own()), asdict(replace(EPOCH, steps=3))
    watch(folder, [*DEAD, *map(window, range(4, WINDOWS + 1))], epochs=[epoch], process=own)
    return folder


def spoil(folder, name, change, end="LF"):
    """Change a file of a run, and its line ends."""
    content = change((folder / name).read_bytes())
    (folder / name).write_bytes(with_crlf(content) if end == "CRLF" else content)


def with_crlf(content):
    return content.replace(b"\n", b"\r\n")


def instead(content):
    content = content if isinstance(content, bytes) else content.encode("latin-1")
    return lambda _old: content


def lines(change):
    """A change of the lines of a table, which count from 0, the header's."""

    def on_bytes(content):
        new = change(content.decode().splitlines())
        return "".join(f"{line}\n" for line in new).encode()

    return on_bytes


def cell(line, column, text):
    """Another text in a cell; lines count from 1, as in what is said of them."""

    def change(old):
        row = old[line - 1].split(",")
        row[old[0].split(",").index(column)] = text
        return [*old[: line - 1], ",".join(row), *old[line:]]

    return lines(change)


def without(column):
    """A table without a column."""

    def change(old):
        place = old[0].split(",").index(column)
        rows = (line.split(",") for line in old)
        return [",".join([*row[:place], *row[place + 1 :]]) for row in rows]

    return lines(change)


def between(line, *new):
    return lines(lambda old: [*old[: line - 1], *new, *old[line - 1 :]])


def resized(line, by):
    """A line with fewer or more cells."""

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


def window_rows(old, number):
    return old[1 + (number - 1) * ROWS : 1 + number * ROWS]


_OTHER_TOOL = ["a,b\n1,2\n", "\n", "hello\n", '{\n "a": 1\n}\n', "\x00\xff\n", RESULTS, BINARY]
_CELLS = [
    *((5, "steps", text) for text in ("x", "-1", "0", "", "1.5", "1_0", "٣", str(2**64))),
    *((5, "epoch", "0"), (5, "epoch", "inf"), (14, "norm_mean", "1.2.3"), (LINES, "zero", "1e")),
    *((14, "norm_mean", "nan"), (14, "norm_min", "1 2"), (14, "norm_max", "1.5\x00")),
]
TABLES = {
    **{
        f"{file}: {name}": Damage(file, change, line)
        for file in (WINDOWS_FILE, ALERTS_FILE)
        for name, change, line in [
            ("empty", instead(b""), None),
            ("no whole line", instead(HEADER + "\r"), None),
            *((f"of another tool {n}", instead(text), 1) for n, text in enumerate(_OTHER_TOOL)),
            ("a column twice", lines(lambda old: [f"{x},{x.split(',')[0]}" for x in old]), 1),
        ]
    },
    "windows: alerts": Damage(WINDOWS_FILE, instead(",".join(ALERT_COLUMNS) + "\n"), 1),
    "alerts: windows": Damage(ALERTS_FILE, instead(HEADER + "\n"), 1),
    **{f"windows: no {x}": Damage(WINDOWS_FILE, without(x), 1, x) for x in WINDOW_NEEDED},
    **{f"alerts: no {x}": Damage(ALERTS_FILE, without(x), 1, x) for x in ALERT_NEEDED},
    **{
        f"windows: {column} {text!r}": Damage(WINDOWS_FILE, cell(line, column, text), line, column)
        for line, column, text in _CELLS
    },
    **{
        f"alerts: {column} {text!r}": Damage(ALERTS_FILE, cell(3, column, text), 3, column)
        for column, text in (("finding", "one"), ("step", "-1"), ("epoch", ""), ("value", "high"))
    },
    "alerts: reported 0": Damage(ALERTS_FILE, cell(3, "reported", "0"), 3, "reported"),
    "alerts: a comma": Damage(ALERTS_FILE, cell(2, "limit", "1,5"), 2),
    "windows: a short header": Damage(
        WINDOWS_FILE, lines(lambda old: [old[0].replace("zero,", ""), *old[1:]]), 2
    ),
    **{
        f"windows: line {line} resized by {by}": Damage(WINDOWS_FILE, resized(line, by), line)
        for line in (2, 12, LINES)
        for by in (-9, -1, 1, 2)
    },
    "windows: short before long": Damage(WINDOWS_FILE, both(resized(11, -1), resized(12, 1)), 11),
    "windows: long before short": Damage(WINDOWS_FILE, both(resized(12, -1), resized(11, 1)), 11),
    "windows: commas at all ends": Damage(
        WINDOWS_FILE, lines(lambda old: [old[0], *(f"{line}," for line in old[1:])]), 2
    ),
    "windows: an open quote": Damage(WINDOWS_FILE, cell(5, "module", '"model.0'), 5),
    "windows: quotes before damage": Damage(
        WINDOWS_FILE, both(cell(9, "zero", "x"), cell(3, "type", '"a ""b"""')), 9, "zero"
    ),
    "windows: the first of three": Damage(
        WINDOWS_FILE, both(*(cell(line, "zero", "?") for line in (20, 9, 31))), 9, "zero"
    ),
    "windows: torn behind damage": Damage(
        WINDOWS_FILE, both(cell(5, "zero", "x"), lambda content: content[:-10]), 5, "zero"
    ),
    **{
        f"windows: empty line {line}": Damage(WINDOWS_FILE, between(line, ""), line)
        for line in (2, 12)
    },
    **{
        f"windows: a header on line {line}": Damage(WINDOWS_FILE, between(line, HEADER), line)
        for line in (2, 3, 12)
    },
    "windows: two runs": Damage(WINDOWS_FILE, lambda old: old * 2, LINES + 1),
    "alerts: two runs": Damage(ALERTS_FILE, lambda old: old * 2, 4),
    **{
        f"windows: {name}": Damage(WINDOWS_FILE, lines(change), line, "step_first")
        for name, change, line in [
            ("two runs, one header", lambda old: [*old, *old[1:]], LINES + 1),
            ("a window again", lambda old: [*old[:21], *window_rows(old, 2), *old[21:]], 22),
            ("the last window again", lambda old: [*old, *window_rows(old, WINDOWS)], LINES + 1),
            ("a row again", lambda old: [*old[:15], old[13], *old[15:]], 16),
            ("swapped windows", lambda old: [old[0], *old[11:21], *old[1:11], *old[21:]], 12),
        ]
    },
}
"""Of tables, and the first line that is named."""

GONE = object()


def part(path, value):
    """Another value in a place of the JSON, such as ``layout.modules.3``, or none."""
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


_VERSIONS = [GONE, 0, -1, "1", None, True, 1.0, 3, 17]
_REQUIRED = [field.name for field in fields(Layout) if field.default is MISSING]
_PARTS = [
    ("layout", GONE, "$"),
    *((f"layout.{name}", GONE, "$.layout") for name in _REQUIRED),
    *((name, value, f"$.{name}") for name in ("layout", "thresholds") for value in ([], 3)),
    *(("layout.modules", "model", "$.layout.modules"), ("layout.types", [], "$.layout.types")),
    *(("layout.modules.1", 1, "$.layout.modules[1]"), ("layout.since", [1], "$.layout.since")),
    *(("layout.modules.0", "whole", "$.layout.modules"), ("layout.head", None, "$.layout.head")),
    ("layout.modules.9", "model.2.a", "$.layout.modules"),
    ("layout.modules.9", "model.2.x.b", "$.layout.modules"),
    ("layout.modules.9", "model.2.\x1b[31m", "$.layout.modules"),
    *(("layout.types.1", "\x1b[31m", "$.layout.types"), ("layout.head", "x", "$.layout.head")),
    ("layout.blocks.0.1", "\x1b[31m", "$.layout.blocks"),
    *(("layout.block_of.9", block, "$.layout.block_of") for block in ("model.2.bn", "model.0")),
    ("layout.parameters.2", 1.5, "$.layout.parameters[2]"),
    *(("layout.roles.1", role, "$.layout.roles[1]") for role in ("weights", "\x1b[31m")),
    *(("layout.blocks.0", ["model.0"] * n, "$.layout.blocks[0]") for n in (1, 3)),
    *(("layout.blocks", [], "$.layout.inside"), ("layout.inside", [], "$.layout.inside")),
    ("layout.inside.0", "SiLU", "$.layout.inside[0]"),
    *(
        ("layout.edges", [["model.0"]], "$.layout.edges[0]"),
        ("layout.attentions", 3, "$.layout.attentions"),
    ),
    ("layout.edges", [["model.0", "model.9"]], "$.layout.edges"),
    *((name, ["x"], f"$.{name}") for name in ("versions", "status", "options", "process")),
    *(("status", "\x1b[2Jgone", "$.status"), ("options.stop_on", 3, "$.options.stop_on")),
    *(("options.interval", value, "$.options.interval") for value in (0, "1", 1.5)),
    *((f"options.training{x}", ["x"], f"$.options.training{x}") for x in ("", ".clip", ".fitted")),
    ("options.training.epochs", "many", "$.options.training.epochs"),
    *(("last_step", value, "$.last_step") for value in (-1, 10**16, "3", 1.5)),
    *(("events", {"step": 1}, "$.events"), ("events.0", "start", "$.events[0]")),
    *((f"events.0.{name}", GONE, "$.events[0]") for name in ("step", "kind")),
    *(("events.0.step", x, "$.events[0].step") for x in ("3", 1.5, True, None, -1, 10**30)),
    *(("events.0.kind", 1, "$.events[0].kind"), ("epochs.0.epoch", GONE, "$.epochs[0]")),
    *((f"epochs.0.{x}", "x", f"$.epochs[0].{x}") for x in ("steps", "norm_median", "scale")),
    *(("epochs.0.owners", [], "$.epochs[0].owners"), ("epochs.0.scale", True, "$.epochs[0].scale")),
    ("epochs.0.owners", {"model.1": "most"}, "$.epochs[0].owners[...]"),
    *(("thresholds.spike", -1, "$.thresholds"), ("thresholds.spike", "x", "$.thresholds.spike")),
    *(("process", 7, "$.process"), ("process.pid", -1, "$.process")),
    *(("process.pid", value, "$.process.pid") for value in ("1", True)),
    *(("process.host", 3, "$.process.host"), ("process.started", None, "$.process.started")),
]
JSON = {
    **{
        f"json: {content[:20]!r}": Damage(META_FILE, instead(content), line)
        for content, line in [
            *((b"", 1), (b"{", 1), (b'{"a": 1', 1), (b'{"a":\n1\nb}', 3), (b"not json", 1)),
            *((b"\xff\xfe", None), (BINARY, None), (DEEP.encode(), None)),
        ]
    },
    "json: half": Damage(META_FILE, lambda old: old[: len(old.replace(b" ", b"")) // 2], 1),
    "json: twice": Damage(META_FILE, lambda old: old * 2, 1),
    **{
        f"json: {content}": Damage(META_FILE, instead(content), place="$")
        for content in ("[]", "1", "null", '"gradwatch"')
    },
    **{
        f"json: format_version {'gone' if version is GONE else version}": Damage(
            META_FILE, part("format_version", version), place="$.format_version"
        )
        for version in _VERSIONS
    },
    **{
        f"json: {path} {'gone' if value is GONE else repr(value)}": Damage(
            META_FILE, part(path, value), place=place
        )
        for path, value, place in _PARTS
    },
}
"""Of ``gradwatch.json``, and the place that is named."""

REMARKED = {
    "windows: torn": (WINDOWS_FILE, lambda old: old[:-3], WINDOWS - 1),
    "windows: a row missing": (WINDOWS_FILE, lines(lambda old: old[:-1]), WINDOWS - 1),
    "windows: a row too many": (WINDOWS_FILE, lambda old: old + b"1,12,12,model", WINDOWS),
    "windows: zeros": (WINDOWS_FILE, lambda old: old + bytes(4096), WINDOWS),
    "windows: rows missing": (WINDOWS_FILE, lines(lambda old: old[: 1 + 2 * ROWS]), 2),
    "alerts: torn": (ALERTS_FILE, lambda old: old[:-3], WINDOWS),
    "windows: no norm_min": (WINDOWS_FILE, without("norm_min"), WINDOWS),
}
"""Of tables that can be read all the same, with a remark: the file, and windows that are there."""

UNREADABLE = {
    **dict.fromkeys(COUNTS, ("", "many", "1.5", "-", "--1", "0x1F", "1e", "1 2", "-7", "9" * 30)),
    **dict.fromkeys(FLOAT_COLUMNS, ("many", "1.2.3", "1e", "e5", "-", "--1", "0x1F", "1_0.5")),
}
"""Texts that a column cannot hold."""
