"""Loss items of trainings, compared with the trainer's own, batch by batch."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from short import at, bits_of, leave, spoil, warnings_of
from training import needs
from values import assert_same

from yolo_gradwatch import GradWatch, load_run

WEIGHT = "model.1.conv.weight"
ACCUMULATED = {"nbs": 16, "images": 48}
"""Four batches a step, three steps an epoch."""


class Record:
    """The trainer's loss items of each batch, in float64, and each optimizer step."""

    def __init__(self):
        self.batches, self.rates, self.windows = [], {}, []
        self._pending, self.step = [], 0

    def window(self, window):
        self.windows.append(window)

    def trainer(self, base):
        record = self

        class Recorded(base):
            def optimizer_step(self):
                record.step += 1
                record._note(self)
                record.batches += [(record.step, items) for items in record._pending]
                record._pending = []
                record.rates[record.step] = [g["lr"] for g in self.optimizer.param_groups]
                super().optimizer_step()
                record.has_stepped = True

        return Recorded

    def start_batch(self, _trainer):
        self.has_stepped = False

    def end_batch(self, trainer):
        if not self.has_stepped:
            self._note(trainer)

    def _note(self, trainer):
        items = trainer.loss_items
        if items is None:
            return
        if not isinstance(items, dict):
            names = trainer.loss_names
            names = [names] if isinstance(names, str) else names
            items = dict(zip(names, items.reshape(-1), strict=True))
        self._pending.append({name: float(item) for name, item in items.items()})

    def check(self, run, interval=1, first=1):
        """Compare each row of the table."""
        captured = [step for step in self.rates if (step - first) % interval == 0]
        seen = set()
        for (begin, end), table in run.losses.groupby(["step_first", "step_last"]):
            rows = table.set_index("item")
            own = [step for step in captured if begin <= step <= end]
            before = max((step for step in captured if step < begin), default=0)
            columns = {}
            for _, items in (one for one in self.batches if before < one[0] <= end):
                for name, value in {**items, "sum": sum(items.values())}.items():
                    columns.setdefault(name, []).append(value)
            for step in own:
                for group, rate in enumerate(self.rates[step]):
                    columns.setdefault(f"lr/{group}", []).append(rate)
            assert set(rows.index) == set(columns)
            for name, values in columns.items():
                self._check_row(rows.loc[name], np.array(values))
            seen |= set(own)
        assert seen == set(captured)

    @staticmethod
    def _check_row(row, values):
        finite = values[np.isfinite(values)]
        assert row["steps"] == len(values)
        assert row["nonfinite"] == len(values) - len(finite)
        assert row["zero"] == (values == 0).sum()
        if len(finite):
            expected = [finite.min(), finite.mean(), finite.max()]
            found = row[["min", "mean", "max"]].to_numpy(np.float64)
            np.testing.assert_allclose(found, expected, rtol=2e-7)
        else:
            assert row[["min", "mean", "max"]].isna().all()


def watched(way, folder, *, kind=None, calls=(), interval=1, **options):
    """Train; compare the table with the trainer, and live windows with stored ones."""
    record = Record()
    watch = GradWatch(live=False, outputs=[record], interval=interval)
    own = [("on_train_batch_start", record.start_batch), ("on_train_batch_end", record.end_batch)]
    options = {"epochs": 1, "warmup_epochs": 0, **options}
    kind = record.trainer(kind or way.base)
    trainer = way.train(folder, watch=watch, first=own, calls=calls, kind=kind, **options)
    run = load_run(watch.run_dir)
    record.check(run, interval)
    assert_windows(run, record.windows)
    return run, record, trainer


def assert_windows(run, expected):
    found = list(run.windows_in_order())
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert_same(one, replace(other, largest=""))


def in_items(*batches, change):
    """A callback that changes the loss items of some batches but not loss or gradient."""

    def change_items(trainer):
        passes = []

        def hook(_module, _inputs, output):
            if not torch.is_grad_enabled() or not isinstance(output, tuple):
                return output
            passes.append(1)
            return (output[0], change(output[1])) if len(passes) in batches else output

        trainer.model.register_forward_hook(hook)

    return ("on_train_start", change_items)


def ruined(items):
    if isinstance(items, dict):
        return {**items, next(iter(items)): torch.tensor(math.nan)}
    items = items.clone()
    items.reshape(-1)[0] = math.nan
    return items


def test_nan_in_the_third_of_four_accumulated_batches_is_counted(way, tmp_path):
    run, record, trainer = watched(way, tmp_path, calls=[in_items(7, change=ruined)], **ACCUMULATED)
    assert [len([b for b in record.batches if b[0] == s]) for s in (1, 2, 3)] == [4, 4, 4]
    step = run.losses[run.losses["step_first"] == 2].set_index("item")
    first = next(iter(record.batches[0][1]))
    assert tuple(step.loc[first, ["steps", "nonfinite"]]) == (4, 1)
    assert tuple(step.loc["sum", ["steps", "nonfinite"]]) == (4, 1)
    assert step["nonfinite"].sum() == 2
    assert run.losses.loc[run.losses["step_first"] != 2, "nonfinite"].sum() == 0
    assert not run.windows["nonfinite"].any()  # the gradient comes from the unchanged loss
    assert all(bool(p.isfinite().all()) for p in trainer.model.parameters())


def test_watching_loss_items_changes_no_weight(way, tmp_path):
    bare = way.train(tmp_path / "bare", epochs=1, warmup_epochs=0, **ACCUMULATED)
    _, _, trainer = watched(way, tmp_path, **ACCUMULATED)
    assert bits_of(trainer) == bits_of(bare)


@pytest.mark.parametrize("interval", [1, 3])
def test_batches_of_steps_that_are_not_captured_count_too(way, tmp_path, interval):
    run, record, _ = watched(way, tmp_path, interval=interval, images=32, epochs=2)
    assert len(record.rates) == 16
    last = 16 - 15 % interval
    whole = run.losses[run.losses["item"] == "sum"]
    assert whole["steps"].sum() == last
    rates = run.losses[run.losses["item"] == "lr/0"]
    assert rates["steps"].sum() == run.report().steps == len(range(1, 17, interval))


def test_learning_rates_of_a_warm_up(way, tmp_path):
    options = {"images": 16, "epochs": 3, "warmup_epochs": 2, "optimizer": "SGD"}
    run, record, _ = watched(way, tmp_path, **options)
    assert len(record.rates) == 12
    assert run.losses["item"].str.startswith("lr/").any()
    if way.is_real:
        assert len({rates[0] for rates in record.rates.values()}) > 4


def test_batches_of_steps_skipped_by_amp_count_too(way, tmp_path):
    calls = [spoil(WEIGHT, math.inf, at=6), in_items(6, change=ruined)]
    options = {"kind": way.scaled(), "nbs": 8, "images": 32}
    run, _, _ = watched(way, tmp_path, calls=calls, **options)
    windows = run.windows[run.windows["module"] == "model"]
    assert list(windows["skipped"]) == [0, 0, 1, 0]
    whole = run.losses[run.losses["item"] == "sum"]
    assert list(whole["steps"]) == [2, 2, 2, 2]
    assert list(whole["nonfinite"]) == [0, 0, 1, 0]


def without_last(items):
    """The loss items without the last one."""
    return dict([*items.items()][:-1]) if isinstance(items, dict) else items


def test_items_that_change_mid_training_have_rows_while_they_exist(way, tmp_path):
    """At the end of an epoch: the trainer cannot add items that it did not start with."""
    calls = [in_items(5, 6, change=without_last)]
    run, record, _ = watched(way, tmp_path, images=24, calls=calls)
    names = [list(items) for _, items in record.batches]
    assert run.remarks == ()
    if way.is_real and len(set(map(tuple, names))) == 1:
        pytest.skip("the loss items of this Ultralytics are a tensor")
    assert [len(one) for one in names] == [*[len(names[0])] * 4, *[len(names[0]) - 1] * 2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        lambda _items: None,
        lambda _items: torch.ones(3, device="meta"),
        lambda _items: {"a": torch.ones(1, device="meta"), "b": 1.5},
    ],
    ids=["none", "elsewhere", "no tensor"],
)
def test_unreadable_items_have_no_rows_and_the_training_goes_on(tmp_path, caplog, change):
    from short import FAKE

    calls = [in_items(*range(1, 3), change=change)]
    watch = GradWatch(live=False)
    FAKE.train(tmp_path, watch=watch, calls=calls, epochs=2, warmup_epochs=0)
    run = load_run(watch.run_dir)
    assert warnings_of(caplog) == []
    assert run.report().steps == 4
    early = run.losses[run.losses["step_first"] <= 2]
    assert set(early["item"]) == {"lr/0"}
    assert "sum" in set(run.losses["item"])


def test_batches_whose_gradient_is_lost_do_not_count(way, tmp_path):
    """A batch accumulated before the memory runs out."""
    from ultralytics.engine.trainer import BaseTrainer

    needs(BaseTrainer, "_oom_retries")
    passes = []

    def starve(trainer):
        def hook(_module, _inputs):
            passes.append(1)
            if len(passes) == 2:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

        trainer.model.model[2].register_forward_pre_hook(hook)

    watch = GradWatch(live=False)
    options = {"nbs": 8, "images": 16, "epochs": 1, "imgsz": 64, "warmup_epochs": 0}
    way.train(tmp_path, watch=watch, calls=[("on_train_start", starve)], **options)
    run = load_run(watch.run_dir)
    whole = run.losses[run.losses["item"] == "sum"]
    assert whole["steps"].sum() == 8  # of two images each


def test_resumed_training_appends_to_the_table(way, tmp_path):
    options = {"images": 16, "epochs": 4, "save": True, "warmup_epochs": 0}
    records = [Record(), Record()]
    records[1].step = 9

    def train(record, calls=(), **more):
        watch = GradWatch(live=False, outputs=[record])
        own = [
            ("on_train_batch_start", record.start_batch),
            ("on_train_batch_end", record.end_batch),
        ]
        kind = record.trainer(way.base)
        way.train(tmp_path, watch=watch, first=own, calls=calls, kind=kind, **options, **more)
        return load_run(watch.run_dir)

    with pytest.raises(KeyboardInterrupt):
        train(records[0], calls=[at("on_train_batch_end", 9, leave(KeyboardInterrupt))])
    path = tmp_path / "run" / "gradwatch" / "losses.csv"
    before = path.read_bytes()
    with path.open("a", encoding="utf-8") as file:
        file.write("3,10,10,box_loss,1,0,0,1,1,1\n3,10,10,cls")  # of a window that was not written
    run = train(records[1], resume=str(tmp_path / "run" / "weights" / "last.pt"))
    assert not [*(tmp_path / "run").rglob("*.old")]
    assert path.read_bytes().startswith(before)
    assert b"10,10,cls\n" not in path.read_bytes()
    assert_windows(run, [one for record in records for one in record.windows])
    records[0].batches += records[1].batches
    records[0].rates |= records[1].rates
    records[0].check(run)
