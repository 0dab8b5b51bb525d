#!/usr/bin/env bash
# Watch a training from the command line: every argument of `yolo` works, a task in front too.
set -euo pipefail

data=${1:-coco8.yaml}
weights=${2:-yolo26n.pt}

yolo-gradwatch train model="$weights" data="$data" epochs=10 imgsz=64 batch=4 nbs=4 \
    --stop-on nonfinite --fail-on dead

# The same, spelled with its task, reading every second optimizer step only.
yolo-gradwatch detect train model="$weights" data="$data" epochs=20 imgsz=64 batch=4 nbs=4 \
    --interval 2
