import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from build import episode_of, finding_of
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import style
from matplotlib.colors import to_rgba
from PIL import Image
from test_review import CONV, DEAD, watch
from values import LAWS, Part, plan, window, write_run

from yolo_gradwatch import heatmap as heatmaps
from yolo_gradwatch import load_run, plots
from yolo_gradwatch.heatmap import FINE, NONE, NONFINITE, STATES, UNKNOWN, ZERO, Heatmap, Mark

ALL_STATES = (FINE, NONFINITE, ZERO, NONE, UNKNOWN)


def picture_of(states, *, levels=None, marks=(), totals=10.0, names=None):
    """A picture of rows and columns with these states, one step a column."""
    states = np.atleast_2d(np.array(states, np.uint8))
    rows, columns = states.shape
    levels = np.zeros((rows, columns)) if levels is None else np.array(levels, float)
    levels = np.where(states == FINE, levels, np.nan)
    steps = np.arange(1, columns + 1)
    names = names or tuple(f"model.{i}" for i in range(rows))
    return Heatmap(
        names=names,
        labels=names,
        epoch=np.ones(columns, np.int64),
        step_first=steps,
        step_last=steps,
        norms=10.0**levels,
        levels=levels,
        states=states,
        totals=np.full((3, columns), totals),
        clip=10.0,
        clipped=np.ones(columns),
        skipped=np.zeros(columns),
        marks=tuple(marks),
    )


@pytest.fixture
def report(tmp_path):
    watch(tmp_path, DEAD)
    return load_run(tmp_path).report()


def colours_of(figure):
    """(R, C, 4) colours of the heat map's cells."""
    return np.asarray(figure.axes[0].images[0].get_array())


def texts_of(figure):
    """Everything that stands on a figure outside its axes."""
    return [text.get_text() for text in figure.texts]


def axes_texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_each_state_has_its_own_colour(report):
    figure = plots.draw(picture_of([ALL_STATES]), report)
    colours = colours_of(figure)[0]
    for cell, state in zip(colours, ALL_STATES, strict=True):
        if state != FINE:
            np.testing.assert_allclose(cell, to_rgba(STATES[state][1]))
    assert len({tuple(cell) for cell in colours}) == len(ALL_STATES)


def test_the_legend_names_the_states_that_there_are(report):
    (legend,) = plots.draw(picture_of([[FINE, ZERO, NONE]]), report).legends
    assert [text.get_text() for text in legend.get_texts()] == ["exactly zero", "no gradient"]
    assert plots.draw(picture_of([[FINE, FINE]]), report).legends == []


def test_a_higher_norm_is_brighter(report):
    levels = [[-6.0, -3.0, 0.0, 2.0]]
    cells = colours_of(plots.draw(picture_of([[FINE] * 4], levels=levels), report))[0]
    brightness = cells[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(brightness) > 0).all()


def test_noise_is_not_blown_up_to_all_colours(report):
    calm = colours_of(plots.draw(picture_of([[FINE] * 2], levels=[[0.0, 0.1]]), report))[0]
    wide = colours_of(plots.draw(picture_of([[FINE] * 2], levels=[[0.0, 5.0]]), report))[0]
    assert np.abs(np.diff(calm, axis=0)).max() < np.abs(np.diff(wide, axis=0)).max() / 3


@LAWS
@given(st.integers(1, 3000), st.integers(0, 2**32 - 1))
def test_the_worst_of_columns_that_are_merged_stays(columns, seed):
    rng = np.random.default_rng(seed)
    states = rng.choice(ALL_STATES, (2, columns), p=[0.98, 0.005, 0.005, 0.005, 0.005])
    levels, merged, width = plots._merged(picture_of(states))
    assert merged.shape == levels.shape
    assert merged.shape[1] == -(-columns // width) <= 900
    order = (NONFINITE, ZERO, NONE, FINE, UNKNOWN)
    for row in range(2):
        for i, state in enumerate(merged[row]):
            there = set(states[row, i * width : (i + 1) * width].tolist())
            assert state == next(one for one in order if one in there)


def test_merged_levels_are_the_mean_of_those_that_there_are(report):
    rng = np.random.default_rng(0)
    states = rng.choice([FINE, UNKNOWN], (3, 2000))
    picture = picture_of(states, levels=rng.normal(size=(3, 2000)))
    levels, _, width = plots._merged(picture)
    for row in range(3):
        for i, level in enumerate(levels[row]):
            part = picture.levels[row, i * width : (i + 1) * width]
            part = part[~np.isnan(part)]
            assert level == pytest.approx(part.mean()) if len(part) else np.isnan(level)


def test_a_finding_is_framed_where_it_stood_and_listed(report):
    finding = finding_of("dead", "model.1", modules=("model.1", "model.0"), step=3, step_end=6)
    mark = Mark(finding, rows=(1, 0), first=2, last=4)
    figure = plots.draw(picture_of([[FINE] * 8] * 3, marks=[mark]), report)
    (frame,) = figure.axes[0].patches
    assert (frame.get_x(), frame.get_y()) == (1.5, 0.5)
    assert (frame.get_width(), frame.get_height()) == (3, 1)
    (others,) = figure.axes[0].lines
    assert others.get_xydata().tolist() == [[2.0, 0.0]]
    assert "1" in axes_texts(figure)
    assert "1  critical dead in model.1 from step 3 until step 6, 1 more affected (▹)" in texts_of(
        figure
    )


def test_each_episode_has_a_frame_and_the_finding_a_single_line(report):
    finding = finding_of("dead", "model.1", episodes=(episode_of(2, 4), episode_of(6, 8)))
    marks = [Mark(finding, (1,), first, first + 1) for first in (1, 5)]
    figure = plots.draw(picture_of([[FINE] * 9] * 3, marks=marks), report)
    frames = [(frame.get_x(), frame.get_width()) for frame in figure.axes[0].patches]
    assert frames == [(0.5, 2), (4.5, 2)]
    lines = [text for text in texts_of(figure) if "critical dead" in text]
    assert lines == [
        "1  critical dead in model.1 from step 2 until step 4, from step 6 until step 8"
    ]


def test_a_finding_on_the_whole_model_stands_in_the_strip_of_its_norm(report):
    mark = Mark(finding_of("spike", "model", severity="warning", step=2), (), 1, 1)
    figure = plots.draw(picture_of([[FINE] * 3], marks=[mark], totals=400.0), report)
    assert not figure.axes[0].patches
    (number,) = [text for text in figure.axes[1].texts if text.get_text() == "1"]
    assert number.get_position() == (1, 400.0)


def test_of_many_findings_the_first_ten_are_listed(report):
    marks = [Mark(finding_of(number=n, step=n), (0,), n - 1, n - 1) for n in range(1, 14)]
    texts = texts_of(plots.draw(picture_of([[FINE] * 20], marks=marks), report))
    assert sum("critical nonfinite" in text for text in texts) == 10
    assert "… and 3 more" in texts


def test_the_name_of_the_run_and_its_verdict_stand_on_top(report, tmp_path):
    texts = texts_of(plots.draw(picture_of([[FINE]]), report))
    assert f"{tmp_path.parent.name}/{tmp_path.name}"[:20] in texts[0]
    assert texts[1] == report.verdict


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (3, 0), (1, 1), (434, 20), (24, 1500)])
def test_every_size_is_drawn(report, tmp_path, rows, columns):
    states = np.full((rows, columns), FINE)
    path = tmp_path / "picture.png"
    plots.write(picture_of(states), report, path)
    with Image.open(path) as image:
        assert image.width == 1300
        assert image.height < 10_000


def test_a_run_without_a_window_says_so(report):
    texts = texts_of(plots.draw(picture_of(np.zeros((2, 0))), report))
    assert "no optimizer step was watched" in texts


def test_a_window_in_which_all_was_skipped_leaves_a_gap(report):
    picture = picture_of([[FINE, UNKNOWN, FINE]])
    totals = np.array([[1.0, np.nan, 1.0]] * 3)
    figure = plots.draw(replace(picture, totals=totals, skipped=np.array([0.0, 1.0, 0.0])), report)
    (line, _) = figure.axes[1].lines
    assert np.isnan(line.get_ydata()).tolist() == [False, True, False]
    assert figure.axes[2].patches[1].get_data().values.tolist() == [0.0, 1.0, 0.0]


ODD = ("$\\frac{", "<b>&amp;</b>", "[bold]x[/]", "层.卷积", "a" * 300, "%s{}", "\U0001f600")


@pytest.mark.parametrize("name", ODD)
def test_names_are_drawn_as_they_are(report, tmp_path, name):
    mark = Mark(finding_of("dead", name), (0,), 0, 0)
    picture = picture_of([[FINE]], names=(name,), marks=[mark])
    plots.write(picture, replace(report, run=tmp_path / "$x$" / "[run]"), tmp_path / "p.png")
    figure = plots.draw(picture, report)
    (label,) = figure.axes[0].get_yticklabels()
    assert label.get_text() == (name if len(name) < 50 else f"{'a' * 23}…{'a' * 24}")
    assert not label.get_parse_math()


def test_a_picture_of_odd_module_names_is_drawn_from_files(tmp_path):
    layout, _ = plan([Part("$a.b$"), Part("c,<d>.e")])
    run = load_run(write_run(tmp_path, [window(1, layout=layout)], layout))
    picture = heatmaps.heatmap(run, run.report(), modules=True)
    plots.write(picture, run.report(), tmp_path / "p.png")
    assert picture.names == layout.modules[1:]


def test_a_picture_that_cannot_be_written_leaves_the_old_one(report, tmp_path, monkeypatch):
    path = tmp_path / "gradwatch.png"
    path.write_bytes(b"old")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        plots.write(picture_of([[FINE]]), report, path)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir() if "png" in file.name] == ["gradwatch.png"]


def test_no_state_of_matplotlib_is_touched(tmp_path):
    watch(tmp_path, DEAD)
    code = f"""
import sys, matplotlib
before = matplotlib.rcParams.copy()
from yolo_gradwatch.cli import main
assert main(["review", {str(tmp_path)!r}, "--plot", "--modules"]) == 0
assert matplotlib.rcParams.copy() == before
assert "matplotlib.pyplot" not in sys.modules
assert "torch" not in sys.modules and "ultralytics" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_frame_of_a_finding_is_seen_in_the_file(tmp_path):
    watch(tmp_path, DEAD)
    run = load_run(tmp_path)
    path = tmp_path / "p.png"
    plots.write(heatmaps.heatmap(run, run.report(), modules=True), run.report(), path)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert CONV in run.report().alarms[0].module
    assert (pixels == (209, 0, 28)).all(axis=2).any()
    assert (pixels == 0).all(axis=2).sum() > 1000  # cells that are exactly zero


def test_the_settings_of_the_user_change_nothing(report, tmp_path):
    marks = [Mark(finding_of(), (0, 1), 0, 1), Mark(finding_of("spike", "model"), (), 1, 1)]
    picture = picture_of([ALL_STATES, ALL_STATES], marks=marks)
    plots.write(picture, report, tmp_path / "plain.png")
    with style.context(["dark_background", {"text.usetex": True}]):
        plots.write(picture, report, tmp_path / "styled.png")
    with Image.open(tmp_path / "plain.png") as one, Image.open(tmp_path / "styled.png") as other:
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
