"""Names of rules, kinds and severities, as used in options, command help and documentation."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.catalog import RULES
from yolo_gradwatch.diagnose.thresholds import shown

if TYPE_CHECKING:
    from collections.abc import Collection

    from yolo_gradwatch.diagnose.finding import Finding

ALARMS = tuple(
    sorted(
        {w for rule in RULES.values() if rule.kind for w in (rule.name, rule.kind, rule.severity)}
    )
)
"""The rules, kinds and severities on which a run can be stopped or failed."""


def alarms(option: str, words: object) -> tuple[str, ...]:
    """Return the rules, kinds or severities that an option names, checked.

    Raises:
        TypeError: ``words`` is a single text, or is not iterable.
        ValueError: A name is unknown, or is that of a notice.
    """
    if isinstance(words, str) or not isinstance(words, Iterable):
        got = f"the text {words!r}" if isinstance(words, str) else type(words).__name__
        raise TypeError(f"{option} must be a list or tuple of names, got {got}")
    chosen = tuple(words)
    for word in chosen:
        if not isinstance(word, str) or word not in ALARMS:
            raise ValueError(f"{option}: {shown(word)} {_why_not(word)}")
    return chosen


def hint(word: str, known: Collection[str], otherwise: str) -> str:
    """Suggest a correction of an unknown word, with ``otherwise`` if none is similar."""
    near = get_close_matches(word, known)
    return f"; did you mean {near[0]}?" if near else f"; {otherwise}"


def _why_not(word: object) -> str:
    """Say why a run cannot be stopped or failed on this, and what can be named instead."""
    choice = f"choose from {', '.join(ALARMS)}"
    if not isinstance(word, str):
        return f"is not the name of a rule; {choice}"
    if word in RULES:
        return f"is only a notice, which cannot fail or stop a run; {choice}"
    return f"is not the name of a rule{hint(word, ALARMS, choice)}"


def is_named(rule: str, words: Collection[str]) -> bool:
    """Return whether a user named this rule, its kind or its severity."""
    row = RULES.get(rule)
    return rule in words or (row is not None and (row.kind in words or row.severity in words))


def matches(finding: Finding, words: Collection[str]) -> bool:
    """Return whether the names that a user gave cover this finding; never a notice."""
    return is_named(finding.rule, words) and finding.severity != "notice"
