"""Run a torchrun script for two GPUs on the CPU.

python -m torch.distributed.run --nproc_per_node=2 without_gpus.py SCRIPT ARGUMENTS
"""

import runpy
import sys
from pathlib import Path

from two_processes import TwoProcesses
from ultralytics.models.yolo import detect


class OnTheCpu(TwoProcesses):
    """A detection trainer that stores its notes in the working folder."""

    def __init__(self, *args, overrides, **options):
        if len(overrides["device"].split(",")) != self.world_size:
            raise ValueError(f"{overrides['device']} is no device for each process")
        own = {**overrides, "device": "cpu", "project": str(Path.cwd()), "plots": False}
        super().__init__(*args, overrides=own, **options)


detect.DetectionTrainer = OnTheCpu
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
