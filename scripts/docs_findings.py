"""Write ``docs/findings.md`` from the catalogue and the measurements, with a section for each rule.

    python scripts/docs_findings.py

``tests/test_docs.py`` fails if the page differs from this script's output. Meaning, limit and
remedy come from the catalogue, the evidence from ``Thresholds``, the trials of causes and remedies
from ``benchmarks/RESULTS.md``, the examples from ``docs/pictures/findings.json``, the arithmetic
from ``docs_arithmetic.md``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolo_gradwatch.diagnose.catalog import RULES
from yolo_gradwatch.diagnose.thresholds import Thresholds, described

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from yolo_gradwatch.diagnose.rule import Rule

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "findings.md"
ARITHMETIC = Path(__file__).with_name("docs_arithmetic.md")
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
BEGIN, END = "<!-- rules -->\n", "<!-- end of rules -->\n"
HEAD = (
    "| rule | kind | severity | in the panel | limit | what it means |\n"
    "| --- | --- | --- | --- | --- | --- |\n"
)
ORDER = ("critical", "warning", "notice")
SECTIONS = "<!-- sections: written by scripts/docs_findings.py -->\n"
EXAMPLES = ROOT / "docs" / "pictures" / "findings.json"
TRIED = "**Does the suggestion work?**"
NOTES = {"box-zero": "; restoring a loss item raises the total"}
"""What to know of the loss of single trials, by fault."""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8", newline="\n")


def page() -> str:
    """Return the generated page; only its introduction is written by hand."""
    front = PAGE.read_text(encoding="utf-8").partition(SECTIONS)[0]
    before, _, rest = front.partition(BEGIN)
    after = rest.partition(END)[2]
    results = RESULTS.read_text(encoding="utf-8")
    remedies = newest_table(results, "Remedies")
    causes = newest_table(results, "Causes")
    examples = json.loads(EXAMPLES.read_text(encoding="utf-8"))
    rules = _by_severity()
    rows = "".join(map(_row, rules))
    parts = [section(rule, remedies, causes, examples) for rule in rules]
    return "\n".join([f"{before}{BEGIN}{HEAD}{rows}{END}{after}{SECTIONS}\n", *parts])


def _row(rule: Rule) -> str:
    limit = f"{getattr(Thresholds(), rule.threshold):,g}" if rule.threshold else ""
    state = "" if rule.severity == "notice" else rule.shown
    words = (f"[`{rule.name}`](#{rule.name})", rule.kind, rule.severity, state, limit, rule.meaning)
    return f"| {' | '.join(words)} |\n"


def section(
    rule: Rule,
    remedies: list[dict[str, str]],
    causes: list[dict[str, str]],
    examples: Mapping[str, Any],
) -> str:
    """Return the section of a rule."""
    lines = [f"## {rule.name}", "", _kind(rule), ""]
    lines += [f"**It means:** {_capital(rule.meaning)}.", ""]
    lines += [f"**It does not mean:** {rule.not_meaning}.", ""]
    lines += [f"**How it is computed.** {arithmetic()[rule.name]}", ""]
    if rule.threshold:
        lines += [f"**Evidence for the limit.** {_evidence(rule)}", ""]
    lines += [f"**What to try:** {rule.remedy}.", ""]
    lines += [*_tried(rule, remedies), *_measured(rule, causes), *_example(rule, examples)]
    return "\n".join(lines)


def _kind(rule: Rule) -> str:
    parts = [_capital(rule.severity)]
    if rule.kind:
        parts.append(f"kind `{rule.kind}`")
    if rule.threshold:
        limit = getattr(Thresholds(), rule.threshold)
        parts.append(f"limit `{rule.threshold} = {limit:g}`")
    return f"*{', '.join(parts)}*"


def _evidence(rule: Rule) -> str:
    """Return the evidence for a rule's limit, or a link to the rule that has it, if not this one.

    Of several rules with the same limit, the first of the page has it.
    """
    same = [one for one in _by_severity() if one.threshold == rule.threshold]
    if same[0] is rule:
        return evidence()[rule.threshold]
    return f"See [`{same[0].name}`](#{same[0].name}), which has the same limit."


def _by_severity() -> list[Rule]:
    return sorted(RULES.values(), key=lambda one: ORDER.index(one.severity))


def _tried(rule: Rule, remedies: list[dict[str, str]]) -> Iterator[str]:
    """Yield the lines about trials of the rule's remedy."""
    own = [row for row in remedies if row["finding"].startswith(f"`{rule.name}`")]
    if not own:
        if rule.severity != "notice":
            yield f"{TRIED} No trial of this suggestion has been run."
            yield ""
        return
    if len(own) == 1:
        yield f"{TRIED} {_trial(own[0])}"
        yield ""
        return
    helped = sum(row["helped"] == "yes" for row in own)
    yield f"{TRIED} The first suggestion helped in {helped} of {len(own)} injected faults:"
    yield ""
    yield "| fault | model | first suggestion | loss with the fault | loss after | helped |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for row in own:
        keys = ("fault", "model", "first advice", "loss", "loss after", "helped")
        words = " | ".join(row[key] for key in keys).replace("with advice", "with suggestion")
        yield f"| {words} |"
    yield ""


def _trial(row: Mapping[str, str]) -> str:
    """Return a sentence about the only trial of a remedy."""
    helped = {"yes": "helped", "no": "did not help"}.get(row["helped"], "was not enough")
    trial = f"In one trial (fault `{row['fault']}`, {row['model']}) the first suggestion"
    losses = f"loss {row['loss']} with the fault, {row['loss after']} after"
    note = NOTES.get(row["fault"], "")
    return f'{trial} ("{row["first advice"]}") {helped}: {losses}{note}.'


def _measured(rule: Rule, causes: list[dict[str, str]]) -> Iterator[str]:
    """Yield the lines about the measured causes of the rule."""
    own = [row for row in causes if row["rule"] == rule.name]
    if not own:
        return
    right = sum(row["call right"] == "yes" and row["mechanism right"] == "yes" for row in own)
    kinds = sorted({row["measured"].partition(":")[0] for row in own} - {"none"})
    means = f" Mechanisms seen: {', '.join(f'`{kind}`' for kind in kinds)}." if kinds else ""
    of = f"{right} of {len(own)} runs with an injected fault"
    yield f"**Measured causes.** Right in {of}.{means}"
    yield ""


def _example(rule: Rule, examples: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines about a real run with the finding."""
    if not (own := examples.get(rule.name)):
        yield "No injected fault shows this rule in a short run."
        yield ""
        return
    yield f"**Example.** {own['model']}, {own['steps']:,} steps; {own['fault']}."
    yield ""
    yield f"> {own['message']}"
    yield ""
    yield f"![Heat map of the run with the finding {rule.name}](pictures/finding-{rule.name}.png)"
    yield ""


def arithmetic() -> dict[str, str]:
    """Return the description of what each rule computes."""
    _, *parts = re.split(r"^## ", ARITHMETIC.read_text(encoding="utf-8"), flags=re.MULTILINE)
    both = (part.split("\n", maxsplit=1) for part in parts)
    return {name: " ".join(words.split()) for name, words in both}


def evidence() -> dict[str, str]:
    """Return the docstring of each limit in ``Thresholds``, in Markdown."""
    return {name: words.replace("``", "`") for name, words in described().items()}


def newest_table(results: str, title: str) -> list[dict[str, str]]:
    """Return the rows of the newest table under a title, by column."""
    part = re.split(rf"^## {title}, .*$", results, flags=re.MULTILINE)[-1]
    head, _, *rows = re.findall(r"^\|(.*)\|$", part.partition("\n## ")[0], re.MULTILINE)
    names = [cell.strip() for cell in head.split("|")]
    cells = ([cell.strip() for cell in row.split("|")] for row in rows)
    return [dict(zip(names, row, strict=True)) for row in cells]


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


if __name__ == "__main__":
    main()
