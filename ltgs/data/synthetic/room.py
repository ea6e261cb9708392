"""The sample room: a table with six things in front of a bookshelf, photographed on three dates."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from ltgs.data.synthetic import textures as paint
from ltgs.data.synthetic.layout import Light, ObjectModel, Piece, Placement, Visit, check_layout, look_at
from ltgs.data.synthetic.shapes import Box, Cylinder, Sphere
from ltgs.data.synthetic.tracer import Lamp

Array = NDArray[np.float64]

ROOM_M = (4.4, 4.2, 2.6)
WALL_Y = 0.66
"""The back wall; the table stands just in front of it."""
TABLE_Z = 0.74
SHELF_Z = 1.22
TARGET = (0.0, 0.02, 0.82)
BRIGHT = ((196, 58, 48), (232, 186, 64), (46, 110, 150), (238, 232, 214), (70, 140, 92), (50, 44, 60))
PASTEL = ((226, 214, 190), (206, 120, 96), (96, 140, 150), (230, 196, 120), (128, 96, 130), (52, 58, 80))
NIGHT = ((34, 42, 74), (80, 104, 160), (236, 200, 92), (204, 92, 70), (150, 190, 200), (244, 240, 226))


@dataclass(frozen=True)
class RoomModel:
    """Everything the writer needs to render a timeline."""

    name: str
    shell: Piece
    furniture: tuple[Piece, ...]
    models: tuple[ObjectModel, ...]
    lamps: tuple[Lamp, ...]
    ambient: tuple[float, float, float]
    visits: tuple[Visit, ...]


def _furniture(rng: np.random.Generator) -> tuple[Piece, ...]:
    oak = paint.wood((120, 78, 44), (206, 158, 104), plank_px=110)
    dark = paint.wood((62, 40, 28), (128, 86, 56), plank_px=60)
    pieces = [
        Piece(Box((1.5, 0.86, 0.04)), (oak,), (0.0, 0.0, TABLE_Z - 0.02), texels_per_m=900),
        Piece(
            Box((2.6, 1.9, 0.012)),
            (paint.rug(((120, 44, 48), (214, 190, 150), (44, 60, 92), (190, 132, 70), (236, 226, 204))),),
            (0.0, -0.35, 0.006),
            texels_per_m=520,
        ),
        Piece(Box((1.7, 0.2, 0.03)), (dark,), (0.0, WALL_Y - 0.1, SHELF_Z - 0.015)),
    ]
    for x in (-0.69, 0.69):
        for y in (-0.37, 0.37):
            pieces.append(Piece(Box((0.06, 0.06, TABLE_Z - 0.052)), (dark,), (x, y, (TABLE_Z - 0.04 + 0.012) / 2)))
    for x, z, w, h, palette in (
        (-1.28, 1.45, 0.62, 0.84, NIGHT),
        (-0.5, 1.86, 0.66, 0.48, BRIGHT),
        (0.42, 1.92, 0.86, 0.54, PASTEL),
        (1.3, 1.4, 0.6, 0.8, BRIGHT),
        (-0.2, 0.92, 0.5, 0.34, PASTEL),
        (0.45, 0.95, 0.44, 0.4, NIGHT),
    ):
        pieces.append(
            Piece(Box((w, 0.02, h)), (dark, dark, paint.poster(palette), dark), (x, WALL_Y - 0.01, z), texels_per_m=620)
        )
    for side, y, z, w, h, palette in (
        (-1, -0.3, 1.3, 0.9, 1.1, BRIGHT),
        (-1, -1.5, 1.4, 0.7, 0.9, PASTEL),
        (1, -0.3, 1.3, 1.0, 0.8, NIGHT),
        (1, -1.5, 1.35, 0.8, 1.0, BRIGHT),
    ):
        faces = (paint.poster(palette),) if side > 0 else (dark, paint.poster(palette), dark)
        pieces.append(Piece(Box((0.02, w, h)), faces, (side * (ROOM_M[0] / 2 - 0.01), y, z), texels_per_m=420))
    return (*pieces, *_books(rng))


def _books(rng: np.random.Generator) -> list[Piece]:
    """A row of books on the shelf, each with its own size, colour and title."""
    pieces: list[Piece] = []
    x = -0.82
    while True:
        thickness, depth, height = rng.uniform(0.035, 0.075), rng.uniform(0.13, 0.17), rng.uniform(0.18, 0.29)
        if x + thickness > 0.82:
            return pieces
        ground = tuple(int(c) for c in rng.integers(30, 220, 3))
        ink = (244, 236, 214) if sum(ground) < 380 else (40, 30, 34)
        center = (x + thickness / 2, WALL_Y - depth / 2 - 0.005, SHELF_Z + height / 2)
        pieces.append(Piece(Box((thickness, depth, height)), (paint.book(ground, ink),), center, texels_per_m=1100))
        x += thickness + (0.003 if rng.random() < 0.85 else 0.06)


def _models() -> tuple[ObjectModel, ...]:
    cloth = paint.wood((196, 184, 160), (236, 228, 206), plank_px=14)
    box = Piece(Box((0.25, 0.13, 0.33)), (paint.label((214, 64, 48), ((250, 240, 214), (246, 190, 60), (30, 52, 92))),))
    can = Piece(
        Cylinder(0.1, 0.27),
        (
            paint.label((48, 104, 96), ((240, 226, 180), (220, 120, 60), (250, 250, 244))),
            paint.mosaic(PASTEL, cell_px=22),
        ),
    )
    globe = (
        Piece(Cylinder(0.085, 0.03), (paint.wood((70, 42, 26), (140, 92, 54), plank_px=30),), (0, 0, -0.145)),
        Piece(Sphere(0.145), (paint.globe((92, 140, 176), (196, 170, 96)),), (0, 0, 0.015)),
    )
    cube = Piece(Box((0.22, 0.22, 0.22)), (paint.mosaic(BRIGHT, cell_px=30),))
    stack = tuple(
        Piece(Box((w, d, 0.05)), (paint.book(g, k, across=True),), (0, 0, z), yaw_deg=yaw)
        for w, d, z, yaw, g, k in (
            (0.32, 0.24, -0.05, 0.0, (40, 70, 112), (240, 220, 170)),
            (0.29, 0.22, 0.0, 9.0, (176, 72, 56), (250, 240, 220)),
            (0.25, 0.19, 0.05, -7.0, (206, 174, 92), (48, 36, 40)),
        )
    )
    pot = (
        Piece(Cylinder(0.085, 0.15), (paint.mosaic(PASTEL, cell_px=20), cloth), (0, 0, -0.1)),
        Piece(Sphere(0.13), (paint.foliage(),), (0, 0, 0.045)),
    )
    crate = Piece(Box((0.3, 0.2, 0.2)), (paint.parcel(),))
    return (
        ObjectModel(1, "biscuit_box", (box,)),
        ObjectModel(2, "tea_tin", (can,), symmetric=True),
        ObjectModel(3, "globe", globe, symmetric=True),
        ObjectModel(4, "mosaic_cube", (cube,)),
        ObjectModel(5, "book_stack", stack),
        ObjectModel(6, "plant_pot", pot, symmetric=True),
        ObjectModel(7, "parcel", (crate,)),
    )


def _arc(azimuth_deg: float, radius: float, height: float, jitter: Array) -> Array:
    """A camera on a circle around the table; azimuth 0 is in front, positive to the right; `jitter` [4] moves the aim."""
    a = np.deg2rad(azimuth_deg)
    eye = (TARGET[0] + radius * np.sin(a), TARGET[1] - radius * np.cos(a), height)
    return look_at(eye, (np.asarray(TARGET) + jitter[:3]).tolist(), roll_deg=float(jitter[3]))


def _poses(rng: np.random.Generator, views: list[tuple[float, float, float]]) -> tuple[Array, ...]:
    spread = np.array([0.08, 0.05, 0.05, 1.5])
    return tuple(_arc(*view, jitter=rng.uniform(-1, 1, 4) * spread) for view in views)


def sample_room(seed: int = 7) -> RoomModel:
    """The room of `datasets/sample_room`, with every place, camera and date.

    Raises:
        ValueError: objects would collide or float (never for the shipped layout).
    """
    rng = np.random.default_rng([seed, 1])
    first = [(-92 + 184 * i / 21, (1.42, 1.72)[i % 2], (1.18, 1.62)[i % 2]) for i in range(22)]
    places = {
        "biscuit_box": Placement(-0.3, 0.2, TABLE_Z, 12),
        "tea_tin": Placement(0.3, -0.2, TABLE_Z, 40),
        "globe": Placement(0.06, 0.17, TABLE_Z, 0),
        "mosaic_cube": Placement(0.5, 0.2, TABLE_Z, 28),
        "book_stack": Placement(-0.08, -0.22, TABLE_Z, -14),
        "plant_pot": Placement(-0.6, 0.17, TABLE_Z, 0),
    }
    second = {k: v for k, v in places.items() if k != "tea_tin"} | {"biscuit_box": Placement(0.36, -0.2, TABLE_Z, 80)}
    third = second | {"parcel": Placement(-0.5, -0.2, TABLE_Z, -18)}
    day, evening = Light("day"), Light("evening", -0.5, (1.1, 1.0, 0.84))
    visits = (
        Visit(
            datetime(2025, 5, 4, 10, 12),
            day,
            places,
            _poses(rng, first),
            _poses(rng, [(-40, 1.55, 1.36), (6, 1.6, 1.5), (51, 1.5, 1.3)]),
        ),
        Visit(
            datetime(2025, 5, 18, 11, 40),
            day,
            second,
            _poses(rng, [(-52, 1.55, 1.45), (-12, 1.5, 1.3), (24, 1.6, 1.55), (63, 1.5, 1.35)]),
            _poses(rng, [(-31, 1.6, 1.5), (4, 1.48, 1.34), (43, 1.55, 1.42)]),
        ),
        Visit(
            datetime(2025, 6, 15, 19, 5),
            evening,
            third,
            _poses(rng, [(-60, 1.5, 1.4), (-22, 1.6, 1.5), (15, 1.5, 1.32), (54, 1.56, 1.5)]),
            _poses(rng, [(-37, 1.5, 1.34), (-4, 1.62, 1.52), (35, 1.5, 1.4)]),
        ),
    )
    leaves = paint.wallpaper((222, 214, 194), ((98, 128, 96), (150, 112, 88), (84, 116, 134), (186, 140, 86)))
    parquet = paint.wood((96, 64, 40), (176, 130, 86), plank_px=46)
    # The side and back walls are papered, the ceiling shows boards and the floor parquet (faces -x +x -y +y -z +z).
    shell = Piece(
        Box(ROOM_M, inward=True),
        (leaves, leaves, leaves, leaves, parquet, leaves),
        (0.0, WALL_Y - ROOM_M[1] / 2, ROOM_M[2] / 2),
        texels_per_m=380,
    )
    lamps = (
        Lamp((-0.5, -0.7, 2.58), (0.0, 0.7, 0.0), (0.9, 0.0, 0.0), (2.1, 1.98, 1.8)),
        Lamp((2.15, -1.1, 1.6), (0.0, 1.2, 0.0), (0.0, 0.0, -1.2), (1.5, 1.6, 1.75)),
    )
    model = RoomModel("sample_room", shell, _furniture(rng), _models(), lamps, (0.5, 0.5, 0.5), visits)
    for visit in visits:
        check_layout(model.models, model.furniture, visit)
    return model
