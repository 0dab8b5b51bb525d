"""Feed alerts to the findings of a run, one window at a time."""

from values import Part, plan, window

from yolo_gradwatch.diagnose.catalog import RULES
from yolo_gradwatch.diagnose.finding import Alert
from yolo_gradwatch.diagnose.findings import CALM_WINDOWS, Findings
from yolo_gradwatch.diagnose.thresholds import Thresholds

CHAIN, _ = plan(
    [Part(f"model.{block}.{leaf}") for block in range(4) for leaf in "abcd"],
    edges=[("model.0", "model.1"), ("model.1", "model.2"), ("model.2", "model.3")],
)
"""A chain of four blocks with four leaves each."""

A, B, C, D = (f"model.1.{leaf}" for leaf in "abcd")

LAW = "leaf_vanishing"
"""A rule whose value is in decades."""


def alert(module, step=1, *, rule="dead", value=3.0, affected=()):
    return Alert(rule, RULES[rule].severity, module, 1, step, value, 3.0, affected)


class AlertFeed:
    """Feeds alerts to the findings of a run, window by window."""

    def __init__(self, layout=CHAIN, limits=None):
        self.layout = layout
        self.findings = Findings(layout, limits or Thresholds(), {"amp": True})
        self.step = 0

    def next(self, *modules, rule="dead", value=3.0, skipped=0):
        """Return the changes by a window in which these modules have an alert."""
        self.step += 1
        alerts = [alert(module, self.step, rule=rule, value=value) for module in modules]
        return self.take(alerts, skipped=skipped)

    def both(self, *pairs):
        """Return the changes by a window with alerts of several rules."""
        self.step += 1
        return self.take([alert(module, self.step, rule=rule) for rule, module in pairs])

    def take(self, alerts, skipped=0, reported=0, step=None):
        self.step = step or self.step
        one = window(self.step, skipped=skipped, layout=self.layout)
        return self.findings.update(one, alerts, reported or self.step)

    def calm(self, windows=CALM_WINDOWS):
        """Return the changes by windows without an alert."""
        return [one for _ in range(windows) for one in self.next()]

    def lasting(self):
        return [f.number for f in self.findings.all.values() if f.step_end is None]


def spelled(seen):
    """Return the first change of each window as one string."""
    return " ".join(one[0].change if one else "-" for one in seen)
