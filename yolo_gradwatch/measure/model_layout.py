"""Reads a model once: its modules, their sizes, its top-level blocks and how these connect."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from yolo_gradwatch.measure.layout import WHOLE, Layout, Members, Role, is_attention, words
from yolo_gradwatch.measure.sources import sources

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from torch import Tensor, nn

    from yolo_gradwatch.measure.arrays import Counts

_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod|student_model)(?:\.|$))+")

_COMPILED_CHILD = re.compile(r"\._orig_mod(?=\.|$)")

_BLOCK = re.compile(rf"^(?:{WHOLE}\.)?[^.]+")

_NORM = {"norm", "normalization", "grn", "frn"} | {
    f"{kind}norm" for kind in ("batch", "group", "instance", "layer", "rms")
}

_TORCH_NORMS = {"_NormBase", "GroupNorm", "LayerNorm", "RMSNorm"}


def clean_name(name: str) -> str:
    """Return a module's name without the prefixes of DDP, ``torch.compile`` and distillation."""
    return _COMPILED_CHILD.sub("", _WRAPPERS.sub("", name)) or WHOLE


def watched(
    model: nn.Module, meant_frozen: Sequence[str] = ("",), known: Collection[nn.Parameter] = ()
) -> list[nn.Parameter]:
    """Return the P parameters that a training is meant to move, in ``named_parameters`` order.

    Args:
        model: The model, wrapped or not.
        meant_frozen: Parts of the names of parameters that are frozen on purpose; any other frozen
            parameter is watched too. By default, every frozen one is left out.
        known: Parameters that were watched before, frozen by now or not.
    """
    kept = {id(p) for p in known}
    return [
        p
        for name, p in model.named_parameters()
        if p.requires_grad
        or id(p) in kept
        or (p.is_floating_point() and not any(part in name for part in meant_frozen))
    ]


def others(model: nn.Module, parameters: Sequence[nn.Parameter]) -> dict[str, Tensor]:
    """Return all other parameters and the floating-point buffers on the same device.

    Returns:
        Each tensor once, by its clean name.
    """
    seen, device = {id(p) for p in parameters}, parameters[0].device
    found = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if id(tensor) not in seen and tensor.is_floating_point() and tensor.device == device:
            found[clean_name(name)] = tensor
    return found


def owned(model: nn.Module, names: Collection[str]) -> list[nn.Parameter]:
    """Return the parameters that the modules of these names own directly."""
    named = _named(model)
    inside = (_inner(named[name]) for name in names if name in named)
    return [p for module in inside for p in module.parameters(recurse=False)]


def inside(model: nn.Module) -> dict[str, nn.Module]:
    """Return every module in a model by name, without wrappers; a shared one has its first name."""
    named = _named(model).items()
    return {name: _inner(module) for name, module in named if name != WHOLE}


def is_compiled(model: nn.Module) -> bool:
    """Whether any part of a model is compiled by ``torch.compile``."""
    return any(
        "_orig_mod" in name.split(".") or getattr(module, "_compiled_call_impl", None) is not None
        for name, module in model.named_modules()
    )


def read(
    model: nn.Module, meant_frozen: Sequence[str] = ("",), known: Collection[nn.Parameter] = ()
) -> tuple[Layout, Members]:
    """Read the layout of a model, wrapped or not.

    Args:
        model: As for `watched`.
        meant_frozen: As for `watched`.
        known: As for `watched`.

    Returns:
        The layout over M modules, and which of the P parameters of `watched` make up each.
    """
    modules = _named(model)
    parameters = watched(model, meant_frozen, known)
    position = {id(p): i for i, p in enumerate(parameters)}
    inside = {name: _positions(module, position) for name, module in modules.items()}
    rows = {name: found for name, found in inside.items() if found}
    sizes = np.array([p.numel() for p in parameters], np.int64)
    blocks = _blocks(modules, rows)
    head = _head(blocks)
    layout = Layout(
        modules=tuple(rows),
        types=tuple(type(_inner(modules[name])).__name__ for name in rows),
        parameters=tuple(int(sizes[found].sum()) for found in rows.values()),
        block_of=tuple(_block_of(name, blocks) for name in rows),
        roles=tuple(_role(modules[name], position) for name in rows),
        blocks=tuple((name, type(_inner(block)).__name__) for name, block in blocks.items()),
        inside=tuple(_without_parameters(block) for block in blocks.values()),
        head=head,
        edges=tuple(_edges(blocks)),
        kernels=tuple(_kernel(modules[name]) for name in rows),
        attentions=tuple(name for name in rows if _inherits_attention(modules[name])),
        sources=sources(map(_inner, modules.values())),
    )
    own = [(m, p) for m, name in enumerate(rows) for p in _own(modules[name], position)]
    weights = [(m, p) for m, p in own if parameters[p].ndim >= 2]
    further = others(model, parameters)
    place = position | {id(t): len(position) + i for i, t in enumerate(further.values())}
    held = [_held(modules[name], place) for name in rows]
    own_names = {id(p): clean_name(name) for name, p in model.named_parameters()}
    members = Members(
        indices=np.array([p for found in rows.values() for p in found], np.int64),
        starts=np.cumsum([0, *map(len, rows.values())], dtype=np.int64)[:-1],
        elements=sizes,
        weights=np.array(weights, np.int64).reshape(-1, 2),
        trunk=tuple(_weights_of(rows, weights, [name for name in blocks if name != head])),
        held=np.array([t for found in held for t in found], np.int64),
        held_starts=np.cumsum([0, *map(len, held)], dtype=np.int64)[:-1],
        names=(*(own_names[id(p)] for p in parameters), *further),
    )
    return layout, members


def _named(model: nn.Module) -> dict[str, nn.Module]:
    """Return modules by clean name, the whole model first; where one is wrapped, its wrapper."""
    named: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        named.setdefault(clean_name(name), module)
    return named


def _positions(module: nn.Module, position: dict[int, int]) -> list[int]:
    return [position[id(p)] for p in module.parameters() if id(p) in position]


def _held(module: nn.Module, place: dict[int, int]) -> list[int]:
    return [place[id(t)] for t in (*module.parameters(), *module.buffers()) if id(t) in place]


def _own(module: nn.Module, position: dict[int, int]) -> list[int]:
    own = _inner(module).parameters(recurse=False)
    return [position[id(p)] for p in own if id(p) in position]


def _role(module: nn.Module, position: dict[int, int]) -> Role:
    """Return the kind of parameters that a module owns directly.

    A norm layer is one of torch's classes or inherits from one. Other modules are classified by
    what they own: a parameter with two or more dimensions above 1 is a weight, whatever the class
    is called. A factor for each channel, such as a layer scale of shape (C, 1, 1), is not a weight;
    it belongs to a norm layer if a word of the class name says so.
    """
    inner = _inner(module)
    own = [p for p in inner.parameters(recurse=False) if id(p) in position]
    if not own:
        return ""
    if any(kind.__name__ in _TORCH_NORMS for kind in _classes(inner)):
        return "norm"
    if any(p.numel() > max(p.shape, default=1) for p in own):
        return "weight"
    is_leaf = not any(_positions(child, position) for child in inner.children())
    return "norm" if is_leaf and _is_norm(type(inner).__name__) else "other"


def _classes(module: nn.Module) -> list[type]:
    """Return the torch classes that a module is or inherits from."""
    return [kind for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn.")]


def _is_norm(kind: str) -> bool:
    """Whether a word of a class name says that it is a norm layer."""
    return not _NORM.isdisjoint(words(kind))


def _inherits_attention(module: nn.Module) -> bool:
    return any(is_attention(kind.__name__) for kind in type(_inner(module)).__mro__)


def _kernel(module: nn.Module) -> int:
    """Return the number of positions in a convolution's kernel, from its first weight; else 1."""
    own = (p for p in _inner(module).parameters(recurse=False) if p.ndim > 2)
    weight = next(own, None)
    return 1 if weight is None else math.prod(weight.shape[2:])


def _inner(module: nn.Module) -> nn.Module:
    """Return the module inside the wrappers of DDP and ``torch.compile``."""
    children = dict(module.named_children())
    if children.keys() in ({"module"}, {"_orig_mod"}):
        return _inner(*children.values())
    return module


def _blocks(modules: dict[str, nn.Module], rows: dict[str, list[int]]) -> dict[str, nn.Module]:
    """Return the top-level blocks: the children of ``model.model``, and any others of the root."""
    return {
        name: module
        for name, module in modules.items()
        if name != WHOLE and _BLOCK.fullmatch(name) and (hasattr(module, "f") or name in rows)
    }


def _head(blocks: dict[str, nn.Module]) -> str:
    """Return the name of the last block in Ultralytics' list, or else of the model."""
    listed = [name for name, block in blocks.items() if hasattr(block, "f")]
    return (listed or list(blocks) or [""])[-1]


def _without_parameters(block: nn.Module) -> tuple[str, ...]:
    """Return the classes of a block's modules that hold neither parameters nor other modules."""
    found = {type(m).__name__ for m in block.modules() if not list(m.children())}
    owners = {type(m).__name__ for m in block.modules() if list(m.parameters(recurse=False))}
    return tuple(sorted(found - owners))


def _block_of(name: str, blocks: dict[str, nn.Module]) -> str:
    found = _BLOCK.match(name)
    return found.group() if found and found.group() in blocks else ""


def _edges(blocks: dict[str, nn.Module]) -> list[tuple[str, str]]:
    """Return which block feeds which, from the ``f`` (from) of each block of an Ultralytics model.

    A negative index is relative to the block; the order of the inputs is kept, because for a head
    it is the order of its scales.
    """
    listed: list[tuple[str, Any]] = [(n, m) for n, m in blocks.items() if hasattr(m, "f")]
    edges = []
    for i, (name, block) in enumerate(listed):
        inputs = block.f if isinstance(block.f, (list, tuple)) else [block.f]
        sources = [i + f if f < 0 else f for f in inputs]
        edges += [(listed[s][0], name) for s in sources if 0 <= s < len(listed)]
    return edges


def _weights_of(
    rows: dict[str, list[int]], weights: list[tuple[int, int]], blocks: list[str]
) -> Iterator[Counts]:
    """Yield the indices of each block's parameters of two or more dimensions, if it has any."""
    indices = {p for _, p in weights}
    for name in blocks:
        found = [p for p in rows.get(name, []) if p in indices]
        if found:
            yield np.array(found, np.int64)
