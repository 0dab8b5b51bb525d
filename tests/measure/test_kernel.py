"""Tensors read by a kernel: in Triton's interpreter on every machine, and on CUDA."""

import importlib.util
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from devices import needs_cuda, no_waiting
from hypothesis import given
from hypothesis import strategies as st
from kernels import CHECKS, laid_out, read, table_for
from torch import nn

from yolo_gradwatch.measure import table
from yolo_gradwatch.measure.capture import Capture
from yolo_gradwatch.measure.chunks import ALIGNED, CHUNK, chunks_of
from yolo_gradwatch.measure.ring import Ring, Slot, Transfer
from yolo_gradwatch.measure.scan import scan
from yolo_gradwatch.measure.updates import Updates

TESTS = Path(__file__).parents[1]


def test_interpreted_kernels_agree_with_torch_in_float64():
    if not importlib.util.find_spec("triton"):
        pytest.skip("no Triton, which torch for CUDA brings along on Linux")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    paths = (str(TESTS.parent), environment.get("PYTHONPATH", ""))
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    command = [sys.executable, str(TESTS / "kernels.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [check.__name__ for check in CHECKS]


@needs_cuda
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_on_cuda(check):
    check(torch.device("cuda", torch.cuda.current_device()))


@needs_cuda
def test_reading_and_comparing_neither_waits_nor_allocates():
    parameters = [nn.Parameter(torch.ones(3, 70_000, device="cuda")) for _ in range(20)]
    capture, updates = Capture(parameters), Updates(parameters)
    assert capture._tables
    before = 0
    for step in range(1, 101):
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, step)
        with no_waiting():
            capture.take(1, step, [], detailed=True, weighed=step % 3 == 0)
            updates.begin()
            capture.add_change(*updates.end())
            list(capture.drain())
        if step == 10:
            before = torch.cuda.memory_allocated()
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before
    sample = list(capture.drain(wait=True))[-1]
    assert sample.step == 100
    np.testing.assert_allclose(sample.norms, 100 * np.sqrt(210_000), rtol=1e-12)
    assert not sample.change.moved.any()


@needs_cuda
def test_steps_may_be_taken_on_different_streams():
    gradients = [torch.zeros(300_000, device="cuda") for _ in range(4)]
    one = table_for(gradients, gradients[0].device)
    streams = [torch.cuda.Stream() for _ in range(3)]
    for step in range(30):
        stream = streams[step % 3]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for gradient in gradients:
                gradient.fill_(step)
            extents, odd = read(one, gradients)
        torch.cuda.current_stream().wait_stream(stream)
        np.testing.assert_allclose(extents.norms, step * np.sqrt(300_000))
        assert not odd


@pytest.fixture
def _fresh_kernels():
    table._kernels.cache_clear()
    yield
    table._kernels.cache_clear()


def on_cuda(*_sizes):
    """As much of a CUDA tensor as is inspected before a kernel is built."""
    return [SimpleNamespace(device=torch.device("cuda"), numel=lambda: 3)]


def logged(caplog):
    return [(one.levelno, one.name) for one in caplog.records]


@pytest.mark.usefixtures("_fresh_kernels")
def test_without_triton_torch_reads_with_one_debug_message(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "yolo_gradwatch.measure.kernel", None)
    monkeypatch.delattr("yolo_gradwatch.measure.kernel", raising=False)
    caplog.set_level(logging.DEBUG)
    assert table.table_of(on_cuda()) is table.table_of(on_cuda()) is None
    assert logged(caplog) == [(logging.DEBUG, table.__name__)]


def test_torch_reads_where_a_kernel_cannot_be_built(monkeypatch, caplog):
    def fails(*_args):
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(table, "_kernels", lambda: SimpleNamespace(BLOCK=1024))
    monkeypatch.setattr(table.Table, "__init__", lambda *_args: None)
    monkeypatch.setattr(table.Table, "build", fails)
    caplog.set_level(logging.DEBUG)
    assert table.table_of(on_cuda()) is None
    assert logged(caplog) == [(logging.DEBUG, table.__name__)]


def test_no_kernel_is_requested_on_a_cpu(monkeypatch):
    monkeypatch.setattr(table, "_kernels", lambda: pytest.fail("Triton is imported"))
    assert table.table_of([torch.ones(3)]) is None


class NoKernel:
    """Can be launched, and does nothing."""

    def __getitem__(self, _grid):
        return lambda *_args, **_options: None


def test_gradient_that_moved_to_another_device_is_read_by_torch(monkeypatch):
    """Its address is meaningless on the device of the other gradients."""
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: None)
    here = [torch.ones(3, device="meta"), torch.ones(4, device="meta")]
    kernel = SimpleNamespace(BLOCK=1024, read=NoKernel())
    one = table.Table([3, 4], here[0].device, kernel)
    assert one.look(here)[1] == []
    floats = torch.zeros(100, dtype=torch.float64)
    transfer = Transfer(floats, Slot(floats, None, floats, floats.view(torch.int32)))
    moved = [here[0], torch.tensor([0.0, -2.0, 2.0, 2.0])]
    scanned = scan(one, moved, Ring(here[0].device, 0), transfer)
    extents, rest = scanned.split(transfer.host[: transfer.size].numpy())
    assert (scanned.odd, len(rest)) == ([1], 0)
    assert one.look(moved)[0].tolist() == [0, 0]
    np.testing.assert_allclose(extents.norms, [0, np.sqrt(12)])
    assert (extents.largest.tolist(), extents.nonzero.tolist()) == ([0, 2], [0, 3])


@given(st.lists(st.integers(0, 3 * CHUNK + 1), min_size=1, max_size=30))
def test_chunks_cover_each_element_once_and_copies_do_not_overlap(sizes):
    chunks = chunks_of(sizes)
    tensor, begin, length, place = chunks.table
    assert (length <= CHUNK).all()
    assert ((length > 0) | (np.array(sizes)[tensor] == 0)).all()
    assert (np.diff(tensor) >= 0).all()
    ends = 0
    for i, size in enumerate(sizes):
        own = tensor == i
        first = np.flatnonzero(own)[0]
        assert chunks.starts[i] == first
        np.testing.assert_array_equal(begin[own], np.cumsum(length[own]) - length[own])
        np.testing.assert_array_equal(place[own] - place[first], begin[own])
        assert length[own].sum() == size
        assert (place[first] % ALIGNED, place[first] >= ends) == (0, True)
        ends = place[first] + size
    assert ends <= chunks.elements
    assert chunks.numbers == 2 * chunks.count == 2 * len(tensor)


LAYOUTS = {
    "as it is": True,
    "channels last": True,
    "turned": True,
    "in a view": True,
    "every second": False,
    "expanded": False,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 1, 4, 1), (3, 2)])
def test_dense_tensor_occupies_each_memory_location_once(layout, shape):
    tensor = laid_out(torch.zeros(shape), layout)
    places = [np.arange(size) * by for size, by in zip(tensor.shape, tensor.stride(), strict=True)]
    seen = sorted(sum(np.meshgrid(*places)).ravel())
    assert (seen == list(range(tensor.numel()))) is LAYOUTS[layout] is table.is_dense(tensor)
