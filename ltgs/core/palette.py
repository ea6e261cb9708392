"""Colours of objects: the same object has the same colour in every picture and page."""

from __future__ import annotations

OBJECT_COLOURS = (
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75), (227, 119, 194),
    (188, 189, 34), (23, 190, 207), (255, 187, 120), (152, 223, 138), (197, 176, 213),
)
"""8-bit sRGB, for object ids 1, 2, ...; they repeat."""


def object_colour(object_id: int) -> tuple[int, int, int]:
    """8-bit sRGB colour of an object, id >= 1."""
    return OBJECT_COLOURS[(object_id - 1) % len(OBJECT_COLOURS)]
