"""A run, and strategies that damage its files as disks, editors and other programs do."""

import json
from copy import deepcopy
from dataclasses import asdict, replace

from hypothesis import strategies as st
from values import window
from watched import CONV, DEAD, EPOCH, watch

from yolo_gradwatch.runs.schema import RUN_FILES

CELLS = (
    *("", "nan", "inf", "-inf", "-1", "0", "1.5", "1e400", "1e-400", "true", " 1", "1 ", "+1"),
    *("9" * 18, "9" * 19, "9" * 5000, "0x1F", "1_000", "\u0661", "\x00", "é", "\x1b[31m", "\ufeff"),
    *('"', '""', 'a"b', "a,b", "\r", "\n", "model", "x" * 70_000, "\ud800"),
)
"""Texts for a cell of a table, valid and invalid."""

DEEP = "[" * 20_000 + "]" * 20_000
_VALUES = st.sampled_from(
    [
        *(None, True, False, 0, -1, 1, 2**63, 10**17, 10**18, 10**30, -(10**30), 1.5, 1e308),
        *(float("nan"), float("inf"), float("-inf"), "", "model", "nan", "1", "\x1b[2J", "\ud800"),
        *("x" * 70_000, [], {}, [[]], [None], {"": None}, ["model"] * 1000, {"model": 1e400}),
    ]
)


@st.composite
def mangled_bytes(draw, content):
    """Remove, duplicate or replace some bytes of a file."""
    begin = draw(st.integers(0, len(content)))
    end = min(begin + draw(st.sampled_from([0, 1, 2, 30, 500, 10**6])), len(content))
    between = draw(
        st.one_of(
            st.binary(max_size=20),
            st.sampled_from([b"\0" * 512, b"\xff\xfe", b"\n", b"\r\n", b",", b'"', b"\n\n\n"]),
            st.just(content[begin:end] * 2),
        )
    )
    return content[:begin] + between + content[end:]


@st.composite
def mangled_lines(draw, content):
    """Remove, duplicate, move, lengthen, empty or join a line."""
    lines = content.split(b"\n")
    where, other = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    more = draw(st.sampled_from([b",", b"0", b"x", b" "])) * 200_000
    changes = {
        "cut": {where: []},
        "double": {other: [lines[where], lines[other]]},
        "swap": {where: [lines[other]], other: [lines[where]]},
        "lengthen": {where: [lines[where] + more]},
        "empty": {where: [b""]},
        "join": {where: [b"".join(lines[where : where + 2])], where + 1: []},
    }
    change = changes[draw(st.sampled_from(sorted(changes)))]
    return b"\n".join(line for n, old in enumerate(lines) for line in change.get(n, [old]))


@st.composite
def mangled_cells(draw, content):
    """Replace one to four cells of a table."""
    lines = content.split(b"\n")
    for _ in range(draw(st.integers(1, 4))):
        where = draw(st.integers(0, len(lines) - 1))
        cells = lines[where].split(b",")
        text = draw(st.one_of(st.sampled_from(CELLS), st.text(max_size=5)))
        cells[draw(st.integers(0, len(cells) - 1))] = text.encode("utf-8", "surrogatepass")
        lines[where] = b",".join(cells)
    return b"\n".join(lines)


@st.composite
def mangled_whole(draw, content):
    """Replace the whole file, as saved by another program or of another kind."""
    return draw(
        st.sampled_from(
            [
                content.replace(b"\n", b"\r\n"),
                content.replace(b"\n", b"\r"),
                b"\xef\xbb\xbf" + content,
                content.decode("utf-8", "replace").encode("utf-16"),
                content.replace(b",", b";"),
                content.replace(b"\n", b"\n\n"),
                content.rstrip(b"\n"),
                content + content,
                content[::-1],
                b"",
                b"\n",
                b"\0" * len(content),
                DEEP.encode(),
            ]
        )
    )


@st.composite
def mangled_json(draw, content):
    """Change, remove, nest, rename or repeat one to three values at any depth."""
    meta = json.loads(content)
    for _ in range(draw(st.integers(1, 3))):
        parent, name = draw(st.sampled_from(list(_places(meta))))
        change = draw(st.sampled_from(["set", "set", "set", "cut", "nest", "rename", "repeat"]))
        if change == "set":
            parent[name] = deepcopy(draw(_VALUES))  # later changes may modify it
        elif change == "cut":
            del parent[name]
        elif change == "nest":
            parent[name] = draw(st.sampled_from([[parent[name]], {"model": parent[name]}]))
        elif change == "rename" and isinstance(parent, dict):
            parent[draw(st.text(max_size=5))] = parent.pop(name)
        elif isinstance(parent[name], list | str):
            parent[name] *= 2
    return json.dumps(meta).encode()


def _places(value):
    """Yield the container and the key of every value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for name, one in inside:
        yield value, name
        if isinstance(one, dict | list):
            yield from _places(one)
    if not value:
        return


def mangled(name, content):
    """Damage a file of a run in one of the ways for its type."""
    ways = [mangled_bytes(content), mangled_lines(content), mangled_whole(content)]
    fit = mangled_json if name.endswith(".json") else mangled_cells
    return st.one_of(fit(content), *ways)


def sound_run(folder):
    """Write a run of two epochs with a finding that ends; return its files."""
    folder.mkdir()
    windows = [*DEAD, *map(window, range(4, 12)), window(12, steps=5, skipped=2, epoch=2)]
    epochs = [asdict(EPOCH), asdict(replace(EPOCH, epoch=2))]
    watch(folder, [*windows, window(17, nonfinite=[CONV], epoch=2)], epochs=epochs)
    return {name: (folder / name).read_bytes() for name in RUN_FILES}
