"""What stands in a synthetic room: objects made of shapes and their places per visit; nothing may float or collide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from ltgs.core.se3 import make_rigid
from ltgs.data.synthetic.shapes import Shape
from ltgs.data.synthetic.textures import Painter
from ltgs.data.synthetic.tracer import Lamp

Array = NDArray[np.float64]
CONTACT_M = 5e-4
_SIGNS = np.stack(np.meshgrid([-0.5, 0.5], [-0.5, 0.5], [-0.5, 0.5]), -1).reshape(-1, 3)


@dataclass(frozen=True)
class Piece:
    """One shape of an object or of the furniture, with the pictures on its faces."""

    shape: Shape
    painters: tuple[Painter, ...]
    """One per face; the last one is used for the faces that remain."""
    center: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """In the object's frame for objects, in the world for furniture; metres."""
    yaw_deg: float = 0.0
    texels_per_m: float = 1000.0

    def pose(self) -> Array:
        """[4, 4] object_from_piece (world_from_piece for furniture)."""
        return yaw_pose(self.yaw_deg, self.center)


@dataclass(frozen=True)
class ObjectModel:
    """A movable thing; its frame has the origin in the centre of its bounding box, z up."""

    object_id: int
    name: str
    pieces: tuple[Piece, ...]
    symmetric: bool = False
    """True if a turn about z cannot be seen from the geometry (the picture on it may still tell)."""

    def extents(self) -> Array:
        """[3] bounding box in the object frame, metres."""
        corners = np.concatenate([piece_corners(p, np.eye(4)) for p in self.pieces])
        return np.ptp(corners, axis=0)


@dataclass(frozen=True)
class Placement:
    """Where an object stands during one visit."""

    x: float
    y: float
    support_z: float
    """Height of the surface it rests on, metres."""
    yaw_deg: float = 0.0
    tilt_deg: float = 0.0
    """Turn about the object's own x axis, applied before the yaw: 90 lays a standing object on its side."""


@dataclass(frozen=True)
class Light:
    """The light of one visit: a gain on everything and, if it has lamps of its own, another shading."""

    name: str
    ev: float = 0.0
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    lamps: tuple[Lamp, ...] = ()
    """The lamps that are on; none = the room's own lamps."""
    ambient: tuple[float, float, float] | None = None
    """Light from everywhere, linear RGB; None = the room's own."""

    def gain(self) -> tuple[float, float, float]:
        """Factor on linear RGB."""
        red, green, blue = (float(t * 2.0**self.ev) for t in self.tint)
        return red, green, blue


@dataclass(frozen=True)
class Visit:
    """State of the room on one date and the cameras used."""

    captured_at: datetime
    light: Light
    placements: dict[str, Placement]
    """Object name to place; an object that is not listed is absent."""
    photo_poses: tuple[Array, ...]
    """cam_from_world [4, 4] of the photos a user would have."""
    test_poses: tuple[Array, ...]

    @property
    def date(self) -> str:
        return self.captured_at.date().isoformat()


def yaw_pose(yaw_deg: float, center: Sequence[float]) -> Array:
    """[4, 4] turn about z by `yaw_deg`, then shift to `center`."""
    c, s = np.cos(np.deg2rad(yaw_deg)), np.sin(np.deg2rad(yaw_deg))
    return make_rigid(np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]), np.asarray(center, dtype=np.float64))


def look_at(eye: Sequence[float], target: Sequence[float], *, roll_deg: float = 0.0) -> Array:
    """cam_from_world [4, 4] of a camera at `eye` that looks at `target`, upright except for `roll_deg`; OpenCV axes."""
    position = np.asarray(eye, dtype=np.float64)
    forward = np.asarray(target, dtype=np.float64) - position
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    c, s = np.cos(np.deg2rad(roll_deg)), np.sin(np.deg2rad(roll_deg))
    rotation = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]) @ rotation
    return make_rigid(rotation, -rotation @ position)


def world_from_object(model: ObjectModel, place: Placement) -> Array:
    """[4, 4] pose of an object at `place`: tilted, then turned, then let down until it touches the surface.

    Bounding boxes stand in for cylinders and spheres, which is exact for tilts in steps of 90 degrees.
    """
    c, s = np.cos(np.deg2rad(place.tilt_deg)), np.sin(np.deg2rad(place.tilt_deg))
    tilt = make_rigid(np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]]), np.zeros(3))
    height = model.extents()[2] / 2
    if place.tilt_deg:
        height = -min(piece_corners(p, tilt)[:, 2].min() for p in model.pieces)
    return yaw_pose(place.yaw_deg, (place.x, place.y, place.support_z + height)) @ tilt


def piece_corners(piece: Piece, world_from_frame: Array) -> Array:
    """[8, 3] corners of a piece's bounding box in the world."""
    pose = world_from_frame @ piece.pose()
    return _SIGNS * piece.shape.extents() @ pose[:3, :3].T + pose[:3, 3]


def penetration(first: Array, second: Array) -> float:
    """Depth in metres to which two boxes [8, 3] of any orientation interpenetrate.

    Separating axes over faces and pairs of edges; a negative value says how far apart the boxes are at least.
    """
    # Corners 0 -> 1, 2 and 4 differ in one local axis each.
    edges = [np.stack([box[other] - box[0] for other in (1, 2, 4)]) for box in (first, second)]
    axes = np.concatenate([*edges, np.cross(edges[0][:, None], edges[1][None]).reshape(-1, 3)])
    norms = np.linalg.norm(axes, axis=1)
    # The cross product of parallel edges is no axis; the faces cover that case.
    keep = norms > 1e-9
    axes = axes[keep] / norms[keep, None]
    a, b = first @ axes.T, second @ axes.T
    return float((np.minimum(a.max(0), b.max(0)) - np.maximum(a.min(0), b.min(0))).min())


def may_touch(first: Array, second: Array, gap: float = 0.0) -> bool:
    """Do the upright bounding boxes of two boxes [8, 3] come closer than `gap` metres? Cheaper than `penetration`."""
    return bool(np.all(first.min(0) < second.max(0) + gap) and np.all(second.min(0) < first.max(0) + gap))


def check_layout(models: Sequence[ObjectModel], furniture: Sequence[Piece], visit: Visit) -> None:
    """Raise ValueError if an object cuts into another one or the furniture, or rests on nothing.

    Bounding boxes stand in for cylinders and spheres, so two round things may not come as close as they could.
    """
    solids = [("furniture", piece_corners(p, np.eye(4))) for p in furniture]
    by_name = {m.name: m for m in models}
    for name, place in visit.placements.items():
        pose = world_from_object(by_name[name], place)
        boxes = [piece_corners(p, pose) for p in by_name[name].pieces]
        for other, solid in solids:
            for box in boxes:
                depth = penetration(box, solid) if may_touch(box, solid) else 0.0
                if depth > CONTACT_M:
                    raise ValueError(f"{visit.date}: {name} cuts {depth * 1000:.1f} mm into {other}.")
        bottom = np.array([place.x, place.y, place.support_z])
        if not any(_supports(solid, bottom) for _, solid in solids):
            raise ValueError(f"{visit.date}: nothing is under {name} at z = {bottom[2]:.3f} m.")
        solids += [(name, box) for box in boxes]


def _supports(solid: Array, point: Array) -> bool:
    """Does the top of an upright box lie at `point`?"""
    low, high = solid.min(0), solid.max(0)
    inside = bool(np.all(point[:2] > low[:2]) and np.all(point[:2] < high[:2]))
    return inside and abs(float(high[2] - point[2])) < CONTACT_M
