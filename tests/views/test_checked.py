"""The numbers of a check and its screen."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from shown import YOLO, episode_of, finding_of, fitted_lines, level
from traced import flow_of, run_of
from values import LAWS, window
from watched import CONV, written

from yolo_gradwatch import load_run
from yolo_gradwatch.measure.arrays import FLOAT16_MAX, FLOAT32_MAX
from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.measure.loss_items import LossItem
from yolo_gradwatch.measure.trace import Call, Flow
from yolo_gradwatch.runs.writer import RunLog
from yolo_gradwatch.views.checked import (
    Cost,
    as_record,
    block_numbers,
    counted,
    loss_numbers,
    number_format,
    traced,
    untrained,
    updated,
    warming,
)
from yolo_gradwatch.views.terminal.check import cost_text, duration, screen

COST = Cost(0.25, 4, 2100, 100, 12 * 2**30, 24 * 2**30)
GROUP = {"lr": 0.01, "weight_decay": 0.0, "parameters": 3, "elements": 30}
OPTIMIZER = {"name": "SGD", "groups": [GROUP]}


def items_of(**means):
    return tuple(LossItem(name, 2, 0, 0, mean, mean, mean) for name, mean in means.items())


def test_numbers_of_the_blocks(tmp_path):
    run = run_of(tmp_path, (1, 2, 8))
    assert (traced(run), updated(run)) == ((1, 8), 20)
    blocks = block_numbers(run)
    assert [block.name for block in blocks] == ["model.0", "model.1", "model.2"]
    assert [block.rms for block in blocks] == [1, 2, 3]  # of the first call
    assert [block.gradient for block in blocks] == [1, 1, 1]
    assert [block.update for block in blocks] == [pytest.approx(0.02)] * 3
    assert [(block.largest, block.weight, block.zeros) for block in blocks] == [(1, 1, 0)] * 3


def test_blocks_have_numbers_of_the_first_and_last_trace(tmp_path):
    run = run_of(tmp_path, (), flows=[flow_of(1), flow_of(2, rms=7.0), flow_of(4, rms=5.0)])
    assert [(one.rms_first, one.rms) for one in block_numbers(run)] == [(1, 5), (2, 10), (3, 15)]


@pytest.mark.parametrize("part", ["model.1", "model.1.conv"])
@pytest.mark.parametrize(("largest", "found"), [(6e4, 6e4), (math.inf,) * 2, (math.nan, math.inf)])
def test_largest_output_is_over_all_parts_and_traces(tmp_path, part, largest, found):
    calls = (
        Call(1, "model.0", 1, "Conv", 8, 1.0, 2.0, 0.0, None, 1.0),
        Call(2, part, 1, "Conv", 8, 1.0, largest, 0.0, None, 1.0),
        Call(3, "model.10", 1, "Conv", 8, 1.0, 9e4, 0.0, None, 1.0),  # shares the prefix model.1
    )
    run = run_of(tmp_path, (), flows=[Flow(1, 1, calls), flow_of(2)])
    assert [one.largest for one in block_numbers(run)] == [2, pytest.approx(found), 1]


def test_run_without_windows_has_no_numbers(tmp_path):
    run = written(tmp_path, [])
    assert (traced(run), updated(run)) == ((0, 0), 0)
    assert all(math.isnan(one.rms) and math.isnan(one.gradient) for one in block_numbers(run))
    assert loss_numbers(run) == []
    assert warming(run) is None
    assert untrained(run).unused == ()


@pytest.mark.parametrize(
    ("asked", "fitted", "name", "end"),
    [
        (True, None, "float16", FLOAT16_MAX),
        (True, False, "float32", FLOAT32_MAX),
        (False, None, "float32", FLOAT32_MAX),
        ("bf16", False, "bfloat16", FLOAT32_MAX),
        ("fp16", True, "float16", FLOAT16_MAX),
    ],
)
def test_number_format_follows_amp(tmp_path, asked, fitted, name, end):
    changed = {} if fitted is None else {"fitted": {"amp": fitted}}
    run = written(tmp_path, [], options={"training": {"amp": asked, **changed}})
    assert tuple(number_format(run)) == (name, end)


def test_loss_items_have_their_share_of_the_sum(tmp_path):
    windows = [
        window(1, losses=items_of(box=1.0, cls=3.0, sum=4.0, **{"lr/0": 0.1})),
        window(2, losses=items_of(box=3.0, cls=1.0, sum=4.0, **{"lr/0": 0.2})),
    ]
    found = [(i.name, i.first, i.last, i.share) for i in loss_numbers(written(tmp_path, windows))]
    assert found == [("box", 1, 3, 0.5), ("cls", 3, 1, 0.5)]


@pytest.mark.parametrize(
    ("epoch", "rate", "epochs", "expected"),
    [
        (1, 0.004, 3.0, (0.004, 0.01)),
        (4, 0.004, 3.0, None),
        (1, 0.01, 3.0, None),
        (1, 0.1, 3.0, None),  # as for biases
        (1, 0.004, 0, None),
    ],
)
def test_rising_learning_rate_is_reported_as_warming(tmp_path, epoch, rate, epochs, expected):
    windows = [
        window(step, epoch=epoch, losses=items_of(box=1.0, **{"lr/0": rate * step / 3}))
        for step in (1, 2, 3)
    ]
    options = {"training": {"warmup_epochs": epochs}}
    run = written(tmp_path, windows, optimizer=OPTIMIZER, options=options)
    assert warming(run) == (expected and pytest.approx(expected))


def test_untrained_parameters_are_grouped_by_reason(tmp_path):
    optimizer = {
        **OPTIMIZER,
        "frozen": ["model.0.conv.weight", "model.0.bn.weight", "model.10.conv.weight"],
        "frozen_otherwise": ["model.1.conv.weight"],
        "outside": ["model.2.a.weight"],
        "zero_rate": ["model.2.b.weight"],
    }
    lost = ["model.1", "model.1.conv", "model.1.bn", "model.2.a"]
    windows = [window(step, none=lost) for step in (1, 2)]
    found = untrained(written(tmp_path, windows, optimizer=optimizer))
    assert found.frozen == ("model.0 (2)", "model.10 (1)")
    assert found.frozen_otherwise == ("model.1 (1)",)
    assert found.outside == ("model.2 (1)",)
    assert found.zero_rate == ("model.2 (1)",)
    assert found.unused == ("model.1", "model.2.a")


def test_module_that_had_a_gradient_once_is_not_unused(tmp_path):
    windows = [window(1, none=[CONV]), window(2), window(3, none=[CONV])]
    assert untrained(written(tmp_path, windows)).unused == ()


def test_estimated_time_of_the_whole_training():
    assert (COST.steps, COST.step_seconds, COST.total_seconds) == (52_500, 1.0, 52_500.0)
    unknown = replace(COST, seconds=None)
    assert (unknown.step_seconds, unknown.total_seconds) == (None, None)
    assert not cost_text(unknown)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        *((0.3123, "0.31 s"), (7.25, "7.2 s"), (45.0, "45 s"), (59.7, "60 s"), (61, "1 min")),
        *((3599, "1 h"), (12_000, "3 h 20 min"), (7200, "2 h"), (367_000, "4 d 6 h")),
        (172_800, "2 d"),
    ],
)
def test_duration(seconds, expected):
    assert duration(seconds) == expected


@pytest.mark.parametrize(
    ("number", "noun", "expected"),
    [(1, "batch", "1 batch"), (2, "batch", "2 batches"), (2, "epoch", "2 epochs")],
)
def test_counted(number, noun, expected):
    assert counted(number, noun) == expected


def test_record_is_json(tmp_path):
    run = run_of(tmp_path, (), flows=[flow_of(1), flow_of(2, rms=math.inf, gradient=math.nan)])
    record = json.loads(json.dumps(as_record(run, COST), allow_nan=False))
    assert record["cost"]["total_seconds"] == 52_500.0
    assert record["blocks"][0]["rms"] is None
    assert record["format"] == {"name": "float32", "end": pytest.approx(FLOAT32_MAX)}
    assert set(as_record(None, COST)) == {"cost"}


# --- the screen -----------------------------------------------------------------------------------


def yolo_run(folder, *, amp=True):
    """Thirty steps of YOLO26n with AMP, one block close to the largest float16."""
    windows = []
    for step in range(1, 31):
        losses = items_of(box_loss=3.0 - step / 50, cls_loss=5.0, dfl_loss=0.5)
        rates = items_of(**{"lr/0": step / 5000})
        one = window(step, layout=YOLO, losses=(*losses, *rates))
        norms = [level(block, step) if block else 40.0 for block in YOLO.block_of]
        ratios = np.full(len(norms), np.nan if step & (step - 1) else step / 1e5)
        one = replace(one, norm_mean=np.array(norms, np.float32))
        windows.append(replace(one, update_ratio=ratios.astype(np.float32)))
    training = {"model": "yolo26n.pt", "data": "my.yaml", "imgsz": 640, "batch": 16, "amp": amp}
    training |= {"device": "0", "warmup_epochs": 3.0}
    optimizer = {**OPTIMIZER, "frozen": [f"model.{block}.conv.weight" for block in range(3)]}
    written(folder, windows, YOLO, options={"training": training}, optimizer=optimizer)
    log = RunLog(folder, YOLO, resume=True)
    for step in (1, 30):
        calls = [
            Call(i, name, 1, kind, 8, 0.6, 61_000.0 if i == 9 else 12.0, 0.25, None, 1.0)
            for i, (name, kind) in enumerate(YOLO.blocks, 1)
        ]
        log.write_flow(Flow(1, step, tuple(calls)))
    log.close()
    return load_run(folder)


def on_screen(run, width, **changes):
    report = replace(run.report(), run=SimpleNamespace(), **changes)
    parts = screen(report, run, COST, width)
    return "\n\n".join(
        "\n".join(map(str.rstrip, fitted_lines(part, width))) for part in parts if part
    )


def test_screen(tmp_path, golden):
    run = yolo_run(tmp_path)
    finding = finding_of("vanishing", "model.4", severity="critical", episodes=(episode_of(),))
    for width in (80, 140):
        golden(f"check-{width}", f"{on_screen(run, width, findings=(finding,))}\n")


@pytest.mark.parametrize("width", [80, 140])
def test_screen_fits_the_terminal(tmp_path, width):
    lines = on_screen(yolo_run(tmp_path), width).splitlines()
    assert max(map(cell_len, lines)) <= width
    assert len(lines) < 50


def test_block_near_the_end_of_the_number_format_is_marked(tmp_path):
    text = screen(yolo_run(tmp_path).report(), yolo_run(tmp_path), COST, 140)[1]
    yellow = [span for span in text.spans if "yellow" in str(span.style)]
    assert {text.plain[span.start : span.end].strip() for span in yellow} == {"1.1", "low headroom"}


def test_headroom_of_outputs_is_shown_in_half_precision_only(tmp_path):
    for amp in (True, False):
        head = on_screen(yolo_run(tmp_path / str(amp), amp=amp), 140).partition("\nblock ")[2]
        assert ("headroom" in head.splitlines()[0]) == amp


def test_screen_without_a_run_has_verdict_and_cost(tmp_path):
    report = written(tmp_path, []).report()
    head, cost = screen(report, None, COST, 80)
    assert head.plain.startswith(f"GradWatch: {report.verdict}")
    assert "52,500 steps" in cost.plain


@LAWS
@given(width=st.one_of(st.none(), st.integers(40, 200)), amp=st.booleans())
@pytest.mark.slow
def test_screen_names_every_block_with_parameters(tmp_path_factory, width, amp):
    folder = tmp_path_factory.getbasetemp() / f"check-{amp}"
    run = load_run(folder) if folder.exists() else yolo_run(folder, amp=amp)
    text = "\n".join(part.plain for part in screen(run.report(), run, COST, width))
    named = [name for name, _ in YOLO.blocks if name in YOLO.modules]
    assert all(f"{name.removeprefix(f'{WHOLE}.')} " in text for name in named)
