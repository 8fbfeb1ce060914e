"""Where to write the names of points so that none hides another. Plain rectangles; knows no plot."""

import math
from collections.abc import Sequence

Box = tuple[float, float, float, float]
"""Left, bottom, right, top, in pixels."""

_GAPS = (8, 12, 18, 26, 36, 48, 64, 90)
_ANGLES = tuple(math.radians(degrees) for degrees in (0, 180, 90, 270, 45, 135, 315, 225, 22, 158, 338, 202))


def place_labels(
    anchors: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    *,
    solid: Sequence[Box],
    soft: Sequence[Box],
    bounds: Box,
    unit: float = 1.0,
) -> list[tuple[float, float]]:
    """Label centres near their anchors that cover neither each other nor `solid`, where there is room.

    Rings of growing distance are tried; the least cost wins. Crossing `soft` things or moving far is
    a small cost, so a label rather crosses a thin bar than strays.
    """
    taken = list(solid)
    centres = []
    for anchor, size in zip(anchors, sizes, strict=True):
        costs = {}
        for gap in (gap * unit for gap in _GAPS):
            for angle in _ANGLES:
                box = _box(centre := _spot(anchor, size, angle, gap), size)
                outside = (size[0] * size[1]) - _overlap(box, bounds)
                hard = outside + sum(_overlap(box, other) for other in taken)
                costs[centre] = 10 * hard + 0.4 * sum(_overlap(box, other) for other in soft) + gap
        centres.append(min(costs, key=costs.__getitem__))
        taken.append(_box(centres[-1], size))
    return centres


def _spot(
    anchor: tuple[float, float], size: tuple[float, float], angle: float, gap: float
) -> tuple[float, float]:
    """The centre of a box that lies in this direction, `gap` off the anchor."""
    return (
        anchor[0] + math.cos(angle) * (size[0] / 2 + gap),
        anchor[1] + math.sin(angle) * (size[1] / 2 + gap),
    )


def _box(centre: tuple[float, float], size: tuple[float, float]) -> Box:
    (x, y), (width, height) = centre, size
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _overlap(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0
