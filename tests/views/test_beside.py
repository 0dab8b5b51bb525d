from dataclasses import replace

import numpy as np
import pytest
from shown import finding_of
from values import LAYOUT, Part, plan, window
from watched import CONV, written

from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.views import apart
from yolo_gradwatch.views.beside import APART, COLUMNS, beside
from yolo_gradwatch.views.compare import modules_of
from yolo_gradwatch.views.heatmap import COLOURS, FINE, NONFINITE

B0, B1, HEAD = ("model.0", "model.1", "model.2")


def run_of(  # noqa: PLR0913  # one argument per difference between runs
    folder, norms, *, layout=LAYOUT, planned=4, status="finished", faults=None
):
    """A run with a window per step, four per epoch; norms per step, for all modules or by name."""
    windows = []
    for i, norm in enumerate(norms):
        one = window(i + 1, epoch=i // 4 + 1, layout=layout, **(faults or {}).get(i + 1, {}))
        of = norm if isinstance(norm, dict) else dict.fromkeys(layout.modules, norm)
        own = zip(layout.modules, one.norm_mean, strict=True)
        values = [of.get(name, norm) for name, norm in own]
        values = np.where(np.isnan(one.norm_mean), np.nan, values).astype(np.float32)
        windows.append(replace(one, norm_mean=values))
    options = {"training": {"epochs": planned}}
    return written(folder, windows, layout, options=options, status=status)


def pictured(*runs, findings=((), ()), blocks=True):
    reports = [replace(r.report(), findings=tuple(f)) for r, f in zip(runs, findings, strict=True)]
    return beside(runs, tuple(reports), modules_of(runs, blocks=blocks))


def test_runs_of_different_lengths_are_aligned_by_share(tmp_path):
    a = run_of(tmp_path / "a", [1.0] * 8 + [100.0] * 8)
    b = run_of(tmp_path / "b", [1.0] * 8, planned=2)
    picture = pictured(a, b)
    assert picture.names == (WHOLE, B0, B1, HEAD)
    assert picture.labels == ("whole model", "0 Block", "1 Block", "2 Block")
    half = COLUMNS // 2
    assert (picture.sides[0].levels[:, :half] == 0).all()
    assert (picture.sides[0].levels[:, half:] == 2).all()
    assert (picture.apart[:, :half] == 0).all()
    assert (picture.apart[:, half:] == -2).all()
    assert picture.span == pytest.approx(2)
    assert picture.shared == (0, 1)
    assert {row: one.decades for row, one in picture.farthest.items()} == dict.fromkeys(
        range(4), -2
    )
    assert {(one.begin, one.end) for one in picture.farthest.values()} == {(0.5, 0.6)}
    assert apart.limits(picture) == []


def test_crashed_run_is_compared_over_the_common_share(tmp_path):
    a, b = run_of(tmp_path / "a", [1.0] * 16), run_of(tmp_path / "b", [9.0] * 6, status="failed")
    picture = pictured(a, b)
    assert picture.shared == pytest.approx((0, 6 / 16))
    known = np.isfinite(picture.apart)
    assert (known == picture.both).all()
    assert known[0].sum() == COLUMNS * 6 // 16
    assert {one.end <= 0.4 for one in picture.farthest.values()} == {True}
    (sentence,) = apart.limits(picture)
    assert "38%" in sentence
    assert "epoch 2 of 4" in sentence


def test_runs_without_a_common_share_are_not_compared(tmp_path):
    early, empty = run_of(tmp_path / "a", [1.0] * 4, status="failed"), run_of(tmp_path / "b", [])
    picture = pictured(early, empty)
    assert not picture.both.any()
    assert picture.farthest == {}
    assert apart.differences(picture) == []
    assert len(apart.limits(picture)) == 1


def test_blocks_missing_in_one_run_or_of_another_class_are_labelled(tmp_path):
    other, _ = plan([*map(Part, ("model.0.conv", "model.2.a", "model.3.conv"))])
    kinds = tuple(
        "Own" if name == B0 else kind for name, kind in zip(other.modules, other.types, strict=True)
    )
    other = replace(other, types=kinds, blocks=((B0, "Own"), *other.blocks[1:]))
    a, b = run_of(tmp_path / "a", [1.0] * 4), run_of(tmp_path / "b", [1.0] * 4, layout=other)
    picture = pictured(a, b)
    assert picture.names == (WHOLE, B0, B1, HEAD, "model.3")
    assert picture.labels[1] == "0 Block | Own"
    assert [side.has.tolist() for side in picture.sides] == [
        [True, True, True, True, False],
        [True, True, False, True, True],
    ]
    assert sorted(picture.farthest) == [0, 1, 3]
    only_a, only_b = (line for line in apart.limits(picture) if line.startswith("Only"))
    assert (B1 in only_a, "model.3" in only_b) == (True, True)


def test_findings_are_marked_in_their_rows_and_shares(tmp_path):
    a, b = run_of(tmp_path / "a", [1.0] * 16), run_of(tmp_path / "b", [1.0] * 16)
    inner = finding_of("dead", CONV, modules=(CONV, "model.0.conv"), step=5, step_end=9)
    whole = finding_of("spike", WHOLE, number=2, step=13, severity="warning")
    picture = pictured(a, b, findings=((), (inner, whole, finding_of(severity="notice"))))
    one, other = picture.sides
    assert one.spans == ()
    assert [(s.rows, s.begin, s.end) for s in other.spans] == [((2, 1), 0.25, 0.5), ((0,), 0.75, 1)]
    assert [other.number(span) for span in other.spans] == ["B1", "B2"]


def test_cell_without_a_norm_has_no_difference(tmp_path):
    a = run_of(tmp_path / "a", [1.0] * 4, planned=1)
    b = run_of(tmp_path / "b", [1.0] * 4, planned=1, faults={3: {"nonfinite": [B1]}})
    picture = pictured(a, b)
    half, three = COLUMNS // 2, 3 * COLUMNS // 4
    states = picture.states_apart
    assert set(states[2, half:three]) == {NONFINITE}
    assert np.isnan(picture.apart[2, half:three]).all()
    states[2, half:three] = FINE
    assert set(states.ravel()) == {FINE}
    lines = apart.differences(picture)
    assert [line for line in lines if B1 in line and "NaN or Inf in B" in line and "50%" in line]


def test_neighbouring_blocks_that_differ_are_named_as_a_range(tmp_path):
    low = {B0: 1e-4, "model.0.conv": 1e-4, B1: 2e-4, HEAD: 1.0, WHOLE: 1.0}
    picture = pictured(run_of(tmp_path / "a", [1.0] * 8), run_of(tmp_path / "b", [low] * 8))
    (sentence,) = apart.differences(picture)
    assert sentence.startswith("model.0 to model.1: ")
    assert "times weaker in B" in sentence
    near = pictured(run_of(tmp_path / "c", [1.0] * 8), run_of(tmp_path / "d", [1.5] * 8))
    assert max(abs(one.decades) for one in near.farthest.values()) < APART
    assert len(apart.differences(near)) == 1


@pytest.mark.parametrize(
    ("decades", "words"), [(0, "same"), (4, "\u00d7 10,000"), (-0.5, "÷ 3.2"), (-1e9, "÷ 1e+99")]
)
def test_factor(decades, words):
    assert apart.factor(decades) == words


@pytest.mark.slow
def test_picture_has_numbers_frames_and_labels(tmp_path):
    png = pytest.importorskip("yolo_gradwatch.views.png.beside")
    found = finding_of("dead", CONV, step=5, step_end=9)
    a = run_of(tmp_path / "a", [1.0] * 16)
    b = run_of(tmp_path / "b", [100.0] * 12, status="failed")
    picture = pictured(a, b, findings=((), (found,)))
    figure = png.draw(picture)
    assert figure.get_figwidth() * figure.dpi == 1000
    one, other, difference = figure.axes[:3]
    assert [len(axes.patches) for axes in (one, other, difference)] == [0, 1, 1]
    (frame,) = difference.patches
    assert (frame.get_x(), frame.get_y()) == pytest.approx((0.25, 1.5))
    assert (frame.get_width(), frame.get_height()) == pytest.approx((0.25, 1))
    assert {text.get_text() for text in difference.texts} >= {"B1", "\u00d7 100"}
    assert "failed at 75%" in {text.get_text() for text in other.texts}
    assert {*picture.labels} <= {text.get_text() for text in one.texts}
    assert difference.images[0].get_array().shape == (4, COLUMNS, 4)
    above = [text.get_text() for text in figure.texts]
    assert set(apart.sentences(picture)) <= set(above)
    (line,) = [text for text in figure.texts if "B1  critical dead" in text.get_text()]
    assert line.get_color() == COLOURS["critical"]
    assert "no optimizer step was watched" in {
        text.get_text()
        for text in png.draw(pictured(run_of(tmp_path / "c", []), run_of(tmp_path / "d", []))).texts
    }


def test_figure_of_the_page_has_the_same_panels_in_both_widths(tmp_path):
    html = pytest.importorskip("yolo_gradwatch.views.html.beside")
    found = finding_of("dead", CONV, step=5, step_end=9)
    a = run_of(tmp_path / "a", [1.0] * 16)
    b = run_of(tmp_path / "b", [100.0] * 12, status="failed")
    picture = pictured(a, b, findings=((found,), ()))
    figure, covers = html.figure(picture), html.covers(picture)
    assert [trace["yaxis"] for trace in figure["data"]] == ["y", "y2", "y3"] * 2
    missing = len(html.COVERS)
    assert (covers[1][:, -COLUMNS // 4 :] == missing).all()
    assert (covers[2] == covers[1]).all()
    assert not covers[0].any()
    for layout in (figure["wide"], figure["narrow"]):
        assert [s["xref"] for s in layout["shapes"]] == ["x", "x3"]
        assert {(s["x0"], s["x1"], s["y0"], s["y1"]) for s in layout["shapes"]} == {
            (0.25, 0.5, 1.5, 2.5)
        }
        assert [a["text"] for a in layout["annotations"] if a["text"] == "A1"] == ["A1"] * 2
    assert figure["wide"]["yaxis3"]["ticktext"] == ["<b>\u00d7 100</b>"] * 4
