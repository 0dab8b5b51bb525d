"""Three questions to a finished run, with pandas."""

import sys

from yolo_gradwatch import load_run

run = load_run(sys.argv[1])
print(run.report())

blocks = run.windows[run.windows["module"].isin(name for name, _ in run.layout.blocks)]

print("\nWhich blocks had the smallest gradients?")
print(blocks.groupby("module", observed=True)["norm_mean"].median().nsmallest(5))

print("\nHow did the gradient of the whole model develop?")
whole = run.windows[run.windows["module"] == "model"].set_index("step_last")
print(whole[["epoch", "norm_mean", "weight_norm"]].tail())

print("\nWhich weights have many gradients that are exactly zero?")
weights = run.windows.dropna(subset="zero_fraction")
print(weights.groupby("module", observed=True)["zero_fraction"].mean().nlargest(5))
