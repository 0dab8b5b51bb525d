"""Trainings in a notebook: the display in the saved file, and what a cell prints.

The output of a cell is not a terminal: it shows colours but has no cursor.
"""

import re
import sys
from textwrap import dedent

import pytest
from kernel import Read
from terminals import RULE
from training import HOME, TINY, shapes

from yolo_gradwatch import load_run

pytest.importorskip("ipykernel")
nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

pytestmark = pytest.mark.train

COMMAND = f"{sys.executable} -m yolo_gradwatch"

SHOWN = re.compile(r"\x1b\[[\d;]*[mK]")
"""Colours, and Ultralytics' code to clear a line: the sequences that a notebook supports."""


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """The outputs of each cell of a training notebook; the kernel is a separate process."""
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(HOME))
    monkeypatch.setenv("COLUMNS", "80")  # independent of the terminal of the tests
    for name in ("NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    options = {**TINY, "data": shapes(), "project": str(tmp_path)}

    def execute(*cells, allow_errors=False, **client):
        first = f"""
            import sys
            from ultralytics import YOLO
            from yolo_gradwatch import GradWatch
            options = {options!r}
            model, stdout = YOLO("yolo26n.yaml"), sys.stdout
        """
        sources = [dedent(cell).strip() for cell in (first, *cells)]
        notebook = nbformat.v4.new_notebook()
        notebook.cells = list(map(nbformat.v4.new_code_cell, sources))
        client = {"timeout": 300, "allow_errors": allow_errors, **client}
        nbclient.NotebookClient(notebook, **client).execute()
        saved = tmp_path / "saved.ipynb"
        nbformat.write(notebook, saved)
        return [cell.outputs for cell in nbformat.read(saved, nbformat.NO_CONVERT).cells[1:]]

    return execute


def printed(outputs):
    """What a cell printed; it has no other output and nothing on standard error."""
    assert {(one.output_type, one.get("name")) for one in outputs} <= {("stream", "stdout")}
    return "".join(one.text for one in outputs)


def split(outputs):
    """The printed outputs of a cell, and its only other output: the page."""
    (page,) = [one for one in outputs if one.output_type == "display_data"]
    assert sorted(page.data) == ["text/html", "text/plain"]
    assert page.metadata == {}
    return [one for one in outputs if one is not page], page.data


def assert_last_state(page, *, steps, verdict):
    """The verdict, all blocks after this many steps, and the picture."""
    read = Read(page["text/html"])
    assert verdict in " ".join(read.text.split())
    assert verdict in page["text/plain"]
    assert re.search(rf"At the end: epoch \S+ \W*step {steps} ", read.text)
    assert len(read.rows) == 1 + 18
    assert read.rows[-1][0] == "23 Detect"
    assert [image[:22] for image in read.images] == ["data:image/png;base64,"]


def value_of(outputs):
    """The value of a cell's last line."""
    (one,) = outputs
    assert one.output_type == "execute_result"
    return one.data["text/plain"]


def assert_readable(text, epochs):
    """A table per epoch and a report, in lines that fit, without a panel; returns its words."""
    text = SHOWN.sub("", text)
    assert "\x1b" not in text
    assert RULE not in text
    lines = text.splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("GradWatch epoch ")]
    tables = ["\n".join(lines[i : i + 7]) for i in starts]
    assert [table.split()[2] for table in tables] == [f"{n}/{epochs}" for n in range(1, epochs + 1)]
    assert all("23 Detect" in table for table in tables)
    report = text[re.search("GradWatch: (no verdict|healthy), ", text).start() :]
    *body, path = report.splitlines()
    assert path.endswith("gradwatch/flow.png")
    assert [line for line in body if len(line) > 80 and "/gradwatch" not in line] == []
    return report.split()


@pytest.mark.parametrize("coalesces", [True, pytest.param(False, marks=pytest.mark.full)])
def test_saved_notebook_has_the_last_state_of_each_training(executed, tmp_path, coalesces):
    first, value, report_text, failing, second, count = executed(
        """
        watch = GradWatch().attach(model)
        model.train(**{**options, "epochs": 3});
        """,
        "watch.report()",
        "print(watch.report())",
        """
        def fail(trainer):
            if trainer.epoch:
                raise RuntimeError("injected")
        model = YOLO("yolo26n.yaml")
        watch.attach(model)
        model.add_callback("on_train_batch_end", fail)
        model.train(**{**options, "epochs": 2, "name": "failing"});
        """,
        """
        watch.view()
        """,
        "len(watch._attachment.sessions), sys.stdout is stdout",
        allow_errors=True,
        coalesce_streams=coalesces,
    )
    streams, page = split(first)
    assert_last_state(page, steps=6, verdict="GradWatch: healthy, nothing found in 6 steps")
    text = printed(streams)
    assert "GradWatch epoch" not in text
    assert text.count("GradWatch: healthy") == 1
    assert text.index("Starting training") < text.index("GradWatch: healthy")
    if coalesces:  # as a browser folds it: one complete bar per epoch
        bars = re.findall(r"^\S* +([1-3]/3) .* (\d+)% [━─]+ ", text, re.MULTILINE)
        assert bars == [(f"{epoch}/3", "100") for epoch in (1, 2, 3)]
    assert re.fullmatch("<Report [^\n]+: healthy, nothing found in [^\n]+>", value_of(value))
    report = load_run(tmp_path / "run").report()
    assert " ".join(printed(report_text).split()) == " ".join(str(report).split())
    assert report.steps == 6

    *outputs, error = failing
    assert (error.output_type, error.ename) == ("error", "RuntimeError")
    streams, page = split(outputs)
    assert_last_state(
        page, steps=3, verdict="3 optimizer steps were watched; training or GradWatch"
    )
    _, shown = split(second)
    assert shown == page
    assert value_of(count) == "(2, True)"


def test_view_in_its_own_cell_leaves_the_training_cell_alone(executed, tmp_path):
    (view, trained, run, comparison) = executed(
        "watch = GradWatch().attach(model); watch.view()",
        "model.train(**{**options, 'epochs': 3});",
        f"""
        from yolo_gradwatch import load_run
        run = load_run("{tmp_path / "run"}")
        run.view()
        """,
        "run.compare(run)",
        coalesce_streams=True,
    )
    printed(trained)  # and nothing else is displayed there
    for outputs in (view, run):
        streams, page = split(outputs)
        assert streams == []
        assert_last_state(page, steps=6, verdict="GradWatch: healthy, nothing found in 6 steps")
    assert "text/html" in comparison[0].data


@pytest.mark.full
def test_notebook_without_the_display_shows_text(executed):
    first, value = executed(
        """
        watch = GradWatch(live=False).attach(model)
        model.train(**{**options, "epochs": 2});
        """,
        "print(watch.report())",
    )
    report = assert_readable(printed(first), epochs=2)
    words = printed(value).split()
    assert report[: len(words)] == words


@pytest.mark.full
@pytest.mark.parametrize("stand_in", ["", "sys.stdout = Recorder(stdout)"])
def test_notebook_has_a_display_and_no_panel_even_if_requested(executed, stand_in):
    (outputs,) = executed(
        f"""
        class Recorder:
            def __init__(self, stream):
                self.write, self.flush, self.isatty = stream.write, stream.flush, lambda: True
        {stand_in}
        watch = GradWatch(live=True).attach(model)
        model.train(**options)
        sys.stdout = stdout
        """
    )
    streams, page = split(outputs)
    assert_last_state(page, steps=2, verdict="2 optimizer steps were watched")
    text = printed(streams)
    assert RULE not in text
    assert "GradWatch: no verdict" in text


@pytest.mark.full
def test_command_in_a_cell_has_a_terminal_without_drawing(executed, tmp_path):
    folder = tmp_path / "demo"
    trained, followed = executed(
        f"!{COMMAND} demo --epochs 1 --out {folder}",
        f"!{COMMAND} review {folder / 'run'} --follow",
    )
    text = "".join(printed(outputs) for outputs in (trained, followed))
    assert RULE not in text
    assert not re.search(r"\x1b\[\d*[ABHJ]", text)  # nothing moves the cursor up or down
    assert_readable(printed(trained), epochs=1)
    lines = SHOWN.sub("", printed(followed)).splitlines()
    assert [line.split()[2] for line in lines if line.startswith("GradWatch epoch ")] == ["1/1"]
    assert [line for line in lines if len(line) > 80 and str(folder) not in line] == []


@pytest.mark.full
def test_command_in_a_cell_draws_nothing_even_if_requested(executed, tmp_path):
    (trained,) = executed(f"!{COMMAND} demo --live --epochs 1 --out {tmp_path / 'demo'}")
    assert_readable(printed(trained), epochs=1)


@pytest.mark.full
def test_interrupted_notebook_training_leaves_a_report_and_can_be_repeated(executed):
    interrupted, value, again = executed(
        """
        import os, signal
        def interrupt(trainer):
            if len(watch._attachment.sessions) == 1:
                os.kill(os.getpid(), signal.SIGINT)  # as the button of the notebook does
        watch = GradWatch().attach(model)
        model.add_callback("on_train_epoch_end", interrupt)
        model.train(**{**options, "epochs": 3});
        """,
        "print(watch.report().status, sys.stdout is stdout)",
        "model.train(**options);",
        allow_errors=True,
    )
    *outputs, error = interrupted
    assert (error.output_type, error.ename) == ("error", "KeyboardInterrupt")
    _, page = split(outputs)
    assert_last_state(page, steps=2, verdict="2 optimizer steps were watched, interrupted")
    assert printed(value) == "interrupted True\n"
    _, page = split(again)
    assert_last_state(page, steps=2, verdict="2 optimizer steps were watched")
