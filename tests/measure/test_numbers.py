"""The norms in the file, compared with independent oracles."""

import inspect

import pytest
from oracle import check
from training import amp_trainer, shapes

pytestmark = pytest.mark.train


def test_norms_without_a_scaler(tmp_path, oracle):
    run = check(tmp_path, oracle, data=shapes(12))
    assert run.report().healthy


def test_norms_are_unscaled_under_a_loss_scaler(tmp_path, oracle):
    run = check(tmp_path, oracle, data=shapes(12), trainer=amp_trainer())
    assert (run.windows["skipped"] == 0).all()
    assert run.meta.epochs[0].scale == 65536.0


def freeze_after(batches, *names):
    """A callback that freezes parts of the model after some batches of the run."""
    done = []

    def freeze(trainer):
        done.append(1)
        if len(done) == batches:
            for name, parameter in trainer.model.named_parameters():
                if name.startswith(names):
                    parameter.requires_grad_(requires_grad=False)

    return ("on_train_batch_end", freeze)


def test_norms_with_layers_frozen_mid_training(tmp_path, oracle):
    """A whole block, and one of the two parameters of a norm layer."""
    frozen = ("model.3.", "model.6.cv1.bn.bias")
    run = check(tmp_path, oracle, data=shapes(20), calls=[freeze_after(2, *frozen)])
    rows = run.windows[run.windows["step_first"] > 2]
    silent = rows["module"][rows["norm_mean"].isna()]
    assert set(silent) == {"model.3", "model.3.conv", "model.3.bn"}
    assert len(silent) == 3 * 3  # steps
    assert not rows["none"].any()
    assert {finding.rule for finding in run.report().findings} == {"frozen"}


def test_norms_with_layers_frozen_during_accumulation(tmp_path, oracle):
    """Half of the step's gradient exists by then, and it is applied."""
    options = {"data": shapes(32), "nbs": 8, "warmup_epochs": 0}
    run = check(tmp_path, oracle, calls=[freeze_after(3, "model.3.")], **options)
    conv = run.windows[run.windows["module"] == "model.3.conv"]
    assert list(conv["norm_mean"].isna()) == [False, False, True, True]
    assert not run.windows["none"].any()


def module_names():
    """The modules of the model, without wrappers."""
    from ultralytics import YOLO

    found = YOLO("yolo26n.yaml").model.named_modules()
    return {name or "model" for name, module in found if list(module.parameters())}


@pytest.mark.full
def test_norms_of_a_compiled_model_use_its_own_module_names(tmp_path, oracle, monkeypatch):
    """Uses ``aot_eager``, because ``inductor`` compiles YOLO26n for minutes on a CPU."""
    import torch

    compiled, compile_model = [], torch.compile

    def compile_fast(model, **options):
        compiled.append(options["mode"])
        return compile_model(model, backend="aot_eager")

    def look(trainer):
        assert type(trainer.model).__name__ == "OptimizedModule"
        assert next(trainer.model.named_parameters())[0].startswith("_orig_mod.")

    monkeypatch.setattr(torch, "compile", compile_fast)
    run = check(
        tmp_path, oracle, [("on_train_end", look)], data=shapes(12), compile=True, val=False
    )
    assert compiled == ["default"]
    assert set(run.windows["module"]) == module_names()
    assert run.layout.blocks[0] == ("model.0", "Conv")
    assert run.report().healthy
    assert run.meta.status == "finished"


def test_norms_of_gradients_in_channels_last(tmp_path, oracle):
    """Ultralytics' option is for CUDA; the memory format is the same on a CPU."""
    import torch

    last, seen = torch.channels_last, []

    def lay_out(trainer):
        trainer.model.to(memory_format=last)

    def hook(trainer):
        weight = trainer.model.model[1].conv.weight
        step = trainer.optimizer_step

        def look():
            grad = weight.grad
            seen.append(grad.is_contiguous(memory_format=last) and not grad.is_contiguous())
            step()

        trainer.optimizer_step = look

    calls = [("on_train_start", lay_out), ("on_train_start", hook)]
    # MuSGD of 8.4.0 does not support it
    run = check(tmp_path, oracle, calls, data=shapes(12), optimizer="SGD")
    assert seen == [True] * 3
    assert run.report().healthy


def test_norms_in_bfloat16_without_a_scaler(tmp_path, oracle, monkeypatch):
    """Ultralytics refuses bf16 on a CPU, although it works; only that check is replaced."""
    import torch
    from ultralytics.engine import trainer as engine

    if '"bf16"' not in inspect.getsource(engine):
        pytest.skip("this Ultralytics does not know bf16")
    asked, seen = [], []

    def autocast(enabled, device):
        asked.append((enabled, device))
        return torch.autocast(device, torch.bfloat16)

    def hook(trainer):
        seen.append((trainer.amp, trainer.scaler.is_enabled()))
        trainer.model.model[1].conv.register_forward_hook(lambda _m, _i, o: seen.append(o.dtype))

    monkeypatch.setattr(engine, "autocast", autocast)
    run = check(tmp_path, oracle, [("on_train_start", hook)], data=shapes(12), amp="bf16")
    assert asked == [(torch.bfloat16, "cpu")] * 3
    assert seen[:2] == [(True, False), torch.bfloat16]
    options = run.meta.options.training
    assert (options["amp"], options["fitted"]["amp"]) == ("bf16", False)  # no scaler is active
    assert run.meta.epochs[0].scale is None
    assert not run.windows["skipped"].any()
    assert run.report().healthy
