import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from test_plots import ODD
from test_review import CONV, DEAD, watch
from values import LAYOUT, Part, plan, window, write_run

from yolo_gradwatch import load_run
from yolo_gradwatch.arrays import FLOAT32_MAX
from yolo_gradwatch.cli import main
from yolo_gradwatch.heatmap import STATES, WEAK, WEAK_ZERO
from yolo_gradwatch.summary import summary

page = pytest.importorskip("yolo_gradwatch.page", reason="the extra 'html' is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")

WITNESS = """<script>
window.trouble = [];
window.onerror = (message) => trouble.push(String(message));
window.onsecuritypolicyviolation = (event) => trouble.push(event.violatedDirective);
console.error = console.warn = (...words) => trouble.push(words.join(" "));
</script>"""

TOLD = """<script>
const tell = (answer) => {{
  const place = document.createElement("pre");
  place.id = "told";
  place.textContent = JSON.stringify({{ trouble, answer }});
  document.body.append(place);
}};
const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
const names = () => [...document.querySelectorAll("#modules tbody tr")]
  .filter((row) => !row.hidden).map((row) => row.cells[0].textContent);
(async () => {{ await wait(300); {script} }})().then(tell, (error) => tell(String(error)));
</script></body>"""


def visit(path, script):
    """What a script says that runs in the opened page, in a real browser without a network."""
    text = path.read_text(encoding="utf-8")
    text = text.replace("<meta charset", WITNESS + "<meta charset", 1)
    opened = path.with_name("opened.html")
    opened.write_text(text.replace("</body>", TOLD.format(script=script)), encoding="utf-8")
    shown = subprocess.run(
        [
            *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu"),
            *(f"--user-data-dir={path.parent / 'browser'}", "--enable-logging=stderr"),
            *("--window-size=1200,900", "--virtual-time-budget=20000", "--dump-dom"),
            opened.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in shown.stderr
    told = json.loads(unescape(re.search(r'<pre id="told">(.*?)</pre>', shown.stdout)[1]))
    assert told["trouble"] == []
    return told["answer"]


SCRIPT = """
const rows = (value) => document.querySelector(`[value=${value}]`).click();
const tip = () => document.getElementById("tip").textContent;
const states = () => document.getElementById("states").innerText;
const over = (data, x, y) => {
  const point = { pointNumber: y === undefined ? x : [y, x], data: plot.data[data] };
  plot.emit("plotly_hover", { points: [point], event: { clientX: 5, clientY: 5 } });
  return tip().split("\\n");
};
const told = {
  rows: plot.data[0].z.length,
  columns: plot.data[0].z[0].length,
  labels: plot.layout.yaxis.ticktext,
  images: plot.querySelectorAll(".heatmaplayer image").length,
  lines: plot.querySelectorAll(".scatterlayer .trace path.js-line").length,
  modules_first: names(),
  frames: plot.layout.shapes.filter((shape) => shape.type === "rect").length,
  block: over(0, 0, 1),
  count: document.getElementById("count").textContent,
};

const layer = plot.querySelector(".nsewdrag[data-subplot=xy]");
const box = layer.getBoundingClientRect();
const mouse = { bubbles: true, clientX: box.left + 5, clientY: box.top + 5 };
layer.dispatchEvent(new MouseEvent("mouseover", mouse));
layer.dispatchEvent(new MouseEvent("mousemove", mouse));
await wait(500);
told.mouse = tip();

plot.emit("plotly_click", { points: [{ pointNumber: [1, 0], data: plot.data[0] }] });
told.clicked = names();

rows("modules");
await wait(300);
told.modules = plot.layout.yaxis.ticktext;
told.states = states();
told.levels = plot.data[0].z;
told.dead = over(0, 0, 4);
told.bad = over(0, 3, 8);
told.whole = over(4, 3);
plot.emit("plotly_unhover", {});
told.hidden = document.getElementById("tip").hidden;

told.found = FILTERS.map((text) => {
  filter.value = text;
  filter.dispatchEvent(new Event("input"));
  return [names(), document.getElementById("count").textContent];
});
told.orders = {};
for (const head of document.querySelectorAll("#modules th")) {
  told.orders[head.textContent] = [0, 1].map(() => {
    head.firstChild.click();
    return names();
  });
}
return told;
"""

SICK = (CONV, "model.2.b")
IN_TABLE = [*SICK, *(name for name in LAYOUT.modules if name not in SICK)]

FILTERS = {
    "model.1": [CONV, "model.1", "model.1.bn"],
    "CONV2D bn": ["model.0.bn", "model.1.bn"],
    "dead": [CONV],
    "nothing of this": [],
    "": IN_TABLE,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    watch(folder, [*DEAD, window(4, steps=3, nonfinite=["model.2.b"])])
    return load_run(folder)


@pytest.fixture(scope="module")
def path(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    page.write(run, run.report(), path)
    return path


@pytest.fixture(scope="module")
def told(path):
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine")
    return visit(path, SCRIPT.replace("FILTERS", json.dumps(list(FILTERS))))


def test_the_page_draws_the_heat_map(told):
    assert (told["rows"], told["columns"]) == (3, 4)
    assert told["labels"] == ["0 Block", "1 Block", "2 Block"]
    assert told["images"] >= 1
    assert told["lines"] == 3
    assert told["frames"] == 2
    assert told["count"] == f"{len(LAYOUT.modules)} of {len(LAYOUT.modules)} modules"


def test_its_colours_are_the_levels_of_the_run(told, run):
    norms = run.grid.norm_mean[:, 1:].T.astype(float)
    bad = (run.grid.nonfinite[:, 1:].T > 0) | (norms == 0)
    expected = np.where(bad, np.nan, np.log10(np.where(bad, 1, norms)))
    np.testing.assert_allclose(np.array(told["levels"], float), expected, rtol=1e-6)


def test_all_modules_are_a_click_away(told):
    assert told["modules"] == list(LAYOUT.modules[1:])
    assert "NaN or Inf" in told["states"]
    assert "exactly zero" in told["states"]


def test_hovering_tells_module_step_and_norm(told):
    assert told["block"] == ["model.1 (Block)", "epoch 1, step 1", "norm 1.00", "finding 1: dead"]
    assert told["dead"][:3] == [f"{CONV} (Conv2d)", "epoch 1, step 1", "norm 0.00, exactly zero"]
    assert told["bad"][:3] == ["model.2.b (Conv2d)", "epoch 1, steps 4 to 6", "no norm, NaN or Inf"]
    assert told["whole"][:2] == ["whole model", "epoch 1, steps 4 to 6"]
    assert told["hidden"]


def test_a_real_mouse_over_the_map_brings_up_the_numbers(told):
    assert told["mouse"].startswith("model.0 (Block)\nepoch 1, step 1\nnorm 1.00")


def test_a_click_on_the_map_finds_the_module_in_the_table(told):
    assert told["clicked"] == [CONV, "model.1", "model.1.bn"]


def test_the_table_begins_with_the_modules_of_findings(told):
    assert told["modules_first"] == IN_TABLE


def test_the_table_can_be_filtered(told):
    counts = [f"{len(names)} of {len(LAYOUT.modules)} modules" for names in FILTERS.values()]
    assert told["found"] == [list(pair) for pair in zip(FILTERS.values(), counts, strict=True)]


@pytest.mark.parametrize(
    ("heading", "column"),
    [
        *(("module", "module"), ("class", "type"), ("parameters", "parameters")),
        *(("first", "norm_first"), ("highest", "norm_max"), ("zero", "zero")),
        *(("weights", "weight_norm"), ("zeros", "zero_fraction"), ("NaN/Inf", "nonfinite")),
    ],
)
def test_the_table_can_be_sorted_up_and_down(told, run, heading, column):
    table = summary(run.grid, run.layout, run.report().findings).set_index("module", drop=False)
    for rises, found in zip((True, False), told["orders"][heading], strict=True):
        values = table.loc[found, column]
        known = values.dropna().tolist()
        assert len(found) == len(table)
        assert known == sorted(known, reverse=not rises)
        assert values.isna().tolist() == sorted(values.isna())  # what has none comes last


def test_modules_without_a_finding_come_last(told):
    for found in told["orders"]["findings"]:
        assert set(found[:2]) == {CONV, "model.2.b"}


def long_run(folder, steps=1000):
    """A run whose windows are single steps at first and longer later, 20 steps an epoch."""
    windows, step = [], 1
    while step <= steps:
        size = min(max(step // 50, 1), 20 - (step - 1) % 20)
        windows.append(window(step, steps=size, epoch=(step - 1) // 20 + 1))
        step += size
    watch(folder, windows)
    run = load_run(folder)
    page.write(run, run.report(), folder / "page.html")
    return windows


AXES = """const told = () => [plot.layout.xaxis.ticktext, plot.layout.xaxis2.ticktext,
  plot.layout.xaxis.tickvals, plot.layout.xaxis2.tickvals];
const shown = () => [...plot.querySelectorAll(".x2tick text")].map((tick) => tick.textContent);
"""


@needs_browser
def test_steps_and_epochs_are_in_proportion(tmp_path):
    windows = long_run(tmp_path)
    x, (steps, epochs, at, begins), drawn = visit(
        tmp_path / "page.html", AXES + "return [plot.data[0].x, told(), shown()];"
    )
    assert x == [*(one.step_first - 0.5 for one in windows), 1000.5]
    assert steps == [*(str(step) for step in range(100, 1000, 100)), "1,000"]
    assert at == list(range(100, 1001, 100))
    assert epochs == ["1", *(str(epoch) for epoch in range(5, 51, 5))]
    assert begins == [0.5, *(20 * (epoch - 1) + 0.5 for epoch in range(5, 51, 5))]
    assert drawn == epochs


@needs_browser
def test_zooming_shows_the_steps_and_epochs_that_are_in_view(tmp_path):
    long_run(tmp_path)
    (steps, epochs, _, _), back = visit(
        tmp_path / "page.html",
        AXES
        + """const before = told();
        await Plotly.relayout(plot, { "xaxis.range": [19.5, 41.5] }); await wait(300);
        const zoomed = told();
        await Plotly.relayout(plot, { "xaxis.range": [0.5, 1000.5] }); await wait(300);
        return [zoomed, JSON.stringify(told()) === JSON.stringify(before)];""",
    )
    assert steps == [str(step) for step in range(20, 41, 5)]
    assert epochs == ["2", "3"]
    assert back


@needs_browser
def test_a_column_a_window_is_a_click_away(tmp_path):
    windows = long_run(tmp_path)
    x, (steps, epochs, at, begins), tip = visit(
        tmp_path / "page.html",
        AXES
        + """document.querySelector("[value=windows]").click(); await wait(300);
        const point = { pointNumber: [0, 60], data: plot.data[0] };
        plot.emit("plotly_hover", { points: [point], event: {} });
        return [plot.data[0].x, told(), document.getElementById("tip").textContent];""",
    )
    assert x == list(range(len(windows) + 1))
    assert steps == [f"{windows[int(place)].step_first:,}" for place in at]
    for epoch, place in zip(epochs, begins, strict=True):
        assert windows[place].epoch == int(epoch) != windows[place - 1].epoch
    assert f"steps {windows[60].step_first} to" in tip or f"step {windows[60].step_first}" in tip


@needs_browser
def test_colours_are_those_of_what_is_alive(tmp_path):
    windows = []
    for step in range(1, 21):
        one = window(step, norm=10.0)
        low = [name.startswith("model.0") for name in LAYOUT.modules]
        norms = np.where(low, 1e-12 if step < 19 else 0, one.norm_mean).astype("f4")
        windows.append(replace(one, norm_mean=norms))
    layout = replace(LAYOUT, edges=())
    run = load_run(write_run(tmp_path, windows, layout))
    page.write(run, replace(run.report(), findings=()), tmp_path / "page.html")
    limits, covered, words = visit(
        tmp_path / "page.html",
        """return [[plot.data[0].zmin, plot.data[0].zmax],
        plot.data[1].z.map((row) => [row[0], row[19]]),
        document.getElementById("states").innerText];""",
    )
    assert limits == [0.0, 2.0]
    assert covered == [[len(STATES) + 1, len(STATES) + 2], [None] * 2, [None] * 2]
    assert WEAK[0] in words
    assert WEAK_ZERO[0] in words


@needs_browser
def test_a_norm_beyond_float32_is_shown_as_the_highest_and_not_as_nan(tmp_path):
    beyond = window(1, norm=np.inf)
    watch(tmp_path, [beyond, window(2, norm=10.0)])
    run = load_run(tmp_path)
    page.write(run, run.report(), tmp_path / "page.html")
    drawn, levels, state = visit(
        tmp_path / "page.html",
        """return [plot.querySelectorAll(".heatmaplayer image").length, plot.data[0].z,
        document.getElementById("states").innerText];""",
    )
    assert drawn == 1
    np.testing.assert_allclose(levels, [[np.log10(FLOAT32_MAX), 1.0]] * 3)
    assert not state.strip()


@needs_browser
def test_a_run_without_a_window_says_so(tmp_path):
    watch(tmp_path, [])
    run = load_run(tmp_path)
    page.write(run, run.report(), tmp_path / "page.html")
    assert visit(tmp_path / "page.html", "return plot.textContent;") == (
        "no optimizer step was watched"
    )


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
def test_names_from_the_file_are_shown_and_never_run(tmp_path):
    layout, _ = plan([Part(name) for name in HOSTILE])
    folder = tmp_path / "<b>$run&amp;"
    folder.mkdir()
    run = load_run(write_run(folder, [window(1, layout=layout)], layout))
    page.write(run, run.report(), tmp_path / "page.html")
    told = visit(
        tmp_path / "page.html",
        """document.querySelector("[value=modules]").click(); await wait(300);
        const tips = run.names.map((_, y) => {
          const point = { pointNumber: [y, 0], data: plot.data[0] };
          plot.emit("plotly_hover", { points: [point], event: {} });
          return document.getElementById("tip").textContent.split("\\n")[0]; });
        const ticks = [...plot.querySelectorAll(".ytick text")].map((tick) => tick.textContent);
        return { names: names(), tips, ticks, title: document.querySelector("h1").textContent,
                 added: document.querySelectorAll("img, b").length };""",
    )
    assert told["names"] == list(layout.modules)
    assert told["tips"] == [
        f"{name} ({kind})" for name, kind in zip(layout.modules[1:], layout.types[1:], strict=True)
    ]
    assert set(layout.modules[1:]) <= set(told["ticks"])
    assert told["title"].endswith("/<b>$run&amp;")
    assert told["added"] == 0


def test_the_page_needs_no_network(path):
    text = path.read_text(encoding="utf-8")
    ours = text.replace(page.get_plotlyjs(), "")
    assert not re.search(r"(src|href)\s*=|https?://|@import|url\(", ours)
    assert "default-src 'none'" in ours


def test_the_page_has_the_words_of_the_report(path, run):
    text = unescape(path.read_text(encoding="utf-8"))
    report = run.report()
    for line in str(report).splitlines()[1:]:
        assert line.strip() in text
    assert report.verdict in text


def test_the_command_writes_the_page_and_says_where(run, tmp_path, capsys):
    path = tmp_path / "p.html"
    assert main(["review", str(run.folder), "--html", str(path), "--json"]) == 0
    captured = capsys.readouterr()
    assert str(path) in captured.err
    assert json.loads(captured.out)["healthy"] is False
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_page_that_cannot_be_written_is_told(run, tmp_path, capsys):
    assert main(["review", str(run.folder), "--html", str(tmp_path / "no" / "p.html")]) == 2
    assert "p.html: No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_folder_in_the_place_of_the_page_is_told(run, monkeypatch, tmp_path, capsys, name):
    monkeypatch.chdir(tmp_path)
    assert main(["review", str(run.folder), "--html", name]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "is a folder; name a file, as in page.html" in captured.err


def test_without_plotly_the_install_command_is_told(run, tmp_path):
    code = f"""
import sys
sys.modules["plotly"] = None
from yolo_gradwatch.cli import main
from yolo_gradwatch.heatmap import STATES, WEAK, WEAK_ZERO
sys.exit(main(["review", {str(run.folder)!r}, "--html", {str(tmp_path / "p.html")!r}]))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert "pip install 'yolo-gradwatch[html]'" in told.stderr
    assert "Traceback" not in told.stderr


def test_each_episode_of_a_finding_has_a_mark_and_the_finding_one_line(tmp_path):
    dead = {1, 2, 3, 20, 21, 22}
    watch(tmp_path, [window(step, zero=[CONV] * (step in dead)) for step in range(1, 40)])
    run = load_run(tmp_path)
    report = run.report()
    for view in page._data(run, report)["views"].values():
        marks = [(mark["number"], mark["first"], mark["last"]) for mark in view["marks"]]
        assert marks == [(1, 0, 2), (1, 19, 21)]
    (line,) = re.findall("<li class.*</li>", page.page(run, report))
    for step in ("since step 20", "from step 1 until step 4", "Reported at step 22"):
        assert step in line
