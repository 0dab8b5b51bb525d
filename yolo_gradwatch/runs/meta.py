"""The description of a run, ``gradwatch.json``, as a frozen value: reading and writing."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import msgspec

from yolo_gradwatch.diagnose.report import Status  # noqa: TC001  # as above
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.measure.clipping import CLIP_NORM, EpochClipping
from yolo_gradwatch.measure.event import Event  # noqa: TC001  # msgspec reads the annotation
from yolo_gradwatch.measure.kept import Kept  # noqa: TC001  # as above
from yolo_gradwatch.measure.layout import WHOLE, Layout
from yolo_gradwatch.measure.optimizer import Optimizer  # noqa: TC001  # as above
from yolo_gradwatch.plain import printable
from yolo_gradwatch.runs.arguments import arguments_of
from yolo_gradwatch.runs.process import Process  # noqa: TC001  # as above
from yolo_gradwatch.runs.schema import FORMAT_VERSION, META_FILE, RESTORE, FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MOST_STEPS = 10**15
"""Upper limit for the steps of a training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Options of the watch and of the training.

    Attributes:
        interval: Optimizer steps between captured steps.
        stop_on: Rules, kinds of rules or severities that end the training.
        training: Its arguments as the user gave them, ``clip``, and ``fitted``: those that
            Ultralytics changed.
    """

    interval: int = 1
    stop_on: tuple[str, ...] = ()
    training: dict[str, object] = field(default_factory=dict)

    @property
    def clip(self) -> float:
        """Total norm above which the trainer clipped."""
        clip = self.training.get("clip")
        return float(clip) if isinstance(clip, (int, float)) else CLIP_NORM

    @property
    def epochs(self) -> int:
        """Planned number of epochs; 0 if unknown."""
        epochs = self.fitted.get("epochs", self.training.get("epochs"))
        return epochs if isinstance(epochs, int) else 0

    @property
    def fitted(self) -> dict[str, object]:
        """Arguments that Ultralytics changed, with their new values."""
        fitted = self.training.get("fitted")
        return fitted if isinstance(fitted, dict) else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """The content of ``gradwatch.json``.

    Attributes:
        format_version: Version of its format.
        status: How the training ended, or that it is running.
        process: The process it ran in; None in older files.
        versions: Versions of the packages involved.
        options: Options of the watch and of the training.
        thresholds: Limits under which it was judged.
        layout: Layout of the watched model.
        last_step: Newest optimizer step, captured or not; 0 in older files.
        events: Points at which the run restarted, by step.
        epochs: Clipping and AMP of each pass over an epoch.
        optimizer: What it moves, as last noted; None if unknown, as in older files.
        optimizers_before: Earlier notes of this kind, by step.
        kept: Epochs whose checkpoint was ``weights/last_healthy.pt``, in the order in which they
            were noted; the last one counts.
        remarks: Sentences on what was not measured and why; none in older files.
        others: Parts written by a later version.
    """

    format_version: int = FORMAT_VERSION
    status: Status = "running"
    process: Process | None = None
    versions: dict[str, str] = field(default_factory=dict)
    options: RunOptions = field(default_factory=RunOptions)
    thresholds: Thresholds = field(default_factory=Thresholds)
    layout: Layout
    last_step: int = 0
    events: tuple[Event, ...] = ()
    epochs: tuple[EpochClipping, ...] = ()
    optimizer: Optimizer | None = None
    optimizers_before: tuple[Optimizer, ...] = ()
    kept: tuple[Kept, ...] = ()
    remarks: tuple[str, ...] = ()
    others: dict[str, object] = field(default_factory=dict)

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """All notes of what the optimizer moves, by step."""
        return (*self.optimizers_before, *([self.optimizer] if self.optimizer else []))


def encoded(meta: Meta) -> str:
    """Return the text of ``gradwatch.json``.

    Raises:
        ValueError: It contains a number that JSON cannot represent.
    """
    parts = asdict(meta)
    return json.dumps({**parts.pop("others"), **parts}, indent=1, allow_nan=False)


class _Written(msgspec.Struct, frozen=True):
    """The part of a ``gradwatch.json`` that names its writer."""

    process: Process | None = None


def writer_of(path: Path) -> Process | None:
    """Return the process that a ``gradwatch.json`` names; None if it names none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Written).process
    except (OSError, msgspec.MsgspecError, ValueError):  # a file may contain anything
        return None


def read_meta(folder: Path) -> Meta:
    """Read ``gradwatch.json``, of any format version up to ours.

    In text that is shown, other than layout names, terminal control characters become "?".

    Raises:
        FormatError: It is missing, not JSON, from a later version of this package, or a part of it
            is missing, of another type, or inconsistent with the others.
    """
    path = folder / META_FILE
    try:
        raw = _without_nulls(_parsed(path))
        if raw["format_version"] == 1:
            raw = _from_version_1(raw, arguments_of(folder))
        raw = {name: one if name == "layout" else printable(one) for name, one in raw.items()}
        meta = decoded(raw)
    except RecursionError as error:
        raise FormatError(path, f"not JSON ({error}); {RESTORE}") from None
    except UnicodeEncodeError:  # a lone surrogate in place of a keyword
        raise FormatError(path, f"a keyword is not valid text; {RESTORE}", place="$") from None
    except msgspec.ValidationError as error:
        what, is_inside, place = printable(str(error)).rpartition(" - at ")
        what, place = (what, place.strip("`")) if is_inside else (place, "$")
        raise FormatError(path, f"{place}: {what}; {RESTORE}", place=place) from None
    for place, what in _misfits(meta):
        raise FormatError(path, f"{place}: {what}; {RESTORE}", place=place)
    return meta


def decoded(raw: Mapping[str, object]) -> Meta:
    """Return the content of ``gradwatch.json`` of format version 2, from its JSON form.

    Raises:
        msgspec.ValidationError: A part is missing or of another type; the message names it.
    """
    own = {one.name for one in fields(Meta)} - {"others"}
    others = {name: part for name, part in raw.items() if name not in own}
    known = {name: part for name, part in raw.items() if name in own}
    return msgspec.convert({**known, "others": others}, Meta)


def _parsed(path: Path) -> dict[str, Any]:
    """Return the parts of the file.

    The standard library reads it because it accepts lone surrogates, which stand for the bytes of
    file names that are not UTF-8.

    Raises:
        FormatError: It is missing, not JSON, or of an unsupported version.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FormatError(path, f"{error.strerror}; not watched, or the file was deleted") from None
    except ValueError as error:
        line = getattr(error, "lineno", None)
        raise FormatError(path, f"not JSON ({error}); {RESTORE}", line=line) from None
    if not isinstance(raw, dict):
        raise FormatError(path, f"not a table of names and values; {RESTORE}", place="$")
    version = raw.get("format_version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        what = f"not a format version ({printable(repr(version))}); {RESTORE}"
        raise FormatError(path, what, place="$.format_version")
    if version > FORMAT_VERSION:
        what = (
            f"written by a newer yolo_gradwatch (format version {version}, this one reads 1 to "
            f"{FORMAT_VERSION}), update: pip install -U yolo-gradwatch"
        )
        raise FormatError(path, what, place="$.format_version")
    return raw


def _without_nulls(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the parts without nulls, in the options too: a null means the default."""
    there = {name: part for name, part in raw.items() if part is not None}
    if isinstance(there.get("options"), dict):
        options = there["options"].items()
        there["options"] = {name: part for name, part in options if part is not None}
    return there


def _from_version_1(raw: dict[str, Any], given: dict[str, object]) -> dict[str, Any]:
    """Convert the parts of a format version 1 file to version 2.

    Version 1 stores some arguments of the training as Ultralytics changed them; the values that the
    user gave are in Ultralytics' own ``args.yaml``.

    Args:
        raw: Parts of the file.
        given: The arguments in ``args.yaml``.
    """
    options = raw.get("options", {})
    training = options.get("training", {}) if isinstance(options, dict) else None
    if not given or not isinstance(training, dict):
        return raw
    fitted = {n: v for n, v in training.items() if n in given and given[n] != v}
    return {**raw, "options": {**options, "training": {**training, **given, "fitted": fitted}}}


def _misfits(meta: Meta) -> Iterator[tuple[str, str]]:
    """Yield values of the right type that are impossible: where, and why in a few words."""
    training = meta.options.training
    if meta.options.interval < 1:
        yield "$.options.interval", f"{meta.options.interval} is not a number of steps"
    for name in ("clip", "epochs"):
        if not isinstance(training.get(name) or 0, (int, float)):
            yield f"$.options.training.{name}", "not a number"
    if not isinstance(training.get("fitted", {}), dict):
        yield "$.options.training.fitted", "not a table of names and values"
    steps = {"$.last_step": meta.last_step}
    if meta.optimizer:
        steps["$.optimizer.step"] = meta.optimizer.step
    before = enumerate(meta.optimizers_before)
    steps |= {f"$.optimizers_before[{number}].step": one.step for number, one in before}
    steps |= {f"$.events[{number}].step": event.step for number, event in enumerate(meta.events)}
    steps |= {f"$.kept[{number}].step": one.step for number, one in enumerate(meta.kept)}
    steps |= {f"$.kept[{number}].since": one.since for number, one in enumerate(meta.kept)}
    for place, step in steps.items():
        if not 0 <= step <= MOST_STEPS:
            yield place, f"{step} is not a step number"
    for misfits in (_uneven_columns, _misfit_blocks, _misfit_names):
        for column, what in misfits(meta.layout):
            yield f"$.layout.{column}", what


def _uneven_columns(layout: Layout) -> Iterator[tuple[str, str]]:
    """Yield columns of a layout with the wrong length."""
    size = len(layout.modules)
    for column in ("types", "parameters", "block_of", "roles", "kernels", "since"):
        length = len(getattr(layout, column))
        if length != size and (length or column != "since"):
            yield column, f"{length} rows for {size} modules"
    if len(layout.inside) != len(layout.blocks):
        yield "inside", f"{len(layout.inside)} rows for {len(layout.blocks)} blocks"


def _misfit_blocks(layout: Layout) -> Iterator[tuple[str, str]]:
    """Yield what is inconsistent with the blocks of a layout."""
    blocks = {name for name, _ in layout.blocks} or {""}  # a model may be a single layer
    if layout.head not in blocks:
        yield "head", "not one of the blocks"
    if not {name for edge in layout.edges for name in edge} <= blocks:
        yield "edges", "not between the blocks"
    for name, block in zip(layout.modules, layout.block_of, strict=True):
        if block and not f"{name}.".startswith(f"{block}."):
            yield "block_of", f"{name!r} does not lie in {block!r}"


def _misfit_names(layout: Layout) -> Iterator[tuple[str, str]]:
    """Yield layout names that are not unique, have no parent, or cannot be printed."""
    modules = layout.modules
    if len(set(modules)) < len(modules) or WHOLE not in modules[:1]:
        yield "modules", f"not {WHOLE!r} and others, each once"
    if not {name.rpartition(".")[0] for name in modules} <= {"", *modules}:
        yield "modules", "one lies in a module that is missing"
    for column in ("modules", "types", "blocks", "sources"):
        if not all(text.isprintable() for row in getattr(layout, column) for text in row):
            yield column, "a name has a character that cannot be printed"
