"""State of each top-level block in a word, from the open findings."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.catalog import RULES
from yolo_gradwatch.diagnose.graph import Paths
from yolo_gradwatch.measure.layout import WHOLE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from yolo_gradwatch.diagnose.finding import Finding, Severity
    from yolo_gradwatch.measure.layout import Layout


AFFECTED = {"upstream", "downstream", "affected"}
"""Words for blocks that are affected by a finding in another block."""


class BlockStates:
    """Words for the blocks of a model that are affected by findings."""

    def __init__(self, layout: Layout) -> None:
        self._block_of = dict(zip(layout.modules, layout.block_of, strict=True))
        self._paths = Paths(layout)
        self._layers: dict[str, set[str]] = defaultdict(set)
        for name, block, role in zip(layout.modules, layout.block_of, layout.roles, strict=True):
            if role:
                self._layers[block].add(name)

    def under(self, findings: Iterable[Finding]) -> dict[str, tuple[str, Severity]]:
        """Return block -> (word, severity) of its most relevant alarm.

        Critical findings take precedence, then those on a single module, then the newest.
        """
        worst: dict[str, Finding] = {}
        alarms = (finding for finding in findings if finding.severity != "notice")
        for finding in sorted(alarms, key=_weight):
            worst.update(dict.fromkeys(self._blocks_with(finding), finding))
        return {block: (self._word(one, block), one.severity) for block, one in worst.items()}

    def _blocks_with(self, finding: Finding) -> set[str]:
        """Return the blocks that a finding affects; all of them if it is on the whole model."""
        if finding.module == WHOLE:
            return set(self._layers)
        return {self._block_of[name] for name in finding.modules}

    def _word(self, finding: Finding, block: str) -> str:
        """Return what is wrong with a block, or its position relative to the block at fault."""
        if finding.module == WHOLE or self._is_hit(finding, block):
            return RULES[finding.rule].shown
        place = self._paths.place(block, finding.module)
        return "affected" if place == "elsewhere" else place

    def _is_hit(self, finding: Finding, block: str) -> bool:
        """Return whether a finding applies to an affected block itself."""
        if self._block_of[finding.module] == block:
            return True
        blocks = RULES[finding.rule].blocks
        if blocks == "entire":  # an unused weight gets no gradient although its block does
            return self._layers[block].issubset(finding.modules)
        return blocks == "all"


def _weight(finding: Finding) -> tuple[bool, bool, int]:
    return finding.severity == "critical", finding.module != WHOLE, finding.number
