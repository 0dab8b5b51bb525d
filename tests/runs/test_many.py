"""The table of all runs in a folder, read from their small files."""

import os
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mangled import mangled, sound_run
from nets import NET
from rule_cases import FIVE, RUNS
from values import FEWER, runs, window
from watched import CONV, DEAD, DEAD_PID, EPOCH, process, watch, write

from yolo_gradwatch import FormatError, load_run, load_runs
from yolo_gradwatch.diagnose.diagnosis import Diagnosis
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.runs import alerts
from yolo_gradwatch.runs.find import tree_of
from yolo_gradwatch.runs.many import COLUMNS
from yolo_gradwatch.runs.schema import ALERTS_FILE, META_FILE, RUN_FILES, WINDOWS_FILE

CALM = [window(step) for step in range(1, 9)]
LATE = [*CALM, *(window(step, zero=[CONV]) for step in range(9, 12))]
RESULTS = (
    "epoch,time,train/box_loss,train/cls_loss,metrics/mAP50(B),metrics/mAP50-95(B),val/box_loss\n"
    "1,2.5,1.5,0.5,0.4,0.2,1.0\n2,5.0,1.25,0.25,0.6,0.375,0.9\n"
)


def run(folder, windows=CALM, changed=1e9, **meta):
    folder.mkdir(parents=True)
    watch(folder, windows, **meta)
    os.utime(folder / WINDOWS_FILE, (changed, changed))
    return folder


def row(folder):
    """The row of a folder's only run, with None for missing values."""
    (found,) = load_runs(folder).to_dict("records")
    return {name: None if pd.isna(value) else value for name, value in found.items()}


def test_table_has_typed_columns_and_the_newest_run_first(tmp_path):
    for name, when in {"a": 2e9, "b/c": 3e9, "d": 1e9}.items():
        run(tmp_path / name, changed=when)
    table = load_runs(tmp_path)
    assert table["run"].tolist() == [str(tmp_path / name) for name in ("b/c", "a", "d")]
    assert {name: str(kind) for name, kind in table.dtypes.items()} == COLUMNS
    assert table["written"].dt.year.tolist() == [2065, 2033, 2001]


@pytest.mark.parametrize("windows", [CALM, DEAD, LATE, CALM[:2], []])
@pytest.mark.parametrize("status", ["running", "finished", "failed", "interrupted"])
def test_row_agrees_with_the_review(tmp_path, windows, status):
    report = load_run(run(tmp_path / "a", windows, status=status)).report()
    found = row(tmp_path)
    verdict = report.verdict.replace(",", " ").replace("no verdict", "no_verdict").split()[0]
    assert found["verdict"].replace(" ", "_") == verdict
    assert (found["status"], found["steps"]) == (report.status, report.steps)
    first = report.alarms[0] if report.alarms else None
    assert (found["rule"], found["module"]) == ((first.rule, first.module) if first else ("", ""))
    assert found["step"] == (first.step if first else None)
    assert found["critical"] == sum(one.severity == "critical" for one in report.alarms)


@settings(FEWER)
@given(runs())
def test_findings_in_the_alerts_are_those_of_the_review(drawn):
    windows, events = drawn
    with TemporaryDirectory() as name:
        folder = Path(name)
        diagnosis = watch(folder, windows, events)
        found = alerts.read(folder / ALERTS_FILE)
        expected = [*diagnosis.findings.all.values()]
        assert found.is_whole
        for one, other in zip(found.findings, expected, strict=True):
            for field in ("number", "rule", "severity", "module", "step"):
                assert getattr(one, field) == getattr(other, field), field
        assert row(folder)["steps"] == sum(one.steps for one in windows)


@pytest.mark.parametrize("name", RUNS)
def test_alerts_name_the_step_at_which_each_finding_began(tmp_path, name):
    case = RUNS[name]
    training = {"amp": False, **case.given.get("training", {})}
    diagnosis, changes = Diagnosis(NET, FIVE, training), []
    if "optimizer" in case.given:
        diagnosis.membership(case.given["optimizer"])
    for one in case.windows:
        changes += diagnosis.update(one)
    write(tmp_path, changes=changes, layout=NET)
    found = alerts.read(tmp_path / ALERTS_FILE).findings
    assert [(one.rule, one.step) for one in found] == [
        (one.rule, one.step) for one in diagnosis.findings.all.values()
    ]


def test_finding_without_a_since_step_begins_with_its_window(tmp_path):
    text = "finding,event,step,severity,rule,module,since\n"
    text += "1,start,9,critical,dead,b,4\n2,start,9,critical,dead,c,\n"
    (tmp_path / ALERTS_FILE).write_text(text, encoding="utf-8")
    assert [one.step for one in alerts.read(tmp_path / ALERTS_FILE).findings] == [4, 9]


def test_newest_alert_of_a_finding_counts(tmp_path):
    text = "finding,event,step,severity,rule,module\n"
    text += "2,start,5,critical,dead,b\n1,start,3,notice,frozen,a\n1,worse,6,warning,dead,c\n"
    (tmp_path / ALERTS_FILE).write_text(text + "2,end,9,critical,dead,b\n", encoding="utf-8")
    first, second = alerts.read(tmp_path / ALERTS_FILE).findings
    assert (first.number, first.severity, first.module, first.step) == (1, "warning", "c", 3)
    assert (second.number, second.step, second.step_end) == (2, 5, 9)


# --- other columns --------------------------------------------------------------------------------


def test_row_has_the_numbers_of_its_files(tmp_path):
    epochs = [asdict(replace(EPOCH, epoch=e, steps=4, clipped=3, step_last=4 * e)) for e in (1, 2)]
    training = {"optimizer": "SGD", "lr0": 0.02, "epochs": 7}
    folder = run(tmp_path / "a", epochs=epochs, options={"training": training})
    (folder / "results.csv").write_text(RESULTS, encoding="utf-8")
    found = row(tmp_path)
    assert (found["epochs"], found["epochs_planned"], found["steps"]) == (2, 7, 8)
    assert (found["metric"], found["score"], found["loss"]) == ("mAP50-95(B)", 0.375, 1.5)
    assert (found["clipped"], found["optimizer"], found["lr0"]) == (0.75, "SGD", 0.02)
    assert found["remarks"] == ""


@pytest.mark.parametrize(("status", "expected"), [("finished", 10), ("failed", 1), ("running", 1)])
def test_finished_run_counts_last_epochs_without_a_step(tmp_path, status, expected):
    folder = run(tmp_path / "a", status=status, epochs=[asdict(replace(EPOCH, epoch=1))])
    rows = "".join(f"{epoch},1.0\n" for epoch in range(1, 11))
    (folder / "results.csv").write_text(f"epoch,train/box_loss\n{rows}", encoding="utf-8")
    assert row(tmp_path)["epochs"] == expected


GROUP = {"lr": 0.002, "weight_decay": 0.0, "parameters": 1, "elements": 2}
AT_WORK = {"name": "AdamW", "groups": [{**GROUP, "lr": 0.004}, GROUP]}


@pytest.mark.parametrize(
    ("training", "optimizer", "expected"),
    [
        ({"optimizer": "SGD", "lr0": 0.02}, None, ("SGD", 0.02)),
        ({"optimizer": "SGD", "lr0": 0.02}, AT_WORK, ("AdamW", 0.02)),
        ({"optimizer": "auto", "lr0": 0.01}, AT_WORK, ("AdamW", 0.002)),
        ({"optimizer": "auto", "lr0": 0.01}, None, ("auto", None)),
        (
            {"optimizer": "auto", "lr0": 0.01, "fitted": {"optimizer": "AdamW", "lr0": 0.003}},
            None,
            ("AdamW", 0.003),
        ),
        ({"lr0": "high"}, None, ("", None)),
    ],
)
def test_row_has_the_optimizer_and_rate_in_use(tmp_path, training, optimizer, expected):
    run(tmp_path / "a", options={"training": training}, optimizer=optimizer)
    found = row(tmp_path)
    assert (found["optimizer"], found["lr0"]) == expected


def test_steps_after_the_last_recorded_epoch_count(tmp_path):
    epochs = [asdict(replace(EPOCH, steps=3, clipped=0, skipped=0, step_last=3))]
    windows = [
        *(window(step, norm=1.0) for step in (1, 2, 3)),
        *(window(step, epoch=2) for step in (4, 5)),
        window(6, steps=20, epoch=2),
        window(26, epoch=3, skipped=1),
    ]
    run(tmp_path / "a", windows, status="running", epochs=epochs)
    found = row(tmp_path)
    assert (found["steps"], found["epochs"]) == (26, 3)
    text = (tmp_path / "a" / WINDOWS_FILE).read_text("utf-8")
    (tmp_path / "a" / WINDOWS_FILE).write_text(text[:-5], encoding="utf-8")  # as a kill does
    found = row(tmp_path)
    assert (found["steps"], found["epochs"]) == (25, 2)
    assert found["steps"] == load_run(tmp_path / "a").report().steps


def test_long_table_is_read_from_its_end(tmp_path, monkeypatch):
    epochs = [asdict(replace(EPOCH, steps=90, step_last=90))]
    run(tmp_path / "a", [window(step) for step in range(1, 101)], epochs=epochs)
    monkeypatch.setattr("yolo_gradwatch.runs.unfinished._BLOCK", 700)  # bytes: less than a window
    assert row(tmp_path)["steps"] == 100


def test_run_whose_process_is_gone_is_killed(tmp_path):
    run(tmp_path / "a", status="running", process=process(DEAD_PID))
    found = row(tmp_path)
    assert (found["status"], found["verdict"]) == ("killed", "no verdict")


def test_run_with_only_skipped_steps_has_no_verdict(tmp_path):
    run(tmp_path / "a", [window(step, skipped=1) for step in range(1, 9)], status="running")
    assert row(tmp_path)["verdict"] == "no verdict"


def test_more_lenient_thresholds_give_a_remark(tmp_path):
    run(tmp_path / "a", thresholds=asdict(Thresholds(vanishing=5.0)))
    assert "vanishing" in row(tmp_path)["remarks"]


@pytest.mark.parametrize("version", [1, 2])
def test_run_of_format_version_1_is_not_called_healthy(tmp_path, version):
    run(tmp_path / "a", format_version=version)
    found = row(tmp_path)
    assert (found["verdict"], bool(found["remarks"])) == (
        ("no verdict", True) if version == 1 else ("healthy", False)
    )


# --- damaged and missing files --------------------------------------------------------------------


def test_damaged_file_does_not_hide_the_rest_of_the_row(tmp_path):
    folder = run(tmp_path / "a", DEAD)
    (folder / "results.csv").write_text(RESULTS, encoding="utf-8")
    (folder / META_FILE).write_text('{"format_ver', encoding="utf-8")
    found = row(tmp_path)
    assert (found["verdict"], found["rule"], found["status"]) == ("unhealthy", "dead", "unknown")
    assert (found["score"], found["steps"], found["epochs"]) == (0.375, None, 2)
    assert META_FILE in found["remarks"]
    (folder / ALERTS_FILE).unlink()
    found = row(tmp_path)
    assert (found["verdict"], found["score"]) == ("no verdict", 0.375)
    assert ALERTS_FILE in found["remarks"]


@pytest.mark.parametrize(
    "text",
    ["", "finding,event", "a,b,c\n", "finding,event,step,severity,rule,module\n1,start,3", "1,2\n"],
)
def test_run_with_damaged_alerts_is_not_called_healthy(tmp_path, text):
    folder = run(tmp_path / "a")
    assert row(tmp_path)["verdict"] == "healthy"
    (folder / ALERTS_FILE).write_text(text, encoding="utf-8")
    assert row(tmp_path)["verdict"] == "no verdict"
    assert ALERTS_FILE in row(tmp_path)["remarks"]


@pytest.mark.parametrize(
    "line",
    [
        "x,start,3,critical,dead,m",
        "1,begin,3,critical,dead,m",
        "1,start,0,critical,dead,m",
        "1,start,3,fatal,dead,m",
        "1,start,3,critical,dead",
        f"1,start,{'9' * 5000},critical,dead,m",
    ],
)
def test_alerts_before_the_first_damaged_line_count(tmp_path, line):
    text = f"finding,event,step,severity,rule,module\n1,start,3,warning,spike,m\n{line}\n"
    (tmp_path / ALERTS_FILE).write_text(text, encoding="utf-8")
    found = alerts.read(tmp_path / ALERTS_FILE)
    assert ([one.rule for one in found.findings], found.is_whole) == (["spike"], False)
    assert "line 3" in found.remarks[0]


def test_unknown_rule_of_a_later_version_counts_as_a_finding(tmp_path):
    folder = run(tmp_path / "a", DEAD)
    text = (folder / ALERTS_FILE).read_text("utf-8").replace(",dead,", ",withered,")
    (folder / ALERTS_FILE).write_text(text, encoding="utf-8")
    assert (row(tmp_path)["verdict"], row(tmp_path)["rule"]) == ("unhealthy", "withered")


@pytest.mark.slow
@settings(FEWER)
@given(st.data())
def test_no_damage_to_a_file_stops_the_table(data):
    with TemporaryDirectory() as name:
        folder = Path(name) / "a"
        sound_run(folder)
        (folder / "results.csv").write_text(RESULTS, encoding="utf-8")
        for file in data.draw(st.sets(st.sampled_from([*RUN_FILES, "results.csv"]), min_size=1)):
            content = (folder / file).read_bytes()
            (folder / file).write_bytes(data.draw(mangled(file, content)))
        found = row(name)
    assert found["verdict"] in {"healthy", "unhealthy", "no verdict"}


HUGE = 10**30


@pytest.mark.parametrize(
    "meta",
    [
        {"epochs": [{**asdict(EPOCH), "steps": HUGE}]},
        {"epochs": [{**asdict(EPOCH), "clipped": -1}]},
        {"options": {"training": {"epochs": HUGE, "lr0": HUGE, "optimizer": ["a"]}}},
        {"last_step": HUGE},
    ],
)
def test_impossible_number_is_treated_as_missing(tmp_path, meta):
    folder = run(tmp_path / "a", changed=1e11, **meta)
    (folder / "results.csv").write_text(RESULTS.replace("\n2,", "\n1e300,"), encoding="utf-8")
    found = row(tmp_path)
    assert found["epochs_planned"] is None
    assert (found["verdict"] == "no verdict") is ("options" not in meta)


@pytest.mark.parametrize("name", [*RUN_FILES, "results.csv"])
def test_folder_in_place_of_a_file_does_not_stop_the_table(tmp_path, name):
    folder = run(tmp_path / "a")
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    found = row(tmp_path)
    is_needed = name in {ALERTS_FILE, META_FILE, WINDOWS_FILE}  # the JSON has no epochs here
    assert found["verdict"] == ("no verdict" if is_needed else "healthy")


# --- finding the runs -----------------------------------------------------------------------------


def test_unwatched_trainings_are_listed_separately(tmp_path):
    folder = run(tmp_path / "a")
    for other in (tmp_path / "b", folder / "weights", folder / "gradwatch"):
        other.mkdir(exist_ok=True)
        (other / "args.yaml").touch()
    (tmp_path / "empty").mkdir()
    tree = tree_of(tmp_path)
    assert (tree.runs, tree.unwatched, tree.closed) == ((folder,), (tmp_path / "b",), ())


@pytest.mark.parametrize("name", ["", *RUN_FILES[:2]])
def test_run_folder_itself_gives_one_run(tmp_path, name):
    assert tree_of(run(tmp_path / "a") / name).runs == (tmp_path / "a",)


@pytest.mark.parametrize("name", ["nowhere", "notes.txt", "empty"])
def test_folder_without_a_run_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FormatError) as raised:
        load_runs(tmp_path / name)
    assert raised.value.path == tmp_path / name


def test_symlinks_neither_loop_nor_count_twice(tmp_path):
    folder = run(tmp_path / "runs" / "a")
    elsewhere = run(tmp_path / "elsewhere" / "b")
    links = {"loop": "..", "self": "self", "latest": "a", "kept": elsewhere, "again": elsewhere}
    for name, target in links.items():
        (tmp_path / "runs" / name).symlink_to(target)
    (folder / "back").symlink_to(tmp_path / "runs")
    assert tree_of(tmp_path / "runs").runs == (folder, tmp_path / "runs" / "again")


def test_deep_tree_is_searched_completely(tmp_path):
    run(tmp_path / "/".join("d" * 400))
    assert len(load_runs(tmp_path)) == 1


def test_tree_deeper_than_the_path_limit_ends(tmp_path, monkeypatch):
    run(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    for _ in range(60):
        os.mkdir("x" * 100)  # noqa: PTH102  # a path would be too long
        os.chdir("x" * 100)
    tree = tree_of(tmp_path)
    assert (tree.runs, len(tree.closed)) == ((tmp_path / "a",), 1)
    while Path.cwd() != tmp_path:  # pytest cannot remove it
        os.chdir("..")
        os.rmdir("x" * 100)  # noqa: PTH106


def test_torn_last_line_hides_no_window(tmp_path):
    epochs = [asdict(replace(EPOCH, steps=20, step_last=20))]
    folder = run(tmp_path / "a", [window(step) for step in range(1, 31)], epochs=epochs)
    with (folder / WINDOWS_FILE).open("a", encoding="utf-8") as file:
        file.write("1,31,3")
    assert row(tmp_path)["steps"] == 30
