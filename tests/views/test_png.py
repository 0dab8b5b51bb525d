import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import colormaps, style
from matplotlib.colors import to_rgba
from PIL import Image
from shown import ODD, episode_of, finding_of
from values import LAWS, Part, plan, window, write_run
from watched import CONV, DEAD, watch

from yolo_gradwatch import load_run
from yolo_gradwatch.runs import results
from yolo_gradwatch.runs.results import Curves
from yolo_gradwatch.views import heatmap as heatmaps
from yolo_gradwatch.views.heatmap import (
    COLOURS,
    FINE,
    NONE,
    NONFINITE,
    STATES,
    UNKNOWN,
    WEAK,
    WEAK_ZERO,
    ZERO,
    Heatmap,
    Mark,
    Moment,
    decade,
)
from yolo_gradwatch.views.merged import merged
from yolo_gradwatch.views.png import figure as png
from yolo_gradwatch.views.timeline import Timeline

pytestmark = pytest.mark.slow  # draws pictures

ALL_STATES = (FINE, NONFINITE, ZERO, NONE, UNKNOWN)


NO_CURVES = Curves(np.zeros(0, np.int64), {}, {}, {})


def picture_of(states, *, levels=None, marks=(), totals=10.0, names=None, **changes):
    """A heat map with these states, one step per column.

    Its colours span the lowest to the highest level, but at least two decades.
    """
    states = np.atleast_2d(np.array(states, np.uint8))
    rows, columns = states.shape
    levels = np.zeros((rows, columns)) if levels is None else np.array(levels, float)
    levels = np.where(states == FINE, levels, np.nan)
    steps = np.arange(1, columns + 1)
    names = names or tuple(f"model.{i}" for i in range(rows))
    known = levels[np.isfinite(levels)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 0.0)
    picture = Heatmap(
        names=names,
        labels=names,
        epoch=np.ones(columns, np.int64),
        step_first=steps,
        step_last=steps,
        norms=10.0**levels,
        levels=levels,
        states=states,
        totals=np.full((3, columns), totals),
        limits=(low, max(high, low + 2)),
        weak=np.zeros(rows, np.bool_),
        clip=10.0,
        clipped=np.ones((2, columns)),
        skipped=np.zeros(columns),
        marks=tuple(marks),
        moments=(),
        curves=NO_CURVES,
    )
    return replace(picture, **changes)


@pytest.fixture
def report(tmp_path):
    watch(tmp_path, DEAD)
    return load_run(tmp_path).report()


def colours_of(figure, columns):
    """(R, C, 4) colours at the centres of this number of equal columns of the heat map."""
    pixels = np.asarray(figure.axes[0].images[0].get_array())
    middles = (np.arange(columns) + 0.5) / columns * pixels.shape[1]
    return pixels[:, middles.astype(int)]


def texts_of(figure):
    """Every text of a figure outside its axes."""
    return [text.get_text() for text in figure.texts]


def axes_texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_each_state_has_its_own_colour(report):
    figure = png.draw(picture_of([ALL_STATES]), report)
    colours = colours_of(figure, len(ALL_STATES))[0]
    for cell, state in zip(colours, ALL_STATES, strict=True):
        if state != FINE:
            np.testing.assert_allclose(cell, to_rgba(STATES[state][1]))
    assert len({tuple(cell) for cell in colours}) == len(ALL_STATES)


def test_legend_names_the_states_in_the_picture(report):
    (legend,) = png.draw(picture_of([[FINE, ZERO, NONE]]), report).legends
    assert [text.get_text() for text in legend.get_texts()] == ["exactly zero", "no gradient"]
    assert png.draw(picture_of([[FINE, FINE]]), report).legends == []


def test_higher_norm_is_brighter(report):
    levels = [[-6.0, -3.0, 0.0, 2.0]]
    cells = colours_of(png.draw(picture_of([[FINE] * 4], levels=levels), report), 4)[0]
    brightness = cells[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(brightness) > 0).all()


def test_level_below_the_colours_has_its_own_colour_in_weak_rows(report):
    levels = [[0.0, -9.0, 0.0], [0.0, -9.0, 0.0]]
    weak = np.array([False, True])
    states = [[FINE, FINE, ZERO]] * 2
    picture = picture_of(states, levels=levels, limits=(-1.0, 1.0), weak=weak)
    figure = png.draw(picture, report)
    cells = colours_of(figure, 3)
    np.testing.assert_allclose(cells[1, 1], to_rgba(WEAK[1]))
    np.testing.assert_allclose(cells[0, 1], colormaps["viridis"](0.0))
    np.testing.assert_allclose(cells[1, 0], cells[0, 0])
    np.testing.assert_allclose(cells[0, 2], to_rgba(STATES[ZERO][1]))
    np.testing.assert_allclose(cells[1, 2], to_rgba(WEAK_ZERO[1]))
    (legend,) = figure.legends
    words = [text.get_text() for text in legend.get_texts()]
    assert words == [STATES[ZERO][0], WEAK[0], WEAK_ZERO[0]]
    (legend,) = png.draw(replace(picture, weak=np.array([True, True])), report).legends
    assert [text.get_text() for text in legend.get_texts()] == [WEAK[0], WEAK_ZERO[0]]


def test_colour_labels_are_readable_powers_of_ten(report):
    assert [decade(level) for level in range(-5, 6)] == [
        *("1e-5", "1e-4", "1e-3", "1e-2", "1e-1", "1", "10", "100", "1000", "1e4", "1e5")
    ]
    assert decade(-0.0) == "1"
    figure = png.draw(picture_of([[FINE] * 2], levels=[[-3.5, 4.5]]), report)
    labels = [label.get_text() for label in figure.axes[-1].get_yticklabels()]
    assert labels == ["1e-3", "1e-1", "10", "1000"]


WIDTHS = st.lists(st.integers(1, 400), min_size=1, max_size=40)


@LAWS
@given(WIDTHS, st.integers(0, 2**32 - 1))
def test_merged_column_keeps_the_worst_state(widths, seed):
    rng = np.random.default_rng(seed)
    states = rng.choice(ALL_STATES, (2, len(widths)), p=[0.6, 0.1, 0.1, 0.1, 0.1])
    last = np.cumsum(widths)
    begin, end = Timeline(last - widths + 1, last).columns(30)
    _, found = merged(np.zeros(states.shape), states, begin, end)
    order = (NONFINITE, ZERO, NONE, FINE, UNKNOWN)
    for row in range(2):
        for i, state in enumerate(found[row]):
            there = set(states[row, begin[i] : end[i]].tolist())
            assert state == next(one for one in order if one in there)


def test_level_of_a_merged_column_is_the_mean_of_known_levels(report):
    rng = np.random.default_rng(0)
    states = rng.choice([FINE, UNKNOWN], (3, 2000))
    picture = picture_of(states, levels=rng.normal(size=(3, 2000)))
    begin, end = Timeline(picture.step_first, picture.step_last).columns(300)
    levels, _ = merged(picture.levels, picture.states, begin, end)
    for row in range(3):
        for i, level in enumerate(levels[row]):
            part = picture.levels[row, begin[i] : end[i]]
            part = part[~np.isnan(part)]
            assert level == pytest.approx(part.mean()) if len(part) else np.isnan(level)


def test_finding_is_framed_and_listed(report):
    finding = finding_of("dead", "model.1", modules=("model.1", "model.0"), step=3, step_end=6)
    mark = Mark(finding, rows=(1, 0), first=2, last=4)
    figure = png.draw(picture_of([[FINE] * 8] * 3, marks=[mark]), report)
    own, others = figure.axes[0].patches
    assert (own.get_x(), own.get_y()) == pytest.approx((2 / 8, 0.5))
    assert (own.get_width(), own.get_height()) == pytest.approx((3 / 8, 1))
    assert (others.get_x(), others.get_y()) == pytest.approx((2 / 8, -0.5))
    assert own.get_linewidth() > others.get_linewidth()
    assert own.get_edgecolor() == others.get_edgecolor() == to_rgba(COLOURS["critical"])
    assert "1" in axes_texts(figure)
    (line,) = [text for text in texts_of(figure) if text.startswith("1  critical dead in model.1")]
    assert "from step 3 to step 6, 1 more" in line
    ink = {text.get_text(): text.get_color() for text in figure.axes[0].texts}
    assert ink["model.1"] == COLOURS["critical"]
    assert ink["model.0"] == ink["model.2"] == "black"


def test_frame_of_a_container_surrounds_its_modules(report):
    names = ("model.0", "model.0.conv", "model.0.bn", "model.1", "model.1.conv", "model.10")
    mark = Mark(finding_of("dead", "model.1"), rows=(3, 0), first=0, last=3)
    figure = png.draw(picture_of([[FINE] * 4] * 6, marks=[mark], names=names), report)
    spans = [(frame.get_y(), frame.get_height()) for frame in figure.axes[0].patches]
    assert spans == [(2.5, 2), (-0.5, 3)]


def test_overlapping_and_short_findings_stay_visible(report):
    marks = [Mark(finding_of(number=n), (0,), 900, 900) for n in (1, 2, 3)]
    figure = png.draw(picture_of([[FINE] * 3000], marks=marks), report)
    places = [t.get_position() for t in figure.axes[0].texts if t.get_text() in {"1", "2", "3"}]
    assert len(set(places)) == 3
    frames = [patch for patch in figure.axes[0].patches if not patch.get_fill()]
    assert len(frames) == 3
    assert all(frame.get_width() >= 0.003 for frame in frames)


def test_each_episode_has_a_frame_and_the_finding_one_line(report):
    finding = finding_of("dead", "model.1", episodes=(episode_of(2, 4), episode_of(6, 8)))
    first, second = (Mark(finding, (1,), at, at + 1) for at in (1, 5))
    other = Mark(finding_of(number=2, step=4), (0,), 3, 4)
    figure = png.draw(picture_of([[FINE] * 9] * 3, marks=[first, other, second]), report)
    frames = [(frame.get_x(), frame.get_width()) for frame in figure.axes[0].patches]
    assert frames == [pytest.approx((at / 9, 2 / 9)) for at in (1, 3, 5)]
    lines = [text for text in texts_of(figure) if "critical" in text and text[0] in "12"]
    assert [line[0] for line in lines] == ["1", "2"]
    assert lines[0] == "1  critical dead in model.1 from step 2 to step 4, from step 6 to step 8"
    assert axes_texts(figure).count("1") == 2


def test_finding_on_the_whole_model_is_marked_in_its_strip(report):
    mark = Mark(finding_of("spike", "model", severity="warning", step=2), (), 1, 1)
    figure = png.draw(picture_of([[FINE] * 4], marks=[mark], totals=400.0), report)
    assert not figure.axes[0].patches
    (number,) = [text for text in figure.axes[1].texts if text.get_text() == "1"]
    assert number.get_position()[0] == pytest.approx(1 / 4)
    assert any(line.get_color() == COLOURS["warning"] for line in figure.axes[1].lines)


def test_at_most_ten_findings_are_listed(report):
    marks = [Mark(finding_of(number=n, step=n), (0,), n - 1, n - 1) for n in range(1, 14)]
    texts = texts_of(png.draw(picture_of([[FINE] * 20], marks=marks), report))
    assert sum("critical nonfinite" in text for text in texts) == 10
    assert "… and 3 more" in texts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        *((0, 0), (3, 0), (1, 1), (24, 1500), (434, 20)),
        pytest.param(3000, 40, marks=pytest.mark.full),
    ],
)
def test_every_size_can_be_drawn(report, tmp_path, rows, columns):
    states = np.full((rows, columns), FINE)
    path = tmp_path / "picture.png"
    png.write(picture_of(states), report, path)
    with Image.open(path) as image:
        assert image.width == 1300
        assert image.height < 10_000
    texts = texts_of(png.draw(picture_of(states), report))
    assert ("no optimizer step was watched" in texts) == (columns == 0)
    assert f"{tmp_path.parent.name}/{tmp_path.name}"[:20] in texts[0]
    assert texts[1] == report.verdict


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 60, 61])
def test_texts_do_not_overlap_or_leave_the_picture(report, rows):
    marks = [Mark(finding_of(module="model.0"), (0,), 0, 0)]
    names = tuple(f"model.{i}.cv2.1.conv" for i in range(rows))
    figure = png.draw(picture_of([[FINE]] * rows, names=names, marks=marks), report)
    heat, boxes = figure.axes[0], [text.get_window_extent() for text in figure.texts]
    assert len(boxes) >= 3  # title, verdict, finding
    boxes.append(heat.child_axes[0].get_tightbbox())  # the epochs above the heat map
    names = [text.get_window_extent() for text in heat.texts[:rows]]
    assert all(a.y0 >= b.y1 for lines in (boxes, names) for a, b in pairwise(lines))
    assert min(box.x0 for box in (*boxes, *names)) >= 0


def test_window_of_skipped_steps_leaves_a_gap(report):
    picture = picture_of([[FINE, UNKNOWN, FINE]])
    totals = np.array([[1.0, np.nan, 1.0]] * 3)
    figure = png.draw(replace(picture, totals=totals, skipped=np.array([0.0, 1.0, 0.0])), report)
    (line, _) = figure.axes[1].lines
    assert np.isnan(line.get_ydata()).tolist() == [False, False, True, True, False, False]
    assert filled(figure.axes[2])[-1] == {(0.0, 1.0), (1 / 3, 2 / 3)}


def filled(axes):
    """For each area of a strip of shares: its width, and the span in which it is full."""
    found = []
    for area in axes.collections:
        (path,) = area.get_paths()
        full = [x for x, y in path.vertices if y == 1]
        x = path.vertices[:, 0]
        found.append({(x.min(), x.max()), (min(full), max(full))} if full else set())
    return found


def titles_of(figure):
    return [axes.get_ylabel() for axes in figure.axes[1:-1]]


def test_strips_without_numbers_are_left_out(report):
    picture = picture_of([[FINE] * 3])
    one = {"a": np.array([1.0, 2.0])}
    epochs = np.array([1, 2])
    assert len(titles_of(png.draw(picture, report))) == 2
    for curves, count in (
        (Curves(epochs, one, {}, {}), 3),
        (Curves(epochs, {}, one, {}), 3),
        (Curves(epochs, one, one, one), 5),
    ):
        figure = png.draw(replace(picture, curves=curves), report)
        assert len(titles_of(figure)) == count
        assert figure.get_figheight() > png.draw(picture, report).get_figheight()


def test_curves_are_flat_within_an_epoch(report):
    curves = Curves(np.array([1, 2, 3]), {"box": np.array([4.0, np.nan, 2.0])}, {}, {})
    epoch = np.array([1, 1, 2, 3])
    figure = png.draw(picture_of([[FINE] * 4], epoch=epoch, curves=curves), report)
    (line,) = figure.axes[3].lines
    x, y = line.get_data()
    np.testing.assert_allclose(x, [0, 0.5, 0.5, 0.75, 0.75, 1])
    np.testing.assert_array_equal(y, [4, 4, np.nan, np.nan, 2, 2])
    assert "box" in [text.get_text() for text in figure.axes[3].texts]


def test_scores_are_drawn_at_the_end_of_their_epoch(report):
    curves = Curves(np.array([1, 2, 9]), {}, {}, {"mAP": np.array([np.nan, 0.5, 0.6])})
    epoch = np.array([1, 1, 2, 2])  # no window in epoch 9
    figure = png.draw(picture_of([[FINE] * 4], epoch=epoch, curves=curves), report)
    assert figure.axes[3].lines[0].get_xydata().tolist() == [[1.0, 0.5]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "values", [[0.0, 0.0], [1e-9, 1.0], [-1.0, 2.0], [-2.0, -1.0], [1e300, 1e-300], [np.nan, 3.0]]
)
def test_curves_of_any_magnitude_are_drawn(report, values):
    curve = {"x": np.array(values)}
    curves = Curves(np.array([1, 2]), curve, curve, curve)
    epoch = np.array([1, 2])
    figure = png.draw(picture_of([[FINE] * 2], epoch=epoch, curves=curves), report)
    figure.canvas.draw()
    for axes in figure.axes[3:6]:
        low, high = axes.get_ylim()
        heights = axes.lines[0].get_ydata()
        assert np.isfinite(heights).any()
        assert low <= np.nanmin(heights) <= np.nanmax(heights) <= high
        assert all(label.get_text() for label in axes.get_yticklabels())


def test_uncertain_share_is_drawn_as_a_labelled_range(report):
    known = png.draw(picture_of([[FINE] * 2], clipped=np.array([[0.5, 1], [0.5, 1]])), report)
    wide = png.draw(picture_of([[FINE] * 2], clipped=np.array([[0.1, 1], [0.9, 1]])), report)
    words = [[text.get_text() for text in figure.axes[2].texts] for figure in (known, wide)]
    assert set(words[0]) < set(words[1])
    assert "unknown" in " ".join(words[1])
    heights = [
        {round(y, 3) for y in area.get_paths()[0].vertices[:, 1]}
        for area in wide.axes[2].collections
    ]
    assert 0.9 in heights[0]
    assert 0.1 in heights[1]


def test_moments_are_labelled_lines_through_all_parts(report):
    moments = (Moment(3, "resumed"), Moment(7, "mosaic closed"))
    figure = png.draw(picture_of([[FINE] * 8], moments=moments), report)
    for axes in figure.axes[:3]:
        places = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"]
        assert set(places) >= {2.5 / 8, 6.5 / 8}
    assert {"resumed", "mosaic closed"} <= set(axes_texts(figure))


@pytest.mark.parametrize(("steps", "bands"), [(1400, 1), (48, 0)])
def test_long_run_has_a_break_after_its_first_steps_in_all_parts(report, steps, bands):
    epoch = np.arange(steps) // 70 + 1
    figure = png.draw(picture_of([[FINE] * steps], epoch=epoch), report)
    for axes in figure.axes[:3]:
        white = [patch for patch in axes.patches if patch.get_facecolor() == to_rgba("white")]
        assert len(white) == bands
    assert ("first 50 steps" in axes_texts(figure)) == bool(bands)
    ticks = [label.get_text() for label in figure.axes[2].get_xticklabels()]
    long = ["1", "20", "40", *(f"{step:,}" for step in range(200, 1401, 200))]
    assert (ticks == long) == bool(bands)


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_drawn_verbatim(report, tmp_path, name):
    mark = Mark(finding_of("dead", name), (0,), 0, 0)
    picture = picture_of([[FINE]], names=(name,), marks=[mark])
    png.write(picture, replace(report, run=tmp_path / "$x$" / "[run]"), tmp_path / "p.png")
    figure = png.draw(picture, report)
    label = figure.axes[0].texts[0]
    assert label.get_text() == (name if len(name) < 50 else f"{'a' * 23}…{'a' * 24}")
    assert not label.get_parse_math()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ODD, "\x00", "\x1b[31m", "\x7f\u202e"])
def test_columns_of_results_with_odd_names_are_drawn(report, tmp_path, name):
    text = f"epoch,train/{name},lr/{name},metrics/mAP50({name}\n1,1,2,3\n"
    (tmp_path / "results.csv").write_text(text, encoding="utf-8")
    png.write(picture_of([[FINE]], curves=results.read(tmp_path)), report, tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 5000


def test_odd_module_names_read_from_files_are_drawn(tmp_path):
    layout, _ = plan([Part("$a.b$"), Part("c,<d>.e")])
    run = load_run(write_run(tmp_path, [window(1, layout=layout)], layout))
    picture = heatmaps.heatmap(run, run.report(), modules=True)
    png.write(picture, run.report(), tmp_path / "p.png")
    assert picture.names == layout.modules[1:]


def test_failed_write_keeps_the_old_picture(report, tmp_path, monkeypatch):
    path = tmp_path / "gradwatch.png"
    path.write_bytes(b"old")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        png.write(picture_of([[FINE]]), report, path)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir() if "png" in file.name] == ["gradwatch.png"]


def test_global_state_of_matplotlib_is_unchanged(tmp_path):
    watch(tmp_path, DEAD)
    code = f"""
import sys, matplotlib
before = matplotlib.rcParams.copy()
from yolo_gradwatch.cli.main import main
assert main(["review", {str(tmp_path)!r}, "--plot", "--modules"]) == 0
assert matplotlib.rcParams.copy() == before
assert "matplotlib.pyplot" not in sys.modules
assert "torch" not in sys.modules and "ultralytics" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_frame_of_a_finding_is_visible_in_the_file(tmp_path):
    watch(tmp_path, DEAD)
    run = load_run(tmp_path)
    path = tmp_path / "p.png"
    png.write(heatmaps.heatmap(run, run.report(), modules=True), run.report(), path)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert CONV in run.report().alarms[0].module
    assert (pixels == (209, 0, 28)).all(axis=2).any()
    assert (pixels == 0).all(axis=2).sum() > 1000  # cells that are exactly zero


def test_matplotlib_settings_of_the_user_are_ignored(report, tmp_path):
    marks = [Mark(finding_of(), (0, 1), 0, 1), Mark(finding_of("spike", "model"), (), 1, 1)]
    picture = picture_of([ALL_STATES, ALL_STATES], marks=marks)
    png.write(picture, report, tmp_path / "plain.png")
    with style.context(["dark_background", {"text.usetex": True}]):
        png.write(picture, report, tmp_path / "styled.png")
    with Image.open(tmp_path / "plain.png") as one, Image.open(tmp_path / "styled.png") as other:
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
