"""Boxes, cylinders and spheres: ray intersection, surface coordinates and their inverse, all in numpy float32.

A shape lives in its own local frame, centred on the origin. `face` numbers its smooth parts: box 0..5 (axis * 2, plus
one for the positive side), cylinder 0 side, 1 top, 2 bottom, sphere 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
"""float32."""
MISS = np.float32(np.inf)
# For each box axis: the axes along which u grows to the right and v grows downwards, seen from outside with z up.
BOX_UV = {0: (1, 2), 1: (0, 2), 2: (0, 1)}


class Shape(Protocol):
    """What the tracer needs to know of a surface; points and directions are [N, 3] in the local frame."""

    @property
    def num_faces(self) -> int:
        """How many smooth parts it has."""

    def extents(self) -> Array:
        """[3] size of the local bounding box, metres."""

    def intersect(self, origin: Array, direction: Array) -> tuple[Array, NDArray[np.int8]]:
        """Distance along `direction` to the first visible hit (inf = miss) and the face hit; [N] each."""

    def blocks(self, origin: Array, direction: Array, reach: Array) -> NDArray[np.bool_]:
        """[N] bool: does the solid meet the segment from origin to origin + reach * direction (also from inside)."""

    def surface(self, face: int, points: Array) -> tuple[Array, Array]:
        """uv [N, 2] in 0..1 and outward normals [N, 3] of points on one face."""

    def points(self, face: int, uv: Array) -> tuple[Array, Array]:
        """Inverse of `surface`: points [N, 3] and outward normals [N, 3] at uv."""

    def face_size(self, face: int) -> tuple[float, float]:
        """Metres covered by u and by v."""


def _slabs(half: Array, origin: Array, direction: Array) -> tuple[Array, Array]:
    """Entry and exit distances [N, 3] per axis of an axis-aligned box with half sizes `half`."""
    safe = np.where(np.abs(direction) < 1e-9, np.float32(1e-9), direction)
    first, second = (-half - origin) / safe, (half - origin) / safe
    return np.minimum(first, second), np.maximum(first, second)


@dataclass(frozen=True)
class Box:
    """An axis-aligned box; `inward` makes it a room seen from inside."""

    size: tuple[float, float, float]
    inward: bool = False
    num_faces: int = 6

    @property
    def half(self) -> Array:
        return np.asarray(self.size, np.float32) / 2

    def extents(self) -> Array:
        return np.asarray(self.size, np.float32)

    def intersect(self, origin: Array, direction: Array) -> tuple[Array, NDArray[np.int8]]:
        near, far = _slabs(self.half, origin, direction)
        t_near, t_far = near.max(-1), far.min(-1)
        if self.inward:
            axis = far.argmin(-1)
            t = np.where(t_far > 1e-5, t_far, MISS)
            positive = np.take_along_axis(direction, axis[:, None], 1)[:, 0] > 0
        else:
            axis = near.argmax(-1)
            t = np.where((t_near < t_far) & (t_near > 1e-5), t_near, MISS)
            positive = np.take_along_axis(direction, axis[:, None], 1)[:, 0] < 0
        return t.astype(np.float32), (axis * 2 + positive).astype(np.int8)

    def blocks(self, origin: Array, direction: Array, reach: Array) -> NDArray[np.bool_]:
        near, far = _slabs(self.half, origin, direction)
        t_near, t_far = near.max(-1), far.min(-1)
        return (t_near < t_far) & (t_far > 1e-5) & (t_near < reach)

    def surface(self, face: int, points: Array) -> tuple[Array, Array]:
        axis, side = divmod(face, 2)
        u_axis, v_axis = BOX_UV[axis]
        unit = points / np.asarray(self.size, np.float32) + np.float32(0.5)
        # Walking around the box, u must run to the right on every side face, so two of the four sides are flipped;
        # a room is looked at from inside, which flips all of them.
        flip = ((side == 0) if axis == 0 else (side == 1) if axis == 1 else (side == 0)) ^ self.inward
        u = np.float32(1) - unit[:, u_axis] if flip else unit[:, u_axis]
        normal = np.zeros_like(points)
        normal[:, axis] = (1 if side else -1) * (-1 if self.inward else 1)
        return np.stack([u, np.float32(1) - unit[:, v_axis]], -1), normal

    def points(self, face: int, uv: Array) -> tuple[Array, Array]:
        axis, side = divmod(face, 2)
        u_axis, v_axis = BOX_UV[axis]
        flip = ((side == 0) if axis == 0 else (side == 1) if axis == 1 else (side == 0)) ^ self.inward
        unit = np.zeros((len(uv), 3), np.float32)
        unit[:, axis] = side
        unit[:, u_axis] = 1 - uv[:, 0] if flip else uv[:, 0]
        unit[:, v_axis] = 1 - uv[:, 1]
        normal = np.zeros_like(unit)
        normal[:, axis] = (1 if side else -1) * (-1 if self.inward else 1)
        return (unit - np.float32(0.5)) * np.asarray(self.size, np.float32), normal

    def face_size(self, face: int) -> tuple[float, float]:
        u_axis, v_axis = BOX_UV[face // 2]
        return self.size[u_axis], self.size[v_axis]


@dataclass(frozen=True)
class Cylinder:
    """A closed cylinder along z."""

    radius: float
    height: float
    num_faces: int = 3

    def extents(self) -> Array:
        return np.array([2 * self.radius, 2 * self.radius, self.height], np.float32)

    def _side(self, origin: Array, direction: Array) -> tuple[Array, Array]:
        """Entry and exit distances of the infinite cylinder; (inf, -inf) on a miss."""
        a = (direction[:, :2] ** 2).sum(-1) + np.float32(1e-12)
        b = (origin[:, :2] * direction[:, :2]).sum(-1)
        c = (origin[:, :2] ** 2).sum(-1) - np.float32(self.radius**2)
        d = b * b - a * c
        root = np.sqrt(np.maximum(d, 0))
        return np.where(d > 0, (-b - root) / a, MISS), np.where(d > 0, (-b + root) / a, -MISS)

    def _interval(self, origin: Array, direction: Array) -> tuple[Array, Array, Array]:
        side_near, side_far = self._side(origin, direction)
        half = np.array([np.inf, np.inf, self.height / 2], np.float32)
        near, far = _slabs(half, origin, direction)
        return side_near, np.maximum(side_near, near[:, 2]), np.minimum(side_far, far[:, 2])

    def intersect(self, origin: Array, direction: Array) -> tuple[Array, NDArray[np.int8]]:
        side_near, t_near, t_far = self._interval(origin, direction)
        t = np.where((t_near < t_far) & (t_near > 1e-5), t_near, MISS).astype(np.float32)
        cap = np.where(direction[:, 2] < 0, 1, 2)
        return t, np.where(side_near >= t_near, 0, cap).astype(np.int8)

    def blocks(self, origin: Array, direction: Array, reach: Array) -> NDArray[np.bool_]:
        _, t_near, t_far = self._interval(origin, direction)
        return (t_near < t_far) & (t_far > 1e-5) & (t_near < reach)

    def surface(self, face: int, points: Array) -> tuple[Array, Array]:
        normal = np.zeros_like(points)
        if face == 0:
            normal[:, :2] = points[:, :2] / np.float32(self.radius)
            u = np.arctan2(points[:, 1], points[:, 0]) / np.float32(2 * np.pi) + np.float32(0.5)
            return np.stack([u, np.float32(0.5) - points[:, 2] / np.float32(self.height)], -1), normal
        normal[:, 2] = 1 if face == 1 else -1
        return points[:, :2] / np.float32(2 * self.radius) + np.float32(0.5), normal

    def points(self, face: int, uv: Array) -> tuple[Array, Array]:
        out = np.zeros((len(uv), 3), np.float32)
        normal = np.zeros_like(out)
        if face == 0:
            angle = (uv[:, 0] - 0.5) * 2 * np.pi
            normal[:, 0], normal[:, 1] = np.cos(angle), np.sin(angle)
            out[:, :2] = normal[:, :2] * self.radius
            out[:, 2] = (0.5 - uv[:, 1]) * self.height
            return out, normal
        out[:, :2] = (uv - 0.5) * 2 * self.radius
        out[:, 2] = (0.5 if face == 1 else -0.5) * self.height
        normal[:, 2] = 1 if face == 1 else -1
        return out, normal

    def face_size(self, face: int) -> tuple[float, float]:
        return (2 * np.pi * self.radius, self.height) if face == 0 else (2 * self.radius, 2 * self.radius)


@dataclass(frozen=True)
class Sphere:
    """A ball; u is longitude, v runs from the upper pole down."""

    radius: float
    num_faces: int = 1

    def extents(self) -> Array:
        return np.full(3, 2 * self.radius, np.float32)

    def _interval(self, origin: Array, direction: Array) -> tuple[Array, Array]:
        a = (direction**2).sum(-1)
        b = (origin * direction).sum(-1)
        d = b * b - a * ((origin**2).sum(-1) - np.float32(self.radius**2))
        root = np.sqrt(np.maximum(d, 0))
        return np.where(d > 0, (-b - root) / a, MISS), np.where(d > 0, (-b + root) / a, -MISS)

    def intersect(self, origin: Array, direction: Array) -> tuple[Array, NDArray[np.int8]]:
        near, _ = self._interval(origin, direction)
        return np.where(near > 1e-5, near, MISS).astype(np.float32), np.zeros(len(near), np.int8)

    def blocks(self, origin: Array, direction: Array, reach: Array) -> NDArray[np.bool_]:
        near, far = self._interval(origin, direction)
        return (far > 1e-5) & (near < reach)

    def surface(self, face: int, points: Array) -> tuple[Array, Array]:
        normal = points / np.float32(self.radius)
        u = np.arctan2(normal[:, 1], normal[:, 0]) / np.float32(2 * np.pi) + np.float32(0.5)
        return np.stack([u, np.arccos(np.clip(normal[:, 2], -1, 1)) / np.float32(np.pi)], -1), normal

    def points(self, face: int, uv: Array) -> tuple[Array, Array]:
        longitude, polar = (uv[:, 0] - 0.5) * 2 * np.pi, uv[:, 1] * np.pi
        normal = np.stack(
            [np.sin(polar) * np.cos(longitude), np.sin(polar) * np.sin(longitude), np.cos(polar)], -1
        ).astype(np.float32)
        return normal * np.float32(self.radius), normal

    def face_size(self, face: int) -> tuple[float, float]:
        return 2 * np.pi * self.radius, np.pi * self.radius
