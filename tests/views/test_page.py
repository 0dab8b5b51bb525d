import json
import re
import subprocess
import sys
from base64 import b64decode
from dataclasses import replace
from html import unescape
from types import SimpleNamespace

import numpy as np
import pytest
from browser import CHROMIUM, answer_of, needs_browser
from shown import ODD
from traced import run_of
from values import LAYOUT, Part, plan, window, write_run
from watched import CONV, DEAD, watch

from yolo_gradwatch import load_run
from yolo_gradwatch.cli.main import main
from yolo_gradwatch.measure.arrays import FLOAT32_MAX
from yolo_gradwatch.measure.quantities import QUANTITIES
from yolo_gradwatch.views.heatmap import NONFINITE, STATES, WEAK, WEAK_ZERO, ZERO
from yolo_gradwatch.views.summary import summary

page = pytest.importorskip(
    "yolo_gradwatch.views.html.page", reason="the extra 'html' is not installed"
)

write_two = pytest.importorskip("yolo_gradwatch.views.html.compare").write
quantities = pytest.importorskip("yolo_gradwatch.views.html.hover").quantities
strip = pytest.importorskip("yolo_gradwatch.views.html.strip").strip

CATCH_ERRORS = """<script>
window.trouble = [];
window.onerror = (message) => trouble.push(String(message));
window.onsecuritypolicyviolation = (event) => trouble.push(event.violatedDirective);
console.error = console.warn = (...words) => trouble.push(words.join(" "));
</script>"""

RUN_SCRIPT = """<script>
const publish = (answer) => {{
  const place = document.createElement("pre");
  place.id = "answer";
  place.textContent = JSON.stringify({{ trouble, answer }});
  document.body.append(place);
}};
const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
const names = () => [...document.querySelectorAll("#modules tbody tr")]
  .filter((row) => !row.hidden).map((row) => row.cells[0].textContent);
(async () => {{ await wait(300); {helpers} {script} }})()
  .then(publish, (error) => publish(String(error)));
</script></body>"""


def visit(path, script):
    """Run a script in the page, opened in a real browser without a network; return its value."""
    text = path.read_text(encoding="utf-8")
    text = text.replace("<meta charset", CATCH_ERRORS + "<meta charset", 1)
    opened = path.with_name("opened.html")
    opened.write_text(
        text.replace("</body>", RUN_SCRIPT.format(helpers=SCRIPT, script=script)), encoding="utf-8"
    )
    found = answer_of(opened)
    assert found["trouble"] == []
    return found["answer"]


SCRIPT = """
const click = async (value) => {
  document.querySelector(`[value=${value}]`).click();
  await wait(300);
};
const full = (trace) => plot._fullData[trace];
const states = () => document.getElementById("states").innerText;
const over = (trace, pointNumber) => {
  plot.emit("plotly_hover", { points: [{ pointNumber, data: plot.data[trace] }], event: {} });
  return document.getElementById("tip").textContent.split("\\n");
};
const axes = () => [plot.layout.xaxis.ticktext, plot.layout.xaxis2.ticktext,
  plot.layout.xaxis.tickvals, plot.layout.xaxis2.tickvals];
const grid = (trace) => full(trace).z
  .map((row) => Array.from(row, (z) => Number.isFinite(z) ? z : null));
"""

VISIT = """
const seen = {
  labels: plot.layout.yaxis.ticktext,
  images: plot.querySelectorAll(".heatmaplayer image").length,
  lines: plot.querySelectorAll(".scatterlayer .trace path.js-line").length,
  modules_first: names(),
  frames: plot.layout.shapes.filter((shape) => shape.type === "rect").length,
  block: over(0, [1, 0]),
  count: document.getElementById("count").textContent,
};

const layer = plot.querySelector(".nsewdrag[data-subplot=xy]");
const box = layer.getBoundingClientRect();
const mouse = { bubbles: true, clientX: box.left + 5, clientY: box.top + 5 };
layer.dispatchEvent(new MouseEvent("mouseover", mouse));
layer.dispatchEvent(new MouseEvent("mousemove", mouse));
await wait(500);
seen.mouse = document.getElementById("tip").textContent.split("\\n");

plot.emit("plotly_click", { points: [{ pointNumber: [1, 0], data: plot.data[0] }] });
seen.clicked = names();

await click("modules");
Object.assign(seen, {
  modules: plot.layout.yaxis.ticktext, states: states(), levels: grid(0), covers: grid(1),
  dead: over(0, [4, 0]), bad: over(0, [8, 3]), whole: over(4, 3),
});
plot.emit("plotly_unhover", {});
seen.hidden = document.getElementById("tip").hidden;

seen.found = FILTERS.map((text) => {
  filter.value = text;
  filter.dispatchEvent(new Event("input"));
  return [names(), document.getElementById("count").textContent];
});
seen.orders = {};
for (const head of document.querySelectorAll("#modules th")) {
  seen.orders[head.textContent] = [0, 1].map(() => {
    head.firstChild.click();
    return names();
  });
}
return seen;
"""

FOUND = (CONV, "model.2.b")
IN_TABLE = [*FOUND, *(name for name in LAYOUT.modules if name not in FOUND)]

FILTERS = {
    "model.1": [CONV, "model.1", "model.1.bn"],
    "CONV2D bn": ["model.0.bn", "model.1.bn"],
    "dead": [CONV],
    "nothing of this": [],
    "": IN_TABLE,
}


def opened(folder, windows, script, **changes):
    """The value of a script in the page of a run of these windows."""
    watch(folder, windows)
    run = load_run(folder)
    page.write(run, replace(run.report(), **changes), folder / "page.html")
    return visit(folder / "page.html", script)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    last = window(4, steps=3, nonfinite=["model.2.b"])
    ratios = np.arange(len(LAYOUT.modules), dtype=np.float32) / 100
    watch(folder, [*DEAD, replace(last, update_ratio=ratios)])
    return load_run(folder)


@pytest.fixture(scope="module")
def path(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    page.write(run, run.report(), path)
    return path


@pytest.fixture(scope="module")
def seen(path):
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine")
    return visit(path, VISIT.replace("FILTERS", json.dumps(list(FILTERS))))


def test_page_draws_the_heat_map(seen):
    assert seen["labels"] == ["0 Block", "1 Block", "2 Block"]
    assert seen["images"] == 2  # levels, and covers of cells without a level
    assert (seen["lines"], seen["frames"]) == (2, 2)  # a band and a line
    assert seen["count"] == f"{len(LAYOUT.modules)} of {len(LAYOUT.modules)} modules"


def test_a_click_shows_all_modules_with_their_levels(seen, run):
    assert seen["modules"] == list(LAYOUT.modules[1:])
    assert re.findall("NaN or Inf|exactly zero", seen["states"]) == ["NaN or Inf", "exactly zero"]
    norms = run.grid.norm_mean[:, 1:].T.astype(float)
    expected = np.log10(np.where(norms > 0, norms, np.nan))
    np.testing.assert_allclose(np.array(seen["levels"], float), expected, rtol=1e-6)
    covered = np.where(run.grid.nonfinite[:, 1:].T > 0, NONFINITE, np.where(norms == 0, ZERO, 0))
    np.testing.assert_array_equal(seen["covers"], covered)


def test_hovering_shows_module_step_and_norm(seen):
    assert seen["block"][:3] == ["model.1 (Block)", "epoch 1, step 1", "norm 1.00"]
    assert seen["block"][4:] == ["finding 1: dead"]
    assert seen["dead"][:3] == [f"{CONV} (Conv2d)", "epoch 1, step 1", "norm 0.00, exactly zero"]
    assert seen["bad"][:3] == ["model.2.b (Conv2d)", "epoch 1, steps 4 to 6", "no norm, NaN or Inf"]
    assert seen["whole"][:2] == ["whole model", "epoch 1, steps 4 to 6"]
    assert seen["mouse"][:3] == ["model.0 (Block)", "epoch 1, step 1", "norm 1.00"]  # a real event
    assert seen["hidden"]


def test_hovering_shows_the_other_quantities_of_the_window(seen):
    weights = ["weights 5.00", "largest 1.00"]
    row = LAYOUT.modules.index("model.2.b")
    updates = [f"update {share:.3g}" for share in (row / 100, 0)]
    assert seen["block"][3].split(", ") == ["highest 1.00", *weights]
    assert seen["dead"][3].split(", ") == ["zero in 1 step", "highest 0.00", *weights]
    bad, whole = seen["bad"][3].split(", "), seen["whole"][3].split(", ")
    assert bad[:-1] == ["NaN/Inf in 3 steps", *weights]
    assert float(bad[-1].removeprefix("update ")) == float(updates[0].removeprefix("update "))
    assert whole == ["highest 1.00", *weights, "update 0.00"]


def test_every_quantity_with_a_heading_is_in_the_tooltip(run):
    found = {table["heading"]: table for table in quantities(run.grid)}
    for quantity in QUANTITIES:
        if not quantity.over_run or quantity.name == "norm_mean":  # the colour of the cell
            continue
        values = getattr(run.grid, quantity.name).astype(float)
        values[(values == 0) & quantity.is_count] = np.nan
        known = [column for column, row in enumerate(values) if not np.isnan(row).all()]
        table = found.pop(quantity.over_run[-1].heading, {"columns": []})
        assert table["columns"] == known
        if known:
            packed = np.frombuffer(b64decode(table["values"]["bdata"]), "<f4")
            expected = values[known].T.astype(np.float32)
            np.testing.assert_array_equal(packed.reshape(expected.shape), expected)
    assert not found


def test_table_lists_modules_with_findings_first_and_can_be_filtered(seen):
    assert seen["modules_first"] == IN_TABLE
    assert seen["clicked"] == FILTERS["model.1"]  # by a click on the map
    counts = [f"{len(names)} of {len(LAYOUT.modules)} modules" for names in FILTERS.values()]
    assert seen["found"] == [list(pair) for pair in zip(FILTERS.values(), counts, strict=True)]


def test_table_can_be_sorted_in_both_directions(seen, run):
    table = summary(run.grid, run.layout, run.report().findings).set_index("module", drop=False)
    headings = {
        "module": "module",
        "class": "type",
        "parameters": "parameters",
        "first": "norm_first",
        "highest": "norm_max",
        "zero": "zero",
        "weights": "weight_norm",
        "zeros": "zero_fraction",
        "NaN/Inf": "nonfinite",
    }
    for heading, column in headings.items():
        for rises, found in zip((True, False), seen["orders"][heading], strict=True):
            values = table.loc[found, column]
            known = values.dropna().tolist()
            assert len(found) == len(table)
            assert known == sorted(known, reverse=not rises), heading
            assert values.isna().tolist() == sorted(values.isna()), heading  # missing values last
    assert all(set(found[:2]) == set(FOUND) for found in seen["orders"]["findings"])


def growing(steps=1000):
    """Windows of single steps first and longer ones later, 20 steps per epoch."""
    windows, step = [], 1
    while step <= steps:
        size = min(max(step // 50, 1), 20 - (step - 1) % 20)
        windows.append(window(step, steps=size, norm=1234.0, epoch=(step - 1) // 20 + 1))
        step += size
    return windows


@needs_browser
def test_axes_show_steps_and_epochs_of_the_visible_part(tmp_path):
    windows = growing()
    seen = opened(
        tmp_path,
        windows,
        """const x = () => Array.from(full(0).x);
        const zoom = async (...range) => {
          await Plotly.relayout(plot, { "xaxis.range": range }); await wait(300); return axes(); };
        const seen = { x: x(), axes: axes(),
          drawn: [...plot.querySelectorAll(".x2tick text")].map((tick) => tick.textContent) };
        seen.zoomed = await zoom(19.5, 41.5);
        seen.back = await zoom(0.5, 1000.5);
        await click("windows");
        return { ...seen, even: x(), even_axes: axes(),
          tips: [120, windows - 1].map((column) => over(0, [0, column]).slice(1, 3)) };""",
    )
    assert seen["x"] == [*(one.step_first - 0.5 for one in windows), 1000.5]
    steps, epochs, at, begins = seen["axes"]
    assert steps == [*(str(step) for step in range(100, 1000, 100)), "1,000"]
    assert at == list(range(100, 1001, 100))
    assert epochs == seen["drawn"] == ["1", *(str(epoch) for epoch in range(5, 51, 5))]
    assert begins == [0.5, *(20 * (epoch - 1) + 0.5 for epoch in range(5, 51, 5))]
    assert seen["back"] == seen["axes"]
    assert seen["zoomed"][:2] == [[str(step) for step in range(20, 41, 5)], ["2", "3"]]
    assert seen["even"] == list(range(len(windows) + 1))
    steps, epochs, at, begins = seen["even_axes"]
    assert steps == [f"{windows[int(place)].step_first:,}" for place in at]
    for epoch, place in zip(epochs, begins, strict=True):
        assert windows[place].epoch == int(epoch) != windows[place - 1].epoch
    one = windows[120]
    assert one.steps > 1
    when = f"epoch {one.epoch}, steps {one.step_first} to {one.step_last}"
    assert seen["tips"] == [[when, "norm 1,230"], ["epoch 50, step 1,000", "norm 1,230"]]


@needs_browser
def test_colours_span_the_rows_that_are_not_weak(tmp_path):
    windows = []
    for step in range(1, 21):
        one = window(step, norm=10.0)
        low = [name.startswith("model.0") for name in LAYOUT.modules]
        norms = np.where(low, 1e-12 if step < 19 else 0, one.norm_mean).astype("f4")
        windows.append(replace(one, norm_mean=norms))
    run = load_run(write_run(tmp_path, windows, replace(LAYOUT, edges=())))
    page.write(run, replace(run.report(), findings=()), tmp_path / "page.html")
    limits, covered, words = visit(
        tmp_path / "page.html",
        "return [[full(0).zmin, full(0).zmax], grid(1).map((row) => [row[0], row[19]]), states()];",
    )
    assert limits == [0.0, 2.0]
    assert covered == [[len(STATES) + 1, len(STATES) + 2], [0, 0], [0, 0]]
    assert WEAK[0] in words
    assert WEAK_ZERO[0] in words


@needs_browser
def test_norm_beyond_float32_is_shown_as_the_highest_and_not_as_nan(tmp_path):
    windows = [window(1, norm=np.inf), window(2, norm=10.0)]
    levels, state = opened(tmp_path, windows, "return [grid(0), states()];")
    np.testing.assert_allclose(levels, [[np.log10(FLOAT32_MAX), 1.0]] * 3, rtol=1e-6)
    assert not state.strip()


@needs_browser
def test_page_of_a_run_without_a_window(tmp_path):
    text = opened(tmp_path, [], "return plot.textContent;")
    assert text == "no optimizer step was watched"


HOSTILE = (
    *ODD[:-1],
    "</script><script>trouble.push('ran')</script>",
    "<img src=x onerror=trouble.push('ran')>",
    "\"'><b onmouseover=trouble.push(1)>",
    "<!--",
    "$name ${verdict} $$",
    "&lt;i&gt;",
)


@needs_browser
def test_hostile_names_are_shown_and_never_executed(tmp_path):
    layout, _ = plan([Part(name) for name in HOSTILE])
    folder = tmp_path / "<b>$run&amp;"
    folder.mkdir()
    run = load_run(write_run(folder, [window(1, layout=layout)], layout))
    page.write(run, run.report(), tmp_path / "page.html")
    seen = visit(
        tmp_path / "page.html",
        """await click("modules");
        const tips = run.views.modules.names.map((_, y) => over(0, [y, 0])[0]);
        const ticks = [...plot.querySelectorAll(".ytick text")].map((tick) => tick.textContent);
        return { names: names(), tips, ticks, title: document.querySelector("h1").textContent,
                 added: document.querySelectorAll("img, b").length };""",
    )
    assert seen["names"] == list(layout.modules)
    assert seen["tips"] == [
        f"{name} ({kind})" for name, kind in zip(layout.modules[1:], layout.types[1:], strict=True)
    ]
    assert set(layout.modules[1:]) <= set(seen["ticks"])
    assert seen["title"].endswith("/<b>$run&amp;")
    assert seen["added"] == 0


def test_page_needs_no_network(path):
    text = path.read_text(encoding="utf-8")
    without_plotly = text.replace(page.get_plotlyjs(), "")
    assert not re.search(r"(src|href)\s*=|https?://|@import|url\(", without_plotly)
    assert "default-src 'none'" in without_plotly


def test_page_has_the_text_of_the_report(path, run):
    text = unescape(path.read_text(encoding="utf-8"))
    report = run.report()
    for line in str(report).splitlines()[1:]:
        assert line.strip() in text
    assert report.verdict in text


def test_command_writes_the_page_and_names_its_path(run, tmp_path, capsys):
    path = tmp_path / "p.html"
    assert main(["review", str(run.folder), "--html", str(path), "--json"]) == 0
    captured = capsys.readouterr()
    assert str(path) in captured.err
    assert json.loads(captured.out)["healthy"] is False
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no/p.html", "p.html: No such file or directory"),
        *((name, "is a folder; pass a file, as in page.html") for name in ("", ".", "..")),
    ],
)
def test_page_that_cannot_be_written_is_an_error(run, monkeypatch, capsys, name, words):
    monkeypatch.chdir(run.folder)
    assert main(["review", str(run.folder), "--html", name]) == 2
    captured = capsys.readouterr()
    assert not captured.out or "folder" not in words  # that is checked before the run is read
    assert words in captured.err


def test_missing_plotly_shows_the_install_command(run, tmp_path):
    code = f"""
import sys
sys.modules["plotly"] = None
from yolo_gradwatch.cli.main import main
from yolo_gradwatch.views.heatmap import STATES, WEAK, WEAK_ZERO
from yolo_gradwatch.cli.main import main
sys.exit(main(["review", {str(run.folder)!r}, "--html", {str(tmp_path / "p.html")!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'yolo-gradwatch[html]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_each_episode_has_a_mark_and_the_finding_one_line(tmp_path):
    dead = {1, 2, 3, 20, 21, 22}
    watch(tmp_path, [window(step, zero=[CONV] * (step in dead)) for step in range(1, 40)])
    run = load_run(tmp_path)
    report = run.report()
    text = page.page(run, report)
    data = json.loads(re.search('<script id="run"[^>]*>(.*)</script>', text)[1])
    for view in data["views"].values():
        marks = [(mark["text"], mark["first"], mark["last"]) for mark in view["marks"]]
        assert marks == [("finding 1: dead", 0, 2), ("finding 1: dead", 19, 21)]
        frames = [one for one in view["figure"]["layout"]["shapes"] if one["type"] == "rect"]
        assert [(one["x0"], one["x1"]) for one in frames] == [(0.5, 3.5), (19.5, 22.5)]
    (line,) = re.findall("<li class.*</li>", text)
    for step in ("since step 20", "from step 1 to step 4", "Reported at step 22"):
        assert step in line


@pytest.mark.parametrize(("is_measured", "word"), [(True, "true"), (False, "false")])
def test_page_marks_findings_with_a_measured_cause(tmp_path, is_measured, word):
    watch(tmp_path, [window(step, zero=[CONV]) for step in range(1, 9)])
    run = load_run(tmp_path)
    report = run.report()
    findings = tuple(replace(one, is_measured=is_measured) for one in report.findings)
    (line,) = re.findall("<li class.*</li>", page.page(run, replace(report, findings=findings)))
    assert f'data-measured="{word}"' in line


@needs_browser
def test_traced_run_has_a_tab_for_the_network(tmp_path):
    run = run_of(tmp_path, (1, 2, 4), dead_from=2)
    page.write(run, run.report(), tmp_path / "page.html")
    answer = visit(
        tmp_path / "page.html",
        """
        const deep = document.getElementById("depth");
        await click("depth");
        const found = [deep.data.length, deep.querySelectorAll(".trace").length, plot.hidden];
        await click("blocks");
        return [...found, deep.hidden, plot.hidden];
        """,
    )
    assert answer == [9, 9, True, True, False]


@needs_browser
def test_run_without_traces_has_no_tab_for_the_network(tmp_path):
    run = run_of(tmp_path, ())
    page.write(run, run.report(), tmp_path / "page.html")
    label = "document.querySelector('input[value=depth]').parentElement"
    assert visit(tmp_path / "page.html", f"return {label}.hidden;") is True


def stretches(trace):
    """The connected parts of a trace, each as its points."""
    points = np.array([trace.x, trace.y], np.float64).T
    gaps = np.flatnonzero(np.isnan(points[:, 1]))
    parts = np.split(points, gaps)
    known = [one[~np.isnan(one[:, 1])].tolist() for one in parts]
    return [one for one in known if one]


def test_norm_of_the_whole_model_is_not_drawn_across_a_gap():
    nan = np.nan
    totals = np.array([[1, 2, nan, nan, 3, nan], [2, 3, nan, nan, 4, nan], [4, 6, nan, 0, 8, nan]])
    band, tails, line, _ = strip(SimpleNamespace(totals=totals), np.arange(0, 70, 10.0))
    first = [[0, 4], [10, 4], [10, 6], [20, 6], [20, 2], [10, 2], [10, 1], [0, 1]]
    assert stretches(band) == [first, [[40, 8], [50, 8], [50, 3], [40, 3]]]
    assert stretches(tails) == [[[10, 3], [20, 3]], [[40, 4], [50, 4]]]
    assert (band.fill, line.connectgaps, len(line.x)) == ("toself", None, 7)


def test_nothing_is_drawn_without_a_norm():
    traces = strip(SimpleNamespace(totals=np.full((3, 2), np.nan)), np.arange(3.0))
    assert [stretches(one) for one in traces[:3]] == [[], [], []]


COMPARED = """
const frames = () => plot.layout.shapes.map(({ xref, y0, y1 }) => [xref, y0, y1]);
const hover = (row, column) => {
  plot.emit("plotly_hover", { points: [{ pointNumber: [row, column] }], event: {} });
  return tip.textContent.split("\\n");
};
const seen = { panels: plot.querySelectorAll(".heatmaplayer image").length, frames: frames() };
seen.both = hover(2, 0);
seen.over = hover(2, 199);
await click("modules");
seen.rows = plot.layout.yaxis.ticktext;
return seen;
"""


@needs_browser
def test_page_of_two_runs_in_a_browser(tmp_path):
    options = {"training": {"epochs": 2}}
    watch(tmp_path, DEAD, options=options)
    other = write_run(
        tmp_path / "b", [window(1, norm=1e3), window(2, norm=1e3)], options=options, status="failed"
    )
    path = tmp_path / "compare.html"
    write_two(load_run(tmp_path).compare(load_run(other)), path)
    seen = visit(path, COMPARED)
    assert seen["panels"] == 6
    assert seen["frames"] == [["x", 1.5, 2.5], ["x3", 1.5, 2.5]]
    assert seen["both"][0] == "1 Block"
    assert seen["both"][2] == "A: norm 1.00, epoch 1 of 2"
    assert seen["both"][3:] == [
        *("B: norm 1,000, epoch 1 of 2", "B is 1,000 times stronger", "finding A1: dead")
    ]
    assert seen["over"][2:] == [f"{letter}: not trained, or not in this model" for letter in "AB"]
    assert seen["rows"] == ["whole model", *LAYOUT.modules[1:]]
