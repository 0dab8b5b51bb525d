"""A user-defined block in its own file, and a model that uses it."""

from torch import nn
from ultralytics.nn.modules import Conv

MODEL = """
nc: 3
backbone:
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 2, Gated, [32]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, C3k2, [64, False]]
  - [-1, 1, Conv, [128, 3, 2]]
  - [-1, 1, Gated, [128, 5]]
head:
  - [[3, 5, 7], 1, Detect, [nc]]
"""
"""User-defined blocks between those of Ultralytics, one of them repeated."""


class Gated(nn.Module):
    """Adds the output of a convolution, scaled by channel, to the input."""

    def __init__(self, channels, kernel=3):
        super().__init__()
        self.mix = Conv(channels, channels, kernel, g=channels)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1))

    def forward(self, x):
        return x + self.mix(x) * self.gate(x).sigmoid()
