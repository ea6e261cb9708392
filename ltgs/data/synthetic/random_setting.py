"""Where a random room's things stand and how they are seen: furniture, free surfaces, lights and camera paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ltgs.data.synthetic import textures as paint
from ltgs.data.synthetic.layout import Light, Piece, look_at
from ltgs.data.synthetic.random_objects import draw_colour, draw_palette
from ltgs.data.synthetic.shapes import Box, Cylinder
from ltgs.data.synthetic.textures import Painter
from ltgs.data.synthetic.tracer import Lamp

Array = NDArray[np.float64]

ROOM_M = (4.4, 4.2, 2.6)
TABLE_LIGHT = 0.9
"""Mean unshadowed irradiance of the table, the same for every light, so that `ev` alone sets the exposure."""
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


@dataclass(frozen=True)
class Surface:
    """A level rectangle on which things may stand; metres."""

    x: tuple[float, float]
    y: tuple[float, float]
    z: float
    share: float
    """Probability that a thing is put here."""


@dataclass(frozen=True)
class Setting:
    """What does not change from visit to visit."""

    shell: Piece
    furniture: tuple[Piece, ...]
    surfaces: tuple[Surface, ...]
    target: tuple[float, float, float]
    """What the cameras look at."""


def draw_setting(rng: np.random.Generator) -> Setting:
    """A table against a papered wall with pictures, and a wall shelf or a low cabinet as the second surface."""
    w, d = (round(float(rng.uniform(*r)), 2) for r in ((1.5, 1.66), (0.86, 0.94)))
    table_z, wall_y = round(float(rng.uniform(0.72, 0.77)), 2), round(d / 2 + 0.08, 3)
    dark = _wood(rng, (0.15, 0.3), (0.4, 0.55), plank_px=60)
    pieces = _table(rng, w, d, table_z, dark)
    pieces.append(Piece(Box((2.7, 1.9, 0.012)), (paint.rug(draw_palette(rng)),), (0.0, -0.4, 0.006), texels_per_m=450))
    decor = _table_decor(rng, w, wall_y, table_z)
    pieces += decor
    back = min(float(p.center[1] - p.shape.extents()[1] / 2) for p in decor)
    table = Surface((-w / 2, w / 2), (-d / 2, back), table_z, 0.8)
    shelf = bool(rng.random() < 0.5)
    second = _shelf(rng, wall_y, dark) if shelf else _cabinet(rng, w)
    pieces += second[0]
    pieces += _pictures(rng, wall_y, table_z, dark, shelf=shelf)
    return Setting(_shell(rng, wall_y), tuple(pieces), (table, second[1]), (0.0, 0.0, round(table_z + 0.08, 3)))


def _wood(rng: np.random.Generator, low: tuple[float, float], high: tuple[float, float], *, plank_px: int) -> Painter:
    """Brownish boards whose dark and light tones have brightness in the two ranges."""
    hue = np.array([1.0, rng.uniform(0.62, 0.8), rng.uniform(0.35, 0.6)])
    tones = [tuple(int(c) for c in 255 * rng.uniform(*r) * hue) for r in (low, high)]
    return paint.wood(tones[0], tones[1], plank_px=plank_px)


def _table(rng: np.random.Generator, w: float, d: float, z: float, legs: Painter) -> list[Piece]:
    top = _wood(rng, (0.3, 0.45), (0.65, 0.85), plank_px=int(rng.integers(70, 140)))
    pieces = [Piece(Box((w, d, 0.04)), (top,), (0.0, 0.0, z - 0.02), texels_per_m=900)]
    for x in (-w / 2 + 0.06, w / 2 - 0.06):
        for y in (-d / 2 + 0.06, d / 2 - 0.06):
            pieces.append(Piece(Box((0.06, 0.06, z - 0.052)), (legs,), (x, y, (z - 0.04 + 0.012) / 2)))
    return pieces


def _table_decor(rng: np.random.Generator, w: float, wall_y: float, z: float) -> list[Piece]:
    """Two to four things at the back of the table that never move: a framed print, a vase, a row of books."""
    slots = np.linspace(-w / 2, w / 2, 5)
    pieces = []
    for slot in sorted(rng.choice(4, int(rng.integers(2, 5)), replace=False)):
        x, y = float(slots[slot : slot + 2].mean() + rng.uniform(-0.04, 0.04)), wall_y - 0.16
        kind = int(rng.integers(3))
        if kind == 0:
            width, height = rng.uniform(0.2, 0.3), rng.uniform(0.2, 0.3)
            frame = Box((round(width, 3), 0.025, round(height, 3)))
            pieces.append(Piece(frame, (paint.poster(draw_palette(rng), text_height=18),), (x, y, z + frame.size[2] / 2)))
        elif kind == 1:
            vase = Cylinder(round(float(rng.uniform(0.05, 0.075)), 3), round(float(rng.uniform(0.2, 0.3)), 3))
            painter = paint.mosaic(draw_palette(rng), cell_px=float(rng.uniform(16, 26)))
            pieces.append(Piece(vase, (painter,), (x, y, z + vase.height / 2)))
        else:
            pieces += _book_row(rng, (x - 0.12, x + 0.12), y + 0.07, z)
    return pieces


def _book_row(rng: np.random.Generator, span: tuple[float, float], back_y: float, z: float) -> list[Piece]:
    """Upright books side by side from span[0] to at most span[1], backs at `back_y`."""
    x = span[0]
    pieces: list[Piece] = []
    while True:
        t, d, h = (round(float(rng.uniform(*r)), 3) for r in ((0.025, 0.06), (0.12, 0.16), (0.17, 0.26)))
        if x + t > span[1]:
            return pieces
        cover = paint.book(draw_colour(rng), (244, 236, 214) if rng.random() < 0.6 else (40, 30, 34))
        pieces.append(Piece(Box((t, d, h)), (cover,), (x + t / 2, back_y - d / 2, z + h / 2), texels_per_m=1100))
        x += t + 0.003


def _shelf(rng: np.random.Generator, wall_y: float, wood: Painter) -> tuple[list[Piece], Surface]:
    """A board on the wall above the table: books on one side, free on the other."""
    z, depth, half = round(float(rng.uniform(1.18, 1.28)), 2), 0.24, round(float(rng.uniform(0.7, 0.8)), 2)
    pieces = [Piece(Box((2 * half, depth, 0.03)), (wood,), (0.0, wall_y - depth / 2, z - 0.015))]
    books = float(rng.uniform(0.35, 0.5))
    left = bool(rng.random() < 0.5)
    pieces += _book_row(rng, (-half, -half + books) if left else (half - books, half), wall_y - 0.005, z)
    free = (-half + books, half) if left else (-half, half - books)
    return pieces, Surface(free, (wall_y - depth, wall_y - 0.02), z, 0.2)


def _cabinet(rng: np.random.Generator, table_w: float) -> tuple[list[Piece], Surface]:
    """A low cabinet beside the table, left or right."""
    w, d, h = (round(float(rng.uniform(*r)), 2) for r in ((0.42, 0.5), (0.42, 0.5), (0.5, 0.66)))
    side = -1.0 if rng.random() < 0.5 else 1.0
    x, y = side * (table_w / 2 + w / 2 + 0.04), round(float(rng.uniform(-0.1, 0.1)), 2)
    front = paint.mosaic(draw_palette(rng), cell_px=30) if rng.random() < 0.5 else _wood(rng, (0.3, 0.4), (0.6, 0.8), plank_px=80)
    top = _wood(rng, (0.35, 0.5), (0.7, 0.9), plank_px=70)
    piece = Piece(Box((w, d, h)), (front, front, front, front, front, top), (x, y, 0.012 + h / 2))
    return [piece], Surface((x - w / 2, x + w / 2), (y - d / 2, y + d / 2), 0.012 + h, 0.2)


def _pictures(rng: np.random.Generator, wall_y: float, table_z: float, frame: Painter, *, shelf: bool) -> list[Piece]:
    """Prints on the back wall (two rows; the lower one leaves room for the shelf) and on the side walls."""
    pieces = []
    rows = ((1.92, 0.56), (0.95, 0.3)) if shelf else ((1.9, 0.6), (1.22, 0.42))
    for z, largest in rows:
        for x in np.linspace(-1.6, 1.6, 5):
            w, h = (round(float(rng.uniform(0.7, 1) * largest), 3) for _ in range(2))
            if z - h / 2 < table_z + 0.02:
                continue
            place = (float(x + rng.uniform(-0.06, 0.06)), wall_y - 0.01, float(z + rng.uniform(-0.03, 0.03)))
            faces = (frame, frame, paint.poster(draw_palette(rng)), frame)
            pieces.append(Piece(Box((w, 0.02, h)), faces, place, texels_per_m=620))
    for side in (-1, 1):
        for y in (-0.3, -1.5):
            w, h = (round(float(rng.uniform(0.75, 1.1)), 3) for _ in range(2))
            print_ = paint.poster(draw_palette(rng))
            sides = (print_,) if side > 0 else (frame, print_, frame)
            pieces.append(Piece(Box((0.02, w, h)), sides, (side * (ROOM_M[0] / 2 - 0.01), y, 1.35), texels_per_m=420))
    return pieces


def _shell(rng: np.random.Generator, wall_y: float) -> Piece:
    """Papered walls and ceiling over a parquet floor (faces -x +x -y +y -z +z)."""
    papers = []
    for _ in range(2):
        ground = draw_colour(rng, (0.05, 0.25), (0.7, 0.9))
        papers.append(paint.wallpaper(ground, tuple(draw_colour(rng, (0.2, 0.6), (0.3, 0.7)) for _ in range(4))))
    side, back = papers
    floor = _wood(rng, (0.25, 0.4), (0.5, 0.7), plank_px=46)
    faces = (side, side, side, back, floor, side)
    center = (0.0, wall_y - ROOM_M[1] / 2, ROOM_M[2] / 2)
    return Piece(Box(ROOM_M, inward=True), faces, center, texels_per_m=380)


def panel(center: Sequence[float], target: Sequence[float], size: tuple[float, float], power: Sequence[float]) -> Lamp:
    """A lamp of `size` metres at `center` that faces `target`; the view must not be straight up."""
    forward = np.asarray(target, float) - np.asarray(center, float)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0] if abs(forward[2]) < 0.99 else [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    return Lamp(_triple(center), _triple(size[0] * right), _triple(size[1] * np.cross(forward, right)), _triple(power))


def _triple(values: Sequence[float] | Array) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z


def draw_lights(rng: np.random.Generator, target: tuple[float, float, float]) -> dict[str, Light]:
    """Day, evening and lamp: each with lamps of its own, balanced to the same light on the table, then its own gain."""
    side = -1.0 if rng.random() < 0.5 else 1.0
    x, y, wide = float(rng.uniform(-0.5, 0.5)), float(rng.uniform(-1.1, -0.5)), float(rng.uniform(-0.4, 0.4))
    ceiling = panel((x, y, 2.58), (x, y, 0.0), (0.7, 0.9), (2.1, 1.98, 1.8))
    window = panel((side * 2.15, -1.2 + wide, 1.6), (0.0, -1.2 + wide, 1.6), (1.2, 1.2), (1.8, 1.9, 2.05))
    corner = panel((-side * 1.7, -1.5 + wide, 1.9), target, (0.4, 0.4), (2.6, 2.4, 2.1))
    glow = panel((-side * 1.4, 0.1 + wide, 2.3), target, (0.5, 0.5), (1.4, 1.3, 1.2))
    desk = panel((side * float(rng.uniform(0.8, 1.2)), -0.7, 1.95), target, (0.35, 0.35), (2.6, 2.4, 2.1))
    weak = panel((-x, y, 2.58), (-x, y, 0.0), (0.7, 0.9), (0.9, 0.85, 0.8))
    return {
        "day": _balanced(Light("day"), (ceiling, window), 0.5, target),
        "evening": _balanced(Light("evening", -0.6, (1.12, 1.0, 0.84)), (corner, glow), 0.4, target),
        "lamp": _balanced(Light("lamp", -0.25, (1.16, 1.0, 0.8)), (desk, weak), 0.4, target),
    }


def _balanced(light: Light, lamps: Sequence[Lamp], ambient: float, target: tuple[float, float, float]) -> Light:
    """The light with lamps scaled so that the table receives `TABLE_LIGHT` on average, `ambient` included."""
    grid = np.stack(np.meshgrid(np.linspace(-0.7, 0.7, 15), np.linspace(-0.4, 0.4, 9)), -1).reshape(-1, 2)
    points = np.column_stack([grid, np.full(len(grid), target[2])])
    direct = 0.0
    for lamp in lamps:
        towards = np.asarray(lamp.center) - points
        distance = np.linalg.norm(towards, axis=1)
        facing = np.cross(lamp.edge_u, lamp.edge_v)
        cosines = np.maximum(-(towards @ facing) / np.linalg.norm(facing), 0.0) * towards[:, 2] / distance**2
        direct += float((cosines / distance**2).mean() * (LUMINANCE @ lamp.power))
    scale = (TABLE_LIGHT - ambient) / direct
    scaled = tuple(Lamp(lamp.center, lamp.edge_u, lamp.edge_v, _triple(scale * np.asarray(lamp.power))) for lamp in lamps)
    return Light(light.name, light.ev, light.tint, scaled, (ambient, ambient, ambient))


def _view(rng: np.random.Generator, target: Sequence[float], azimuth_deg: float, radius: float, height: float) -> Array:
    """A camera on a circle around the table, azimuth 0 in front and positive to the right, held by an unsteady hand."""
    a = np.deg2rad(azimuth_deg)
    eye = (target[0] + radius * np.sin(a), target[1] - radius * np.cos(a), height)
    aim = np.asarray(target) + rng.uniform(-1, 1, 3) * [0.1, 0.06, 0.05]
    return look_at(eye, aim.tolist(), roll_deg=float(rng.uniform(-2, 2)))


def first_views(rng: np.random.Generator, target: tuple[float, float, float]) -> tuple[Array, ...]:
    """28 to 32 cameras [4, 4]: an arc at three heights, then close views of the table's two halves."""
    count = int(rng.integers(28, 33))
    reach = float(rng.uniform(72, 84))
    rings = ((1.3, 1.15), (1.55, 1.45), (1.45, 1.8))
    views = []
    for i, azimuth in enumerate(np.linspace(-reach, reach, count - 6)):
        radius, height = rings[i % 3]
        views.append(_view(rng, target, float(azimuth), radius + rng.uniform(-0.08, 0.12), height + rng.uniform(-0.06, 0.06)))
    for i, azimuth in enumerate((-50.0, -15.0, 20.0, -20.0, 15.0, 50.0)):
        aim = (target[0] + (-0.4 if i < 3 else 0.4), target[1], target[2])
        views.append(_view(rng, aim, azimuth + rng.uniform(-8, 8), float(rng.uniform(0.95, 1.1)), float(rng.uniform(1.2, 1.5))))
    return tuple(views)


def sparse_views(rng: np.random.Generator, target: tuple[float, float, float], count: int) -> tuple[Array, ...]:
    """`count` cameras [4, 4] spread over the arc, one in each equal part of it, at free distances and heights."""
    edges = np.linspace(-62, 62, count + 1)
    return tuple(
        _view(rng, target, float(rng.uniform(low, high)), float(rng.uniform(1.3, 1.6)), float(rng.uniform(1.2, 1.7)))
        for low, high in pairwise(edges)
    )
