"""Traces on disk: reading returns what was written, damage is named, resumed runs append."""

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recording import Recording
from shown import finding_of
from values import LAYOUT, put_meta, window, write_run

from yolo_gradwatch import FormatError, load_run
from yolo_gradwatch.diagnose.finding import FindingChange
from yolo_gradwatch.measure.trace import Call, Flow
from yolo_gradwatch.runs.schema import FLOW_COLUMNS, FLOW_FILE, FLOW_NUMBERS
from yolo_gradwatch.runs.traces import newest
from yolo_gradwatch.runs.writer import RunLog

FLOATS = st.one_of(
    st.none(),
    st.floats(width=32),
    st.sampled_from([math.nan, math.inf, 0.0, 1e-45, 3.4028234663852886e38, 1 / 3]).map(
        lambda one: float(np.float32(one))
    ),
)
NAMES = st.sampled_from(["model.0", "model.1.conv", 'a "b", c', "nan", "", "%s", "ü"])


@st.composite
def any_flow(draw, step=1):
    count = draw(st.integers(1, 5))
    calls = [
        Call(
            order,
            draw(NAMES),
            draw(st.integers(1, 10**9)),
            draw(NAMES),
            draw(st.integers(0, 10**17)),
            *(draw(FLOATS) for _ in FLOW_NUMBERS),
        )
        for order in range(1, count + 1)
    ]
    return Flow(draw(st.integers(1, 10**6)), step, tuple(calls))


def write(folder, *flows, resume=False):
    log = RunLog(folder, LAYOUT, resume=resume)
    for flow in flows:
        log.write_flow(flow)
    log.close()
    return folder / FLOW_FILE


def trace(step, epoch=1, count=3):
    calls = [
        Call(n, f"model.{n}", 1, "Conv", 8, 0.5, 2.0, 0.25, None, 0.125 * n)
        for n in range(1, count + 1)
    ]
    return Flow(epoch, step, tuple(calls))


@pytest.fixture
def run(tmp_path):
    write_run(tmp_path, [window(step) for step in (1, 2, 3, 4)])
    write(tmp_path, trace(1), trace(2), trace(4, epoch=2))
    return tmp_path


@pytest.mark.slow
@given(any_flow(), any_flow(step=7))
def test_reading_returns_what_was_written(first, last):
    with TemporaryDirectory() as name:
        folder = write_run(Path(name), [])
        path = write(folder, first, last)
        assert repr(newest(path)) == repr(last)  # NaN is not None, and equals no NaN
        table = load_run(folder).flow
    assert tuple(table) == FLOW_COLUMNS
    calls = [*first.calls, *last.calls]
    for column in FLOW_COLUMNS[2:7]:
        assert list(table[column]) == [getattr(call, column) for call in calls]
    for column in FLOW_NUMBERS:
        assert table[column].dtype == np.float32
        wanted = [getattr(call, column) for call in calls]
        wanted = np.array([math.nan if one is None else one for one in wanted], np.float32)
        np.testing.assert_array_equal(table[column].to_numpy(), wanted)


def test_missing_file_gives_an_empty_table_with_the_same_columns(run):
    full = load_run(run).flow
    (run / FLOW_FILE).unlink()
    empty = load_run(run).flow
    assert empty.empty
    assert empty.dtypes.astype(str).to_dict() == full.dtypes.astype(str).to_dict()
    assert newest(run / FLOW_FILE) is None


def test_torn_line_is_left_out(run):
    path = run / FLOW_FILE
    path.write_bytes(path.read_bytes()[:-9])
    assert len(load_run(run).flow) == 8
    assert [call.order for call in newest(path).calls] == [1, 2]


def changed(line, column, text):
    def change(lines):
        cells = lines[line - 1].split(",")
        cells[FLOW_COLUMNS.index(column)] = text
        lines[line - 1] = ",".join(cells)

    return change


@pytest.mark.parametrize(
    ("change", "line", "column"),
    [
        *((changed(3, name, "x"), 3, name) for name in ("step", "order", "call", *FLOW_NUMBERS)),
        *((changed(4, name, "-1"), 4, name) for name in ("epoch", "step", "order", "elements")),
        *((changed(4, name, "0"), 4, name) for name in ("epoch", "order", "call")),
        *((changed(2, name, ""), 2, name) for name in ("epoch", "step", "order", "call")),
        (changed(6, "output_rms", "1.5.2"), 6, "output_rms"),
        (changed(7, "step", "1"), 7, "step"),
        (changed(4, "order", "2"), 4, "step"),
        (lambda lines: lines.insert(4, lines[4] + ",1"), 5, ""),
        (lambda lines: lines.insert(4, lines[0]), 5, ""),
        (lambda lines: lines.extend(lines[1:4]), 11, "step"),
        (lambda lines: lines.__setitem__(0, lines[0].replace("order,", "")), 1, "order"),
        (lambda lines: lines.__setitem__(0, "a,b,c"), 1, ""),
        (lambda lines: lines.clear(), None, ""),
    ],
)
def test_damage_is_named_when_the_table_is_read(run, change, line, column):
    path = run / FLOW_FILE
    lines = path.read_text(encoding="utf-8").splitlines()
    change(lines)
    path.write_text("".join(f"{one}\n" for one in lines), encoding="utf-8")
    loaded = load_run(run)
    assert loaded.report().steps == 4  # nothing else is affected
    with pytest.raises(FormatError, match=r"flow\.csv") as caught:
        _ = loaded.flow
    assert (caught.value.path, caught.value.line) == (path, line)
    assert caught.value.column == column


def test_columns_of_a_later_version_are_kept_and_missing_ones_are_empty(run):
    path = run / FLOW_FILE
    table = load_run(run).flow.astype(str).drop(columns=["output_zero", "type"])
    table["later"] = "x"
    table.replace("nan", "").to_csv(path, index=False)
    read = load_run(run).flow
    assert tuple(read) == (*FLOW_COLUMNS, "later")
    assert read["output_zero"].isna().all()
    assert newest(path).calls[0].output_zero is None
    assert newest(path).calls[0].output_rms == 0.5


# --- resumed trainings ----------------------------------------------------------------------------


def resumed(folder):
    """Resume the run and trace one more step."""
    recording = Recording(folder, resumes=True)
    recording.flow(trace(recording.first_step, epoch=3))
    recording.recorder.end("finished")
    recording.recorder.close()
    assert recording.raised == []
    return load_run(folder).flow


def test_resumed_run_appends(run):
    before = load_run(run).flow
    after = resumed(run)
    assert list(dict.fromkeys(after["step"])) == [1, 2, 4, 5]
    assert after.iloc[: len(before)].equals(before)


def test_resumed_run_cuts_torn_lines_and_steps_that_are_repeated(run):
    path = write(run, trace(5), trace(6), resume=True)
    path.write_bytes(path.read_bytes()[:-3])
    after = resumed(run)
    assert list(after["step"]) == [1] * 3 + [2] * 3 + [4] * 3 + [5] * 3
    assert list(after["epoch"])[-3:] == [3] * 3


def test_resumed_run_adds_missing_columns(run):
    path = run / FLOW_FILE
    load_run(run).flow.drop(columns=["type"]).assign(later="x").to_csv(path, index=False)
    after = resumed(run)
    assert tuple(after) == (*FLOW_COLUMNS, "later")
    assert list(after["later"]) == ["x"] * 9 + [""] * 3
    assert list(after["type"]) == [""] * 9 + ["Conv"] * 3


def test_damaged_table_is_set_aside_alone(run, caplog):
    path = run / FLOW_FILE
    damaged = path.read_bytes().replace(b"Conv,8", b"Conv,x", 1)
    path.write_bytes(damaged)
    after = resumed(run)
    assert list(after["step"]) == [5] * 3
    assert path.with_name("flow.csv.old").read_bytes() == damaged
    assert not (run / "gradwatch.csv.old").exists()
    assert "flow.csv" in caplog.text


def test_traces_are_set_aside_with_a_run_that_cannot_be_resumed(run):
    damaged = (run / FLOW_FILE).read_bytes()
    (run / "gradwatch.json").write_text("{", encoding="utf-8")
    after = resumed(run)
    assert list(after["step"]) == [1] * 3
    assert (run / "gradwatch" / "flow.csv.old").read_bytes() == damaged


def test_limit_on_traces_includes_those_before_the_resume(run):
    write(run, *(trace(step) for step in range(5, 42)), resume=True)
    put_meta(run, last_step=50)
    recording = Recording(run, resumes=True)
    change = FindingChange("start", 1, 51, finding_of("nonfinite"), 51)
    recording.schedule.findings([change])
    assert not recording.schedule.wants(51)  # there are 40 already
    recording.recorder.close()
