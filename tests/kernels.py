"""Checks of the kernels on any device: a CPU with Triton's interpreter, or a GPU.

    TRITON_INTERPRET=1 python tests/kernels.py

Triton selects the interpreter on import, hence the separate process. It prints the name of each
check that passes.
"""

import sys
import warnings
from contextlib import ExitStack
from unittest.mock import patch

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from yolo_gradwatch.measure import capture, updates
from yolo_gradwatch.measure.capture import Capture
from yolo_gradwatch.measure.chunks import CHUNK
from yolo_gradwatch.measure.losses import LossMeter
from yolo_gradwatch.measure.ring import RING, Slot
from yolo_gradwatch.measure.table import ROWS, Table, is_dense
from yolo_gradwatch.measure.updates import Updates

BLOCK = 1024
EDGES = [edge + by for edge in (BLOCK, CHUNK, 2 * CHUNK) for by in (-1, 0, 1)]
SHAPES = st.one_of(
    st.lists(st.integers(0, 5), max_size=4).map(tuple),
    st.sampled_from([(size,) for size in EDGES]),
)
SCALES = st.sampled_from([0.0, -0.0, 1e-45, 1e-38, 1e-23, 1.0, 1e18, 1e30, 3e38])
INJECTED = st.sampled_from([None, np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 1e30])
LAYOUTS = ["as it is", "channels last", "turned", "in a view", "every second", "expanded"]


def laid_out(plain, layout):
    """Return the values of a tensor in another memory layout, some with gaps or overlaps."""
    if layout == "channels last" and plain.ndim == 4:
        return plain.to(memory_format=torch.channels_last)
    if layout == "turned" and plain.ndim >= 2:
        return plain.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "in a view":
        room = torch.full((plain.numel() + 4,), np.nan, dtype=plain.dtype, device=plain.device)
        return room[3 : 3 + plain.numel()].view(plain.shape).copy_(plain)
    if layout == "every second" and plain.ndim:
        room = torch.full((*plain.shape, 2), np.nan, dtype=plain.dtype, device=plain.device)
        room[..., 0] = plain
        return room[..., 0]
    if layout == "expanded" and plain.ndim:
        return plain[:1].expand_as(plain) if len(plain) else plain
    return plain


@st.composite
def tensors(draw, device, dtypes=(torch.float32,), layouts=LAYOUTS):
    """Draw a tensor or None."""
    if draw(st.integers(0, 7)) == 0:
        return None
    random = np.random.default_rng(draw(st.integers(0, 99)))
    values = random.standard_normal(draw(SHAPES)) * draw(SCALES)
    injected = draw(INJECTED)
    if injected is not None and values.size:
        values.reshape(-1)[random.integers(values.size)] = injected
    dtype = draw(st.sampled_from([*[torch.float32] * 4, *dtypes]))
    plain = torch.from_numpy(np.asarray(values)).to(dtype).to(device)
    return laid_out(plain, draw(st.sampled_from(layouts)))


def lists(device, **options):
    return st.lists(tensors(device, **options), min_size=1, max_size=6)


def oracle(tensor):
    """Return norm, largest absolute value and number of nonzero elements, in float64."""
    if tensor is None or not tensor.numel():
        return 0.0, 0.0, 0
    wide = tensor.detach().double().cpu().numpy()
    with np.errstate(all="ignore"):
        return np.sqrt((wide * wide).sum()), np.abs(wide).max(), np.count_nonzero(wide)


def table_for(found, device):
    from yolo_gradwatch.measure import kernel

    return Table([3 if one is None else one.numel() for one in found], device, kernel)


def read(table, found, first=3):
    """Read into the middle of a buffer; return the result and the odd tensors."""
    size = first + table.chunks.numbers + 2
    floats = torch.full((size + size % 2,), -7.0, dtype=torch.float64, device=table._device)
    odd = table.read(found, floats, floats.view(torch.int32), first)
    values = floats.cpu().numpy()
    assert (values[:first] == -7).all()
    assert (values[first + table.chunks.numbers :] == -7).all()
    return table.chunks.extents(values[first : first + table.chunks.numbers]), odd


def assert_read(found, extents, odd):
    for i, tensor in enumerate(found):
        norm, largest, nonzero = (0, 0, 0) if i in odd else oracle(tensor)
        np.testing.assert_allclose(extents.norms[i], norm, rtol=1e-12)
        np.testing.assert_array_equal(extents.largest[i], largest)
        assert extents.nonzero[i] == nonzero


def is_odd(tensor):
    if tensor is None or not tensor.numel():
        return False
    return tensor.dtype != torch.float32 or not is_dense(tensor)


def often(examples):
    """Return settings that draw the same examples in every run, without shrinking."""
    health = [HealthCheck.too_slow, HealthCheck.data_too_large]
    drawn = {"derandomize": True, "database": None, "phases": [Phase.generate]}
    return settings(max_examples=examples, deadline=None, suppress_health_check=health, **drawn)


def check_reading_matches_float64(device):
    dtypes = (torch.float16, torch.bfloat16, torch.float64)

    @often(80)
    @given(lists(device, dtypes=dtypes))
    def check(found):
        extents, odd = read(table_for(found, device), found)
        assert odd == [i for i, tensor in enumerate(found) if is_odd(tensor)]
        assert_read(found, extents, odd)

    check()


def check_missing_tensors_and_layouts_may_change_each_step(device):
    """Read one table whose tensors disappear, reappear and change their memory layout."""
    shape = (3, 2, 4, 4)

    @often(20)
    @given(st.data())
    def check(data):
        table = table_for([torch.ones(shape)] * 3, device)
        for step in range(4):
            ways = data.draw(st.lists(st.sampled_from([*LAYOUTS, None]), min_size=3, max_size=3))
            found = [way and laid_out(torch.randn(shape, device=device), way) for way in ways]
            if step == 3:
                found[0] = torch.ones(7, device=device)  # another size: torch reads it
            extents, odd = read(table, found)
            expected = {i for i, way in enumerate(ways) if way in {"every second", "expanded"}}
            assert set(odd) == expected | ({0} if step == 3 else set())
            assert_read(found, extents, odd)

    check()


def check_addresses_are_sent_only_on_change_with_rows_in_turn(device):
    found = [torch.ones(5, device=device), torch.zeros(2, 3, device=device)]
    table = table_for(found, device)
    used = []
    for step in range(3 * ROWS):
        if step % 3 == 0:
            found[0] = torch.full((5,), float(step), device=device)
            kept = found[0]
        assert_read(found, *read(table, found))
        used.append(table._rows[-1].host.data_ptr())
    assert [used[i] == used[i + 1] for i in range(5)] == [True, True, False, True, True]
    assert len(set(used)) == ROWS
    assert kept is found[0]


def check_changes_match_copies(device):
    @often(30)
    @given(lists(device, layouts=LAYOUTS[:4]), st.sampled_from([0.0, 1e-3, 1e30]))
    def check(found, by):
        found = [torch.zeros(2, device=device) if one is None else one for one in found]
        before = [one.clone() for one in found]
        table = table_for(found, device)
        copies = table.keep(found)
        for one in found:
            one.add_(by)
        sums = table.compare(found, copies).cpu().numpy()
        with np.errstate(all="ignore"):
            pairs = zip(before, found, strict=True)
            moved = [oracle((a - b).float())[0] for a, b in pairs]
        np.testing.assert_allclose(table.chunks.norms(sums[1]), moved, rtol=1e-12)
        old = [oracle(one)[0] for one in before]
        np.testing.assert_allclose(table.chunks.norms(sums[0]), old, rtol=1e-12)
        assert table.keep([one.double() for one in found]) is None or not any(
            one.numel() for one in found
        )

    check()


class Event:
    """An event that is always complete."""

    def record(self, stream):
        pass

    def query(self):
        return True


def table_here(found):
    return table_for(found, found[0].device)


def pretending(device):
    """Use the interpreter's kernels in place of a GPU's."""
    stack = ExitStack()
    if device.type == "cpu":
        for module in (capture, updates):
            stack.enter_context(patch.object(module, "table_of", table_here))
        stack.enter_context(patch.object(torch.cuda, "current_stream", lambda _device: None))
    return stack


def capture_of(parameters, others):
    found = Capture(parameters, others)
    if not found._ring.slots:
        size = 4_000 + sum(2 * table.chunks.numbers for table in found._tables)
        rows = torch.full((2, RING, size), -7.0, dtype=torch.float64)
        for a, b in zip(*rows, strict=True):
            found._ring.slots.append(Slot(a, Event(), b, b.view(torch.int32)))
    return found


def samples_of(parameters, others, gradients, device):
    """Return samples of four steps; steps 1 and 3 have details. None means no gradient."""
    found = capture_of(parameters, others) if device else Capture(parameters, others)
    changes, meter = Updates(parameters), LossMeter()
    on = parameters[0].device
    for step, of_step in enumerate(gradients, 1):
        for parameter, gradient in zip(parameters, of_step, strict=True):
            parameter.grad = None
            if gradient is not None:
                parameter.grad = gradient
        meter.add(("a", "b"), [torch.tensor([0.5, step], device=on)])
        extras = [torch.zeros(1, device=on), torch.tensor(8.0, device=on)]
        is_due = step % 2 == 1
        found.take(1, step, extras, meter.take(), detailed=is_due, weighed=is_due)
        if is_due:
            kept = [parameter.detach().clone() for parameter in parameters]
            changes.begin()
            with torch.no_grad():
                torch._foreach_add_(parameters, 0.25 * step)
            found.add_change(*changes.end())
            with torch.no_grad():
                torch._foreach_copy_(parameters, kept)
    return list(found.drain(wait=True))


def parts_of(sample):
    """Return all arrays of a sample."""
    found = {"norms": sample.norms, "missing": sample.missing, "losses": sample.losses[0].rows}
    if sample.detail:
        weights = sample.detail.weights
        found |= {"zeros": sample.detail.zeros, "w": weights.norms, "max": weights.largest}
        found |= {"before": sample.change.before, "moved": sample.change.moved}
    return found


def check_samples_match_torch(device):
    """Compare a model with various memory layouts and missing gradients, once with halves."""
    for halves in (0, 1):
        compare_samples(device, halves)


def compare_samples(device, halves):
    torch.manual_seed(0)
    shapes = [(4, 3, 3, 3), (4,), (0,), (), (2, 4), (40, 500)]
    parameters = [nn.Parameter(torch.randn(shape, device=device)) for shape in shapes]
    parameters += [nn.Parameter(torch.randn(6, 2, device=device).half()) for _ in range(halves)]
    others = [torch.randn(4, device=device), torch.ones((), device=device, dtype=torch.bfloat16)]
    steps = []
    for step in range(4):
        made = [torch.randn_like(p).where(torch.rand_like(p) > 0.3, 0.0) for p in parameters]
        of_step = [laid_out(one, LAYOUTS[(i + step) % 6]) for i, one in enumerate(made)]
        of_step[step] = None if step else of_step[step]
        steps.append(of_step)
    with pretending(device):
        found = samples_of(parameters, others, steps, device)
    with ExitStack() as stack:
        for module in (capture, updates):
            stack.enter_context(patch.object(module, "table_of", lambda _tensors: None))
        expected = samples_of(parameters, others, steps, None)
    assert [len(parts_of(sample)) for sample in found] == [8, 3, 8, 3]
    for one, other in zip(found, expected, strict=True):
        assert parts_of(one).keys() == parts_of(other).keys()
        for name, values in parts_of(one).items():
            np.testing.assert_allclose(values, parts_of(other)[name], rtol=1e-6, err_msg=name)


CHECKS = [
    check_reading_matches_float64,
    check_missing_tensors_and_layouts_may_change_each_step,
    check_addresses_are_sent_only_on_change_with_rows_in_turn,
    check_changes_match_copies,
    check_samples_match_torch,
]


def main():
    """Run all checks; the first failure raises."""
    warnings.simplefilter("ignore", RuntimeWarning)  # the interpreter computes Inf - Inf in numpy
    torch.set_num_threads(1)
    for check in CHECKS:
        check(torch.device("cpu"))
        sys.stdout.write(check.__name__ + "\n")


if __name__ == "__main__":
    sys.exit(main())
