"""Evidence of a step: kept in memory for a few steps, written for a finding."""

from __future__ import annotations

import json
from contextlib import ExitStack, closing, nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from recording import Recording
from values import LAYOUT, MEMBERS, sample

from yolo_gradwatch import load_run
from yolo_gradwatch.measure.allowance import Allowance
from yolo_gradwatch.measure.layout import module_norms
from yolo_gradwatch.measure.loss_items import BatchItems
from yolo_gradwatch.measure.rollup import Rollup
from yolo_gradwatch.runs import evidence
from yolo_gradwatch.runs.evidence import KEPT_STEPS, Batch, Evidence

NOTE = [Batch(("a.png", "b.png"), 5), Batch(("c.png",), 0)]


def items(*batches):
    """The loss items of a step's batches."""
    return (BatchItems(("box_loss", "cls_loss"), np.array(batches)),)


READ = {"losses": items((9.0, 9.0), (1.5, 0.25)), "rates": (0.01, 0.1)}


def started(run):
    """Evidence of a training that has started."""
    found = Evidence(run, SimpleNamespace(is_whole=True))
    found.start(SimpleNamespace(layout=LAYOUT))
    return found


@pytest.mark.parametrize("is_whole", [True, False])
def test_write_error_is_reported_unless_the_tables_failed_before(tmp_path, is_whole):
    found = with_one_step(tmp_path)
    (tmp_path / "gradwatch").touch()  # where the folder would be
    assert found.file(7, 7) == ""
    found._files.is_whole = is_whole
    with pytest.raises(OSError, match="gradwatch") if is_whole else nullcontext():
        found.findings([])


def with_one_step(run, step=7, note=NOTE, **changes):
    """Evidence that has recorded one step."""
    found = started(run)
    found.note(step, note)
    one = replace(sample(step, 2.0, epoch=3), **{**READ, **changes})
    found.steps([one], module_norms(one.norms, MEMBERS)[None])
    return found


def read(run, name):
    return json.loads((run / name).read_text(encoding="utf-8"))


def files(run):
    return sorted(path.name for path in (run / evidence.FOLDER).glob("*"))


def test_file_holds_images_losses_rates_and_norms_of_the_step(tmp_path):
    name = with_one_step(tmp_path, scale=65536.0, skipped=True).file(7, 7)
    assert name == "gradwatch/evidence/step-00007.json"
    content = read(tmp_path, name)
    norms = content.pop("norms")
    assert content == {
        "step": 7,
        "epoch": 3,
        "skipped": True,
        "scale": 65536.0,
        "learning_rates": [0.01, 0.1],
        "losses": {"box_loss": 1.5, "cls_loss": 0.25},
        "images": [["a.png", "b.png"], ["c.png"]],
        "objects": [5, 0],
    }
    assert tuple(norms) == LAYOUT.modules
    assert list(norms.values()) == module_norms(np.full(8, 2.0), MEMBERS).tolist()


@pytest.mark.parametrize(("value", "text"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
def test_nonfinite_numbers_are_written_as_text(tmp_path, value, text):
    found = started(tmp_path)
    found.note(1, NOTE)
    one = replace(sample(1), losses=items((value, 1.0)))
    found.steps([one], np.array([value, *[1.0] * (len(LAYOUT.modules) - 1)])[None])
    path = tmp_path / found.file(1, 1)

    def refuse(constant):
        pytest.fail(f"{constant} is not JSON")

    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert content["losses"] == {"box_loss": text, "cls_loss": 1.0}
    assert content["norms"]["model"] == text
    assert content["norms"]["model.0"] == 1.0


def test_step_without_a_note_still_has_its_norms(tmp_path):
    found = started(tmp_path)
    found.steps([sample(4)], np.ones(len(LAYOUT.modules))[None])
    content = read(tmp_path, found.file(4, 4))
    assert (content["images"], content["learning_rates"], content["losses"]) == ([], [], {})
    assert content["norms"]["model.2.b"] == 1.0


@pytest.mark.parametrize(
    ("note", "of_sample", "part", "expected"),
    [
        (NOTE, {}, "scale", None),
        ([Batch(("a.png",)), Batch(())], {}, "images", [["a.png"], []]),
        ([Batch((), 3), Batch(())], {}, "objects", [3, None]),
        (NOTE, {"losses": ()}, "losses", {}),
        (NOTE, {"rates": ()}, "learning_rates", []),
    ],
)
def test_unknown_values_of_a_step_are_empty(tmp_path, note, of_sample, part, expected):
    name = with_one_step(tmp_path, 1_234_567, note=note, **of_sample).file(1_234_567, 1_234_567)
    assert name == "gradwatch/evidence/step-1234567.json"
    assert read(tmp_path, name)[part] == expected


def many(run, count):
    found = started(run)
    for step in range(1, count + 1):
        found.note(step, [Batch((f"{step}.png",))])
        found.steps([sample(step)], np.full(len(LAYOUT.modules), float(step))[None])
    return found


def test_only_the_newest_steps_are_kept(tmp_path):
    count = KEPT_STEPS + 10
    found = many(tmp_path, count)
    forgotten = count - KEPT_STEPS
    found.note(count + 1, NOTE)  # its numbers have not arrived
    assert found.file(count + 1, count + 1) == found.file(forgotten, forgotten) == ""
    content = read(tmp_path, found.file(count, count))
    assert content["step"] == content["norms"]["model"] == count
    assert content["images"] == [[f"{count}.png"]]
    assert files(tmp_path) == [f"step-{count:05}.json"]
    assert len(found._notes) == len(found._landed) == KEPT_STEPS


def test_window_with_a_nonfinite_step_refers_to_that_step(tmp_path):
    found = many(tmp_path, 100)
    found.steps([sample(101)], np.full(len(LAYOUT.modules), np.nan)[None])
    found.steps([sample(102)], np.full(len(LAYOUT.modules), 1e9)[None])
    name = found.file(7, 102)  # step 7, the first of the window, is no longer kept
    assert name == f"{evidence.FOLDER}/step-00101.json"
    assert evidence.existing(tmp_path, 7, 102) == name
    assert evidence.existing(tmp_path, 7, 100) == evidence.existing(tmp_path, 102, 103) == ""
    content = read(tmp_path, name)
    assert (content["step"], content["norms"]["model"]) == (101, "nan")


def test_window_of_finite_steps_refers_to_the_highest(tmp_path):
    found = many(tmp_path, 100)
    found.steps([sample(101)], np.full(len(LAYOUT.modules), 1.0)[None])
    assert read(tmp_path, found.file(95, 101))["step"] == 100


def test_limit_on_files_includes_those_before_the_resume(tmp_path):
    found = many(tmp_path, 30)
    for step in range(1, 20):
        found.file(step, step)
    resumed = started(tmp_path)
    for step in (40, 41):
        resumed.steps([sample(step)], np.ones(len(LAYOUT.modules))[None])
    assert [bool(resumed.file(step, step)) for step in (40, 41)] == [True, False]


@pytest.mark.parametrize(
    "folder", [evidence.OWN_FOLDER, evidence.FOLDER, evidence.OLD_FOLDER], ids=["own", "new", "old"]
)
def test_clear_removes_a_symlink_but_not_its_target(tmp_path, folder):
    other, run = tmp_path / "other", tmp_path / "run"
    other.mkdir()
    run.mkdir()
    (other / "step-00001.json").write_text("{}", encoding="utf-8")
    (run / folder).parent.mkdir(exist_ok=True)
    (run / folder).symlink_to(other, target_is_directory=True)
    evidence.clear(run)
    assert (other / "step-00001.json").exists()
    assert not (run / folder).is_symlink()


def test_clear_without_a_folder_does_nothing(tmp_path):
    evidence.clear(tmp_path)
    evidence.clear(tmp_path / "not there yet")
    assert evidence.existing(tmp_path / "not there yet", 1, 1) == ""
    assert list(tmp_path.iterdir()) == []


# --- written by a recorder for a finding ----------------------------------------------------------

CONV = 3  # parameter of model.1.conv
BAD = np.where(np.arange(len(MEMBERS.elements)) == CONV, np.nan, 1.0)


@pytest.fixture
def begin(tmp_path):
    """Start recording a training in ``tmp_path``; every recording is closed at the end."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(closing(Recording(tmp_path, **options)))


def take(recorder, pattern):
    """Record steps: an ``x`` has a NaN in one layer, a ``^`` is 10,000 times as high."""
    first = recorder.first_step
    for step, kind in enumerate(pattern, first):
        recorder.evidence.note(step, [Batch((f"{step}.png",))])
        recorder.take([sample(step, {"x": BAD, "^": 1e4}.get(kind, 1.0))])


def test_report_and_alerts_name_the_file_of_a_finding(tmp_path, begin):
    recorder = begin()
    take(recorder, "..x.")
    recorder.finish("finished")
    name = "gradwatch/evidence/step-00003.json"
    assert files(tmp_path) == ["step-00003.json"]
    assert read(tmp_path, name)["images"] == [["3.png"]]
    assert read(tmp_path, name)["norms"]["model.1.conv"] == "nan"
    assert read(tmp_path, name)["norms"]["model.0.conv"] == 1.0
    (finding,) = recorder.report().findings
    assert finding.evidence == name
    assert name in str(recorder.report())
    assert name in load_run(tmp_path).alerts.loc[0, "message"]
    assert load_run(tmp_path).report() == recorder.report()


def test_norms_in_the_file_equal_those_in_the_table(tmp_path, begin):
    recorder = begin()
    take(recorder, "..x.")
    rows = load_run(tmp_path).windows.query("step_first == 3").set_index("module")
    norms = read(tmp_path, "gradwatch/evidence/step-00003.json")["norms"]
    assert list(norms) == list(rows.index)
    for module, norm in norms.items():
        assert rows.loc[module, "nonfinite"] == (norm == "nan")
        assert norm == "nan" or np.float32(norm) == rows.loc[module, "norm_mean"]


def test_file_is_named_after_the_step_it_holds(tmp_path, begin, monkeypatch):
    monkeypatch.setattr(Rollup, "_opens_stretch", lambda *_sample: False)  # none are left
    recorder = begin()
    take(recorder, "." * 203 + "^..")
    recorder.finish("finished")
    (finding,) = recorder.report().findings
    assert finding.rule == "spike"
    assert finding.step < 204
    assert files(tmp_path) == ["step-00204.json"]
    assert finding.evidence == f"{evidence.FOLDER}/step-00204.json"
    assert read(tmp_path, finding.evidence)["step"] == 204
    assert load_run(tmp_path).report() == recorder.report()


def test_healthy_run_writes_no_file(tmp_path, begin):
    take(begin(), "." * 100)
    assert not (tmp_path / evidence.FOLDER).exists()


def test_each_recurrence_is_kept_up_to_20(tmp_path, begin, monkeypatch):
    monkeypatch.setattr(Allowance, "allows", lambda *_step, **_kind: True)
    recorder = begin()
    take(recorder, ("." * 29 + "x") * 25)
    recorder.end_epoch()
    (finding,) = recorder.report().findings
    assert len(finding.episodes) == 25
    assert files(tmp_path) == [f"step-{30 * n:05}.json" for n in range(1, 21)]
    assert finding.evidence == "gradwatch/evidence/step-00600.json"


def test_resumed_run_restores_findings_and_their_files(tmp_path, begin):
    first = begin()
    take(first, "..x.....")
    first.finish("interrupted")
    resumed = begin(resumes=True)
    assert resumed.first_step == 9
    assert files(tmp_path) == ["step-00003.json"]
    assert resumed.report().findings == first.report().findings
    take(resumed, "." * 25 + "x")
    resumed.finish("finished")
    assert files(tmp_path) == ["step-00003.json", "step-00034.json"]
    assert load_run(tmp_path).report() == resumed.report()


def test_unwritable_folder_warns_but_still_reports_the_finding(tmp_path, begin, caplog):
    (tmp_path / evidence.OWN_FOLDER).write_text("in the way", encoding="utf-8")
    recorder = begin()
    take(recorder, "..x.")
    (finding,) = recorder.report().findings
    assert finding.evidence == ""
    assert "step" in finding.message
    assert [r.name for r in caplog.records] == ["yolo_gradwatch.watch.fanout"]


@pytest.mark.parametrize(("skipped", "held"), [((3,), 4), ((3, 4, 5), 3), ((), 3)])
def test_step_skipped_by_amp_is_used_only_if_all_were_skipped(tmp_path, skipped, held):
    found = started(tmp_path)
    for step, norm in ((3, np.inf), (4, 1e9), (5, 1.0)):
        one = sample(step, norm, skipped=step in skipped)
        found.steps([one], module_norms(one.norms, MEMBERS)[None])
    assert found.file(3, 5) == f"{evidence.FOLDER}/step-{held:05}.json"


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0, 1], ids=["a window of its own", "within a long window"])
def test_stray_step_of_a_converged_run_keeps_its_batch_and_is_no_alarm(tmp_path, noise):
    """If an equally high step came earlier, the second one is within a long window."""
    recording = Recording(tmp_path)
    for step in range(1, 4001):
        is_stray = step == 3800 or (noise and step == 3300)
        level = 5.0 if is_stray else max(-step / 300, -4.0)
        recording.evidence.note(step, [Batch([f"{step}.jpg"])])
        recording.step(sample(step, 10.0 ** (level - 4.0 * is_stray + 1.0)))
    recording.finish()
    report = load_run(tmp_path).report()
    assert report.healthy
    (stray,) = [one for one in report.findings if one.rule == "stray_step"]
    newest = stray.episodes[-1]
    assert newest.step <= 3800 <= newest.step + 80
    assert len(stray.episodes) == 1 + noise
    assert read(tmp_path, stray.evidence)["images"] == [["3800.jpg"]]
    assert recording.report().findings == report.findings
