"""Photos of a textured wall and a nearer board, ray-cast exactly at any camera."""

from __future__ import annotations

import cv2
import numpy as np

from ltgs.core.cameras import Camera

WALL, BOARD = 4.0, 3.0
"""Depths along the world's z, units."""
BOARD_X, BOARD_Y = (-0.35, 0.45), (-0.3, 0.3)
WIDTH, HEIGHT, FOCAL = 240, 180, 220.0
_RNG = np.random.default_rng(0)
_TEXTURES = [cv2.GaussianBlur(_RNG.uniform(0, 255, (900, 1200, 3)).astype(np.float32), (0, 0), 2.0) for _ in range(2)]
_TEXTURES = [np.clip((t - t.mean()) * (45 / t.std()) + 127, 0, 255).astype(np.float32) for t in _TEXTURES]


def camera(center: tuple[float, float, float], target: tuple[float, float, float] = (0, 0, 3.5), name: str = "", time: int = 0) -> Camera:
    """A camera at `center` that looks at `target`, y down."""
    forward = np.subtract(target, center) / np.linalg.norm(np.subtract(target, center))
    right = np.cross([0, 1.0, 0], forward)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    pose[:3, 3] = -pose[:3, :3] @ np.array(center)
    K = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    return Camera(name or f"at {center}", time, WIDTH, HEIGHT, K, pose)


def look(camera: Camera, *, board: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[H, W, 3] uint8 photo, [H, W] depth along the camera's z, [H, W] where the board is."""
    u, v = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(camera.K).T @ camera.cam_from_world[:3, :3]
    center = camera.center
    photo, depth = None, None
    on_board = np.zeros(u.shape, bool)
    for level, texture in zip((WALL, BOARD), _TEXTURES, strict=True):
        z = (level - center[2]) / rays[..., 2]
        point = center + rays * z[..., None]
        grid = [(point[..., 0] * 150 + 600).astype(np.float32), (point[..., 1] * 150 + 450).astype(np.float32)]
        colour = cv2.remap(texture, *grid, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        if photo is None or depth is None:
            photo, depth = colour, z
            continue
        inside = (point[..., 0] > BOARD_X[0]) & (point[..., 0] < BOARD_X[1]) & (point[..., 1] > BOARD_Y[0]) & (point[..., 1] < BOARD_Y[1])
        on_board = inside & board
        photo, depth = np.where(on_board[..., None], colour, photo), np.where(on_board, z, depth)
    assert photo is not None and depth is not None
    return np.clip(np.rint(photo), 0, 255).astype(np.uint8), depth.astype(np.float32), on_board
