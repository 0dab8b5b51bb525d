import numpy as np
import pytest
import torch
from devices import needs_cuda, no_waiting
from torch import nn

from yolo_gradwatch.measure.capture import NO_LOSSES, Capture
from yolo_gradwatch.measure.host import LONGEST_ROW, SMALL, Plan
from yolo_gradwatch.measure.loss_items import COUNT
from yolo_gradwatch.measure.losses import MOST_ITEMS, MOST_KINDS, ROOM, LossMeter
from yolo_gradwatch.measure.norms import nonzeros_of, norms_of
from yolo_gradwatch.measure.ring import RING, Slot


def model_with_gradients():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))
    model(torch.randn(2, 3, 8, 8)).square().sum().backward()
    return model


def noted(*items):
    """Loss items of one batch, as a step carries them."""
    meter = LossMeter()
    meter.add(tuple(f"item {i}" for i in range(sum(item.numel() for item in items))), items)
    return meter.take()


def taken(parameters, *, others=(), extras=(), losses=NO_LOSSES, detailed=False):
    capture = Capture(list(parameters), others)
    capture.take(3, 7, list(extras), losses, detailed=detailed, weighed=detailed)
    (sample,) = capture.drain()
    assert list(capture.drain()) == []
    return sample


def wanted(gradients):
    return [float(torch.linalg.vector_norm(one.detach().double())) for one in gradients]


@pytest.mark.parametrize("detailed", [False, True])
def test_norms_equal_float64_norms_and_gradients_stay_untouched(detailed):
    model = model_with_gradients()
    before = [p.grad.clone() for p in model.parameters()]
    sample = taken(model.parameters(), detailed=detailed)
    np.testing.assert_allclose(sample.norms, wanted(before), rtol=1e-7)
    assert (sample.epoch, sample.step) == (3, 7)
    assert (sample.skipped, sample.scale, sample.losses) == (False, None, ())
    assert (sample.detail is not None) is detailed
    assert not sample.missing.any()
    assert sample.frozen is None
    assert all(torch.equal(g, p.grad) for g, p in zip(before, model.parameters(), strict=True))
    assert all(p.grad.grad_fn is None for p in model.parameters())


@pytest.mark.parametrize("odd", [-3.0, 2e30, -np.inf, np.nan])
@pytest.mark.parametrize("place", range(3))
def test_largest_value_of_each_tensor_includes_inf_and_nan(odd, place):
    weight, empty, buffer = (
        nn.Parameter(torch.ones(2, 3)),
        nn.Parameter(torch.ones(0)),
        torch.ones(3),
    )
    weight.grad, empty.grad = torch.ones(2, 3), torch.ones(0)
    half = torch.full((4,), -0.5, dtype=torch.float16)
    tensors = [weight, buffer, half.float()]
    tensors[place].data[-1] = odd
    others = [tensors[1], tensors[2] if place == 2 else half]
    largest = taken([weight, empty], others=others, detailed=True).detail.weights.largest
    expected = [np.abs(t.detach().double().numpy()).max() for t in tensors]
    np.testing.assert_array_equal(largest, [expected[0], 0.0, *expected[1:]])


def test_change_belongs_to_its_step_and_is_omitted_if_skipped():
    model = model_with_gradients()
    capture = Capture(list(model.parameters()))
    before, moved = torch.rand(2, len(list(model.parameters())))
    for step, skipped in enumerate([0.0, 1.0, 0.0], 1):
        extras = [torch.tensor([skipped]), torch.tensor(8.0)]
        capture.take(1, step, extras, detailed=step == 1, weighed=step == 1)
        if step < 3:
            capture.add_change(before, moved)
    first, second, third = capture.drain()
    np.testing.assert_array_equal(first.change.before, before.double())
    np.testing.assert_array_equal(first.change.moved, moved.double())
    assert first.detail.weights.norms.tolist() == wanted(model.parameters())
    assert (second.skipped, second.change, third.change) == (True, None, None)


def test_details_hold_weight_norms_and_zero_elements():
    weight, bias = nn.Parameter(torch.full((2, 3), 2.0)), nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    bias.grad = torch.zeros(2)
    detail = taken([weight, bias], detailed=True).detail
    np.testing.assert_allclose(detail.weights.norms, [np.sqrt(24), np.sqrt(2)])
    np.testing.assert_array_equal(detail.zeros, [4, np.nan])


@pytest.fixture(params=["in one call", "one by one"])
def _both_ways(request, monkeypatch):
    """With this torch, and as with versions before 2.4."""
    if request.param == "one by one":
        monkeypatch.setattr("yolo_gradwatch.measure.norms._HAS_DTYPE", False)


@pytest.mark.usefixtures("_both_ways")
@pytest.mark.parametrize("shape", [(100,), (LONGEST_ROW,), (2, LONGEST_ROW), (2 * LONGEST_ROW,)])
@pytest.mark.parametrize("value", [1e-30, 1e-23, 1e18, 1e30, np.inf, np.nan])
def test_extreme_norms_neither_overflow_nor_underflow(value, shape):
    norm = norms_of([torch.full(shape, value)])
    expected = np.sqrt(np.prod(shape)) * value
    assert float(norm[0]) == pytest.approx(expected, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("shape", [(LONGEST_ROW,), (2, LONGEST_ROW), (1, 2 * LONGEST_ROW)])
def test_norms_of_equal_numbers_are_exact_to_a_few_millionths(shape):
    """The worst case of a sum in float32, which always rounds the same way."""
    tensor = torch.full(shape, 0.1)
    assert float(norms_of([tensor])[0]) == pytest.approx(wanted([tensor])[0], rel=5e-6)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t[:, :2],
        lambda t: t.double(),
        lambda t: t.half(),
        lambda t: t.bfloat16(),
        lambda t: t.reshape(-1),
        lambda t: t.t().expand(2, -1, -1),
    ],
)
def test_plan_for_other_tensors_is_not_used(change):
    torch.manual_seed(0)
    before = [torch.randn(8, LONGEST_ROW), torch.randn(100, 100), torch.randn(3)]
    after = [change(before[0]), change(before[1]), before[2]]
    found = norms_of(after, Plan(before))
    np.testing.assert_allclose(found, wanted([t.double() for t in after]), rtol=1e-6)
    read = Plan(before).read(after, nonzero=True, largest=True)
    assert read.nonzero.tolist() == [int((t != 0).sum()) for t in after]
    assert read.largest.tolist() == [float(t.abs().max()) for t in after]


@pytest.mark.usefixtures("_both_ways")
def test_device_without_float64_gets_float32():
    """As on MPS; ``meta`` stands in for it, with types and shapes only."""
    model = nn.Linear(2, 2, device="meta")
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    try:
        norms = norms_of([p.grad for p in model.parameters()])
    except NotImplementedError:
        pytest.skip("the norm of this torch does not know such a device")
    assert norms.dtype == torch.float32
    ring = Capture([*model.parameters()])._ring
    assert (ring.dtype, len(ring.slots)) == (torch.float32, 0)


def test_norm_of_a_large_tensor_is_exact_to_float32():
    torch.manual_seed(0)
    large = torch.randn(768, 768, 3, 3)
    assert float(norms_of([large])[0]) == pytest.approx(wanted([large])[0], rel=1e-7)


@pytest.mark.parametrize(("found", "skipped"), [(0.0, False), (1.0, True)])
def test_loss_scaler_state_travels_with_the_norms(found, skipped):
    extras = [torch.tensor([found]), torch.tensor(65536.0)]
    sample = taken(model_with_gradients().parameters(), extras=extras)
    assert (sample.skipped, sample.scale) == (skipped, 65536.0)


ITEMS = {
    "none": ([], ()),
    "a tensor of all": ([torch.tensor([1.5, 2.0, 0.25])], (1.5, 2.0, 0.25)),
    "one each": ([torch.tensor(1.5), torch.tensor([2.0])], (1.5, 2.0)),
    "half precision": ([torch.tensor(0.5, dtype=torch.float16)], (0.5,)),
    "with a graph": ([torch.tensor(3.0, requires_grad=True)], (3.0,)),
    "whole numbers": ([torch.tensor(3)], (3.0,)),
    "not finite": ([torch.tensor([np.nan, np.inf, -np.inf])], (np.nan, np.inf, -np.inf)),
    "as many as fit": ([torch.ones(MOST_ITEMS)], (1.0,) * MOST_ITEMS),
    "one too many": ([torch.ones(MOST_ITEMS + 1)], ()),
}


@pytest.mark.parametrize("kind", ITEMS)
@pytest.mark.parametrize("extras", [[], [torch.tensor([1.0]), torch.tensor(8.0)]])
@pytest.mark.parametrize("detailed", [False, True])
def test_loss_items_travel_with_the_norms_and_stay_separate(kind, extras, detailed):
    losses, expected = ITEMS[kind]
    model = model_with_gradients()
    plain = taken(model.parameters(), detailed=detailed)
    sample = taken(model.parameters(), extras=extras, losses=noted(*losses), detailed=detailed)
    assert len(sample.losses) == bool(expected)
    for items in sample.losses:
        np.testing.assert_array_equal(items.rows, [expected])
        assert list(items.newest) == [f"item {i}" for i in range(len(expected))]
    assert (sample.skipped, sample.scale) == ((True, 8.0) if extras else (False, None))
    np.testing.assert_array_equal(sample.norms, plain.norms)
    if detailed:
        np.testing.assert_array_equal(sample.detail.weights.norms, plain.detail.weights.norms)
        np.testing.assert_array_equal(sample.detail.zeros, plain.detail.zeros)


def layers(*, frozen=(), without=(), zero=()):
    """Three weights with a gradient of 2, except frozen ones and those without one."""
    parameters = [nn.Parameter(torch.ones(2, 2)) for _ in range(3)]
    for i, parameter in enumerate(parameters):
        gradient = torch.zeros(2, 2) if i in zero else torch.ones(2, 2)
        parameter.grad = None if i in {*frozen, *without} else gradient
        parameter.requires_grad_(requires_grad=i not in frozen)
    return parameters


@pytest.mark.parametrize("detailed", [False, True])
@pytest.mark.parametrize(
    ("frozen", "without", "zero"),
    [((), (), ()), ((), (1,), (0,)), ((0,), (2,), ()), ((0, 1, 2), (), ()), ((), (0, 1, 2), ())],
)
def test_missing_gradient_differs_from_zero_and_frozen(frozen, without, zero, detailed):
    sample = taken(
        layers(frozen=frozen, without=without, zero=zero),
        losses=noted(torch.tensor(1.5)),
        detailed=detailed,
    )
    missing = {*frozen, *without}
    assert sample.missing.tolist() == [i in missing for i in range(3)]
    assert sample.norms.tolist() == [0 if i in {*missing, *zero} else 2 for i in range(3)]
    flags = None if sample.frozen is None else sample.frozen.tolist()
    assert flags == ([i in frozen for i in range(3)] if frozen else None)
    assert sample.losses[0].rows == 1.5
    if detailed:
        np.testing.assert_array_equal(sample.detail.weights.norms, [2, 2, 2])
        zeros = [np.nan if i in missing else 4 * (i in zero) for i in range(3)]
        np.testing.assert_array_equal(sample.detail.zeros, zeros)


def test_parameter_frozen_during_accumulation_keeps_its_gradient():
    parameters = layers(frozen=[1], without=[2])
    parameters[0].requires_grad_(requires_grad=False)
    sample = taken(parameters)
    assert list(sample.frozen) == [False, True, False]
    assert list(sample.missing) == [False, True, True]
    assert list(sample.norms) == [2, 0, 0]


def test_thawed_parameter_is_no_longer_frozen():
    parameters = layers(frozen=[0])
    capture = Capture(parameters)
    capture.take(1, 1, [], detailed=False)
    parameters[0].requires_grad_(requires_grad=True)
    parameters[0].grad = torch.ones(2, 2)
    capture.take(1, 2, [], detailed=False)
    parameters[0].grad = None
    capture.take(1, 3, [], detailed=False)
    first, second, third = capture.drain()
    assert list(first.frozen) == [True, False, False]
    assert second.frozen is third.frozen is None
    assert third.missing[0]


def on_cuda():
    """A capture of parameters on a device, and their gradients."""
    model = model_with_gradients().cuda()
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return Capture(list(model.parameters())), [p.grad for p in model.parameters()]


@needs_cuda
def test_taking_a_sample_does_not_synchronize_with_the_device():
    capture, gradients = on_cuda()
    extras = [torch.zeros(1, device="cuda"), torch.ones((), device="cuda")]
    losses = [torch.ones((), device="cuda"), torch.ones(3, device="cuda")]
    meter = LossMeter()
    capture.take(1, 1, extras, noted(*losses), detailed=True)
    list(capture.drain(wait=True))
    with no_waiting():
        for step in range(2, 202):
            for _ in range(70):  # some of them get folded
                meter.add(("a", "b", "c", "d"), losses)
            capture.take(1, step, extras, meter.take(), detailed=step % 10 == 0)
            list(capture.drain())
    torch.cuda.synchronize()
    sample = list(capture.drain(wait=True))[-1]
    (items,) = sample.losses
    assert (sample.step, items.newest) == (201, dict.fromkeys("abcd", 1.0))
    assert len(items.rows) + items.folded[COUNT, 0] == 70
    np.testing.assert_allclose(sample.norms, wanted(gradients), rtol=1e-6)


class Event:
    """As much of a CUDA event as shows whether a copy has landed."""

    def __init__(self, landed):
        self.landed, self.waits = landed, 0

    def record(self, stream):
        pass

    def query(self):
        return self.landed

    def synchronize(self):
        self.waits += 1


@pytest.fixture
def ringed(monkeypatch):
    """A CPU capture with CUDA-like buffers; copies land at once, or only when waited for."""
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: None)

    def begin(parameter, *, landed):
        capture = Capture([parameter])
        rows = torch.empty((2, RING, 3 + ROOM), dtype=torch.float64)
        slots = [Slot(a, Event(landed), b, b.view(torch.int32)) for a, b in zip(*rows, strict=True)]
        capture._ring.slots.extend(slots)
        return capture

    return begin


@pytest.mark.parametrize("landed", [True, False])
@pytest.mark.parametrize("count", [1, RING - 1, RING, RING + 1, 3 * RING + 2])
def test_ring_of_buffers_loses_no_step(ringed, landed, count):
    parameter = nn.Parameter(torch.ones(1))
    capture = ringed(parameter, landed=landed)
    for step in range(1, count + 1):
        parameter.grad = torch.full((1,), float(step))
        capture.take(1, step, [], detailed=step % 3 == 0)
        busy = [flight.transfer.host.data_ptr() for flight in capture._flying]
        assert len(set(busy)) == len(busy) <= RING
    samples = list(capture.drain(wait=True))
    assert [sample.step for sample in samples] == list(range(1, count + 1))
    assert [float(sample.norms[0]) for sample in samples] == [sample.step for sample in samples]
    waits = sum(slot.event.waits for slot in capture._ring.slots)
    assert waits == (0 if landed else count)


def test_steps_that_have_not_landed_are_not_waited_for(ringed):
    parameter = nn.Parameter(torch.ones(1))
    parameter.grad = torch.ones(1)
    capture = ringed(parameter, landed=False)
    for step in range(1, RING + 3):
        capture.take(1, step, [], detailed=False)
    assert [sample.step for sample in capture.drain()] == [1, 2]  # their buffers were needed
    assert list(capture.drain()) == []
    assert len(list(capture.drain(wait=True))) == RING


def longest(device):
    """As many loss items as a step can carry."""
    meter = LossMeter()
    for kind in range(MOST_KINDS + 1):
        names = tuple(f"{kind}/{i}" for i in range(MOST_ITEMS))
        for _ in range(8):
            meter.add(names, [torch.ones(MOST_ITEMS, device=device)])
    return meter.take()


def test_step_carries_at_most_as_many_loss_items_as_fit():
    sample = taken(model_with_gradients().parameters(), losses=longest("cpu"), detailed=True)
    assert sum(tensor.numel() for tensor in longest("cpu").tensors) == ROOM
    assert [items.names[0] for items in sample.losses] == [f"{i}/0" for i in range(MOST_KINDS)]
    assert all((items.rows == 1).all() for items in sample.losses)
    assert [items.folded[COUNT, 0] for items in sample.losses] == [4] * MOST_KINDS


@needs_cuda
def test_pinned_buffers_are_allocated_once():
    capture, _ = on_cuda()
    extras = [torch.zeros(1, device="cuda"), torch.ones((), device="cuda")]
    losses = longest("cuda")
    places = {slot.host.data_ptr() for slot in capture._ring.slots}
    assert len(places) == RING
    assert all(slot.host.is_pinned() for slot in capture._ring.slots)
    for step in range(1, 101):
        capture.take(1, step, extras, losses, detailed=True)  # the longest vector
        assert {flight.transfer.host.data_ptr() for flight in capture._flying} <= places
        list(capture.drain())


@needs_cuda
@pytest.mark.parametrize("count", [RING - 1, RING, RING + 1, 3 * RING])
def test_more_steps_than_buffers_can_be_in_flight(count):
    capture, gradients = on_cuda()
    norms = torch.stack([gradient.double().norm() for gradient in gradients]).cpu().numpy()
    for step in range(1, count + 1):
        torch._foreach_mul_(gradients, 2.0)
        capture.take(1, step, [], detailed=False)
    samples = list(capture.drain(wait=True))
    assert [sample.step for sample in samples] == list(range(1, count + 1))
    for sample in samples:
        np.testing.assert_allclose(sample.norms, norms * 2.0**sample.step, rtol=1e-6)


LARGE = (2 * SMALL // 9, 1, 3, 3)
KINDS = {
    "small": torch.ones(3),
    "empty": torch.ones(0),
    "large": torch.ones(LARGE),
    "in channels_last": torch.ones(64, 32, 3, 3).contiguous(memory_format=torch.channels_last),
    "long rows": torch.ones(1, 2 * LONGEST_ROW),
    "not of equal rows": torch.ones(97, 97),
    "of one dimension": torch.ones(2 * SMALL),
    "strided": torch.ones(200, 200).t()[::2],
    "float64": torch.ones(2 * SMALL, 2, dtype=torch.float64),
    "half": torch.ones(2 * SMALL, 2, dtype=torch.float16),
    "bfloat16": torch.ones(5, 2, dtype=torch.bfloat16),
}


def drawn(kind):
    torch.manual_seed(0)
    return torch.empty_like(KINDS[kind]).copy_(torch.randn(KINDS[kind].shape))


@pytest.mark.parametrize("kinds", [*([kind] for kind in KINDS), [*KINDS]])
@pytest.mark.parametrize("factor", [0.0, 1e-25, 1e-3, 1e25, np.inf, np.nan])
def test_norms_and_zeros_of_all_tensor_kinds_leave_them_unchanged(kinds, factor):
    tensors = [drawn(kind) for kind in kinds]
    for tensor in tensors:
        tensor[:1] *= factor  # an Inf or NaN in one row only
        tensor[1:] *= factor if np.isfinite(factor) else 1.0
    before = [tensor.clone() for tensor in tensors]
    np.testing.assert_allclose(norms_of(tensors), wanted(tensors), rtol=1e-6)
    expected = [int((tensor != 0).sum()) for tensor in tensors]
    assert nonzeros_of(tensors).tolist() == expected
    _, largest, nonzero = Plan(tensors).read(tensors, norms=False, nonzero=True, largest=True)
    assert nonzero.tolist() == expected
    np.testing.assert_array_equal(largest, [float(t.abs().max()) if len(t) else 0 for t in tensors])
    assert not np.signbit(largest[np.isfinite(largest)]).any()
    for tensor, old in zip(tensors, before, strict=True):
        np.testing.assert_array_equal(tensor.double(), old.double())
