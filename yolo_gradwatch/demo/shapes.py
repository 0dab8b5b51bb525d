"""Draw a data set that needs no download: images of coloured shapes with their boxes."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from pathlib import Path

SHAPES = ("circle", "square", "triangle")
COLOURS = ("crimson", "gold", "seagreen", "royalblue", "darkorchid", "coral")
SIZE = 160
"""Width and height of an image in pixels."""


def draw_dataset(folder: Path, *, train: int = 48, val: int = 8, seed: int = 0) -> Path:
    """Draw images of coloured shapes with their boxes, in the layout of a YOLO data set.

    Args:
        folder: Where to put ``images``, ``labels`` and ``data.yaml``; existing files are replaced.
        train: Number of training images.
        val: Number of validation images.
        seed: The same seed draws the same images.

    Returns:
        The path of ``data.yaml``.

    Raises:
        OSError: The folder cannot be written.
    """
    chance = random.Random(seed)  # noqa: S311  # pictures, not secrets
    for split, count in (("train", train), ("val", val)):
        images, labels = folder / "images" / split, folder / "labels" / split
        images.mkdir(parents=True, exist_ok=True)
        labels.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            image, boxes = draw_image(chance)
            image.save(images / f"{i:03}.png")
            lines = (" ".join(map(str, box)) for box in boxes)
            (labels / f"{i:03}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    names = "".join(f"  {i}: {shape}\n" for i, shape in enumerate(SHAPES))
    data = folder / "data.yaml"
    data.write_text(
        f"path: {folder.resolve()}\ntrain: images/train\nval: images/val\nnames:\n{names}",
        encoding="utf-8",
    )
    return data


def draw_image(chance: random.Random) -> tuple[Image.Image, list[tuple[float, ...]]]:
    """Draw an image with one to four shapes of various sizes.

    Returns:
        The image, and for each shape its class and its box: centre, width and height as shares of
        the image.
    """
    grey = chance.randint(60, 200)
    image = Image.new("RGB", (SIZE, SIZE), (grey, grey, grey))
    draw = ImageDraw.Draw(image)
    boxes: list[tuple[float, ...]] = []
    for _ in range(chance.randint(1, 4)):
        kind, side = chance.randrange(len(SHAPES)), chance.randint(SIZE // 10, SIZE // 2)
        x, y = chance.randint(0, SIZE - side - 1), chance.randint(0, SIZE - side - 1)
        _draw_shape(draw, SHAPES[kind], (x, y, x + side, y + side), chance.choice(COLOURS))
        centre = ((x + side / 2) / SIZE, (y + side / 2) / SIZE)
        boxes.append((kind, *(round(share, 6) for share in (*centre, side / SIZE, side / SIZE))))
    return image, boxes


def _draw_shape(
    draw: ImageDraw.ImageDraw, shape: str, box: tuple[int, int, int, int], colour: str
) -> None:
    left, top, right, bottom = box
    if shape == "circle":
        draw.ellipse(box, fill=colour)
    elif shape == "square":
        draw.rectangle(box, fill=colour)
    else:
        draw.polygon([((left + right) / 2, top), (right, bottom), (left, bottom)], fill=colour)
