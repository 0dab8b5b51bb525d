"""The commands that read files, as a user runs them."""

import io
import json

import pandas as pd
import pytest
from test_review import CONV, DEAD, watch
from values import window

from yolo_gradwatch.cli import main


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "detect" / "train"
    folder.mkdir(parents=True)
    watch(folder, DEAD)
    return folder


def test_a_review_tells_the_finding_and_the_blocks(run, capsys):
    assert main(["review", str(run)]) == 0
    out = capsys.readouterr().out
    assert "sick, 1 critical; first dead in model.1.conv at step 1" in out
    assert "gradient exactly zero since step 1" in out
    assert "whole model" in out


def test_a_folder_above_gives_the_newest_run_and_says_which(run, capsys):
    assert main(["review", str(run.parent)]) == 0
    assert f"newest watched run in {run.parent}: {run}" in capsys.readouterr().err


@pytest.mark.parametrize(("options", "code"), [("dead", 1), ("vanishing", 0), ("nonsense", 2)])
def test_fail_on(run, options, code):
    assert main(["review", str(run), "--fail-on", options]) == code


def test_other_limits_decide_anew(run):
    assert main(["review", str(run), "--fail-on", "dead", "--dead-windows", "4"]) == 0


def test_csv_has_the_modules_that_match(run, capsys):
    assert main(["review", str(run), "--csv", "--module", "model.1*"]) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert table["module"].tolist() == ["model.1", CONV, "model.1.bn"]
    assert table.set_index("module").loc[CONV, ["steps", "zero"]].tolist() == [3, 3]


def test_json_has_the_findings(run, capsys):
    assert main(["review", str(run), "--json", "--rule", "dead"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [finding["module"] for finding in told["findings"]] == [CONV]
    assert [module["module"] for module in told["modules"]] == [CONV]


def test_a_mangled_number_is_told_with_its_line(run, capsys):
    path = run / "gradwatch.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[4] = lines[4].replace(",1,0,", ",x,0,", 1)
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    assert main(["review", str(run)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "line 5: 'x' is no" in captured.err


def test_two_runs_in_one_file_are_told(run, capsys):
    path = run / "gradwatch.csv"
    path.write_bytes(2 * path.read_bytes())
    assert main(["review", str(run)]) == 2
    assert "second header: two runs in one file" in capsys.readouterr().err


def test_a_torn_end_is_told_and_the_rest_is_used(run, capsys):
    path = run / "gradwatch.csv"
    path.write_bytes(path.read_bytes()[:-3])
    assert main(["review", str(run)]) == 0
    out = capsys.readouterr().out
    assert "gradwatch.csv has a torn end" in out
    assert "2 steps" in out


def test_a_comparison_tells_what_only_one_run_has(run, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    watch(other, [window(1), window(2), window(3)])
    assert main(["compare", str(other), str(run)]) == 0
    out = capsys.readouterr().out
    assert "only in B:" in out
    assert main(["compare", str(run)]) == 2


def test_the_picture_has_a_row_a_block(run):
    from PIL import Image

    assert main(["review", str(run), "--plot"]) == 0
    with Image.open(run / "gradwatch.png") as picture:
        assert picture.size[0] == 1300
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20)}
    assert (209, 0, 28) in colours  # the frame of a critical finding


def test_a_run_that_is_over_is_followed_to_its_report(run, capsys):
    assert main(["review", str(run), "--follow"]) == 0
    out = capsys.readouterr().out
    assert "GradWatch follows" in out
    assert "GradWatch critical dead: " in out
    assert "GradWatch: sick, 1 critical" in out
