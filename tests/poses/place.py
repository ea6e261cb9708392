"""A small textured room corner, photographed by ray casting: a place with known cameras for pose tests."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from ltgs.imaging.undistort import distort_normalised
from ltgs.io.images import photo_sha256
from ltgs.poses.features import PhotoInput


@lru_cache(maxsize=8)
def texture(seed: int, size: int = 1024) -> np.ndarray:
    """[size, size, 3] uint8 of random rectangles and discs at many scales."""
    rng = np.random.default_rng(seed)
    image = np.full((size, size, 3), 128, np.uint8)
    for radius in (120, 60, 30, 16, 9):
        for _ in range(int(0.25 * (size / radius) ** 2)):
            x, y = (int(v) for v in rng.integers(0, size, 2))
            colour = [int(v) for v in rng.integers(0, 256, 3)]
            if rng.random() < 0.5:
                cv2.circle(image, (x, y), int(radius * rng.uniform(0.5, 1)), colour, -1, cv2.LINE_AA)
            else:
                w, h = (int(v) for v in rng.uniform(0.4, 1.4, 2) * radius)
                cv2.rectangle(image, (x, y), (x + w, y + h), colour, -1)
    return cv2.GaussianBlur(image, (0, 0), 1.0)


@dataclass(frozen=True)
class Place:
    """Three walls of a room corner, four units wide, meeting at the origin; x right, y forward, z up."""

    seed: int = 0
    planes: tuple[int, ...] = (0, 1, 2)

    def photo(
        self, cam_from_world: np.ndarray, focal: float, size: tuple[int, int] = (320, 240), k1: float = 0.0
    ) -> np.ndarray:
        """[H, W, 3] uint8, 2 x 2 rays a pixel."""
        width, height = size
        u, v = np.meshgrid((np.arange(2 * width) + 0.5) / 2, (np.arange(2 * height) + 0.5) / 2)
        bent = np.stack([(u - width / 2) / focal, (v - height / 2) / focal], -1)
        ideal = bent.copy()
        for _ in range(10 if k1 else 0):
            ideal -= distort_normalised(ideal, np.array([k1, 0, 0, 0])) - bent
        rays = np.concatenate([ideal, np.ones_like(u)[..., None]], -1) @ cam_from_world[:3, :3]
        origin = -cam_from_world[:3, :3].T @ cam_from_world[:3, 3]
        image, depth = np.zeros((*u.shape, 3), np.uint8), np.full(u.shape, np.inf)
        for axis in self.planes:
            with np.errstate(divide="ignore", invalid="ignore"):
                distance = -origin[axis] / rays[..., axis]
                hit = origin + distance[..., None] * rays
            a, b = (hit[..., i] for i in range(3) if i != axis)
            # Nine units behind the corner's edges are still textured, so that the frame is filled.
            inside = (distance > 0) & (distance < depth) & (np.abs(a) < 9) & (np.abs(b) < 9)
            wall = texture(10 * self.seed + axis)
            scale = 1024 / 4
            x = np.where(inside, np.mod(a, 4) * scale, 0).astype(np.float32)
            y = np.where(inside, np.mod(b, 4) * scale, 0).astype(np.float32)
            colour = cv2.remap(cv2.pyrDown(wall), x / 2 - 0.5, y / 2 - 0.5, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
            image[inside], depth = colour[inside], np.where(inside, distance, depth)
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def look_at(center: tuple[float, float, float], target: tuple[float, float, float] = (1.6, 1.6, 1.3)) -> np.ndarray:
    """[4, 4] cam_from_world of a level camera."""
    center_, forward = np.array(center, float), np.array(target, float) - np.array(center, float)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    pose[:3, 3] = -pose[:3, :3] @ center_
    return pose


def arc(count: int, start: float = 0.15, end: float = 0.85, radius: float = 3.4) -> list[np.ndarray]:
    """Poses on an arc around the corner."""
    angles = np.linspace(start, end, count) * np.pi / 2
    return [
        look_at((1 + radius * np.cos(a), 1 + radius * np.sin(a), 1.6 + 0.5 * np.sin(3 * a))) for a in angles
    ]


def shoot(
    place: Place, folder: Path, poses: list[np.ndarray], *, prefix: str = "p", focal: float = 300.0, k1: float = 0.0,
    size: tuple[int, int] = (320, 240), focal_prior: float | None = 300.0,
) -> tuple[list[PhotoInput], dict[str, np.ndarray]]:
    """Write PNG photos; returns the inputs and the true poses by name."""
    folder.mkdir(parents=True, exist_ok=True)
    photos, truth = [], {}
    for i, pose in enumerate(poses):
        path = folder / f"{prefix}{i:02d}.png"
        cv2.imwrite(str(path), place.photo(pose, focal, size, k1)[..., ::-1])
        name = f"{folder.name}/{path.name}"
        photos.append(PhotoInput(name, path, photo_sha256(path), *size, focal_prior, "Test Camera"))
        truth[name] = pose
    return photos, truth


def epfl_truth(folder: Path) -> dict[str, np.ndarray]:
    """cam_from_world of the laser-scanned EPFL sets: the files hold K, zeros, world_from_camera rotation and the centre."""
    truth = {}
    for path in sorted(folder.glob("*.camera")):
        rows = [list(map(float, line.split())) for line in path.read_text().splitlines() if line.strip()]
        pose = np.eye(4)
        pose[:3, :3] = np.array(rows[4:7]).T
        pose[:3, 3] = -pose[:3, :3] @ np.array(rows[7])
        truth[path.name.removesuffix(".camera")] = pose
    return truth
