"""What all loggers share, tested on one that records its calls; needs no logger package."""

import inspect
import logging
import pickle
import random
import re
import sys
from dataclasses import replace
from html import unescape
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from places import REPOSITORY
from shown import change_of, finding_of, window_of
from values import YOLO26N, layout_of

from yolo_gradwatch import GradWatch
from yolo_gradwatch.diagnose.report import Report
from yolo_gradwatch.loggers import catalog
from yolo_gradwatch.loggers.catalog import LOGGERS, checked_loggers, loggers_of, table
from yolo_gradwatch.loggers.ending import COLUMNS, Drawn, Ending, Privacy, as_markdown
from yolo_gradwatch.loggers.logger import Logger
from yolo_gradwatch.loggers.scalars import MOST_BLOCKS, scalars

LAYOUT = layout_of()
PAGE = REPOSITORY / "docs" / "guides" / "loggers.md"


class RecordingLogger(Logger):
    """A logger that records its calls and draws random numbers; its run is the class's `open`."""

    name, title, integration = "noted", "Noted", "noted"
    open = object()

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.calls = []

    def find(self):
        return self.open

    def begin(self, live):
        self._record("begin", live)

    def send(self, live, numbers, step):
        self._record("send", live, numbers, step)

    def tell(self, live, change, text):
        self._record("tell", live, change.change, text)

    def finish(self, live, ending):
        self._record("finish", live, ending)

    def _record(self, name, live, *args):
        assert live is self.open
        random.random()  # noqa: S311
        np.random.rand()  # noqa: NPY002
        torch.rand(1)
        self.calls.append((name, *args))


def started(monkeypatch, folder, *, fed=True, is_asked=False, **options):
    """A started logger; if `fed`, Ultralytics has registered its own callbacks for it."""
    module = ModuleType("ultralytics.utils.callbacks.noted")
    module.callbacks = {"on_train_end": print} if fed else {}
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(RecordingLogger, "open", object())
    drawn = Drawn(pictures=lambda: (folder / "gradwatch.png",), page=lambda _: f"<p>{folder}</p>")
    logger = RecordingLogger(drawn, is_asked=is_asked, **{"share_names": False, **options})
    training = {"data": str(folder / "secret" / "data.yaml"), "lr0": 0.01}
    logger.start(SimpleNamespace(layout=LAYOUT, clip=10.0, folder=folder, training=training))
    return logger


def random_states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002


def report_of(folder, *findings):
    return Report(folder, "finished", 9, 5, findings, ())


def run_through(logger, folder):
    """Two epochs of one window each, a finding, and the end of the training."""
    finding = finding_of(message=f"see {folder}/secret/data.yaml")
    for epoch in (1, 2):
        logger.window(window_of(LAYOUT, epoch=epoch, step_last=epoch * 5))
        logger.findings([change_of("start" if epoch == 1 else "end", finding)])
        logger.epoch(None)
    logger.end(report_of(folder, finding))


def test_windows_findings_and_the_end_reach_the_open_run(monkeypatch, tmp_path):
    logger = started(monkeypatch, tmp_path)
    run_through(logger, tmp_path)
    assert [call[0] for call in logger.calls] == [
        *("begin", "send", "tell", "send", "tell", "finish"),
    ]
    assert [call[2] for call in logger.calls if call[0] == "send"] == [5, 10]
    assert logger.calls[1][1] == scalars(LAYOUT, window_of(LAYOUT), 10.0)
    assert [call[1] for call in logger.calls if call[0] == "tell"] == ["start", "end"]
    ending = logger.calls[-1][1]
    assert (ending.step, ending.alarms, len(ending.rows)) == (10, 1, 1)
    assert ending.pictures == (tmp_path / "gradwatch.png",)


@pytest.mark.parametrize("share_names", [False, True])
def test_absolute_paths_are_sent_only_if_asked_for(monkeypatch, tmp_path, share_names):
    logger = started(monkeypatch, tmp_path, share_names=share_names)
    run_through(logger, tmp_path)
    ending = logger.calls[-1][1]
    sent = [logger.calls[2][2], ending.verdict, ending.rows[0][-1], ending.page(), ending.markdown]
    assert [str(tmp_path) in text.replace("\\", "") for text in sent] == [share_names] * 5
    assert "see data.yaml" in ending.rows[0][-1] or share_names


@pytest.mark.parametrize("text", ["__init__.py:3", "<lambda>", "a*b*c | [d] & `e`", r"\d"])
def test_text_is_escaped_for_markdown(text):
    """Unescaping gives the text back, and no unescaped Markdown character is left."""
    escaped = as_markdown(text)
    assert not re.search(r"(?<!\\)[*_|`\[<]", escaped.replace(r"\\", ""))
    assert unescape(re.sub(r"\\(.)", r"\1", escaped)) == text


def test_markdown_report_is_a_narrow_table_followed_by_the_messages(tmp_path):
    found = [finding_of(number=n, message=f"see a|b_{n}") for n in (3, 1)]
    privacy = Privacy(SimpleNamespace(folder=tmp_path, training={}), share_names=False)
    drawn = Drawn(pictures=tuple, page=lambda _: None)
    lines = privacy.ending(report_of(tmp_path, *found), drawn, 9).markdown.splitlines()
    table = [line.split(" | ") for line in lines if line.startswith("| ")]
    assert [len(cells) for cells in table] == [len(COLUMNS) - 1] * 4
    assert [row[0] for row in table[2:]] == ["| 3", "| 1"]
    assert lines[-3:] == [r"**3**: see a\|b\_3", "", r"**1**: see a\|b\_1"]
    assert "|" not in privacy.ending(report_of(tmp_path), drawn, 9).markdown


@pytest.mark.parametrize(
    ("tags", "is_written"),
    [
        ({}, True),
        ({"mlflow.note.content": "The user's own."}, False),
        ({"mlflow.note.content": "The user's own.", "gradwatch.verdict": "healthy"}, False),
        ({"mlflow.note.content": "healthy\n\n", "gradwatch.verdict": "healthy"}, True),
    ],
)
def test_mlflow_description_is_written_unless_the_user_wrote_one(monkeypatch, tags, is_written):
    run = SimpleNamespace(info=SimpleNamespace(run_id="r"), data=SimpleNamespace(tags=tags))
    module, sent = ModuleType("mlflow"), {}
    module.active_run = lambda: run
    module.flush_async_logging = lambda: None
    module.get_run = lambda _: run
    module.set_tags = sent.update
    monkeypatch.setitem(sys.modules, "mlflow", module)
    ending = Ending(9, "failed", 0, (), (), lambda: None)
    drawn = Drawn(pictures=tuple, page=lambda _: None)
    LOGGERS["mlflow"](drawn, is_asked=True, share_names=False).finish(run, ending)
    assert sent["gradwatch.verdict"] == "failed"
    assert sent.get("mlflow.note.content") == (ending.markdown if is_written else None)


@pytest.mark.parametrize("share_names", [False, True])
def test_image_names_are_sent_only_if_asked_for(monkeypatch, tmp_path, share_names):
    logger = started(monkeypatch, tmp_path, share_names=share_names)
    (tmp_path / "step.json").write_text('{"images": [["cat.jpg"], ["dog.jpg"]]}', encoding="utf-8")
    logger.findings([change_of("start", finding_of(evidence="step.json"))])
    assert ("cat.jpg, dog.jpg" in logger.calls[-1][2]) == share_names


def test_nothing_is_sent_after_the_run_is_closed(monkeypatch, tmp_path):
    logger = started(monkeypatch, tmp_path)
    monkeypatch.setattr(RecordingLogger, "open", object())  # another run is open now
    run_through(logger, tmp_path)
    monkeypatch.setattr(RecordingLogger, "open", None)
    run_through(logger, tmp_path)
    assert [call[0] for call in logger.calls] == ["begin"]


@pytest.mark.parametrize("open_", [None, object()])
def test_auto_mode_sends_nothing_if_ultralytics_does_not(monkeypatch, tmp_path, caplog, open_):
    monkeypatch.setattr(RecordingLogger, "find", lambda _self: open_)
    logger = started(monkeypatch, tmp_path, fed=open_ is None)
    run_through(logger, tmp_path)
    assert not logger.calls
    assert not caplog.records


def test_named_logger_without_an_open_run_warns_once(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(RecordingLogger, "find", lambda _self: None)
    with caplog.at_level(logging.WARNING):
        logger = started(monkeypatch, tmp_path, is_asked=True)
        run_through(logger, tmp_path)
    assert not logger.calls
    assert len(caplog.records) == 1
    assert "Noted has no open run" in caplog.text


def test_by_epoch_sends_the_newest_value_of_each_number(monkeypatch, tmp_path):
    logger = started(monkeypatch, tmp_path)
    logger.by_epoch = True
    ratio = np.full(len(LAYOUT.modules), 0.5, np.float32)
    logger.window(window_of(LAYOUT, step_last=1, update_ratio=ratio))
    unknown = np.full(len(LAYOUT.modules), np.nan, np.float32)
    logger.window(window_of(LAYOUT, step_last=2, update_ratio=unknown, norm_mean=4 * ratio))
    assert len(logger.calls) == 1
    logger.epoch(None)
    logger.epoch(None)
    (_, (_, numbers, step)) = logger.calls
    assert (numbers["gradwatch/model"], numbers["gradwatch/update/model"], step) == (2, 0.5, 2)


def test_random_state_is_restored_even_if_the_logger_raises(monkeypatch, tmp_path):
    before = random_states()
    logger = started(monkeypatch, tmp_path)
    run_through(logger, tmp_path)
    monkeypatch.setattr(RecordingLogger, "send", lambda *_: 1 / (random.random() * 0))  # noqa: S311
    with pytest.raises(ZeroDivisionError):
        logger.window(window_of(LAYOUT))
    assert random_states() == before


def test_regrouped_layers_use_the_new_layout(monkeypatch, tmp_path):
    logger = started(monkeypatch, tmp_path)
    wide = layout_of(YOLO26N)
    logger.regroup(wide)
    logger.window(window_of(wide))
    assert "gradwatch/model.23" in logger.calls[-1][1]


@pytest.mark.parametrize("blocks", [3, MOST_BLOCKS, 3 * MOST_BLOCKS])
def test_number_of_scalars_is_bounded_for_many_blocks(blocks):
    layout = layout_of(("Conv",) * blocks)
    numbers = scalars(layout, window_of(layout))
    assert len(numbers) == 2 * (1 + min(blocks, MOST_BLOCKS)) + 2
    assert {"gradwatch/model.0", f"gradwatch/model.{blocks - 1}"} <= set(numbers)


@pytest.mark.parametrize(
    ("total", "factor"), [(5.0, 1.0), (10.0, 1.0), (40.0, 0.25), (np.nan, None)]
)
def test_clip_factor(total, factor):
    norms = np.full(len(LAYOUT.modules), total, np.float32)
    numbers = scalars(LAYOUT, window_of(LAYOUT, norm_mean=norms), 10.0)
    assert numbers.get("gradwatch/clip_factor") == factor


# --- the catalogue --------------------------------------------------------------------------------


def test_logger_names_are_sorted_in_catalogue_order():
    assert checked_loggers("auto") is None
    assert checked_loggers(["wandb", "tensorboard", "wandb"]) == ("tensorboard", "wandb")
    assert checked_loggers(()) == ()


@pytest.mark.parametrize(
    ("names", "error"),
    [("wandb", TypeError), (3, TypeError), (["neptune"], ValueError), ([3], ValueError)],
)
def test_unknown_logger_names_are_refused(names, error):
    with pytest.raises(error, match="loggers"):
        GradWatch(loggers=names)


def test_only_loggers_that_record_tensorboard_are_relayed():
    drawn = Drawn(pictures=tuple, page=lambda _: None)
    tensorboard, *others = loggers_of(None, drawn, share_names=False)
    assert not tensorboard.is_relayed
    assert not any(one.is_relayed for one in others)
    tensorboard._live = object()
    assert [one.name for one in others if one.is_relayed] == ["comet", "clearml"]
    (alone,) = loggers_of(("clearml",), drawn, share_names=False)
    assert not alone.is_relayed


def test_catalogue_entries_are_consistent():
    for name, kind in LOGGERS.items():
        assert kind.name == name
        module = inspect.getmodule(kind)
        assert Path(module.__file__).stem == name
        assert len(inspect.getsource(module).splitlines()) < 100
        imports = rf"^\s*(?:import|from) (?:{name}|comet_ml|dvclive)\b"
        assert not re.findall(imports, inspect.getsource(module), re.MULTILINE)
    assert len(LOGGERS) == len(catalog._ALL) == 6


def test_pickled_watch_keeps_its_loggers():
    watch = GradWatch(loggers=("wandb",), share_names=True)
    options = pickle.loads(pickle.dumps(watch))._attachment._options  # noqa: S301
    assert (options.loggers, options.share_names) == (("wandb",), True)
    assert options == replace(watch._attachment._options)


def test_guide_contains_the_table_of_loggers(request):
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition("<!-- loggers -->\n")
    current, end, after = rest.partition("<!-- end of loggers -->\n")
    if request.config.getoption("--rewrite-golden"):
        PAGE.write_text(f"{before}<!-- loggers -->\n{table()}{end}{after}", encoding="utf-8")
        current = table()
    assert end
    assert current == table()
