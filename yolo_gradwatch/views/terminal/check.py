"""Output of ``check``: what a short trial says about the training to come."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.text import Text

from yolo_gradwatch.diagnose.phrases import listed, significant
from yolo_gradwatch.measure.arrays import FLOAT16_MAX
from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.views import checked
from yolo_gradwatch.views.checked import counted
from yolo_gradwatch.views.states import BlockStates
from yolo_gradwatch.views.terminal.glyphs import STYLES, norm_text, state_style
from yolo_gradwatch.views.terminal.lines import finding_text, verdict
from yolo_gradwatch.views.terminal.table import Column, columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yolo_gradwatch.diagnose.finding import Severity
    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.runs.run import Run
    from yolo_gradwatch.views.checked import BlockNumbers, Cost, Format

_WIDE = 100
_LITTLE = 10.0  # headroom below which there is a warning
_GIB = 2**30

_WHY = {
    "frozen": "frozen by the arguments, or fixed by design",
    "frozen_otherwise": "frozen in another way",
    "unused": "without a gradient in any step",
    "outside": "not in any parameter group of the optimizer",
    "zero_rate": "with a learning rate of 0",
}


def screen(report: Report, run: Run | None, cost: Cost, width: int | None) -> list[Text]:
    """Return the paragraphs on a short training.

    Args:
        report: Report with its findings.
        run: Its recorded numbers; None if there are none.
        cost: Time and memory that it took.
        width: Cells per line; None for no limit, as in a file.
    """
    source = [Text(f"  {_source(run)}", "dim")] if run else []
    findings = map(finding_text, report.findings)
    facts = [*report.facts(), *(_warming(run) if run else [])]
    head = Text("\n").join([verdict(report), *source, *findings, *map(Text, facts)])
    if run is None or not report.steps:
        return [head, cost_text(cost)]
    return [
        head,
        _blocks(report, run, width),
        _losses(run, width),
        _untrained(run),
        cost_text(cost),
    ]


def cost_text(cost: Cost) -> Text:
    """Report time and memory of a step, and the estimate for the whole training."""
    batch, step, whole = cost.seconds, cost.step_seconds, cost.total_seconds
    if batch is None or step is None or whole is None:
        return Text()
    together = f" of {counted(cost.together, 'batch')}" if cost.together > 1 else ""
    device = f" of {cost.device_memory / _GIB:.1f}" if cost.device_memory else ""
    where = "on the GPU" if cost.device_memory else "in the process"
    lines = [
        Text("Time and memory", "bold"),
        Text(
            f"  An optimizer step{together} takes {duration(step)}; peak memory use "
            f"{cost.memory / _GIB:.1f}{device} GiB {where}."
        ),
        Text(
            f"  All {counted(cost.epochs, 'epoch')} of {counted(cost.batches, 'batch')}, about "
            f"{counted(cost.steps, 'step')}: about {duration(whole)}, excluding validation."
        ),
    ]
    return Text("\n").join(lines)


def duration(seconds: float) -> str:
    """Format a duration: ``0.31 s``, ``45 s``, ``12 min``, ``3 h 20 min``, ``4 d 6 h``."""
    if seconds < 60:
        return f"{significant(seconds, 2)} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    days, rest = divmod(round(minutes / 60), 24)
    return f"{days} d {rest} h" if rest else f"{days} d"


def _source(run: Run) -> str:
    """Describe the training: model, data and main options."""
    options = run.meta.options
    at_work = {**options.training, **options.fitted}
    optimizer = run.meta.optimizer
    rates = [group.lr for group in optimizer.groups if group.lr is not None] if optimizer else []
    how = [f"imgsz {at_work.get('imgsz')}", f"batch {at_work.get('batch')}"]
    if optimizer:
        how.append(f"{optimizer.name} from lr {min(rates):g}" if rates else optimizer.name)
    how += [checked.number_format(run).name, f"on {_device(at_work.get('device'))}"]
    model, data = (options.training.get(name) for name in ("model", "data"))
    return f"{model} on {data}: {', '.join(how)}"


def _device(device: object) -> str:
    """A device in words: ``GPU 0`` for ``0``."""
    name = str(device)
    return f"GPU {name}" if name[:1].isdigit() else name


def _warming(run: Run) -> list[str]:
    """Say that the learning rate was still rising at the end, if it was."""
    rate = checked.warming(run)
    if rate is None:
        return []
    now, later = rate
    rates = f"the learning rate reached {now:.2g} of {later:.2g}"
    return [
        f"  still in warm-up: {rates}; its effect at the maximum was not tested (try more --steps)"
    ]


def _blocks(report: Report, run: Run, width: int | None) -> Text:
    form = checked.number_format(run)
    rows = [row for row in checked.block_numbers(run) if _is_shown(row, form)]
    table = _columns(report, run, rows, form)
    is_narrow = width is not None and width < _WIDE
    if is_narrow:
        del table["RMS first"], table["largest"]
    heading = Text("Blocks in forward order", "bold")
    legend = _legend(run, form, is_narrow=is_narrow)
    return Text("\n").join([heading, *legend, columns(list(table.values()), width)])


def _legend(run: Run, form: Format, *, is_narrow: bool) -> list[Text]:
    """Explain the columns."""
    first, last = checked.traced(run)
    step = checked.updated(run)
    before = "" if is_narrow else f" (RMS first: in step {first:,})"
    limit = f"{FLOAT16_MAX:,.0f}, the largest float16 number, divided by the largest"
    lines = [
        "gradient: median norm over the steps"
        + (f"; update: relative change of the weights in step {step:,}" if step else ""),
    ]
    if last:
        largest = "" if is_narrow else ", largest"
        lines.append(f"RMS, zeros{largest}: of the output in step {last:,}{before}")
    if last and _is_half(form):
        lines.append(f"headroom: {limit} output")
        lines.append("weight room: likewise for the largest weight, as checkpoints store float16")
    else:
        lines.append(f"weight room: {limit} weight; checkpoints store float16")
    return [Text(f"  {line}", "dim") for line in lines]


def _columns(
    report: Report, run: Run, rows: Sequence[BlockNumbers], form: Format
) -> dict[str, Column]:
    states = BlockStates(run.layout).under(f for f in report.findings if f.step_end is None)
    rooms = [_headroom(row.largest, form.end) for row in rows]
    words = [states.get(row.name, _calm(room)) for row, room in zip(rows, rooms, strict=True)]
    weights = [_headroom(row.weight, FLOAT16_MAX) for row in rows]
    labels = [f"{row.name.removeprefix(f'{WHOLE}.')} {row.type}" for row in rows]
    texts = {
        "gradient": [_norm_text(row.gradient) for row in rows],
        "update": [_norm_text(row.update) for row in rows],
        "RMS first": [_norm_text(row.rms_first) for row in rows],
        "RMS": [_norm_text(row.rms) for row in rows],
        "zeros": ["-" if math.isnan(row.zeros) else f"{row.zeros:.1%}" for row in rows],
        "largest": [_norm_text(row.largest) for row in rows],
        "headroom": list(map(_headroom_text, rooms)),
        "weight room": list(map(_headroom_text, weights)),
    }
    styles = {"headroom": list(map(_style, rooms)), "weight room": list(map(_style, weights))}
    if not _is_half(form):
        del texts["headroom"]
    return {
        "block": Column("block", labels, is_left=True),
        **{name: Column(name, cells, styles.get(name, ())) for name, cells in texts.items()},
        "state": Column(
            "state",
            [word for word, _ in words],
            [state_style(*word) for word in words],
            is_left=True,
        ),
    }


def _is_shown(row: BlockNumbers, form: Format) -> bool:
    """Return whether a block has a gradient, or outputs near the end of the number format."""
    return not math.isnan(row.gradient) or _is_little(_headroom(row.largest, form.end))


def _is_half(form: Format) -> bool:
    """Return whether outputs can come near the end of the number format."""
    return form.end <= FLOAT16_MAX


def _norm_text(value: float) -> str:
    """Format a norm like the headroom beside it, with a comma in thousands."""
    text = norm_text(value)
    return f"{int(text):,}" if text.isdecimal() else text


def _headroom(largest: float, end: float) -> float | None:
    """Return ``end / largest``; 0 if ``largest`` is not finite, None if it is NaN or 0."""
    if math.isnan(largest) or largest == 0:
        return None
    return end / largest if math.isfinite(largest) else 0.0


def _headroom_text(room: float | None) -> str:
    return "-" if room is None else significant(room, 2)


def _is_little(room: float | None) -> bool:
    return room is not None and room < _LITTLE


def _calm(room: float | None) -> tuple[str, Severity | None]:
    """Return the state of a block without a finding."""
    return ("low headroom", "warning") if _is_little(room) else ("ok", None)


def _style(room: float | None) -> str:
    if room is None or not _is_little(room):
        return ""
    return STYLES["critical"] if room < 1 else STYLES["warning"]


def _losses(run: Run, width: int | None) -> Text:
    items = checked.loss_numbers(run)
    if not items:
        return Text()
    table = [
        Column("item", [item.name for item in items], is_left=True),
        Column("first", [_norm_text(item.first) for item in items]),
        Column("last", [_norm_text(item.last) for item in items]),
        Column("share", ["-" if math.isnan(i.share) else f"{i.share:.0%}" for i in items]),
    ]
    heading = Text("Weighted loss items, and their shares of the total loss", "bold")
    return Text("\n").join([heading, columns(table, width)])


def _untrained(run: Run) -> Text:
    """List the parameters that are not updated: each cause with its blocks and tensor counts."""
    found = asdict(checked.untrained(run))
    lines = [
        Text(f"  {words}: {listed(found[name])}") for name, words in _WHY.items() if found[name]
    ]
    none = [Text("  none is frozen, without a gradient, or outside the optimizer")]
    heading = Text("Parameters that are not updated (number of tensors)", "bold")
    return Text("\n").join([heading, *(lines or none)])
