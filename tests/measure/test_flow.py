"""What a probe reads, compared with torch's own gradients in a copy of the step."""

import copy
import gc
import math
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from devices import needs_cuda, no_waiting
from torch import nn
from torch.utils.checkpoint import checkpoint

from yolo_gradwatch.measure.flow import Probe, tensors_in
from yolo_gradwatch.measure.model_layout import inside, is_compiled
from yolo_gradwatch.measure.norms import extent_of, norm_of
from yolo_gradwatch.measure.saturation import ends_of


class Stem(nn.Module):
    """A convolution whose activation changes the normalization's output in place."""

    def __init__(self, inputs, act):
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(inputs, 4, 3, padding=1), nn.BatchNorm2d(4), act

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class Many(nn.Module):
    """Returns a dict with a list, a tuple, integers and text."""

    def forward(self, x):
        y = x * 2
        return {"a": [y, y], "b": (x.tanh(), None), "c": torch.arange(3), "d": "text"}


class Net(nn.Module):
    """Stems that share an activation, one of them called twice, and a module never called."""

    def __init__(self, *, inplace=False, compute=None):
        super().__init__()
        act = nn.SiLU(inplace=inplace)
        self.first, self.second, self.third = Stem(3, act), Stem(4, act), Stem(4, act)
        self.gate, self.many, self.never = nn.Sigmoid(), Many(), nn.Linear(2, 2)
        self.identity = nn.Identity()
        self.compute = compute or (lambda call, x: call(x))

    def forward(self, x):
        x = self.identity(self.first(x))
        x = self.compute(self.second, x)
        x = self.third(x) + self.third(x.detach())
        found = self.many(self.gate(x))
        with torch.no_grad():
            self.first.conv(found["a"][0][:, :3])
        return found["a"][0].pow(2).mean() + found["b"][0].abs().mean()


def batch(seed=0):
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def net(**options):
    torch.manual_seed(0)
    return Net(**options).train()


def traced(model, images=None):
    """The flow of one batch, and its probe."""
    probe = Probe(inside(model), torch.device("cpu"), lambda: None)
    probe.start()
    model(batch() if images is None else images).backward()
    landing = probe.stop()
    return landing and landing.flow(3, 8), probe


def rows_of(flow):
    return {(call.module, call.call): call for call in flow.calls}


def oracle(model):
    """Outputs and gradients of each call, from torch.autograd.grad in a copy of the step.

    The copy must not work in place, because outputs are kept until the backward pass.
    """
    copied = copy.deepcopy(model)
    named = {module: name for name, module in copied.named_modules()}
    outputs, counts = {}, {}

    def note(module, _inputs, output):
        if torch.is_grad_enabled():
            name = named[module]
            counts[name] = counts.get(name, 0) + 1
            found = dict.fromkeys(t for t in tensors_in(output) if t.is_floating_point())
            outputs[name, counts[name]] = list(found)

    for name, module in copied.named_modules():
        if name:
            module.register_forward_hook(note)
    loss = copied(batch())
    every = [tensor for found in outputs.values() for tensor in found]
    gradients = dict(zip(map(id, every), torch.autograd.grad(loss, every), strict=True))
    return outputs, {
        key: [gradients[id(tensor)] for tensor in found] for key, found in outputs.items()
    }


def joined(tensors):
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


def assert_as_torch(flow, expected):
    outputs, gradients = expected
    rows = rows_of(flow)
    assert list(rows) == list(outputs)
    assert [call.order for call in flow.calls] == list(range(1, len(outputs) + 1))
    for key, call in rows.items():
        values, gradient = joined(outputs[key]), joined(gradients[key])
        assert call.elements == values.numel()
        assert call.output_rms == pytest.approx(float(values.pow(2).mean().sqrt()), rel=1e-5)
        assert call.output_max == pytest.approx(float(values.abs().max()), rel=1e-6)
        assert call.output_zero == pytest.approx(float((values == 0).double().mean()))
        assert call.gradient_norm == pytest.approx(float(gradient.norm()), rel=1e-5)


@pytest.mark.parametrize("inplace", [False, True], ids=["copying", "in-place"])
def test_every_call_matches_torch_in_forward_order(inplace):
    """Shared modules, called twice, never, or without a gradient, with outputs of all kinds."""
    flow, probe = traced(net(inplace=inplace))
    assert probe.error is None
    assert (flow.epoch, flow.step) == (3, 8)
    assert_as_torch(flow, oracle(net()))
    rows = rows_of(flow)
    assert {key for key in rows if key[0] == "first.act"} == {("first.act", n) for n in range(1, 5)}
    assert ("third", 2) in rows
    assert not any(name == "never" for name, _ in rows)
    assert ("first.conv", 2) not in rows  # without a gradient


def test_weights_and_gradients_are_unchanged_bit_for_bit():
    usual, watched = net(inplace=True), net(inplace=True)
    usual(batch()).backward()
    traced(watched)
    for a, b in zip(usual.parameters(), watched.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        assert a.grad is None or torch.equal(a.grad, b.grad)
    for a, b in zip(usual.buffers(), watched.buffers(), strict=True):
        assert torch.equal(a, b)


def test_our_hooks_are_removed_and_the_users_stay():
    model, seen = net(), []
    model.gate.register_forward_hook(lambda _module, _inputs, output: seen.append(1) or output * 3)
    before = {name: list(m._forward_hooks.values()) for name, m in model.named_modules()}
    flow, _ = traced(model)
    assert {name: list(m._forward_hooks.values()) for name, m in model.named_modules()} == before
    assert seen == [1]
    gate, stem = rows_of(flow)["gate", 1], rows_of(flow)["many", 1]
    assert 1.0 < gate.output_max <= 3.0  # as changed by the user's hook
    assert stem.output_max == pytest.approx(2 * gate.output_max, rel=1e-6)


def test_no_output_is_kept_alive_after_the_backward_pass():
    model, outputs = net(), []
    model.second.register_forward_hook(lambda _m, _i, output: outputs.append(weakref.ref(output)))
    gc.collect()
    gc.disable()  # reference cycles would stay
    try:
        flow, probe = traced(model)
        assert flow.calls
        assert probe.error is None
        assert [output() for output in outputs] == [None]
    finally:
        gc.enable()


def test_tensor_that_is_passed_on_is_read_once(monkeypatch):
    from yolo_gradwatch.measure import flow as module

    reads = []
    monkeypatch.setattr(module, "norm_of", lambda tensor: reads.append(1) or norm_of(tensor))
    flow, _ = traced(net(inplace=True))
    rows = rows_of(flow)
    for container, part in ((("first", 1), ("first.act", 1)), (("identity", 1), ("first", 1))):
        assert rows[container].output_rms == rows[part].output_rms
        assert rows[container].gradient_norm == rows[part].gradient_norm
    assert rows["first.bn", 1].output_rms != rows["first.act", 1].output_rms  # one tensor, in place
    stems = 4 * 3  # a convolution, a normalization and an activation each
    assert len(reads) == 2 * (stems + len(["gate", "y", "tanh"]))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_counts_no_call_twice(reentrant):
    def compute(call, x):
        return checkpoint(call, x, use_reentrant=reentrant)

    flow, probe = traced(net(compute=compute))
    assert probe.error is None
    outputs, gradients = oracle(net())
    rows = rows_of(flow)
    if not reentrant:
        assert list(rows) == list(outputs)
    inner = [key for key in outputs if key[0].startswith("second")]
    assert {key for key in rows if key[0].startswith("second")} == set(inner)
    for key in [*inner, ("third", 1), ("first", 1)]:
        expected = float(joined(gradients[key]).norm())
        assert rows[key].gradient_norm == pytest.approx(expected, rel=1e-5)
        values = joined(outputs[key])
        assert rows[key].output_rms == pytest.approx(float(values.pow(2).mean().sqrt()), rel=1e-5)


def test_loss_scale_and_world_size_are_divided_out():
    """The scale is that of the backward pass, although the scaler later changes it in place."""
    scale = torch.tensor(1024.0)
    model = net()
    probe = Probe(inside(model), torch.device("cpu"), lambda: scale, 2)
    probe.start()
    (model(batch()) * 1024.0 * 2).backward()
    scale.mul_(0.5)
    assert_as_torch(probe.stop().flow(1, 1), oracle(net()))


@pytest.mark.parametrize(
    ("where", "at"),
    [("norm_of", 1), ("norm_of", 9), ("norm_of", 20), ("extent_of", 9), ("ends_of", 9)],
    ids=["the first output", "an output", "a gradient", "an extent", "a share"],
)
def test_error_in_a_hook_ends_the_trace_but_not_the_training(monkeypatch, where, at):
    from yolo_gradwatch.measure import flow as module

    calls, original = [], getattr(module, where)

    def failing(*args):
        calls.append(1)
        if len(calls) == at:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return original(*args)

    monkeypatch.setattr(module, where, failing)
    model, usual = net(inplace=True), net(inplace=True)
    flow, probe = traced(model)
    assert flow is None
    assert isinstance(probe.error, torch.cuda.OutOfMemoryError)
    assert len(calls) == at
    assert not any(m._forward_hooks for m in model.modules())
    usual(batch()).backward()
    for a, b in zip(usual.parameters(), model.parameters(), strict=True):
        assert a.grad is None or torch.equal(a.grad, b.grad)


def test_error_of_the_training_passes_through():
    model = net()
    probe = Probe(inside(model), torch.device("cpu"), lambda: None)
    probe.start()
    with pytest.raises(RuntimeError, match="channels"):
        model(torch.zeros(1, 5, 8, 8))
    probe.close()
    assert not any(m._forward_hooks for m in model.modules())


def test_nan_and_inf_are_numbers_and_missing_values_are_none():
    class Odd(nn.Module):
        def forward(self, x):
            return {"nan": x[:1] * math.nan, "inf": x[1:] / 0}

    class Empty(nn.Module):
        def forward(self, x):
            return x[:0], [], "text", torch.arange(3)

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.odd, self.empty = nn.Conv2d(3, 3, 1), Odd(), Empty()
            self.fixed = nn.Conv2d(3, 3, 1).requires_grad_(requires_grad=False)

        def forward(self, x):
            x = self.conv(self.fixed(x))
            self.empty(x)
            odd = self.odd(x)
            return odd["nan"].sum() + odd["inf"].sum()

    flow, probe = traced(Both())
    assert probe.error is None
    rows = {call.module: call for call in flow.calls}
    assert rows["fixed"].gradient_norm is None
    assert rows["fixed"].is_finite
    empty = rows["empty"]
    assert (empty.elements, empty.output_rms, empty.output_max) == (0, None, None)
    assert (empty.output_zero, empty.gradient_norm, empty.is_finite) == (None, None, True)
    assert math.isnan(rows["odd"].output_max)
    assert math.isnan(rows["odd"].output_rms)
    assert math.isnan(rows["conv"].gradient_norm) or math.isinf(rows["conv"].gradient_norm)
    assert flow.first_not_finite is rows["odd"]


@pytest.mark.parametrize("factor", [1e-30, 1e-18, 1.0, 1e17, 1e30])
@pytest.mark.parametrize("shape", [(7,), (2, 3, 9, 9), (1, 700_000), (2, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_norm_neither_overflows_nor_underflows(factor, shape, dtype):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype) * factor
    expected = float(values.double().norm())
    assert float(norm_of(values)) == pytest.approx(expected, rel=1e-4)
    folded = values.transpose(0, -1)
    assert float(norm_of(folded)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norm_of_half_precision_does_not_overflow(dtype):
    values = torch.full((64, 64), 60_000.0, dtype=dtype)
    assert float(norm_of(values)) == pytest.approx(float(values.double().norm()), rel=1e-5)


@pytest.mark.parametrize(
    "module",
    [nn.Sigmoid(), nn.Tanh(), nn.Softsign(), nn.Hardsigmoid(), nn.Hardtanh(-2, 3), nn.ReLU6()],
    ids=lambda one: type(one).__name__,
)
def test_saturated_means_a_derivative_below_a_hundredth_of_its_largest(module):
    x = torch.linspace(-20, 20, 4001, dtype=torch.float64)
    x = x[(x != -2) & (x != 3) & (x != 0) & (x != 6) & (x != -3)].requires_grad_()  # corners
    output = module(x)
    (slope,) = torch.autograd.grad(output.sum(), x)
    expected = float((slope < 0.01 * slope.max()).double().mean())
    assert 0 < expected < 1

    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = module

        def forward(self, images):
            return self.act(images).sum()

    flow, _ = traced(One(), images=x.detach().clone().requires_grad_())
    assert flow.calls[0].output_saturated == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(
    "module", [nn.SiLU(), nn.ReLU(), nn.GELU(), nn.Softmax(-1), nn.Linear(2, 2)]
)
def test_module_that_does_not_saturate_at_both_ends_has_no_share(module):
    assert ends_of(module) is None


def test_compiled_model_is_recognized():
    model = net()
    assert not is_compiled(model)
    model.second.compile(backend="eager")
    assert is_compiled(model)
    assert is_compiled(torch.compile(net(), backend="eager"))


def test_names_have_no_wrappers_and_the_whole_model_is_omitted():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = net()

    wrapped = inside(Wrapper())
    assert list(wrapped) == list(inside(net()))
    assert "model" not in wrapped
    assert "first.act" in wrapped
    assert "second.act" not in wrapped  # the same module


@pytest.mark.slow
def test_traces_leave_nothing_in_memory():
    model = net(inplace=True)

    def count():
        gc.collect()
        return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())

    traced(model)
    before = count()
    for _ in range(3):
        traced(model)
    assert count() == before


def test_devices_other_than_cpu_are_read_without_float64():
    """As on MPS: torch reduces in float32."""

    class Elsewhere(torch.Tensor):
        device = property(lambda _self: SimpleNamespace(type="mps"))

    for dtype in (torch.float32, torch.float16):
        values = torch.tensor([[3.0, 0.0], [0.0, -4.0]], dtype=dtype).as_subclass(Elsewhere)
        norm, (largest, nonzero) = norm_of(values), extent_of(values)
        assert {one.dtype for one in (norm, largest, nonzero)} == {torch.float32}
        assert [float(one) for one in (norm, largest, nonzero)] == [5.0, 4.0, 2.0]


class Half(nn.Module):
    """Works in the precision of autocast, with a loss scale."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU(inplace=True), nn.Conv2d(8, 4, 3)
        )

    def forward(self, x):
        return self.net(x).float().pow(2).mean()


@needs_cuda
@pytest.mark.parametrize("half", [False, True])
def test_gpu_is_not_waited_for_and_gives_the_same_values(half):
    torch.manual_seed(0)
    model, scale = Half().cuda(), torch.tensor(64.0, device="cuda")
    images = batch().cuda()
    for _ in range(2):  # the first pass initializes cuDNN, which may wait
        model.zero_grad()
        probe = Probe(inside(model), images.device, lambda: scale)
        with no_waiting():
            probe.start()
            with torch.autocast("cuda", torch.float16, enabled=half):
                loss = model(images)
            (loss * scale).backward()
            landing = probe.stop()
    assert probe.error is None
    rows = {call.module: call for call in landing.flow(1, 1).calls}
    outputs = {}
    for name, module in model.named_modules():
        if name:
            module.register_forward_hook(
                lambda _m, _i, output, name=name: outputs.update({name: output.clone()})
            )
    with torch.autocast("cuda", torch.float16, enabled=half):
        model(images)
    for name, call in rows.items():
        values = outputs[name].double()
        assert call.output_rms == pytest.approx(float(values.pow(2).mean().sqrt()), rel=1e-3)
        assert call.output_max == pytest.approx(float(values.abs().max()), rel=1e-3)
        assert np.isfinite(call.gradient_norm)
        assert call.gradient_norm > 0
