"""The newest trace as shown by ``review --flow``."""

import math
from dataclasses import replace

import pytest
from commands import outcome, printed
from hypothesis import given
from hypothesis import strategies as st
from shown import fitted_lines
from values import LAYOUT, window, write_run

from yolo_gradwatch.measure.trace import Call, Flow
from yolo_gradwatch.runs.schema import FLOW_FILE
from yolo_gradwatch.runs.writer import RunLog
from yolo_gradwatch.views.terminal.flow import flow_text

CALLS = [
    ("model.0.conv", 1, "Conv2d", 0.352, 1.43, 0.0, None, 203.0),
    ("model.0.bn", 1, "BatchNorm2d", 0.953, 6.88, 0.0, None, 22.3),
    ("model.0.act", 1, "SiLU", 0.551, 5.29, 0.9999, None, 3.1e-7),
    ("model.0", 1, "Conv", 0.551, 5.29, 1.0, None, 0.0),
    ("model.22.one2one_cv3.2.0.1.conv", 1, "LoRACompatibleConv2d", 0.1, 1.0, 0.25, None, None),
    ("model.0.act", 2, "SiLU", math.nan, math.nan, 1e-6, None, math.nan),
    ("model.22", 1, "Detect", math.inf, math.inf, 0.0, None, math.inf),
]
FLOW = Flow(3, 1024, tuple(Call(n, *one[:3], 4096, *one[3:]) for n, one in enumerate(CALLS, 1)))
GATE = Call(8, "model.23.gate", 1, "Sigmoid", 8, 0.7, 1.0, 0.0, 0.75, 1.5)
HEALTHY = Flow(1, 1, (*FLOW.calls[:4], GATE))


def rendered(flow, width, calls=None):
    lines = fitted_lines(flow_text(flow, calls or flow.calls, width), width)
    return "\n".join(map(str.rstrip, lines)) + "\n"


@pytest.mark.parametrize("width", [80, 140])
def test_trace_on_a_terminal(golden, width):
    golden(f"flow-{width}", rendered(FLOW, width) + "\n" + rendered(HEALTHY, width))


@given(st.integers(60, 200))
def test_text_fits_the_terminal_and_loses_no_number(width):
    text = rendered(FLOW, width)
    assert max(map(len, text.splitlines())) <= width
    flat = " ".join(text.split())
    for words in ("203", "3.1e-07", "NaN", "Inf", "100%", "99.9%", "25.0%", "0.1%", "6.88"):
        assert words in flat


def test_first_nonfinite_call_is_named_and_marked():
    text = flow_text(FLOW, FLOW.calls, 140)
    line = text.plain.splitlines()[1]
    assert "model.0.act" in line
    assert "call 2" in line
    assert "model.22.one2one_cv3.2.0.1.conv" in line
    marked = {text.plain[s.start : s.end].strip() for s in text.spans if s.style == "bold red"}
    assert {line, "model.0.act", "SiLU"} <= marked
    assert "model.22" not in marked
    assert "finite" not in flow_text(HEALTHY, HEALTHY.calls, 140).plain


def test_first_nonfinite_call_is_named_even_if_not_selected():
    text = flow_text(FLOW, FLOW.calls[:1], None).plain
    assert "model.0.act" in text
    assert "model.0.bn" not in text


def test_nonfinite_first_call_has_no_predecessor():
    flow = Flow(1, 1, (replace(FLOW.calls[5], order=1), *FLOW.calls[6:]))
    assert "after" not in flow_text(flow, flow.calls, None).plain.splitlines()[1]


def test_control_characters_are_replaced():
    flow = Flow(1, 1, (replace(FLOW.calls[5], module="a\x1b[2Jb", type="\x07"),))
    assert not {"\x1b", "\x07"} & set(flow_text(flow, flow.calls, None).plain)


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    write_run(tmp_path, [window(1)])
    log = RunLog(tmp_path, LAYOUT, resume=True)
    log.write_flow(HEALTHY)
    log.write_flow(FLOW)
    log.close()
    return tmp_path


def test_newest_trace_is_shown(run):
    assert printed("review", run, "--flow") == shown_by_review(FLOW, FLOW.calls)


def shown_by_review(flow, calls):
    return flow_text(flow, calls, None, [HEALTHY.step, FLOW.step]).plain + "\n"


def test_older_trace_is_selected_by_its_epoch(run):
    expected = shown_by_review(HEALTHY, HEALTHY.calls)
    assert printed("review", run, "--flow", "--epochs", "1:2") == expected


def test_modules_can_be_selected(run):
    text = printed("review", run, "--flow", "--module", "model.0*")
    calls = [call for call in FLOW.calls if call.module.startswith("model.0")]
    assert len(calls) == 5
    assert text == shown_by_review(FLOW, calls)


@pytest.mark.parametrize(
    "options", [["--csv"], ["--json"], ["--module", "nothing.*"], ["--epochs", "2:2"]], ids=" ".join
)
def test_invalid_selections_and_formats_are_refused(run, options):
    code, out, err = outcome("review", run, "--flow", *options)
    assert (code, out) == (2, "")
    assert options[0] in err or "flow.csv" in err or "steps 1, 1,024" in err


def test_run_without_a_trace_is_refused(run):
    (run / FLOW_FILE).unlink()
    code, out, err = outcome("review", run, "--flow")
    assert (code, out) == (2, "")
    assert "flow.csv" in err


def test_damaged_table_is_refused_but_the_review_still_works(run):
    path = run / FLOW_FILE
    path.write_bytes(path.read_bytes().replace(b"Conv2d,4096", b"Conv2d,many", 1))
    code, out, err = outcome("review", run, "--flow")
    assert (code, out) == (2, "")
    assert "line 2" in err
    assert outcome("review", run)[0] == 0
