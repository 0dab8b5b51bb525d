import numpy as np
import pytest
import torch
from torch import nn

from yolo_gradwatch.capture import Capture, norms_of


def model_with_gradients():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2))
    model(torch.randn(2, 3, 8, 8)).square().sum().backward()
    return model


def taken(parameters, *, extras=(), detailed=False):
    capture = Capture(list(parameters))
    capture.take(3, 7, list(extras), detailed=detailed)
    (sample,) = capture.drain()
    assert list(capture.drain()) == []
    return sample


def test_norms_equal_those_of_float64():
    model = model_with_gradients()
    sample = taken(model.parameters())
    wanted = [float(torch.linalg.vector_norm(p.grad.double())) for p in model.parameters()]
    np.testing.assert_allclose(sample.norms, wanted, rtol=1e-7)
    assert (sample.epoch, sample.step) == (3, 7)
    assert (sample.skipped, sample.scale, sample.detail) == (False, None, None)
    assert not sample.missing.any()


def test_a_gradient_that_is_missing_is_told_from_one_that_is_zero():
    parameters = [nn.Parameter(torch.ones(2, 2)) for _ in range(3)]
    parameters[0].grad = torch.zeros(2, 2)
    parameters[2].grad = torch.full((2, 2), 2.0)
    sample = taken(parameters, detailed=True)
    assert list(sample.norms) == [0, 0, 4]
    assert list(sample.missing) == [False, True, False]
    np.testing.assert_array_equal(sample.detail.zeros, [4, np.nan, 0])


def test_no_gradient_at_all_is_a_sample_too():
    sample = taken([nn.Parameter(torch.ones(2))])
    assert list(sample.missing) == [True]


def test_details_hold_weight_norms_and_zero_elements_of_weights():
    weight, bias = nn.Parameter(torch.full((2, 3), 2.0)), nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    bias.grad = torch.zeros(2)
    detail = taken([weight, bias], detailed=True).detail
    np.testing.assert_allclose(detail.weight_norms, [np.sqrt(24), np.sqrt(2)])
    np.testing.assert_array_equal(detail.zeros, [4, np.nan])


@pytest.mark.parametrize("value", [1e-30, 1e-23, 1e18, 1e30])
def test_norms_beyond_float32_neither_overflow_nor_underflow(value):
    norm = norms_of([torch.full((100,), value)])
    assert float(norm[0]) == pytest.approx(10 * value, rel=1e-6)


def test_the_norm_of_a_large_tensor_is_exact_to_float32():
    torch.manual_seed(0)
    large = torch.randn(768, 768, 3, 3)
    wanted = float(torch.linalg.vector_norm(large.double()))
    assert float(norms_of([large])[0]) == pytest.approx(wanted, rel=1e-7)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_gradients_stay_non_finite(value):
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.tensor([1.0, value, 0.0])
    assert not np.isfinite(taken([parameter]).norms[0])


@pytest.mark.parametrize(("found", "skipped"), [(0.0, False), (1.0, True)])
def test_a_loss_scalers_state_travels_with_the_norms(found, skipped):
    extras = [torch.tensor([found]), torch.tensor(65536.0)]
    sample = taken(model_with_gradients().parameters(), extras=extras)
    assert (sample.skipped, sample.scale) == (skipped, 65536.0)


def test_gradients_are_not_touched():
    model = model_with_gradients()
    before = [p.grad.clone() for p in model.parameters()]
    taken(model.parameters(), detailed=True)
    assert all(torch.equal(g, p.grad) for g, p in zip(before, model.parameters(), strict=True))
    assert all(p.grad.grad_fn is None for p in model.parameters())


def test_samples_come_in_the_order_of_their_steps():
    capture = Capture(list(model_with_gradients().parameters()))
    for step in range(1, 6):
        capture.take(1, step, [], detailed=step % 2 == 0)
    assert [sample.step for sample in capture.drain(wait=True)] == [1, 2, 3, 4, 5]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_taking_a_sample_does_not_synchronize_with_the_device():
    model = model_with_gradients().cuda()
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    capture = Capture(list(model.parameters()))
    extras = [torch.zeros(1, device="cuda"), torch.ones((), device="cuda")]
    capture.take(1, 1, extras, detailed=True)  # the first step allocates the pinned buffer
    list(capture.drain(wait=True))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(2, 202):
            capture.take(1, step, extras, detailed=step % 10 == 0)
            list(capture.drain())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    sample = list(capture.drain(wait=True))[-1]
    wanted = [float(torch.linalg.vector_norm(p.grad.double())) for p in model.parameters()]
    assert sample.step == 201
    np.testing.assert_allclose(sample.norms, wanted, rtol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_pinned_buffers_are_reused():
    model = model_with_gradients().cuda()
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    capture = Capture(list(model.parameters()))
    for step in range(1, 101):
        capture.take(1, step, [], detailed=True)
        list(capture.drain(wait=True))
    assert len(capture._free) == 1
