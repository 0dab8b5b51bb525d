"""End a training at its first NaN, get every finding, and print the norm of each window."""

import sys

from ultralytics import YOLO

from yolo_gradwatch import GradWatch


class Printed:
    """An output of your own: any of the methods of `yolo_gradwatch.Output`."""

    def window(self, window):
        print(f"step {window.step_last}: norm of the whole gradient {window.norm_mean[0]:.3g}")

    def end(self, report):
        print(f"the training is over: {report.verdict}")


def notify(finding):
    print(f"{finding.severity}: {finding.message}")


data, weights = (*sys.argv[1:], "coco8.yaml", "yolo26n.pt")[:2]

model = YOLO(weights)
watch = GradWatch(stop_on=["nonfinite"], on_finding=notify, outputs=[Printed()]).attach(model)
model.train(data=data, epochs=3, imgsz=64, batch=4, nbs=4)
