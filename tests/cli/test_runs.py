"""The command ``runs``, as a user runs it."""

import io
import json
import os
import re
import shutil
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, replace
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest
from browser import answer_of, needs_browser
from commands import failures, outcome, printed
from terminals import Terminal
from values import window
from watched import CONV, DEAD, EPOCH, watch

from yolo_gradwatch import load_runs
from yolo_gradwatch.cli.main import main
from yolo_gradwatch.runs.many import COLUMNS
from yolo_gradwatch.runs.schema import META_FILE, WINDOWS_FILE

CALM = [window(step) for step in range(1, 9)]
WARNED = [*CALM, *(window(step, norm=1e3 if step == 30 else 1.0) for step in range(9, 40))]
HEADER = "epoch,train/box_loss,metrics/mAP50-95(B),val/box_loss\n"
RUNS = {
    "train": (CALM, "finished", "1,4.5,0.25,1\n"),
    "train2": (DEAD, "interrupted", "1,2.5,0.5,1\n"),
    "train10": (CALM, "running", "1,3.5,0.125,1\n"),
    "short": (CALM[:2], "failed", ""),
}
NATURAL = ["short", "train", "train2", "train10"]
NEWEST_FIRST = ["short", "train10", "train2", "train"]
OPTIONS = {"training": {"optimizer": "SGD", "lr0": 0.01, "epochs": 3}}
EPOCHS = [asdict(replace(EPOCH, steps=8, clipped=2, skipped=0, step_last=8))]


def write_runs(folder, runs=RUNS):
    """A folder of runs and an unwatched training."""
    for when, (name, (windows, status, results)) in enumerate(runs.items(), 1):
        run = folder / name
        run.mkdir(parents=True)
        epochs = EPOCHS if windows is CALM else []
        watch(run, windows, status=status, options=OPTIONS, epochs=epochs)
        (run / "results.csv").write_text(HEADER + results, encoding="utf-8")
        os.utime(run / WINDOWS_FILE, (1e9 * when, 1e9 * when))
    (folder / "other").mkdir()
    (folder / "other" / "args.yaml").touch()
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_runs(Path("detect"))


def listed(*arguments, code=0):
    """Names of the runs in the order of the table."""
    table = pd.read_csv(io.StringIO(printed("runs", *arguments, "--csv", code=code)))
    return [Path(run).name for run in table["run"]]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ([], NEWEST_FIRST),
        (["--unhealthy"], ["train2"]),
        (["--sort", "mAP"], ["train2", "train", "train10", "short"]),
        (["--sort", "score"], ["train2", "train", "train10", "short"]),
        (["--sort", "-score"], ["train10", "train", "train2", "short"]),
        (["--sort=-LOSS"], ["train2", "train10", "train", "short"]),
        (["--sort", "run"], ["short", "train", "train10", "train2"]),
        (["--sort", "-run"], ["train2", "train10", "train", "short"]),
        (["--sort", "-written"], NEWEST_FIRST[::-1]),
        (["--sort", "verdict"], ["train2", "short", "train10", "train"]),
        (["--sort", "module"], ["train2", "short", "train10", "train"]),
        (["--sort", "mAP", "--unhealthy"], ["train2"]),
    ],
)
def test_options_select_and_sort_the_runs(folder, options, names):
    assert listed(folder, *options) == names


@pytest.mark.parametrize("column", COLUMNS)
def test_every_column_can_be_sorted_by(folder, column):
    assert sorted(listed(folder, "--sort", column)) == sorted(NEWEST_FIRST)


def test_csv_is_the_table_of_load_runs(folder):
    table = load_runs(folder)
    dates = {"parse_dates": ["written"], "keep_default_na": False, "na_values": [""]}
    found = pd.read_csv(io.StringIO(printed("runs", folder, "--csv")), **dates)
    assert found.columns.tolist() == [*COLUMNS]
    texts = [name for name, kind in COLUMNS.items() if kind == "object"]
    found = found.fillna(dict.fromkeys(texts, "")).astype(COLUMNS)
    pd.testing.assert_frame_equal(found, table, rtol=1e-12)


def test_json_has_the_rows_and_other_folders(folder):
    record = json.loads(printed("runs", folder, "--json"), parse_constant=pytest.fail)
    others = (record["folder"], record["unwatched"], record["closed"])
    assert others == ("detect", ["detect/other"], [])
    assert [Path(one["run"]).name for one in record["runs"]] == NEWEST_FIRST
    short, _, dead, _ = record["runs"]
    assert [*dead] == [*COLUMNS]
    keys = ("verdict", "rule", "module", "step", "critical", "status", "score", "loss", "lr0")
    expected = ["unhealthy", "dead", CONV, 1, 1, "interrupted", 0.5, 2.5, 0.01]
    assert [dead[key] for key in keys] == expected
    assert dead["written"] == "2033-05-18T03:33:20+00:00"
    assert (short["score"], short["step"], short["verdict"]) == (None, None, "no verdict")


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        ("", 2, []),
        ("dead", 1, ["detect/short", "detect/train2"]),
        ("vanishing", 1, ["detect/short"]),  # it has no verdict
        ("tired", 2, []),
        ("amp_overflow", 2, []),
    ],
)
@pytest.mark.parametrize("form", [[], ["--csv"], ["--json"], ["--unhealthy"]])
def test_fail_on_names_each_run_that_does_not_pass(folder, words, code, named, form):
    found, _, err = outcome("runs", folder, "--fail-on", words, *form)
    assert (found, [line.split(": ")[1] for line in failures(err)]) == (code, named)


@pytest.mark.parametrize("damage", ["stepless", "json", "alerts"])
def test_run_without_a_verdict_does_not_pass(folder, damage):
    bad = folder / "bad"
    bad.mkdir()
    watch(bad, [] if damage == "stepless" else CALM)
    if damage == "json":
        (bad / META_FILE).write_text("{", encoding="utf-8")
    if damage == "alerts":
        (bad / "gradwatch_alerts.csv").unlink()
    code, _, err = outcome("runs", folder, "--fail-on", "vanishing")
    assert code == 1
    assert {line.split(": ")[1] for line in failures(err)} == {"detect/bad", "detect/short"}
    assert outcome("runs", folder)[::2] == (0, "")


def test_run_too_short_for_a_rule_passes_with_a_message(folder):
    shutil.rmtree(folder / "short")
    code, _, err = outcome("runs", folder, "--fail-on", "dead_branch")
    assert (code, err.count("too short to judge dead_branch\n")) == (0, 3)


def test_ctrl_c_gives_exit_code_130(folder, monkeypatch):
    def interrupted(_path):
        raise KeyboardInterrupt

    monkeypatch.setattr("yolo_gradwatch.runs.many.glance", interrupted)
    assert outcome("runs", folder) == (130, "", "")


# --- on a terminal --------------------------------------------------------------------------------


def on_a_terminal(monkeypatch, width, *arguments):
    """The output of a command on a terminal of this width, without colours."""
    for name, value in {"COLUMNS": str(width), "TERM": "xterm", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    with redirect_stdout(Terminal()) as out:
        assert main([*map(str, arguments)]) == 0
    return re.sub(r"\x1b\[[\d;]*m", "", out.getvalue())


def test_table_on_a_terminal(folder, monkeypatch, golden):
    shutil.copytree(folder / "train", folder / "torn")
    (folder / "torn" / META_FILE).unlink()
    for width in (80, 140):
        golden(f"runs-{width}", on_a_terminal(monkeypatch, width, "runs", folder, "--sort=run"))


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 120, 140, 200])
@pytest.mark.parametrize("name", ["t", "a_trial_of_ray_with_a_very_long_name_lr0=0.001"])
def test_table_fits_the_terminal_and_loses_no_name(folder, monkeypatch, width, name):
    (folder / "train2").rename(folder / name)
    table = on_a_terminal(monkeypatch, width, "runs", folder)
    assert max(map(len, table.splitlines())) <= width
    text = "".join(table.split())
    assert all(one in text for one in (name, "dead", CONV, "train10", "interrupted"))


def test_odd_names_are_shown_verbatim(tmp_path, monkeypatch):
    names = ("[red]x", "a\x1b[2Jb", "größe 名", "<b>&amp;", "-x", "100%:?#")
    for name in names:
        (tmp_path / "runs" / name).mkdir(parents=True)
        watch(tmp_path / "runs" / name, DEAD)
    safe_names = ["a?[2Jb" if "\x1b" in name else name for name in names]
    for out in (
        printed("runs", tmp_path),
        printed("runs", tmp_path, "--csv"),
        on_a_terminal(monkeypatch, 80, "runs", tmp_path),
    ):
        assert "\x1b" not in out
        assert all(name in out for name in safe_names)
    record = json.loads(printed("runs", tmp_path, "--json"))
    assert {Path(one["run"]).name for one in record["runs"]} == set(names)


def test_progress_is_shown_only_on_a_terminal(folder, monkeypatch):
    monkeypatch.setattr("yolo_gradwatch.views.terminal.reading._SECONDS", 0)
    monkeypatch.setenv("TERM", "xterm")
    with redirect_stderr(Terminal()) as err:
        printed("runs", folder)
    assert [*map(int, re.findall(r"(\d) of 4 runs", err.getvalue()))] == [1, 2, 3, 4]
    assert err.getvalue().endswith("\r\x1b[K")
    assert outcome("runs", folder)[2] == ""


# --- the page -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place", ["runs.html", "detect/runs.html", "detect/train/x.html", "a b/c.html"]
)
def test_each_row_of_the_page_links_to_its_run(folder, place):
    (folder / "train").rename(folder / "100% #[x]:é")
    (folder / "train10").rename(folder / "a:b")
    (folder / "train2" / "gradwatch.png").touch()
    (folder / "short" / "page.html").touch()
    Path("a b").mkdir()
    (folder / "train").mkdir()
    code, _, err = outcome("runs", folder, "--html", place)
    assert (code, place in err) == (0, True)
    page = Path(place).read_text("utf-8")
    links = [unescape(link) for link in re.findall(r'href="([^"]+)"', page)]
    assert not [link for link in links if ":" in link or link.startswith("/")]
    targets = [(Path(place).parent / unquote(link)).resolve() for link in links]
    expected = ["short/page.html", "a:b", "train2", "train2/gradwatch.png", "100% #[x]:é"]
    assert targets == [(folder / name).resolve() for name in expected]


def test_page_has_the_selected_rows(folder):
    outcome("runs", folder, "--html", "runs.html", "--sort", "run", "--unhealthy")
    page = Path("runs.html").read_text("utf-8")
    rows = re.findall(r'<tr class="(\w+) (\w*)">', page)
    assert rows == [("unhealthy", "critical")]
    assert "4 watched runs in detect" in page
    assert "dead in model.1.conv, step 1" in page


def test_names_are_escaped_in_the_page(folder):
    (folder / "train").rename(folder / "<script>x")
    outcome("runs", folder, "--html", "runs.html")
    page = Path("runs.html").read_text("utf-8")
    assert page.count("<script>") == 1
    assert "&lt;script&gt;x" in page


VISIT = """<script>
const names = () => [...document.querySelectorAll("#runs tbody tr")]
  .filter((row) => !row.hidden).map((row) => row.querySelector("a").textContent);
const answer = { listed: names(), count: document.getElementById("count").textContent };
for (const head of document.querySelectorAll("#runs thead th")) {
  answer[head.textContent] = [0, 1].map(() => { head.click(); return names(); });
}
by.value = "";
by.dispatchEvent(new Event("change"));
answer.again = names();
unhealthy.click();
answer.unhealthy = names();
unhealthy.click();
filter.value = "AIN SGD 0.25";
filter.dispatchEvent(new Event("input"));
answer.filtered = names();
const place = document.createElement("pre");
place.id = "answer";
place.textContent = JSON.stringify(answer);
document.body.append(place);
</script></body>"""


@needs_browser
def test_page_sorts_and_filters_in_a_browser(folder, tmp_path):
    outcome("runs", folder, "--html", "runs.html")
    page = Path("runs.html").read_text("utf-8").replace("</body>", VISIT)
    Path("opened.html").write_text(page, encoding="utf-8")
    answer = answer_of(tmp_path / "opened.html")
    assert answer["listed"] == answer["again"] == NEWEST_FIRST
    assert answer["count"] == "4 of 4 runs"
    assert answer["mAP50-95"] == [
        ["train2", "train", "train10", "short"],
        ["train10", "train", "train2", "short"],
    ]
    assert answer["run"] == [NATURAL, NATURAL[::-1]]
    assert answer["unhealthy"] == ["train2"]
    assert answer["filtered"] == ["train"]
