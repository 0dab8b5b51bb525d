from __future__ import annotations

import csv
import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import watched
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from places import DATA
from shown import finding_of
from values import LAWS, LAYOUT, Part, assert_same, plan, put_meta, window

from yolo_gradwatch import FormatError, load_run
from yolo_gradwatch.diagnose.finding import FindingChange
from yolo_gradwatch.measure.quantities import QUANTITIES
from yolo_gradwatch.measure.windows import Window, windows_of
from yolo_gradwatch.runs.atomic import replacing
from yolo_gradwatch.runs.evidence import FOLDER
from yolo_gradwatch.runs.meta import Meta, read_meta
from yolo_gradwatch.runs.repair import mend, set_aside, whole_windows
from yolo_gradwatch.runs.schema import RUN_FILES, WINDOW_COLUMNS, header_of
from yolo_gradwatch.runs.writer import RunLog

M = len(LAYOUT.modules)
META = Meta(layout=LAYOUT)
LAST = LAYOUT.modules[-1]
FINDING = finding_of("dead", step=3, value=3.0, limit=3.0, message='model.1 (C2f): "zero", now')
SINGLES = arrays(np.float32, M, elements=st.floats(width=32, allow_subnormal=True))
EXTREMES = st.sampled_from(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 1.1754942e-38, 3.4028235e38, 1 / 3, 16777217.0]
)
FLOATS = st.one_of(SINGLES, arrays(np.float32, M, elements=EXTREMES.map(np.float32)))
COUNTS = arrays(np.int64, M, elements=st.integers(0, 2**63 - 1))


def _values(row):
    """Any values of a quantity; counts of later versions may be missing and are read as floats."""
    if not row.is_count:
        return FLOATS
    return COUNTS if row.since == 1 else arrays(np.int64, M, elements=st.integers(0, 2**53))


@st.composite
def any_window(draw, step=1):
    return Window(
        epoch=draw(st.integers(1, 10**6)),
        step_first=step,
        step_last=step + draw(st.integers(0, 10**12)),
        steps=draw(st.integers(1, 10**12)),
        skipped=draw(st.integers(0, 10**12)),
        **{row.name: draw(_values(row)) for row in QUANTITIES},
    )


CHANGES = [FindingChange("start", 1, 5, FINDING, 7), FindingChange("end", 2, 9, FINDING, 9)]


def write(folder, windows, *, layout=LAYOUT, resume=False):
    """Write a run and return the offset in the file at which each window ends."""
    ends = watched.write(folder, windows, layout=layout, resume=resume)
    put_meta(folder, layout)
    return ends


def read(folder):
    run = load_run(folder)
    return list(windows_of(run.grid))


def lines(path):
    return path.read_text(encoding="utf-8").splitlines()


@pytest.fixture
def log(tmp_path):
    log = RunLog(tmp_path, LAYOUT, resume=False)
    yield log
    log.close()


def test_columns_of_the_tables(tmp_path, log):
    log.start()
    (header,) = lines(tmp_path / "gradwatch.csv")
    assert header == ",".join(WINDOW_COLUMNS)
    stored = header_of(DATA / "version-2" / "gradwatch.csv")
    assert [name for name in header.split(",") if name in stored] == list(stored)
    assert lines(tmp_path / "gradwatch_alerts.csv") == [
        "finding,event,step,reported,epoch,severity,rule,module,value,limit,message,since"
    ]


def test_window_has_one_row_per_module(tmp_path, log):
    one = window(7, steps=4, skipped=1, epoch=2, zero={"model.0.conv": 2}, nonfinite=["model.2.b"])
    log.write_window(replace(one, norm_mean=np.full(M, 1 / 3, np.float32), clipped=2))
    rows = lines(tmp_path / "gradwatch.csv")[1:]
    assert [row.split(",")[3] for row in rows] == list(LAYOUT.modules)
    assert rows[2].startswith("2,7,10,model.0.conv,Conv2d,12,4,1,2,0,2,0,,1,0.333333343,1,5,1,")
    assert rows[-1].startswith("2,7,10,model.2.b,Conv2d,5,4,1,2,3,0,0,,,0.333333343,,5,1,")


def test_changes_are_rows_of_the_alerts(tmp_path, log):
    log.write_changes(CHANGES)
    with (tmp_path / "gradwatch_alerts.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    rest = ["critical", "dead", "model.3.conv", "3", "3", FINDING.message, "3"]
    assert rows == [["1", "start", "5", "7", "1", *rest], ["1", "end", "9", "9", "2", *rest]]


def test_each_file_is_opened_by_its_first_write(tmp_path, log):
    assert not list(tmp_path.iterdir())
    log.write_window(window(1))
    assert [path.name for path in tmp_path.iterdir()] == ["gradwatch.csv"]
    log.write_changes(CHANGES)
    log.write_meta(META)
    assert {path.name for path in tmp_path.iterdir()} == {*RUN_FILES}


def test_failing_to_close_one_table_still_closes_the_other(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    (tmp_path / "gradwatch.csv").symlink_to("/dev/full")
    log = RunLog(tmp_path, LAYOUT, resume=False)
    log.write_changes([])
    with pytest.raises(OSError, match="No space left"):
        log.write_window(window(1))
    alerts = log._alerts._file
    with pytest.raises(OSError, match="No space left"):
        log.close()
    assert alerts.closed
    log.close()


def test_new_run_replaces_the_files_of_an_old_one(tmp_path):
    watched.write(tmp_path, [window(1), window(2)], CHANGES)
    write(tmp_path, [window(1, norm=2.0)])
    (only,) = read(tmp_path)
    assert_same(only, window(1, norm=2.0))
    assert load_run(tmp_path).alerts.empty


def put_evidence(folder, step=3):
    path = folder / FOLDER / f"step-{step:05}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}", encoding="utf-8")
    return path


@pytest.mark.parametrize("resume", [True, False])
def test_new_run_clears_the_evidence_of_an_old_one(tmp_path, resume):
    write(tmp_path, [window(1)])
    old = [put_evidence(tmp_path, step) for step in (3, 100)]
    other = tmp_path / FOLDER / "notes.txt"
    other.touch()
    write(tmp_path, [window(2)], resume=resume)
    assert [path.exists() for path in (*old, other)] == [resume, resume, True]


def test_resuming_without_files_creates_them(tmp_path):
    write(tmp_path, [window(5)], resume=True)
    assert [one.step_first for one in read(tmp_path)] == [5]


@pytest.mark.slow
@LAWS
@given(any_window())
def test_reading_returns_what_was_written(one):
    with TemporaryDirectory() as folder:
        write(Path(folder), [one])
        (found,) = read(Path(folder))
    assert_same(found, one)


def test_meta_is_replaced_atomically(tmp_path, log):
    log.write_meta(replace(META, others={"padding": "x" * 10_000}))
    with (tmp_path / "gradwatch.json").open(encoding="utf-8") as reader:
        log.write_meta(replace(META, status="finished"))
        assert json.load(reader)["status"] == "running"  # an open reader keeps the old file
    assert read_meta(tmp_path).status == "finished"
    assert [path.name for path in tmp_path.iterdir()] == ["gradwatch.json"]


def test_meta_that_cannot_be_encoded_leaves_the_old_file(tmp_path, log):
    log.write_meta(META)
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.write_meta(replace(META, others={"number": float("nan")}))
    assert read_meta(tmp_path) == META


RUN = [
    window(1),
    window(2, nonfinite=["model.2.b"]),
    window(3, steps=97),
    window(100, steps=10, skipped=3),
]


HEADER = len(",".join(WINDOW_COLUMNS)) + 1


def tear(folder, end):
    """Cut the table after `end` bytes, as a kill would; return the number of whole windows."""
    ends = write(folder, RUN)
    path = folder / "gradwatch.csv"
    path.write_bytes(path.read_bytes()[:end])
    return sum(one <= end for one in ends)


def test_whole_windows_end_before_any_tear(tmp_path):
    ends = write(tmp_path, RUN)
    content = (tmp_path / "gradwatch.csv").read_bytes()
    for end in range(len(content) + 1):
        expected = max(one for one in (0, HEADER, *ends) if one <= end)
        assert whole_windows(content[:end], LAST) == expected, end


@pytest.mark.slow
@LAWS
@given(st.data())
def test_resuming_after_a_kill_leaves_no_gap(data):
    with TemporaryDirectory() as name:
        size = write(Path(name), RUN)[-1]
        cuts = st.sampled_from([0, 1, HEADER - 1]) | st.integers(HEADER, size)
        whole = tear(Path(name), data.draw(cuts))
        mend(Path(name), LAST)
        step = RUN[whole - 1].step_last if whole else 0
        rest = [window(step + 1, steps=5), window(step + 6)]
        write(Path(name), rest, resume=True)
        for one, expected in zip(read(Path(name)), [*RUN[:whole], *rest], strict=True):
            assert_same(one, expected)


def test_whole_windows_of_a_model_of_one_module(tmp_path):
    layout, _ = plan([Part("model")], blocks=["model"])
    ends = write(tmp_path, [window(1, layout=layout), window(2, layout=layout)], layout=layout)
    content = (tmp_path / "gradwatch.csv").read_bytes()
    assert whole_windows(content, "model") == ends[1]
    assert whole_windows(content[:-1], "model") == ends[0]


def test_mending_without_files_creates_none(tmp_path):
    mend(tmp_path, LAST)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "column"),
    [
        *(
            ("gradwatch.csv", name)
            for name in ("parameters", "skipped", *(row.name for row in QUANTITIES if row.is_count))
        ),
        ("gradwatch_alerts.csv", "epoch"),
    ],
)
def test_table_without_a_required_column_is_not_mended(tmp_path, name, column):
    write(tmp_path, RUN)
    path = tmp_path / name
    path.write_bytes(path.read_bytes().replace(f",{column},".encode(), b",other,", 1) + b"torn")
    before = path.read_bytes()
    with pytest.raises(FormatError, match=column) as caught:
        mend(tmp_path, LAST)
    assert (caught.value.path, caught.value.column) == (path, column)
    assert path.read_bytes() == before


def test_mending_cuts_a_torn_line_of_the_alerts(tmp_path, log):
    log.write_changes(CHANGES)
    path = tmp_path / "gradwatch_alerts.csv"
    content = path.read_bytes()
    header, first, _ = content.splitlines(keepends=True)
    for end in range(len(header), len(content) + 1):
        path.write_bytes(content[:end])
        mend(tmp_path, LAST)
        expected = content if end == len(content) else header + first * (end >= len(header + first))
        assert path.read_bytes() == expected


def test_resumed_run_rewrites_a_torn_header_of_the_alerts(tmp_path):
    write(tmp_path, RUN)
    (tmp_path / "gradwatch_alerts.csv").write_bytes(b"finding,ev")
    mend(tmp_path, LAST)
    watched.write(tmp_path, changes=CHANGES[:1], resume=True)
    assert list(load_run(tmp_path).alerts["finding"]) == [1]


def test_files_set_aside_keep_their_content(tmp_path):
    write(tmp_path, RUN)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    set_aside(tmp_path)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert after == {f"{name}.old": content for name, content in before.items()}
    set_aside(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(after)
    (tmp_path / "gradwatch.csv").touch()
    set_aside(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*after, "gradwatch.csv.old2"}
    assert (tmp_path / "gradwatch.csv.old").read_bytes() == before["gradwatch.csv"]


@pytest.mark.parametrize("times", [2, 99])
def test_replacing_a_file_in_use_is_retried(tmp_path, log, monkeypatch, times):
    replace, refusals = Path.replace, [PermissionError(13, "in use")] * times

    def refuse(draft, path):
        if refusals:
            raise refusals.pop()
        return replace(draft, path)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError) if times == 99 else nullcontext():
        log.write_meta(META)
    assert (tmp_path / "gradwatch.json").exists() == (times == 2)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["page", ".page.tmp"])
def test_symlink_in_place_of_a_file_or_its_draft_is_replaced(tmp_path, name):
    other = tmp_path / "other"
    other.write_text("precious", encoding="utf-8")
    (tmp_path / name).symlink_to(other)
    with replacing(tmp_path / "page") as draft:
        draft.write_text("new", encoding="utf-8")
    assert other.read_text(encoding="utf-8") == "precious"
    assert not (tmp_path / "page").is_symlink()
    assert (tmp_path / "page").read_text(encoding="utf-8") == "new"
    assert not (tmp_path / ".page.tmp").exists()
