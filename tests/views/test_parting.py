"""Where two runs diverge: runs with known differences, and short real trainings."""

import json
from dataclasses import replace

import numpy as np
import pytest
from training import small, train
from values import LAYOUT, window, write_run

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.cli.main import main
from yolo_gradwatch.measure.loss_items import LossItem
from yolo_gradwatch.views.parting import JUMP, VISIBLE, parting
from yolo_gradwatch.views.terminal.parting import sentences

STEPS = 12
ITEMS = ("box", "cls", "sum", "lr/0")


def trained(  # noqa: PLR0913  # one argument per kind of run
    folder, changes=None, *, steps=STEPS, weights=True, items=ITEMS, names=LAYOUT
):
    """A run in which every value is 1 (weights 5), times the factors of some steps.

    Args:
        folder: The folder of its files.
        changes: Factors from a given step on, by name: of loss items, learning rates, modules
            (their norms), and of ``weights`` and ``update``.
        steps: The number of windows, each of one step; or the steps themselves.
        weights: Whether weights and updates were measured.
        items: The loss items.
        names: The layout.
    """
    windows = []
    for step in range(1, steps + 1) if isinstance(steps, int) else steps:
        factor = {
            k: v
            for begin, part in (changes or {}).items()
            if step >= begin
            for k, v in part.items()
        }
        norms = np.array([factor.get(name, 1) for name in names.modules], np.float32)
        means = {name: factor.get(name, 1.0) for name in items}
        if "sum" in means:
            means["sum"] = means["box"] + means["cls"]
        losses = tuple(
            LossItem(name, 1, 0, 0, mean, float(np.float32(mean)), mean)
            for name, mean in means.items()
        )
        unknown = np.full(len(norms), np.nan, np.float32)
        one = window(step, layout=names)
        windows.append(
            replace(
                one,
                norm_mean=norms,
                weight_norm=np.float32(factor.get("weights", 5)) + 0 * norms
                if weights
                else unknown,
                update_ratio=np.float32(factor.get("update", 1)) + 0 * norms
                if weights
                else unknown,
                losses=losses,
            )
        )
    return load_run(write_run(folder, windows, names))


def parted(tmp_path, changes, other=None, **options):
    one = trained(tmp_path / "a", other, **options)
    return parting(one, trained(tmp_path / "b", changes, **options))


def test_equal_runs(tmp_path):
    found = parted(tmp_path, {})
    assert (found.outcome, found.exact, found.same, found.last) == ("same", STEPS, STEPS, STEPS)
    assert (found.rounding, found.apart, found.silent) == (0, (), ())


def test_rounding_is_not_a_difference(tmp_path):
    found = parted(tmp_path, {3: {"model": 1 + 1e-5, "box": 1 - 1e-5}})
    assert (found.outcome, found.exact, found.same) == ("same", 2, STEPS)
    assert found.rounding == pytest.approx(1e-5, rel=0.1)


def test_losses_that_differ_although_the_gradients_do_not(tmp_path):
    found = parted(tmp_path, {4: {"box": 1.5}})
    assert (found.outcome, found.silent_since, found.same) == ("losses", 4, STEPS)
    assert [one.name for one in found.silent] == ["box", "sum"]
    assert found.silent[0].values == (1, 1.5)


def test_differing_losses_do_not_hide_later_differences(tmp_path):
    found = parted(tmp_path, {4: {"box": 1.5}, 8: {"cls": 2, "model": 2, "model.1": 3}})
    assert (found.outcome, found.silent_since, found.since) == ("parted", 4, (8, 8))
    assert [one.name for one in found.of("loss")] == ["cls"]
    assert {one.name: one.values for one in found.of("gradient")} == {
        "model": (1, 2),
        "model.1": (1, 3),
    }


@pytest.mark.parametrize(
    ("changes", "first", "names"),
    [
        ({"weights": 5.01, "box": 2, "model": 2}, "weights", ["model"]),
        ({"box": 2, "model": 2, "lr/0": 2}, "loss", ["box", "sum"]),
        ({"model": 2, "model.1": 3}, "gradient", ["model.1", "model"]),
        ({"model.1": 1.2}, "gradient", ["model.1"]),
        ({"lr/0": 1.001}, "rate", ["lr/0"]),
        ({"update": 1.5}, "update", ["model"]),
        ({"model": np.nan}, "gradient", ["model"]),
    ],
)
@pytest.mark.parametrize("step", [1, 5])
def test_first_quantity_that_differs(tmp_path, changes, first, names, step):
    found = parted(tmp_path, {step: changes})
    assert (found.outcome, found.first, found.since) == ("parted", first, (step, step))
    assert [one.name for one in found.of(first)] == names
    assert (found.exact, found.same) == (step - 1, step - 1)


GROWING = {step: {"model": 1 + 1e-6 * 10 ** (step - 1)} for step in range(1, 7)}


def test_growing_rounding_is_a_drift(tmp_path):
    found = parted(tmp_path, GROWING)
    visible = next(s for s, one in GROWING.items() if one["model"] > 1 + VISIBLE["gradient"])
    assert (found.outcome, found.exact, found.since[1]) == ("drift", 0, visible)


def test_jump_out_of_rounding_is_not_a_drift(tmp_path):
    jump = {**GROWING, 3: {"model": 1 + 2e-5 * JUMP, "box": 1 + 2e-5 * JUMP}}
    found = parted(tmp_path, jump)
    assert (found.outcome, found.since, found.first) == ("parted", (3, 3), "loss")
    assert found.rounding == pytest.approx(1e-5, rel=0.1)


def test_runs_are_compared_at_common_windows(tmp_path):
    one, other = (
        trained(tmp_path / "a", steps=9),
        trained(tmp_path / "b", steps=(1, 2, 3, 6, 7, 20)),
    )
    found = parting(one, other)
    assert (found.outcome, found.windows, found.last) == ("same", 5, 7)
    later = trained(tmp_path / "c", {4: {"box": 2, "model": 2}}, steps=(1, 2, 3, 6, 7, 20))
    assert parting(one, later).since == (4, 6)  # a range, as only one run has steps 4 and 5


def test_runs_without_losses_weights_or_updates(tmp_path):
    bare = {"items": (), "weights": False}
    one = trained(tmp_path / "a")
    assert parting(one, trained(tmp_path / "b", **bare)).outcome == "same"
    found = parting(trained(tmp_path / "c", **bare), trained(tmp_path / "d", {6: {"model": 2}}))
    assert (found.outcome, found.since, found.items) == ("parted", (6, 6), ())


def test_runs_that_cannot_be_compared(tmp_path):
    one = trained(tmp_path / "a", steps=3)
    assert parting(one, trained(tmp_path / "b", steps=(7, 8))).outcome == "unknown"
    part = replace(LAYOUT, modules=(*LAYOUT.modules[:-1], "model.2.c"))
    assert parting(one, trained(tmp_path / "c", steps=3, names=part)).outcome == "unknown"


CASES = {
    "equal": {},
    "equal up to rounding": {3: {"model": 1 + 1e-5}},
    "losses": {4: {"box": 1.5}},
    "losses, then more": {4: {"box": 1.5}, 8: {"cls": 2, "model": 2, "model.1": 3}},
    "another item": {5: {"box": 2, "model": 2, "model.0": 3, "model.1": 4}},
    "all items": {5: {"box": 2, "cls": 2, "model": 2}},
    "other weights": {1: {"weights": 5.5, "model": 2}},
    "changed weights": {5: {"weights": 5.5, "model": 2}},
    "the backward pass": {5: {"model": 2, "model.0": 3}},
    "a rate": {5: {"lr/0": 5}},
    "an optimizer": {1: {"update": 100}},
    "a NaN": {5: {"model": np.nan}},
    "a drift": GROWING,
    "a jump": {**GROWING, 3: {"model": 2, "box": 3}},
}


def test_sentences(tmp_path, golden):
    lines = []
    for what, changes in CASES.items():
        found = parted(tmp_path / what, changes)
        lines += [f"# {what}", *sentences(found, "B"), ""]
    bare = parted(tmp_path / "bare", {}, items=(), weights=False)
    few = parting(trained(tmp_path / "few", steps=3), trained(tmp_path / "other", steps=(7, 8)))
    lines += [
        "# no losses",
        *sentences(bare, "B"),
        "",
        "# no common step",
        *sentences(few, "B"),
        "",
    ]
    golden("partings", "\n".join(lines))


def test_json_has_where_runs_diverge(tmp_path, capsys):
    trained(tmp_path / "a")
    trained(tmp_path / "b", {5: {"model": np.nan}})
    folders = [str(tmp_path / name) for name in "aba"]
    assert main(["compare", *folders, "--json"]) == 0
    one, same = json.loads(capsys.readouterr().out)["partings"]
    assert (one["run"], one["outcome"], one["first"], one["since"]) == (
        2,
        "parted",
        "gradient",
        [5, 5],
    )
    assert one["apart"][0]["values"] == [1, None]
    assert (same["run"], same["outcome"], same["first"]) == (3, "same", None)


class Constant:
    """Adds a constant to a loss item, which gives no weight a gradient."""

    def __call__(self, trainer):
        model = trainer.model
        loss = model.loss

        def shifted(batch, preds=None):
            total, items = loss(batch, preds)
            if isinstance(items, dict):
                first = next(iter(items))
                return total + 0.5, {**items, first: items[first] + 0.5}
            items = items.clone()
            items[0] += 0.5
            return total + 0.5, items

        model.loss = shifted


@pytest.mark.train
def test_repeated_training_and_one_with_a_detached_constant(tmp_path):
    calls = {"a": (), "again": (), "constant": [("on_train_start", Constant())]}
    for name, own in calls.items():
        train(tmp_path / name, watch=GradWatch(live=False), model=small(), calls=own, epochs=3)
    one, again, constant = (load_run(tmp_path / name / "run") for name in calls)
    same, silent = parting(one, again), parting(one, constant)
    assert (same.outcome, same.exact) == ("same", 6)
    assert (silent.outcome, silent.silent_since, silent.same) == ("losses", 1, 6)
    assert silent.silent[0].values[1] == pytest.approx(silent.silent[0].values[0] + 0.5, rel=1e-4)
