"""Three questions to a finished run, with pandas; needs neither torch nor a GPU."""

import sys

import numpy as np

from yolo_gradwatch import Thresholds, load_run

run = load_run(sys.argv[1])  # the run's folder, or its gradwatch.csv
print(run.report())
rows = run.windows  # one row a window and module

print("\nWhich kind of layer has the smallest gradients, and how did it develop? (median norm)")
third = np.ceil(3 * rows["step_last"] / rows["step_last"].max()).astype(int).rename("third")
print(rows.pivot_table("norm_mean", "type", third, aggfunc="median", observed=True).round(4))

print("\nWhich layers have the smallest gradients for their size? (by weight norm, last epoch)")
last = rows[rows["epoch"] == rows["epoch"].max()]
share = (last["norm_mean"] / last["weight_norm"]).groupby(last["module"], observed=True).median()
print(share.nsmallest(5))

print("\nWhat would stricter limits have found?")
strict = run.report(Thresholds(vanishing=1.5, spike=1.0))
for finding in strict.findings:
    print(f"step {finding.step}: {finding.severity} {finding.rule} in {finding.module}")
print(strict.verdict)
