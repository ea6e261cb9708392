"""A small room with three visits, built in memory: what the viewer's tests look at."""

from __future__ import annotations

import datetime

import numpy as np
import torch

from ltgs.core.cameras import Camera
from ltgs.core.chronology import Appearance, Chronology, Event, ObjectTrack, Presence, Template
from ltgs.core.gaussians import Gaussians
from ltgs.core.scene import PhotoRecord, Scene, VisitRecord
from ltgs.core.se3 import invert_rigid, make_rigid
from ltgs.core.sh import rgb_to_dc

NASTY_NAMES = (
    "<script>alert(1)</script>", "{alert(1)}", "](javascript:alert(1))", "<img src=x onerror=alert(1)>", "`x`|**b**_i_",
    "www.evil.example", "http://evil.example/x", "a@evil.example", "![i](http://evil.example/i.png)", "\u202etxt.exe",
    "line\nbreak\r\n# heading", "&lt;b&gt;&#60;", "<!-- c -->", "[a]: http://evil.example", "$(rm -rf)\x00\x1b[31m",
)


def surface(centers: np.ndarray, colours: np.ndarray, sigma: float, degree: int = 0) -> Gaussians:
    """Round opaque Gaussians."""
    n = len(centers)
    sh = torch.zeros(n, (degree + 1) ** 2, 3)
    sh[:, 0] = rgb_to_dc(torch.as_tensor(colours, dtype=torch.float32))
    return Gaussians(
        torch.as_tensor(centers, dtype=torch.float32), torch.tensor([[1.0, 0, 0, 0]]).repeat(n, 1),
        torch.full((n, 3), float(np.log(sigma))), torch.full((n,), 4.0), sh,
    )


def plane(rng: np.random.Generator, n: int, origin, u, v, colour, checks: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Points on a chequered parallelogram."""
    uv = rng.random((n, 2))
    points = np.asarray(origin, float) + uv[:, :1] * np.asarray(u, float) + uv[:, 1:] * np.asarray(v, float)
    dark = ((uv * checks).astype(int).sum(1) % 2) * 0.18
    return points, np.clip(np.asarray(colour, float) - dark[:, None], 0, 1)


def cube(rng: np.random.Generator, n: int, size: float, colour) -> Gaussians:
    """Points on the faces of a cube around the origin."""
    points = rng.uniform(-0.5, 0.5, (n, 3))
    axis = rng.integers(0, 3, n)
    points[np.arange(n), axis] = np.sign(points[np.arange(n), axis]) * 0.5
    colours = np.clip(np.asarray(colour) - 0.12 * axis[:, None], 0, 1)
    return surface(points * size, colours, 0.012)


def camera_at(position, target, name: str, time: int, width: int = 320, height: int = 240) -> Camera:
    """A camera that looks at a point, world down is +y."""
    forward = np.asarray(target, float) - np.asarray(position, float)
    forward /= np.linalg.norm(forward)
    right = np.cross([0.0, 1.0, 0.0], forward)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward], 1)
    intrinsics = [[280.0, 0, width / 2], [0, 280.0, height / 2], [0, 0, 1]]
    return Camera(name, time, width, height, np.array(intrinsics), invert_rigid(make_rigid(rotation, np.array(position))))


def pose(x: float, y: float, z: float, turn_deg: float = 0.0) -> np.ndarray:
    """World pose of an object turned about the vertical."""
    c, s = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
    return make_rigid(np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]), np.array([x, y, z]))


def room_background(rng: np.random.Generator, n: int) -> Gaussians:
    """Floor and two walls of a 4 x 2.4 x 4 room; y points down, the floor is at y = 0."""
    parts = [
        plane(rng, n // 2, (-2, 0, 0), (4, 0, 0), (0, 0, 4), (0.62, 0.5, 0.38)),
        plane(rng, n // 4, (-2, 0, 4), (4, 0, 0), (0, -2.4, 0), (0.75, 0.76, 0.7)),
        plane(rng, n - n // 2 - n // 4, (-2, 0, 0), (0, 0, 4), (0, -2.4, 0), (0.55, 0.66, 0.72)),
    ]
    return surface(np.concatenate([p for p, _ in parts]), np.concatenate([c for _, c in parts]), 0.03, degree=1)


def photos_of(time: int, names: list[str]) -> tuple[PhotoRecord, ...]:
    """Placed photos along an arc, and a last one that could not be placed."""
    placed = []
    for i, name in enumerate(names):
        a = np.radians(-25 + 50 * i / max(len(names) - 1, 1))
        camera = camera_at((2.6 * np.sin(a), -1.3, -0.4 - 0.3 * np.cos(a)), (0, -0.5, 2.4), name, time)
        placed.append(PhotoRecord(name, time, "", True, camera=camera, image_blob=f"blob-{time}-{i}"))
    lost = PhotoRecord(f"{names[0]}.lost.jpg", time, "", False, reason="9 inliers, need 15 <b>")
    return (*placed, lost)


def make_scene(num_background: int = 6000, *, nasty: bool = False, seed: int = 0) -> Scene:
    """Three visits: a cube moves and turns, one vanishes, one appears, the light gets warmer at the last visit."""
    rng = np.random.default_rng(seed)
    size, count = 0.5, max(num_background // 10, 40)
    templates = {
        1: Template(1, "object", cube(rng, count, size, (0.85, 0.25, 0.2)), 1),
        2: Template(2, "object", cube(rng, count, 0.4, (0.2, 0.45, 0.85)), 1),
        3: Template(3, "object", cube(rng, count, 0.6, (0.25, 0.7, 0.35)), 2),
    }
    nan = np.full((4, 4), np.nan)
    p, a = Presence.PRESENT, Presence.ABSENT

    def track(object_id: int, presence: list[Presence], poses: list[np.ndarray]) -> ObjectTrack:
        empty = (np.full((3, 6, 6), np.nan), np.full(3, np.nan))
        return ObjectTrack(object_id, np.array(presence, np.uint8), np.stack(poses), *empty)

    tracks = {
        1: track(1, [p, p, p], [pose(-0.9, -0.25, 2.2), pose(0.5, -0.25, 1.8, 47), pose(0.5, -0.25, 1.8, 47)]),
        2: track(2, [p, a, a], [pose(0.8, -0.2, 2.6), nan, nan]),
        3: track(3, [a, a, p], [nan, nan, pose(-0.7, -0.3, 2.8, 20)]),
    }
    events = (
        Event(1, "moved", 1, 1.46, 47.0), Event(1, "removed", 2), Event(2, "appeared", 3, uncertain=True, note=NASTY_NAMES[0]),
    )
    warm = Appearance(np.hstack([np.diag([1.1, 0.9, 0.7]), np.zeros((3, 1))]), changed=True, exposure_ev=-0.4)
    background = room_background(rng, num_background)
    chronology = Chronology(
        background, torch.arange(5), templates, tracks, (Appearance(), Appearance(), warm), events,
    )
    names = NASTY_NAMES[:3] if nasty else ("2024-01-05", "2024-02-11", "2024-03-01")
    dates = [None] * 3 if nasty else [datetime.datetime(2024, m, d) for m, d in ((1, 5), (2, 11), (3, 1))]
    visits = []
    for t, (name, date) in enumerate(zip(names, dates, strict=True)):
        files = [NASTY_NAMES[i] if nasty else f"IMG_{i:04d}.jpg" for i in range(5 - 2 * t)]
        photos = photos_of(t, [f"{name}/{file}" for file in files])
        undecided = (name,) if nasty else ()
        visits.append(VisitRecord(t, name, date, photos, {"change": f"weight-free: {name}"}, undecided=undecided))
    return Scene(chronology, tuple(visits))


def make_bare_scene(num_gaussians: int = 0) -> Scene:
    """One visit, no objects, no placed photo, possibly no Gaussians at all."""
    rng = np.random.default_rng(1)
    background = surface(rng.normal(size=(num_gaussians, 3)), rng.random((num_gaussians, 3)), 0.05)
    lost = PhotoRecord("a.jpg", 0, "", False, reason="too blurred")
    return Scene(Chronology.initial(background), (VisitRecord(0, "t0", None, (lost,)),))


def read_image(blob: str) -> np.ndarray:
    """A picture for every blob name: a colour ramp of its own hue."""
    hue = sum(map(ord, blob)) % 255
    ramp = np.linspace(0, 1, 320)[None, :, None] * np.ones((240, 1, 1))
    return (ramp * np.array([hue, 255 - hue, 180])).astype(np.uint8)
