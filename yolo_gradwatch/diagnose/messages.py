"""The parts of a message on a finding, how they form a paragraph, and phrases that rules share.

The words of each rule are next to its judge, in the modules of `rules`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from yolo_gradwatch.diagnose import causes
from yolo_gradwatch.diagnose.graph import Paths, is_in
from yolo_gradwatch.diagnose.phrases import counted, sentence, significant
from yolo_gradwatch.measure.kept import LAST_HEALTHY
from yolo_gradwatch.measure.layout import WHOLE, Layout

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from yolo_gradwatch.diagnose.causes import Cause
    from yolo_gradwatch.diagnose.finding import Episode, Finding
    from yolo_gradwatch.diagnose.graph import Place

MOST_EPISODES = 3
"""If a finding has more episodes, only the newest are listed."""

UNDO = "Find out what changed at that step, and resume from"
"""What to try if something changed during a training."""

IF_IT_STAYS = "; if that does not help, "
"""Joins what to try first, whatever the cause is, and what to do about the cause."""

MEASURED = "Measured: "
"""Precedes a measured cause."""

LIKELY = "Likely cause: "
"""Precedes an inferred cause."""

PLACES: dict[Place, str] = {
    "upstream": "upstream",
    "downstream": "downstream",
    "inside": "in the same block",
    "elsewhere": "elsewhere",
}
"""Words for where a module is, seen from the one that a finding is about."""

Unit: TypeAlias = Literal["steps", "windows", "share", "decades", "norm", "scale", "loss", "value"]
"""What a rule's value and limit count or measure."""

_SHOWN: dict[Unit, Callable[[float], str]] = {
    "share": " ({:.0%})".format,
    "decades": " ({:.3g} decades)".format,
    "norm": lambda norm: f" (norm {significant(norm, 2)})",
    "scale": lambda scale: f" (scale {significant(scale, 2)})",
    "loss": lambda loss: f" (loss {significant(loss, 2)})",
    "value": " ({:.2g})".format,
}
"""How the value of an earlier episode is shown; counts of steps or windows are not."""


@dataclass(frozen=True, slots=True)
class Message:
    """A finding in words.

    Attributes:
        what: What was found in which module, as the first half of a sentence.
        since: When it began and what else it affects, as the second half.
        why: What is certain about its cause or effect, in whole sentences; "" if nothing is.
        likely: The probable cause, in sentences without the first capital; "" if none is guessed.
        measured: The measured cause, in the same form; "" if none was measured.
        harm: What is lost by it, in whole sentences; "" if there is nothing to say.
        remedy: What to try, in whole sentences; "" if there is nothing to do.
        past: Earlier episodes, in a sentence; "" if there are none.
        evidence: Where the file on its first step is, in a sentence; "" if there is none.
    """

    what: str
    since: str
    why: str = ""
    likely: str = ""
    measured: str = ""
    harm: str = ""
    remedy: str = ""
    past: str = ""
    evidence: str = ""

    @property
    def cause(self) -> str:
        """The cause, with its basis; "" if none is named besides what is certain."""
        if self.measured:
            return f"{MEASURED}{self.measured}"
        return f"{LIKELY}{self.likely}" if self.likely else ""

    def measuring(self, cause: Cause, way_back: str = "") -> Message:
        """Return the message with a cause that a trace measured, and what to try then.

        Args:
            cause: The measured cause.
            way_back: The checkpoint to go back to; "" if there is none.
        """
        first, stays, _ = self.remedy.partition(IF_IT_STAYS)
        remedy = f"{first}{stays}{cause.remedy}." if stays else sentence(cause.remedy)
        if self.remedy.startswith(UNDO):
            remedy = self.remedy
        elif way_back and way_back in self.remedy:
            remedy = f"{remedy} Then resume from {way_back}."
        return replace(self, likely="", measured=f"{cause.why}.", remedy=remedy)

    def __str__(self) -> str:
        """Return one paragraph."""
        first = (f"{self.what} {self.since}.", self.why, self.cause)
        parts = (*first, self.harm, self.remedy, self.past, self.evidence)
        return " ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Case:
    """A finding with everything that its message depends on.

    Attributes:
        layout: Layout of the watched model.
        training: Options of the training; ``amp`` says whether a loss scaler is at work.
        finding: What was found; its ``message`` is ignored.
        unit: Unit of the finding's value.
        healthy: The most extreme value in healthy recorded trainings; None if it says nothing.
    """

    layout: Layout
    training: Mapping[str, object]
    finding: Finding
    unit: Unit
    healthy: float | None = None

    @property
    def where(self) -> str:
        """The module with its class."""
        return described(self.layout, self.finding.module)

    @property
    def since(self) -> str:
        """When the newest episode began, for conditions that last."""
        return f"since step {self.finding.episodes[-1].step:,}"

    @property
    def at(self) -> str:
        """When the newest episode began, for single events."""
        newest = self.finding.episodes[-1]
        return f"at step {newest.step:,} (epoch {newest.epoch})"

    @property
    def moment(self) -> str:
        """What the training did then, as the end of a sentence; "" if that says nothing."""
        return causes.moment(self.training, self.finding)

    @property
    def changed(self) -> str:
        """A sentence that something changed when it began; "" if it began early."""
        well, newest = self.finding.well, self.finding.episodes[-1]
        if not well or self.finding.warming:
            return ""
        return (
            f"The training was healthy for {well:,} steps, so something changed around step "
            f"{newest.step:,}: a callback, the schedule, a resume or the data{self.moment}."
        )

    def explained(self, message: Message, cause: Cause) -> Message:
        """Return a message with cause and remedy: what changed, or how the model is built.

        Args:
            message: Message on what was found.
            cause: The cause if the model was built that way.
        """
        if self.changed:
            why = f"{message.why} {self.changed}".lstrip()
            remedy = f"{UNDO} {self.way_back('the last checkpoint before it')}."
            return replace(message, why=why, remedy=remedy)
        likely = f"{cause.why}{self.moment}."
        return replace(message, likely=likely, remedy=sentence(cause.remedy))

    def way_back(self, otherwise: str) -> str:
        """Return the checkpoint to go back to: the one kept, or else ``otherwise``."""
        kept = self.finding.kept
        return f"{LAST_HEALTHY} (epoch {kept.epoch})" if kept else otherwise

    @property
    def lower_rate(self) -> str:
        """How to lower the learning rate."""
        return causes.lower_rate(self.training)

    @property
    def decades(self) -> str:
        """The value and the limit that it exceeded."""
        value, limit = self.finding.value, self.finding.limit
        return f"{value:.3g} decades; limit {limit:g}, {self.reached(is_low=False)}"

    def reached(self, *, is_low: bool) -> str:
        """Return what healthy trainings reach; a custom limit may be within that."""
        if self.healthy is None:
            return "no healthy reference"
        strict = ", so the limit may be too strict" if self.is_strict(is_low=is_low) else ""
        verb = "fall to" if is_low else "reach"
        return f"healthy runs {verb} {self.healthy:,g}{strict}"

    def is_strict(self, *, is_low: bool) -> bool:
        """Return whether the limit is within what healthy trainings reach."""
        if self.healthy is None:
            return False
        limit = self.finding.limit
        return limit > self.healthy if is_low else limit < self.healthy

    def affected(self) -> str:
        """Return how many blocks suffer with the named one, and where, for `Message.since`."""
        others = self._others("block")
        return f"; {others}" if others else ""

    def others(self, when: str = "") -> str:
        """Return how many more modules are affected, and where, for `Message.since`."""
        others = self._others("more module", when)
        return f" ({others})" if others else ""

    def complete(self, message: Message) -> Message:
        """Return a rule's message with what all rules report: earlier episodes and evidence."""
        file = self.finding.evidence
        evidence = f"Images, losses and norms: {file}." if file else ""
        return replace(message, past=self._past(), evidence=evidence)

    def _past(self) -> str:
        """Return how often it has recurred, and its earlier episodes with their values."""
        earlier = self.finding.episodes[:-1]
        if not earlier:
            return ""
        shown = _SHOWN.get(self.unit, "".format)
        named = [f"{lasted(e)}{shown(e.value)}" for e in earlier[-MOST_EPISODES:]]
        hidden = len(earlier) - len(named)
        more = f", and {hidden} more before" if hidden else ""
        times = "once" if len(earlier) == 1 else f"{len(earlier)} times"
        return f"It has recurred {times}; earlier: {', '.join(named)}{more}."

    def _others(self, noun: str, when: str = "") -> str:
        """Count the other modules by place, as in ``2 blocks upstream are affected``."""
        own = self.finding.module
        others = [n for n in self.finding.modules if n != WHOLE and not is_in(own, n)]
        if own == WHOLE or not others:
            return ""
        paths = Paths(self.layout)
        counts = Counter(paths.place(name, own) for name in others)
        found = [(counts[place], where) for place, where in PLACES.items() if counts[place]]
        parts = ", ".join(f"{count} {where}" for count, where in found)
        where, each = (f" {found[0][1]}", "") if len(found) == 1 else ("", f": {parts}")
        verb = "is" if len(others) == 1 else "are"
        return f"{counted(len(others), noun)}{where} {verb} affected{when}{each}"


def described(layout: Layout, name: str) -> str:
    """Return a module's name, class and where that is defined, as in ``model.10 (C2PSA)``."""
    if name == WHOLE:
        return "the whole model"
    return f"{name} ({classed(layout, layout.types[layout.modules.index(name)])})"


def classed(layout: Layout, kind: str) -> str:
    """Return a class's name, with file and line if user-defined: ``Neck, blocks.py:19``."""
    place = dict(layout.sources).get(kind)
    return f"{kind}, {place}" if place else kind


def lasted(episode: Episode) -> str:
    """Return when an episode began and ended."""
    if episode.step_end is None:
        return f"since step {episode.step:,}"
    return f"from step {episode.step:,} to step {episode.step_end:,}"


def course(finding: Finding) -> str:
    """Return when each episode of a finding began and ended; of many, only the newest."""
    newest = ", ".join(map(lasted, finding.episodes[-MOST_EPISODES:]))
    count = len(finding.episodes)
    return newest if count <= MOST_EPISODES else f"in {count} episodes, most recently {newest}"
