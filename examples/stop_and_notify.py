"""End a training at its first NaN, be told of every finding, and log a few numbers."""

import sys

from ultralytics import YOLO

from yolo_gradwatch import GradWatch


class PrintedScalars:
    """Stands for an experiment logger: some thirty numbers a window, not hundreds."""

    def write(self, scalars, step):
        print(f"step {step}: norm of the whole gradient {scalars.get('gradwatch/model', 0):.3g}")

    def close(self):
        print("the training is over")


def notify(finding):
    print(f"{finding.severity}: {finding.message}")


data, weights = (*sys.argv[1:], "coco8.yaml", "yolo26n.pt")[:2]

model = YOLO(weights)
watch = GradWatch(stop_on=["nonfinite"], on_finding=notify, sinks=[PrintedScalars()]).attach(model)
model.train(data=data, epochs=3, imgsz=64, batch=4, nbs=4)
