"""Rectification: rows meet rows, and disparity gives back the exact points, for every arrangement of two cameras."""

from __future__ import annotations

import numpy as np
import pytest

from ltgs.core.cameras import Camera
from ltgs.depth.rectify import (
    RectifiedPair,
    depth_at_original,
    rectify_cameras,
    warp_depth,
    warp_photo,
)
from ltgs.errors import InputError


def rotation(rx: float, ry: float, rz: float) -> np.ndarray:
    x, y, z = np.radians([rx, ry, rz])
    a = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    b = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    c = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return a @ b @ c


def camera(center: tuple[float, float, float], angles: tuple[float, float, float], focal: float = 500.0, cx: float = 317.0) -> Camera:
    pose = np.eye(4)
    pose[:3, :3] = rotation(*angles)
    pose[:3, 3] = -pose[:3, :3] @ np.array(center)
    return Camera(f"at {center}", 0, 640, 480, np.array([[focal, 0, cx], [0, focal * 1.01, 243.0], [0, 0, 1]]), pose)


ARRANGEMENTS = {
    "right": ((0.3, 0.02, 0.03), (1, -4, 2)), "left": ((-0.3, 0.02, 0.03), (1, 4, -2)), "above": ((0.01, -0.3, 0.0), (-3, 1, 1)),
    "below": ((0.01, 0.3, 0.05), (4, 1, -1)), "oblique": ((0.2, 0.2, -0.05), (2, -3, 8)), "parallel": ((0.3, 0, 0), (0, 0, 0)),
}


def project(camera: Camera, points: np.ndarray) -> np.ndarray:
    local = points @ camera.cam_from_world[:3, :3].T + camera.cam_from_world[:3, 3]
    uv = local @ camera.K.T
    return uv[:, :2] / uv[:, 2:]


def pair(name: str) -> tuple[Camera, Camera, RectifiedPair]:
    center, angles = ARRANGEMENTS[name]
    first, second = camera((0, 0, 0), (0, 0, 0)), camera(center, angles, focal=520.0, cx=322.0)
    return first, second, rectify_cameras(first, second)


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_rows_meet_rows_and_disparity_is_depth(name: str) -> None:
    rng = np.random.default_rng(1)
    points = rng.uniform([-1, -0.7, 2.0], [1, 0.7, 6.0], (200, 3))
    _, _, rectified = pair(name)
    left, right = project(rectified.left, points), project(rectified.right, points)
    assert np.abs(left[:, 1] - right[:, 1]).max() < 1e-9
    z = points @ rectified.left.cam_from_world[2, :3] + rectified.left.cam_from_world[2, 3]
    disparity = left[:, 0] - right[:, 0]
    assert (disparity - rectified.offset > 0).all()
    assert np.allclose(rectified.depth(disparity), z, rtol=1e-6)
    assert np.allclose(rectified.disparity(z), disparity, atol=1e-4)


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_maps_lead_to_the_same_ray(name: str) -> None:
    points = np.random.default_rng(2).uniform([-1, -0.7, 2.0], [1, 0.7, 6.0], (50, 3))
    first, second, rectified = pair(name)
    for original, virtual, mapping in (
        (first, rectified.left, rectified.left_from), (second, rectified.right, rectified.right_from),
    ):
        assert np.allclose(original.center, virtual.center, atol=1e-12)
        pixels = np.concatenate([project(virtual, points), np.ones((50, 1))], 1) @ mapping.T
        assert np.allclose(pixels[:, :2] / pixels[:, 2:], project(original, points), atol=1e-8)


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_depth_of_a_plane_survives_the_way_there_and_back(name: str) -> None:
    first, _, rectified = pair(name)
    normal, distance = np.array([0.1, -0.2, 1.0]), 3.0
    u, v = np.meshgrid(np.arange(640) + 0.5, np.arange(480) + 0.5)
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(first.K).T
    depth = (distance / (rays @ normal)).astype(np.float32)
    there = warp_depth(depth, first, rectified.left, rectified.left_from)
    points = rectified.left.surface(there)
    known = np.isfinite(there)
    assert known.mean() > 0.5
    assert np.abs(points[known] @ normal - distance).max() < 1e-4
    back = depth_at_original(there, first, rectified.left, rectified.left_from)
    inside = np.isfinite(back)
    assert inside.mean() > 0.5
    assert np.abs(back[inside] / depth[inside] - 1).max() < 1e-4


def test_warped_photos_show_the_point_in_one_row() -> None:
    first, second, rectified = pair("oblique")
    point = np.array([[0.1, 0.05, 3.0]])
    rows = []
    for original, virtual, mapping in (
        (first, rectified.left, rectified.left_from), (second, rectified.right, rectified.right_from),
    ):
        yy, xx = np.mgrid[:480, :640]
        u, v = project(original, point)[0] - 0.5
        blob = 255 * np.exp(-((xx - u) ** 2 + (yy - v) ** 2) / 18)
        photo, inside = warp_photo(np.repeat(np.rint(blob).astype(np.uint8)[..., None], 3, 2), virtual, mapping)
        assert inside.mean() > 0.4
        weight = photo[..., 0].astype(float) * inside
        rows.append(float((weight.sum(1) * np.arange(len(weight))).sum() / weight.sum()))
    assert abs(rows[0] - rows[1]) < 0.05


def test_range_covers_the_depths() -> None:
    _, _, rectified = pair("right")
    search = rectified.search_range(2.0, 6.0)
    assert search.low <= rectified.disparity(np.float32(6.0)) and rectified.disparity(np.float32(2.0)) < search.high
    with pytest.raises(ValueError, match="near <= far"):
        rectified.search_range(6.0, 2.0)


def test_deviation_of_depth_is_the_derivative() -> None:
    _, _, rectified = pair("right")
    z = np.float32(3.0)
    d = float(rectified.disparity(z))
    step = (float(rectified.depth(np.float32(d - 0.5))) - float(rectified.depth(np.float32(d + 0.5))))
    assert float(rectified.depth_deviation(z, 1.0)) == pytest.approx(step, rel=1e-3)


@pytest.mark.parametrize("center, angles, reason", [
    ((0, 0, 0), (0, 5, 0), "one place"), ((0.01, 0, 1.0), (0, 0, 0), "in front"), ((0.3, 0, 0), (0, 170, 0), "directions"),
])
def test_pairs_without_depth_are_refused(center: tuple[float, float, float], angles: tuple[float, float, float], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        rectify_cameras(camera((0, 0, 0), (0, 0, 0)), camera(center, angles))
