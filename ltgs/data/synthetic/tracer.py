"""Ray-cast pictures of textured shapes lit by baked area lights: colour, object index and planar depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ltgs.core.cameras import Camera
from ltgs.core.se3 import invert_rigid
from ltgs.data.synthetic.shapes import MISS, Shape

Array = NDArray[Any]
"""float32 unless a docstring says otherwise."""


@dataclass(frozen=True)
class RenderConfig:
    """How finely light and pictures are sampled."""

    supersample: int = 3
    """Rays per pixel side; the square of it is averaged in linear light (3 removes visible stair steps)."""
    texel_m: float = 0.011
    """Edge of a light-map cell on furniture and objects, metres: soft shadows, not contact detail, must be resolved."""
    room_texel_m: float = 0.04
    """Edge of a light-map cell on walls, floor and ceiling, metres."""
    light_samples: int = 25
    """Shadow rays per cell and light, a square number (stratified)."""
    ambient_samples: int = 32
    """Rays per cell that measure how much of the hemisphere is closed within `ambient_reach_m`."""
    ambient_reach_m: float = 0.5
    """Distance up to which neighbours darken the ambient light, metres."""


SWIFT = RenderConfig(supersample=2, texel_m=0.018, room_texel_m=0.06, light_samples=16, ambient_samples=16)
"""Fewer rays and larger cells than the default: for rooms of many photos, with slightly coarser shadows and edges."""
DRAFT = RenderConfig(supersample=2, texel_m=0.05, room_texel_m=0.3, light_samples=4, ambient_samples=4)


@dataclass(frozen=True)
class Lamp:
    """A rectangle that shines towards one side."""

    center: tuple[float, float, float]
    edge_u: tuple[float, float, float]
    edge_v: tuple[float, float, float]
    power: tuple[float, float, float]
    """Linear RGB, arbitrary unit; falls with the square of the distance."""


class Texture:
    """An sRGB picture as a pyramid in linear light, so that far surfaces do not shimmer."""

    def __init__(self, picture: NDArray[np.uint8], size_m: tuple[float, float]) -> None:
        level = srgb_to_linear(picture)
        self.levels = [level]
        while min(level.shape[:2]) > 2:
            half = (max(level.shape[1] // 2, 1), max(level.shape[0] // 2, 1))
            level = cv2.resize(level, half, interpolation=cv2.INTER_AREA)
            self.levels.append(level)
        self.texels_per_m = picture.shape[1] / size_m[0]

    def sample(self, uv: Array, footprint_m: Array) -> Array:
        """[N, 2] in 0..1 and the size of a ray on the surface [N] -> [N, 3] linear colour (nearest level, bilinear)."""
        wanted = np.log2(np.maximum(footprint_m * self.texels_per_m, 1e-3))
        level = np.clip(np.rint(wanted), 0, len(self.levels) - 1).astype(np.int64)
        out = np.zeros((len(uv), 3), np.float32)
        for index in np.unique(level):
            pick = level == index
            out[pick] = bilinear(self.levels[index], uv[pick])
        return out


@dataclass(frozen=True)
class Part:
    """One placed shape with a texture per face."""

    shape: Shape
    world_from_local: NDArray[np.float64]
    textures: Sequence[Texture]
    object_id: int = 0
    """0 = static scene."""
    casts_shadow: bool = True
    """False for the room's shell, which encloses all lights and so never hides one."""
    light_maps: Mapping[int, Array] = field(default_factory=dict)
    """Face to [h, w, 3] irradiance, filled by `bake`."""


def srgb_to_linear(picture: NDArray[np.uint8]) -> Array:
    """IEC 61966-2-1 decoding of uint8 to float32 in 0..1."""
    values = np.arange(256, dtype=np.float64) / 255
    table = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4).astype(np.float32)
    return table[picture]


def linear_to_srgb(picture: Array) -> NDArray[np.uint8]:
    """IEC 61966-2-1 encoding of float32 to uint8, clipped."""
    x = np.clip(picture, 0, 1)
    encoded = np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.power(np.maximum(x, 1e-8), 1 / 2.4) - 0.055)
    return (encoded * 255 + 0.5).astype(np.uint8)


def bilinear(picture: Array, uv: Array) -> Array:
    """Sample [h, w, 3] at uv [N, 2] in 0..1 with clamped borders; texel centres at (i + 0.5) / size."""
    h, w = picture.shape[:2]
    x = np.clip(uv[:, 0] * w - 0.5, 0, w - 1)
    y = np.clip(uv[:, 1] * h - 0.5, 0, h - 1)
    x0, y0 = np.minimum(x.astype(np.int64), max(w - 2, 0)), np.minimum(y.astype(np.int64), max(h - 2, 0))
    x1, y1 = np.minimum(x0 + 1, w - 1), np.minimum(y0 + 1, h - 1)
    fx, fy = (x - x0)[:, None].astype(np.float32), (y - y0)[:, None].astype(np.float32)
    top = picture[y0, x0] * (1 - fx) + picture[y0, x1] * fx
    bottom = picture[y1, x0] * (1 - fx) + picture[y1, x1] * fx
    return top * (1 - fy) + bottom * fy


def _to_local(part: Part, origin: Array, direction: Array) -> tuple[Array, Array]:
    local = invert_rigid(part.world_from_local).astype(np.float32)
    return origin @ local[:3, :3].T + local[:3, 3], direction @ local[:3, :3].T


def _blocked(parts: Sequence[Part], origin: Array, direction: Array, reach: Array) -> NDArray[np.bool_]:
    """[N] bool: is the segment cut by any shadow-casting part (a bounding-sphere test first keeps this cheap)."""
    out = np.zeros(len(origin), bool)
    for part in parts:
        if not part.casts_shadow:
            continue
        to_center = part.world_from_local[:3, 3].astype(np.float32) - origin
        along = np.clip((to_center * direction).sum(-1), 0, reach)
        gap = ((to_center - along[:, None] * direction) ** 2).sum(-1)
        near = np.flatnonzero((gap < (part.shape.extents() ** 2).sum() / 4) & ~out)
        if len(near):
            out[near] |= part.shape.blocks(*_to_local(part, origin[near], direction[near]), reach[near])
    return out


def _irradiance(
    parts: Sequence[Part],
    points: Array,
    normals: Array,
    lamps: Sequence[Lamp],
    ambient: Array,
    config: RenderConfig,
    rng: np.random.Generator,
) -> Array:
    """Direct light of all lamps plus ambient light dimmed by near neighbours, [N, 3]."""
    out = np.zeros((len(points), 3), np.float32)
    side = max(int(round(config.light_samples**0.5)), 1)
    for lamp in lamps:
        u, v = np.asarray(lamp.edge_u, np.float32), np.asarray(lamp.edge_v, np.float32)
        facing = np.cross(u, v) / np.linalg.norm(np.cross(u, v))
        for i in range(side * side):
            jitter = rng.random((len(points), 2), dtype=np.float32)
            a = ((i % side + jitter[:, :1]) / side - 0.5) * u + ((i // side + jitter[:, 1:]) / side - 0.5) * v
            towards = np.asarray(lamp.center, np.float32) + a - points
            distance = np.linalg.norm(towards, axis=-1)
            towards /= distance[:, None]
            cosine = np.maximum((towards * normals).sum(-1), 0) * np.maximum(-(towards @ facing), 0)
            lit = np.flatnonzero(cosine > 0)
            shadow = _blocked(parts, points[lit], towards[lit], distance[lit])
            weight = np.zeros(len(points), np.float32)
            weight[lit] = np.where(shadow, 0, cosine[lit] / distance[lit] ** 2) / (side * side)
            out += weight[:, None] * np.asarray(lamp.power, np.float32)
    open_share = np.zeros(len(points), np.float32)
    reach = np.full(len(points), config.ambient_reach_m, np.float32)
    for _ in range(config.ambient_samples):
        # A unit vector added to the normal is distributed with the cosine, as diffuse light is received.
        ball = rng.normal(size=points.shape).astype(np.float32)
        direction = normals * np.float32(1.0001) + ball / np.linalg.norm(ball, axis=-1, keepdims=True)
        direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
        open_share += ~_blocked(parts, points, direction, reach)
    return out + ambient * (open_share / max(config.ambient_samples, 1))[:, None]


def bake(
    parts: Sequence[Part],
    lamps: Sequence[Lamp],
    ambient: tuple[float, float, float],
    *,
    config: RenderConfig,
    rng: np.random.Generator,
) -> list[Part]:
    """Compute the light that reaches every face; returns the same parts with `light_maps` filled."""
    # All cells of all faces go through the shadow test together: one call per part and sample instead of one per face.
    cells = [_face_cells(part, face, config) for part in parts for face in range(part.shape.num_faces)]
    points, normals = np.concatenate([c[1] for c in cells]), np.concatenate([c[2] for c in cells])
    light = _irradiance(parts, points, normals, lamps, np.asarray(ambient, np.float32), config, rng)
    pieces = iter(np.split(light, np.cumsum([len(c[1]) for c in cells])[:-1]))
    shapes = iter([c[0] for c in cells])
    return [
        # The random shadow rays leave a little grain, which one cell of blur removes.
        replace(
            part,
            light_maps={
                face: cv2.GaussianBlur(next(pieces).reshape(*next(shapes), 3), (0, 0), 0.9)
                for face in range(part.shape.num_faces)
            },
        )
        for part in parts
    ]


def _face_cells(part: Part, face: int, config: RenderConfig) -> tuple[tuple[int, int], Array, Array]:
    """Rows and columns of one face's light map, and the world points and normals of its cells, just off the surface."""
    cell = config.texel_m if part.casts_shadow else config.room_texel_m
    w, h = (int(np.clip(round(size / cell), 2, 200)) for size in part.shape.face_size(face))
    grid = np.stack(np.meshgrid((np.arange(w) + 0.5) / w, (np.arange(h) + 0.5) / h), -1).reshape(-1, 2)
    points, normals = part.shape.points(face, grid.astype(np.float32))
    rotation = part.world_from_local[:3, :3].astype(np.float32)
    points = (points + np.float32(1e-3) * normals) @ rotation.T + part.world_from_local[:3, 3].astype(np.float32)
    return (h, w), points, normals @ rotation.T


def _screen_rectangle(part: Part, camera: Camera, factor: int) -> tuple[int, int, int, int]:
    """Pixels (x0, y0, x1, y1) of the enlarged picture that the part can touch; all of them if it reaches behind."""
    width, height = camera.width * factor, camera.height * factor
    signs = np.stack(np.meshgrid([-0.5, 0.5], [-0.5, 0.5], [-0.5, 0.5]), -1).reshape(-1, 3)
    corners = signs * part.shape.extents()
    chain = camera.cam_from_world @ part.world_from_local
    corners = corners @ chain[:3, :3].T + chain[:3, 3]
    if part.casts_shadow is False or corners[:, 2].min() < 0.02:
        return (0, 0, width, height) if corners[:, 2].max() > 0 else (0, 0, 0, 0)
    pixels = (corners / corners[:, 2:]) @ camera.K.T * factor
    low, high = np.floor(pixels[:, :2].min(0)) - 1, np.ceil(pixels[:, :2].max(0)) + 1
    x0, y0 = (int(v) for v in np.clip(low, 0, [width, height]))
    x1, y1 = (int(v) for v in np.clip(high, 0, [width, height]))
    return x0, y0, x1, y1


def camera_rays(camera: Camera, factor: int = 1) -> tuple[Array, Array]:
    """World origin [3] and directions [h, w, 3] with unit z in the camera, so that ray length is planar depth."""
    x = (np.arange(camera.width * factor) + 0.5) / factor
    y = (np.arange(camera.height * factor) + 0.5) / factor
    pixels = np.stack([*np.meshgrid(x, y), np.ones((len(y), len(x)))], -1)
    local = pixels @ np.linalg.inv(camera.K).T
    rotation = camera.cam_from_world[:3, :3]
    return camera.center.astype(np.float32), (local @ rotation).astype(np.float32)


def trace(parts: Sequence[Part], camera: Camera, factor: int = 1) -> tuple[Array, NDArray[np.int16], NDArray[np.int8]]:
    """Planar depth (inf = nothing), index of the part hit (-1 = none) and its face, each [h * factor, w * factor]."""
    origin, directions = camera_rays(camera, factor)
    depth = np.full(directions.shape[:2], MISS, np.float32)
    hit = np.full(depth.shape, -1, np.int16)
    faces = np.zeros(depth.shape, np.int8)
    for index, part in enumerate(parts):
        x0, y0, x1, y1 = _screen_rectangle(part, camera, factor)
        if x0 >= x1 or y0 >= y1:
            continue
        window = np.s_[y0:y1, x0:x1]
        local_origin, local = _to_local(part, origin[None], directions[window].reshape(-1, 3))
        t, face = part.shape.intersect(np.broadcast_to(local_origin, local.shape), local)
        t, face = t.reshape(y1 - y0, x1 - x0), face.reshape(y1 - y0, x1 - x0)
        closer = t < depth[window]
        depth[window] = np.where(closer, t, depth[window])
        hit[window] = np.where(closer, np.int16(index), hit[window])
        faces[window] = np.where(closer, face, faces[window])
    return depth, hit, faces


def render_photo(
    parts: Sequence[Part], camera: Camera, gain: tuple[float, float, float], *, supersample: int
) -> NDArray[np.uint8]:
    """[H, W, 3] sRGB picture of baked parts; `gain` multiplies linear light per channel (exposure, white balance)."""
    depth, hit, faces = trace(parts, camera, supersample)
    origin, directions = camera_rays(camera, supersample)
    pixel_at_one = 1.0 / (camera.K[0, 0] * supersample)
    colour = np.zeros((*depth.shape, 3), np.float32)
    for index in np.unique(hit[hit >= 0]):
        part = parts[index]
        for face in np.unique(faces[hit == index]):
            where = (hit == index) & (faces == face)
            t, ray = depth[where], directions[where]
            points, local = _to_local(part, origin + t[:, None] * ray, ray)
            uv, normal = part.shape.surface(int(face), points)
            slant = np.abs((normal * local).sum(-1)) / np.linalg.norm(local, axis=-1)
            footprint = t * np.float32(pixel_at_one) / np.sqrt(np.maximum(slant, 0.05))
            albedo = part.textures[min(int(face), len(part.textures) - 1)].sample(uv, footprint)
            colour[where] = albedo * bilinear(part.light_maps[int(face)], uv)
    s = supersample
    mean = colour.reshape(camera.height, s, camera.width, s, 3).mean((1, 3))
    return linear_to_srgb(mean * np.asarray(gain, np.float32))
