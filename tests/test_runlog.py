from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from build import ended
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from values import LAWS, LAYOUT, Part, assert_same, meta_of, plan, window

from yolo_gradwatch import runlog
from yolo_gradwatch.event import Event
from yolo_gradwatch.evidence import FOLDER
from yolo_gradwatch.finding import Episode, Finding, News
from yolo_gradwatch.quantities import MEASURED, QUANTITIES
from yolo_gradwatch.review import load_run
from yolo_gradwatch.runlog import FORMAT_VERSION, FormatError, RunLog
from yolo_gradwatch.windows import Window, windows_of

M = len(LAYOUT.modules)
LAST = LAYOUT.modules[-1]
FINDING = Finding(
    number=1,
    rule="dead",
    severity="critical",
    module="model.1.conv",
    modules=("model.0.conv", "model.1.conv"),
    episodes=(Episode(1, 3, None, 5, 3.0),),
    limit=3.0,
    message='model.1.conv (Conv2d): "zero" since step 3, with 1 more, upstream.',
)

SINGLES = arrays(np.float32, M, elements=st.floats(width=32, allow_subnormal=True))
EXTREMES = st.sampled_from(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 1.1754942e-38, 3.4028235e38, 1 / 3, 16777217.0]
)
FLOATS = st.one_of(SINGLES, arrays(np.float32, M, elements=EXTREMES.map(np.float32)))
COUNTS = arrays(np.int64, M, elements=st.integers(0, 2**63 - 1))


def _values(row):
    """Any value of a quantity; counts of a later version may be missing, and are read as floats."""
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
        **{row.name: draw(_values(row)) for row in MEASURED},
    )


def write(folder, windows, *, layout=LAYOUT, resume=False):
    """Write a run; where in the file each window ended."""
    log = RunLog(folder, layout, resume=resume)
    log.start()
    ends = []
    for one in windows:
        log.write_window(one)
        ends.append((folder / "gradwatch.csv").stat().st_size)
    log.close()
    log.write_meta(meta_of(layout))
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


def test_the_columns_of_the_windows(tmp_path, log):
    log.start()
    (header,) = lines(tmp_path / "gradwatch.csv")
    assert header.split(",") == [
        *("epoch", "step_first", "step_last", "module", "type", "parameters", "steps", "skipped"),
        *("clipped", *(row.name for row in QUANTITIES)),
    ]


def test_the_columns_of_the_alerts(tmp_path, log):
    log.start()
    assert lines(tmp_path / "gradwatch_alerts.csv") == [
        "finding,event,step,reported,epoch,severity,rule,module,value,limit,message"
    ]


def test_a_window_is_one_row_a_module(tmp_path, log):
    one = window(7, steps=4, skipped=1, epoch=2, zero={"model.0.conv": 2}, nonfinite=["model.2.b"])
    log.write_window(replace(one, norm_mean=np.full(M, 1 / 3, np.float32), clipped=2))
    rows = lines(tmp_path / "gradwatch.csv")[1:]
    assert [row.split(",")[3] for row in rows] == list(LAYOUT.modules)
    assert rows[2].startswith("2,7,10,model.0.conv,Conv2d,12,4,1,2,0,2,0,,1,0.333333343,1,5,,")
    assert rows[-1].startswith("2,7,10,model.2.b,Conv2d,5,4,1,2,3,0,0,,,0.333333343,,5,,")


def test_news_are_rows_of_the_alerts(tmp_path, log):
    over = ended(FINDING, 9)
    log.write_news([News("start", 1, 5, FINDING, 7), News("end", 2, 9, over, 9)])
    with (tmp_path / "gradwatch_alerts.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    rest = ["critical", "dead", "model.1.conv", "3", "3", FINDING.message]
    assert rows == [["1", "start", "5", "7", "1", *rest], ["1", "end", "9", "9", "2", *rest]]


def test_nothing_is_opened_before_the_first_write(tmp_path):
    folder = tmp_path / "not there yet"
    RunLog(folder, LAYOUT, resume=False).close()
    assert not folder.exists()


def test_each_file_is_opened_by_its_first_write(tmp_path, log):
    log.write_window(window(1))
    assert [path.name for path in tmp_path.iterdir()] == ["gradwatch.csv"]
    log.write_news([News("start", 1, 1, FINDING, 1)])
    log.write_meta(meta_of())
    assert {path.name for path in tmp_path.iterdir()} == {
        "gradwatch.csv",
        "gradwatch_alerts.csv",
        "gradwatch.json",
    }


def test_a_window_is_on_disk_before_the_log_is_closed(tmp_path, log):
    log.write_window(window(1))
    assert len(lines(tmp_path / "gradwatch.csv")) == 1 + M


def test_closing_twice_is_fine(log):
    log.write_window(window(1))
    log.close()
    log.close()


def test_a_table_that_cannot_be_closed_does_not_leave_the_other_one_open(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    (tmp_path / "gradwatch.csv").symlink_to("/dev/full")
    log = RunLog(tmp_path, LAYOUT, resume=False)
    log.write_news([])
    with pytest.raises(OSError, match="No space left"):
        log.write_window(window(1))
    alerts = log._alerts._file
    with pytest.raises(OSError, match="No space left"):
        log.close()
    assert alerts.closed
    log.close()


def test_a_new_run_replaces_the_files_of_an_old_one(tmp_path):
    write(tmp_path, [window(1), window(2)])
    old = RunLog(tmp_path, LAYOUT, resume=False)
    old.write_news([News("start", 1, 1, FINDING, 1)])
    old.close()
    write(tmp_path, [window(1, norm=2.0)])
    (only,) = read(tmp_path)
    assert_same(only, window(1, norm=2.0))
    assert load_run(tmp_path).alerts.empty


def proof(folder, step=3):
    path = folder / FOLDER / f"step-{step:05}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}", encoding="utf-8")
    return path


def test_a_new_run_clears_the_evidence_of_an_old_one(tmp_path):
    old = [proof(tmp_path, step) for step in (3, 100)]
    other = tmp_path / FOLDER / "notes.txt"
    other.write_text("mine", encoding="utf-8")
    write(tmp_path, [window(1)])
    assert not any(path.exists() for path in old)
    assert other.exists()


def test_a_log_that_was_not_started_clears_nothing(tmp_path, log):
    assert proof(tmp_path).exists()


def test_a_resumed_run_keeps_its_evidence(tmp_path):
    write(tmp_path, [window(1)])
    kept = proof(tmp_path)
    write(tmp_path, [window(2)], resume=True)
    assert kept.exists()


def test_a_resumed_run_appends(tmp_path):
    write(tmp_path, [window(1)])
    write(tmp_path, [window(2)], resume=True)
    assert [one.step_first for one in read(tmp_path)] == [1, 2]


def test_a_resume_without_files_begins_them(tmp_path):
    write(tmp_path, [window(5)], resume=True)
    assert [one.step_first for one in read(tmp_path)] == [5]


@LAWS
@given(any_window())
def test_what_is_read_equals_what_was_written(one):
    with TemporaryDirectory() as folder:
        write(Path(folder), [one])
        (found,) = read(Path(folder))
    assert_same(found, one)


@LAWS
@given(arrays(np.uint32, M))
def test_every_float32_reads_back_bit_for_bit(bits):
    values = bits.view(np.float32)
    with TemporaryDirectory() as folder:
        write(Path(folder), [replace(window(1), norm_mean=values)])
        (found,) = read(Path(folder))
    known = ~np.isnan(values)
    assert (found.norm_mean.view(np.uint32)[known] == bits[known]).all()
    assert np.isnan(found.norm_mean[~known]).all()


def test_names_with_commas_and_quotes_read_back(tmp_path):
    layout, _ = plan([Part('model.a,"b"'), Part("model.nan"), Part("model.é")])
    windows = [window(step, layout=layout, zero=['model.a,"b"']) for step in (1, 2)]
    write(tmp_path, windows, layout=layout)
    found = read(tmp_path)
    for one, expected in zip(found, windows, strict=True):
        assert_same(one, expected)
    assert set(load_run(tmp_path).windows["module"]) == set(layout.modules)


def test_the_layout_reads_back(tmp_path):
    layout = replace(
        LAYOUT,
        edges=(("model.0", "model.1"), ("model.1", "model.2")),
        inside=(("SiLU",), (), ("Sigmoid", "Upsample")),
    )
    assert set(layout.roles) == {"", "weight", "norm"}
    RunLog(tmp_path, layout, resume=False).write_meta(meta_of(layout))
    assert runlog.layout_of_meta(runlog.read_meta(tmp_path)) == layout
    assert runlog.meta_of_layout(layout) == meta_of(layout)["layout"]


def test_events_read_back(tmp_path):
    events = [Event(1, "start"), Event(7, "nan_recovery"), Event(9, "resume")]
    RunLog(tmp_path, LAYOUT, resume=False).write_meta(meta_of(events=events))
    assert runlog.events_of_meta(runlog.read_meta(tmp_path)) == events


def test_meta_is_replaced_whole(tmp_path, log):
    log.write_meta(meta_of(status="running", padding="x" * 10_000))
    with (tmp_path / "gradwatch.json").open(encoding="utf-8") as reader:
        log.write_meta(meta_of(status="finished"))
        assert json.load(reader)["status"] == "running"  # a reader keeps the whole old file
    assert runlog.read_meta(tmp_path)["status"] == "finished"
    assert [path.name for path in tmp_path.iterdir()] == ["gradwatch.json"]


def test_meta_that_cannot_be_written_leaves_the_old_one(tmp_path, log):
    log.write_meta(meta_of())
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.write_meta(meta_of(epochs=[float("nan")]))
    assert runlog.read_meta(tmp_path) == json.loads(json.dumps(meta_of()))


def test_missing_meta_asks_whether_the_training_was_watched(tmp_path):
    with pytest.raises(
        FormatError, match=r"gradwatch\.json: No such file.*was this training watched\?"
    ):
        runlog.read_meta(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b"\xff\xfe", b"not json"])
def test_torn_meta_says_to_restore_it(tmp_path, content):
    (tmp_path / "gradwatch.json").write_bytes(content)
    with pytest.raises(FormatError, match=r"gradwatch\.json: not JSON .*restore it from a copy"):
        runlog.read_meta(tmp_path)


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 17])
def test_meta_of_a_newer_version_says_to_update(tmp_path, log, version):
    log.write_meta(meta_of(format_version=version))
    with pytest.raises(
        FormatError, match=rf"written by a newer .*version {version},.* update.*pip"
    ):
        runlog.read_meta(tmp_path)


@pytest.mark.parametrize("version", [0, -1, "1", None, True, 1.0])
def test_meta_without_a_version_says_to_restore_it(tmp_path, log, version):
    log.write_meta(meta_of(format_version=version))
    with pytest.raises(FormatError, match=r"gradwatch\.json: no format version .*restore it"):
        runlog.read_meta(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [("[]", "not a table"), ("{}", "no format version"), ("1", "not a table"), ("null", "not a")],
)
def test_other_json_is_no_run(tmp_path, content, said):
    (tmp_path / "gradwatch.json").write_text(content, encoding="utf-8")
    with pytest.raises(FormatError, match=rf"gradwatch\.json: {said}"):
        runlog.read_meta(tmp_path)


RUN = [
    window(1),
    window(2, nonfinite=["model.2.b"]),
    window(3, steps=97),
    window(100, steps=10, skipped=3),
]


HEADER = len(",".join(runlog.WINDOW_COLUMNS)) + 1


def tear(folder, end):
    """Kill a run when the file had so many bytes; how many windows were whole then."""
    ends = write(folder, RUN)
    path = folder / "gradwatch.csv"
    path.write_bytes(path.read_bytes()[:end])
    return sum(one <= end for one in ends)


def test_whole_windows_end_before_the_tear_wherever_it_is(tmp_path):
    ends = write(tmp_path, RUN)
    content = (tmp_path / "gradwatch.csv").read_bytes()
    for end in range(len(content) + 1):
        expected = max(one for one in (0, HEADER, *ends) if one <= end)
        assert runlog.whole_windows(content[:end], LAST) == expected, end


def test_whole_windows_of_a_model_of_one_module(tmp_path):
    layout, _ = plan([Part("model")], blocks=["model"])
    assert layout.modules == ("model",)
    ends = write(tmp_path, [window(1, layout=layout), window(2, layout=layout)], layout=layout)
    content = (tmp_path / "gradwatch.csv").read_bytes()
    assert runlog.whole_windows(content, "model") == ends[1]
    assert runlog.whole_windows(content[:-1], "model") == ends[0]


@pytest.mark.parametrize("end", [0, 1, HEADER - 1])
def test_a_run_killed_in_the_header_is_empty(tmp_path, end):
    tear(tmp_path, end)
    with pytest.raises(FormatError, match=r"gradwatch\.csv: empty; restore"):
        load_run(tmp_path)


@LAWS
@given(st.data())
def test_a_killed_run_is_read_up_to_the_tear(data):
    with TemporaryDirectory() as name:
        size = write(Path(name), RUN)[-1]
        whole = tear(Path(name), data.draw(st.integers(HEADER, size)))
        found = read(Path(name))
    assert len(found) == whole
    for one, expected in zip(found, RUN, strict=False):
        assert_same(one, expected)


def resume_and_check(folder, whole):
    runlog.mend(folder, LAST)
    step = RUN[whole - 1].step_last if whole else 0
    rest = [window(step + 1, steps=5), window(step + 6)]
    write(folder, rest, resume=True)
    for one, expected in zip(read(folder), [*RUN[:whole], *rest], strict=True):
        assert_same(one, expected)


@LAWS
@given(st.data())
def test_a_resumed_run_goes_on_without_a_hole(data):
    with TemporaryDirectory() as name:
        size = write(Path(name), RUN)[-1]
        whole = tear(Path(name), data.draw(st.integers(HEADER, size)))
        resume_and_check(Path(name), whole)


@pytest.mark.parametrize("end", [0, 1, HEADER - 1])
def test_a_run_killed_in_the_header_can_be_resumed(tmp_path, end):
    resume_and_check(tmp_path, tear(tmp_path, end))


def test_mending_a_whole_run_changes_nothing(tmp_path):
    write(tmp_path, RUN)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    runlog.mend(tmp_path, LAST)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_mending_without_files_creates_none(tmp_path):
    runlog.mend(tmp_path, LAST)
    assert list(tmp_path.iterdir()) == []


def test_mending_cuts_a_torn_line_off_the_alerts(tmp_path, log):
    log.write_news([News("start", 1, 5, FINDING, 5), News("end", 2, 9, FINDING, 9)])
    path = tmp_path / "gradwatch_alerts.csv"
    content = path.read_bytes()
    header, first, _ = content.splitlines(keepends=True)
    for end in range(len(header), len(content) + 1):
        path.write_bytes(content[:end])
        runlog.mend(tmp_path, LAST)
        expected = content if end == len(content) else header + first * (end >= len(header + first))
        assert path.read_bytes() == expected


def test_a_resumed_run_writes_the_header_of_the_alerts_that_was_torn(tmp_path):
    write(tmp_path, RUN)
    (tmp_path / "gradwatch_alerts.csv").write_bytes(b"finding,ev")
    runlog.mend(tmp_path, LAST)
    log = RunLog(tmp_path, LAYOUT, resume=True)
    log.write_news([News("start", 1, 5, FINDING, 5)])
    log.close()
    assert list(load_run(tmp_path).alerts["finding"]) == [1]


def test_files_that_are_set_aside_keep_their_content(tmp_path):
    write(tmp_path, RUN)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    runlog.set_aside(tmp_path)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert after == {f"{name}.old": content for name, content in before.items()}
    runlog.set_aside(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(after)


def test_a_file_that_somebody_reads_is_replaced_a_little_later(tmp_path, log, monkeypatch):
    replace, refusals = Path.replace, [PermissionError(13, "in use")] * 2

    def refuse_at_first(draft, path):
        if refusals:
            raise refusals.pop()
        return replace(draft, path)

    monkeypatch.setattr(Path, "replace", refuse_at_first)
    log.write_meta(meta_of(status="finished"))
    assert runlog.read_meta(tmp_path)["status"] == "finished"
    assert not list(tmp_path.glob(".*"))


def test_a_file_that_cannot_be_replaced_at_all_is_told(tmp_path, log, monkeypatch):
    def refuse(_draft, _path):
        raise PermissionError(13, "in use")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError):
        log.write_meta(meta_of())
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["page", ".page.tmp"])
def test_a_link_in_the_place_of_a_file_or_of_its_draft_is_replaced(tmp_path, name):
    other = tmp_path / "other"
    other.write_text("precious", encoding="utf-8")
    (tmp_path / name).symlink_to(other)
    with runlog.replacing(tmp_path / "page") as draft:
        draft.write_text("new", encoding="utf-8")
    assert other.read_text(encoding="utf-8") == "precious"
    assert not (tmp_path / "page").is_symlink()
    assert (tmp_path / "page").read_text(encoding="utf-8") == "new"
    assert not (tmp_path / ".page.tmp").exists()


def test_the_layout_of_a_model_without_blocks_comes_back():
    from torch import nn

    from yolo_gradwatch import model_layout as layouts

    layout, _ = layouts.read(nn.Linear(2, 2), ())
    meta = json.loads(json.dumps({"layout": runlog.meta_of_layout(layout)}))
    assert runlog.layout_of_meta(meta) == layout
    assert layout.blocks == ()
