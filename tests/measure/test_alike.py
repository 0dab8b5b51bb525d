"""Tensors that a kernel reads by address are unchanged since they were noted."""

import pytest
import torch
from torch import nn

from yolo_gradwatch.measure import alike
from yolo_gradwatch.measure.alike import Alike


class Own(torch.Tensor):
    pass


PLAIN = torch.zeros(2, 2)
CHANGES = {
    "of another size": torch.zeros(2, 3),
    "of another shape": torch.zeros(4),
    "with holes": torch.zeros(2, 3)[:, :2],
    "over itself": torch.zeros(1, 2).expand(2, 2),
    "wider": torch.zeros(2, 2).double(),
    "as wide": torch.zeros(2, 2).int(),
    "half as wide, twice as long": torch.zeros(2, 4).half(),
    "elsewhere": torch.zeros(2, 2, device="meta"),
    "of an own class": torch.zeros(2, 2).as_subclass(Own),
    "missing": None,
}


@pytest.fixture(params=["guard", "Python"])
def ways(request, monkeypatch):
    if request.param == "Python":
        monkeypatch.setattr(alike, "guard_of", lambda _tensors: None)
    return request.param


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.usefixtures("ways")
def test_any_change_of_one_tensor_is_detected(change):
    known = Alike()
    tensors = [torch.ones(3), PLAIN, nn.Parameter(torch.ones(5)), torch.ones(0), torch.ones(())]
    known.note(tensors)
    assert known.holds([tensors[0].clone(), PLAIN + 7, *tensors[2:]])
    for place in (1, 0):
        others = list(tensors)
        others[place] = CHANGES[change]
        assert not known.holds(others)
    known.note(others)
    assert known.holds(list(others))
    assert not known.holds(tensors)


@pytest.mark.usefixtures("ways")
def test_missing_tensors_must_be_missing_in_the_same_places():
    known = Alike()
    known.note([PLAIN, None, PLAIN.clone()])
    assert known.holds([PLAIN.clone(), None, PLAIN])
    others = [[PLAIN, PLAIN, PLAIN], [PLAIN, PLAIN.clone(), None], [PLAIN, None], [None] * 3]
    assert not any(known.holds(other) for other in others)
    known.note([None, None])
    assert known.holds([None, None])
    assert not known.holds([None, PLAIN])


def test_nothing_is_noted_at_first():
    assert not Alike().holds([PLAIN])
    assert not Alike().holds([])


def test_guard_is_used_where_pytorch_has_one():
    assert hasattr(torch._C, "_dynamo")
    assert alike._is_trusted()
    assert alike.guard_of([PLAIN, torch.ones(3)]) is not None
    assert alike.guard_of([]) is alike.guard_of([PLAIN, PLAIN]) is None  # the same tensor twice


@pytest.fixture
def _fresh_trust():
    alike._is_trusted.cache_clear()
    yield
    alike._is_trusted.cache_clear()


class Guard:
    """Accepts whatever ``accepts`` does."""

    def __init__(self, *tensors, accepts, **_options):
        self.tensors, self.accepts = tensors, accepts

    def check(self, *tensors):
        return all(map(self.accepts, self.tensors, tensors))


def raises(*_args):
    raise RuntimeError("of another version")


BROKEN = {
    "everything passes": lambda _one, _other: True,
    "nothing passes": lambda _one, _other: False,
    "strides are not compared": lambda one, other: (
        (other is not None) and (one.shape, one.dtype) == (other.shape, other.dtype)
    ),
    "it fails": raises,
}


@pytest.mark.usefixtures("_fresh_trust")
@pytest.mark.parametrize("accepts", BROKEN.values(), ids=BROKEN)
def test_guard_of_another_version_is_not_trusted(monkeypatch, accepts):
    def make(*tensors, **options):
        return Guard(*tensors, accepts=accepts, **options)

    monkeypatch.setattr(torch._C._dynamo.guards, "TensorGuards", make)
    assert alike.guard_of([PLAIN]) is None


@pytest.mark.usefixtures("_fresh_trust")
def test_without_a_guard_python_compares(monkeypatch):
    monkeypatch.delattr(torch._C._dynamo.guards, "TensorGuards")
    known = Alike()
    known.note([PLAIN])
    assert known.holds([PLAIN.clone()])
    assert not known.holds([PLAIN.double()])
