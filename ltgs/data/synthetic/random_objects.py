"""Movable things drawn at random: printed boxes, bottles, cans, cups with handles, bowls, balls, books, plain shapes.

Sizes are those of things on a real table (6 to 25 cm). Some are almost without texture or look the same from all
sides, because such things are the hard ones to find again.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ltgs.data.synthetic import textures as paint
from ltgs.data.synthetic.layout import ObjectModel, Piece, piece_corners
from ltgs.data.synthetic.shapes import Box, Cylinder, Sphere
from ltgs.data.synthetic.textures import Colour, Painter

Maker = Callable[[np.random.Generator], tuple[Piece, ...]]
WHITE: Colour = (226, 224, 218)
CREAM: Colour = (244, 238, 220)
INK: Colour = (40, 34, 44)


@dataclass(frozen=True)
class Kind:
    """One kind of thing and how many of it a room has."""

    name: str
    make: Maker
    least: int = 0
    most: int = 2
    symmetric: bool = False


def draw_colour(
    rng: np.random.Generator, saturation: tuple[float, float] = (0.35, 0.85), value: tuple[float, float] = (0.3, 0.85)
) -> Colour:
    """An sRGB colour of any hue with saturation and value (0..1) drawn from the two ranges."""
    hsv = float(rng.random()), float(rng.uniform(*saturation)), float(rng.uniform(*value))
    return tuple(int(round(255 * c)) for c in colorsys.hsv_to_rgb(*hsv))


def draw_palette(rng: np.random.Generator, count: int = 5) -> tuple[Colour, ...]:
    """`count` colours of clearly different brightness, then a light and a dark one."""
    bounds = np.linspace(0.25, 0.95, count + 1)
    colours = [draw_colour(rng, value=(float(low), float(high))) for low, high in pairwise(bounds)]
    order = rng.permutation(count)
    return (*(colours[i] for i in order), CREAM, INK)


def draw_objects(rng: np.random.Generator, count: int) -> tuple[ObjectModel, ...]:
    """`count` things with ids 1..count: each kind at least as often as `KINDS` asks, the rest at random.

    Raises:
        ValueError: `count` lies outside what `KINDS` allows.
    """
    low, high = sum(k.least for k in KINDS), sum(k.most for k in KINDS)
    if not low <= count <= high:
        raise ValueError(f"A room has between {low} and {high} objects, not {count}.")
    spare = [k for k in KINDS for _ in range(k.most - k.least)]
    extra = rng.choice(len(spare), count - low, replace=False)
    kinds = [k for k in KINDS for _ in range(k.least)] + [spare[i] for i in extra]
    seen: dict[str, int] = {}
    models = []
    for object_id, index in enumerate(rng.permutation(count), start=1):
        kind = kinds[index]
        seen[kind.name] = seen.get(kind.name, 0) + 1
        pieces = _centred(kind.make(rng))
        models.append(ObjectModel(object_id, f"{kind.name}_{seen[kind.name]}", pieces, kind.symmetric))
    return tuple(models)


def _centred(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Shift the pieces so that the bounding box of all lies around the origin, as an object's frame has to."""
    corners = np.concatenate([piece_corners(p, np.eye(4)) for p in pieces])
    middle = (corners.min(0) + corners.max(0)) / 2
    shifted = []
    for piece in pieces:
        x, y, z = (float(round(c - m, 6)) for c, m in zip(piece.center, middle, strict=True))
        shifted.append(replace(piece, center=(x, y, z)))
    return tuple(shifted)


def _sizes(rng: np.random.Generator, *ranges: tuple[float, float]) -> list[float]:
    """One size in metres per range, in whole millimetres."""
    return [round(float(rng.uniform(*r)), 3) for r in ranges]


def _print(rng: np.random.Generator, text_height: int = 22) -> Painter:
    """A label in colours of its own."""
    inks = (CREAM, draw_colour(rng, value=(0.6, 0.95)), draw_colour(rng, value=(0.15, 0.4)))
    return paint.label(draw_colour(rng), inks, text_height=text_height)


def _plain_colour(rng: np.random.Generator) -> Colour:
    """White, blue or any other even colour."""
    choice = int(rng.integers(3))
    if choice == 0:
        return WHITE
    return (62, 92, 158) if choice == 1 else draw_colour(rng, (0.3, 0.7), (0.4, 0.8))


def _printed_box(rng: np.random.Generator) -> tuple[Piece, ...]:
    w, d, h = _sizes(rng, (0.09, 0.19), (0.05, 0.11), (0.1, 0.24))
    return (Piece(Box((w, d, h)), (_print(rng),)),)


def _flat_box(rng: np.random.Generator) -> tuple[Piece, ...]:
    w, d, h = _sizes(rng, (0.15, 0.23), (0.1, 0.16), (0.035, 0.06))
    return (Piece(Box((w, d, h)), (_print(rng),)),)


def _parcel(rng: np.random.Generator) -> tuple[Piece, ...]:
    w, d, h = _sizes(rng, (0.17, 0.24), (0.13, 0.18), (0.1, 0.16))
    return (Piece(Box((w, d, h)), (paint.parcel(),)),)


def _plain_box(rng: np.random.Generator) -> tuple[Piece, ...]:
    w, d, h = _sizes(rng, (0.08, 0.15), (0.06, 0.12), (0.06, 0.16))
    return (Piece(Box((w, d, h)), (paint.plain(_plain_colour(rng)),)),)


def _can(rng: np.random.Generator) -> tuple[Piece, ...]:
    radius, height = _sizes(rng, (0.033, 0.05), (0.08, 0.15))
    metal = paint.plain(draw_colour(rng, (0.0, 0.15), (0.55, 0.75)))
    return (Piece(Cylinder(radius, height), (_print(rng, 18), metal)),)


def _plain_can(rng: np.random.Generator) -> tuple[Piece, ...]:
    radius, height = _sizes(rng, (0.035, 0.055), (0.07, 0.14))
    colour = _plain_colour(rng)
    lid = tuple(int(0.8 * c) for c in colour)
    return (Piece(Cylinder(radius, height), (paint.plain(colour), paint.plain(lid))),)


def _bottle(rng: np.random.Generator) -> tuple[Piece, ...]:
    """A body with a printed band, shoulders, a neck and a cap."""
    radius, body, neck = _sizes(rng, (0.03, 0.042), (0.1, 0.15), (0.03, 0.05))
    glass = paint.plain(_plain_colour(rng))
    band = round(0.55 * body, 3)
    rest = (body - band) / 2
    levels = [
        (radius, rest, glass),
        (radius, band, _print(rng, 16)),
        (radius, rest, glass),
        (0.75 * radius, 0.012, glass),
        (0.4 * radius, neck, glass),
        (0.46 * radius, 0.018, paint.plain(draw_colour(rng))),
    ]
    return _turned(levels)


def _bowl(rng: np.random.Generator) -> tuple[Piece, ...]:
    """A foot and rings that widen upwards."""
    radius, height = _sizes(rng, (0.06, 0.085), (0.055, 0.075))
    colour = _plain_colour(rng)
    side = paint.plain(colour)
    steps = 4
    levels = [(radius * (0.55 + 0.45 * (i / (steps - 1)) ** 0.5), height / steps, side) for i in range(steps)]
    pieces = _turned(levels)
    inside = tuple(int(0.55 * c) for c in colour)
    return (*pieces[:-1], replace(pieces[-1], painters=(side, paint.opening(colour, inside), side)))


def _turned(levels: Sequence[tuple[float, float, Painter]]) -> tuple[Piece, ...]:
    """Cylinders (radius, height, picture of the side) on top of each other, from z = 0 up."""
    z, pieces = 0.0, []
    for radius, height, side in levels:
        pieces.append(Piece(Cylinder(radius, height), (side,), (0.0, 0.0, z + height / 2)))
        z += height
    return tuple(pieces)


def _cup(rng: np.random.Generator) -> tuple[Piece, ...]:
    """A cup with a handle of three bars on its +x side; plain or with a printed band."""
    radius, height = _sizes(rng, (0.036, 0.05), (0.075, 0.105))
    colour = _plain_colour(rng)
    wall = paint.plain(colour)
    side = wall if rng.random() < 0.6 else _print(rng, 14)
    bar, reach, span = 0.011, 0.03, round(0.6 * height, 3)
    # The level bars start a little inside the wall, so that no gap shows along its curve.
    level = Box((reach + 0.006, 0.014, bar))
    middle = radius + reach / 2 - 0.003
    body = Piece(Cylinder(radius, height), (side, paint.opening(colour, tuple(int(0.45 * c) for c in colour)), wall))
    upright = Piece(Box((bar, 0.014, span)), (wall,), (radius + reach - bar / 2, 0.0, 0.0))
    arms = [Piece(level, (wall,), (middle, 0.0, sign * (span - bar) / 2)) for sign in (-1, 1)]
    return (body, upright, *arms)


def _ball(rng: np.random.Generator) -> tuple[Piece, ...]:
    (radius,) = _sizes(rng, (0.035, 0.06))
    patterned = paint.mosaic(draw_palette(rng), cell_px=float(rng.uniform(14, 26)))
    return (Piece(Sphere(radius), (patterned if rng.random() < 0.6 else paint.plain(_plain_colour(rng)),)),)


def _books(rng: np.random.Generator) -> tuple[Piece, ...]:
    """Two or three books on top of each other, each turned a little."""
    z, pieces = 0.0, []
    for level in range(int(rng.integers(2, 4))):
        w, d, h = _sizes(rng, (0.19, 0.23), (0.13, 0.17), (0.022, 0.04))
        cover = paint.book(draw_colour(rng), CREAM if rng.random() < 0.6 else INK, across=True)
        turn = float(rng.uniform(-12, 12)) if level else 0.0
        pieces.append(Piece(Box((w, d, h)), (cover,), (0.0, 0.0, z + h / 2), yaw_deg=turn))
        z += h
    return tuple(pieces)


KINDS = (
    Kind("printed_box", _printed_box, 2, 4),
    Kind("flat_box", _flat_box, 1, 2),
    Kind("parcel", _parcel, 0, 1),
    Kind("plain_box", _plain_box, 1, 2),
    Kind("can", _can, 1, 3, symmetric=True),
    Kind("plain_can", _plain_can, 1, 2, symmetric=True),
    Kind("bottle", _bottle, 2, 3, symmetric=True),
    Kind("bowl", _bowl, 0, 1, symmetric=True),
    Kind("cup", _cup, 1, 3),
    Kind("ball", _ball, 1, 2, symmetric=True),
    Kind("book_stack", _books, 1, 2),
)
