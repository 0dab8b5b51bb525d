import csv

import numpy as np
import pytest
from training import small, train

from yolo_gradwatch.runs import results

HEADER = "epoch,time,train/box_loss,train/cls_loss,metrics/mAP50(B),val/box_loss,lr/pg0,lr/pg1\n"


def row(epoch, box=2.0, cls=1.0, score=0.5, val=3.0, rates=(0.01, 0.02)):  # noqa: PLR0913, PLR0917
    return f"{epoch},1.5,{box},{cls},{score},{val},{rates[0]},{rates[1]}\n"


@pytest.fixture
def read(tmp_path):
    def write_and_read(text, encoding="utf-8"):
        (tmp_path / "results.csv").write_bytes(text.encode(encoding))
        return results.read(tmp_path)

    return write_and_read


def assert_empty(curves):
    assert curves.epochs.size == 0
    assert curves.losses == curves.rates == curves.scores == {}


def test_columns_become_losses_rates_and_scores(read):
    curves = read(HEADER + row(1, box=4.0) + row(2, score=0.25, val=2.0))
    assert curves.epochs.tolist() == [1, 2]
    assert {name: v.tolist() for name, v in curves.losses.items()} == {
        "box_loss": [4.0, 2.0],
        "cls_loss": [1.0, 1.0],
    }
    assert {name: v.tolist() for name, v in curves.scores.items()} == {"mAP50(B)": [0.5, 0.25]}
    assert {name: v.tolist() for name, v in curves.rates.items()} == {
        "pg0": [0.01, 0.01],
        "pg1": [0.02, 0.02],
    }


def test_equal_learning_rates_are_one_curve(read):
    curves = read(HEADER + row(1, rates=(0.1, 0.1)) + row(2, rates=(0.2, 0.2)))
    assert {name: v.tolist() for name, v in curves.rates.items()} == {"pg0 = pg1": [0.1, 0.2]}


def test_repeated_score_is_not_a_validation(read):
    none = {"score": 0, "val": 0}
    rows = [row(1, **none), row(2, **none), row(3), row(4), row(5, score=0.5, val=2.9)]
    scores = read(HEADER + "".join(rows)).scores["mAP50(B)"]
    np.testing.assert_array_equal(scores, [np.nan, np.nan, 0.5, np.nan, 0.5])


def test_no_validation_gives_no_scores(read):
    assert read(HEADER + row(1, score=0, val=0) + row(2, score=0, val=0)).scores == {}


def test_folder_without_the_file_has_no_curves(tmp_path):
    assert_empty(results.read(tmp_path))
    assert_empty(results.read(tmp_path / "no"))
    (tmp_path / "results.csv").mkdir()
    assert_empty(results.read(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        HEADER,
        row(1) + row(2),  # no header
        "step,loss\n1,2\n",
        "epoch\n",
        "\0\0\0\0",
        "epoch,train/loss\nnan,1\ninf,1\nx,1\n,1\n",
        '{"epoch": 1}\n',
    ],
)
def test_unrelated_file_has_no_curves(read, text):
    assert_empty(read(text))


def test_invalid_utf8_is_skipped(tmp_path):
    content = HEADER.encode() + b"\xff\xfe\x00,\n" + row(2).encode()
    (tmp_path / "results.csv").write_bytes(content)
    assert results.read(tmp_path).epochs.tolist() == [2]


@pytest.mark.parametrize("torn", ["3,1.5,2.0", row(3)[:-3], row(3).rstrip("\n"), "3"])
def test_torn_last_line_is_left_out(read, torn):
    assert read(HEADER + row(1) + row(2) + torn).epochs.tolist() == [1, 2]


def test_missing_or_nonfinite_number_is_a_gap(read):
    losses = read(HEADER + row(1, box="nan", cls="") + row(2, box="inf") + row(3)).losses
    np.testing.assert_array_equal(losses["box_loss"], [np.nan, np.nan, 2.0])
    np.testing.assert_array_equal(losses["cls_loss"], [np.nan, 1.0, 1.0])


def test_column_without_a_number_is_not_a_curve(read):
    assert list(read(HEADER + row(1, box="nan") + row(2, box="-")).losses) == ["cls_loss"]


def test_last_row_of_a_repeated_epoch_counts(read):
    curves = read(HEADER + row(1) + row(2, box=9) + row(3) + row(2, box=5) + row(3, box=6))
    assert curves.epochs.tolist() == [1, 2, 3]
    assert curves.losses["box_loss"].tolist() == [2.0, 5.0, 6.0]


def test_second_header_applies_to_the_rows_after_it(read):
    other = "epoch,time,train/loss\n3,1.0,0.5\n"
    curves = read(HEADER + row(1) + other)
    assert curves.epochs.tolist() == [1, 3]
    np.testing.assert_array_equal(curves.losses["loss"], [np.nan, 0.5])
    np.testing.assert_array_equal(curves.losses["box_loss"], [2.0, np.nan])


def test_padding_crlf_and_byte_order_mark_are_accepted(read):
    padded = HEADER.replace(",", ",        ").replace("\n", "\r\n")
    curves = read("\ufeff" + padded + row(1).replace(",", ",   ").replace("\n", "\r\n"))
    assert curves.losses["box_loss"].tolist() == [2.0]


@pytest.mark.slow
def test_only_the_beginning_of_a_huge_file_is_read(read):
    text = HEADER + "".join(row(epoch) for epoch in range(1, 300_000))
    assert len(text) > 9_000_000
    epochs = read(text).epochs
    assert 100_000 < len(epochs) < 299_999
    assert epochs.tolist() == list(range(1, len(epochs) + 1))


def test_number_of_curves_is_limited(read):
    names = [f"train/l{i}" for i in range(5000)]
    curves = read(f"epoch,{','.join(names)}\n1,{','.join('1' for _ in names)}\n")
    assert len(curves.losses) == 5


@pytest.mark.train
def test_curves_equal_what_ultralytics_wrote(tmp_path):
    model = train(tmp_path, model=small(), epochs=3, imgsz=32, val=True)
    with (tmp_path / "run" / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = [{k.strip(): v for k, v in one.items()} for one in csv.DictReader(file)]
    curves = results.read(tmp_path / "run")
    assert curves.epochs.tolist() == [1, 2, 3]
    assert set(curves.losses) == set(model.trainer.loss_names)
    for name, values in curves.losses.items():
        assert values.tolist() == [float(one[f"train/{name}"]) for one in rows]
    groups = {name for names in curves.rates for name in names.split(" = ")}
    assert groups == {f"pg{i}" for i in range(len(model.trainer.optimizer.param_groups))}
    for names, values in curves.rates.items():
        for name in names.split(" = "):
            assert values.tolist() == [float(one[f"lr/{name}"]) for one in rows]
    assert "mAP50(B)" in curves.scores
