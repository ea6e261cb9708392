"""First guess of a scene: Gaussians at structure-from-motion points and at photo pixels with interpolated depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ltgs.core.cameras import Camera
from ltgs.core.gaussians import Gaussians
from ltgs.core.sh import rgb_to_dc
from ltgs.optim.guide import DepthGuide

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TrainingPhoto:
    """One posed working photo."""

    camera: Camera
    rgb: NDArray[np.uint8]
    """[H, W, 3]"""
    weight: NDArray[np.float32] | None = None
    """[H, W] in [0, 1]; 0 = this pixel says nothing (stale or invalid). None = all ones."""
    guide: DepthGuide | None = None
    """Depth that was measured from this photo by other means, for `TrainConfig.depth_weight`."""


@dataclass(frozen=True)
class InitConfig:
    """How the first Gaussians are placed."""

    pixel_share: float = 0.5
    """Share of the cap filled at the start; what the sparse points do not fill comes from pixels with interpolated depth."""
    opacity: float = 0.2
    """Starting opacity; between 3DGS' 0.1 and the 0.5 of 3DGS-MCMC."""
    scale_factor: float = 0.7
    """Starting standard deviation over the mean distance to the 3 nearest neighbours."""
    neighbours: int = 4
    """Sparse points whose inverse depths are averaged for a pixel."""


def gaussians_from_points(
    xyz: Array,  # [P, 3] scene units
    rgb: Array,  # [P, 3] in [0, 1]
    *,
    sh_degree: int,
    config: InitConfig | None = None,
) -> Gaussians:
    """Isotropic Gaussians with the size of the local point spacing.

    Raises:
        ValueError: fewer than 4 points.
    """
    config = config or InitConfig()
    if len(xyz) < 4:
        raise ValueError(f"gaussians_from_points needs at least 4 points, got {len(xyz)}.")
    distances, _ = cKDTree(xyz).query(xyz, k=4)
    spacing = np.sqrt((distances[:, 1:] ** 2).mean(1))
    # Isolated points would start as huge blobs that hide everything behind them.
    spacing = np.clip(spacing, 1e-7, np.quantile(spacing, 0.95) * 2)
    n = len(xyz)
    sh = torch.zeros(n, (sh_degree + 1) ** 2, 3)
    sh[:, 0] = rgb_to_dc(torch.as_tensor(rgb, dtype=torch.float32))
    quats = torch.zeros(n, 4)
    quats[:, 0] = 1
    return Gaussians(
        means=torch.as_tensor(xyz, dtype=torch.float32),
        quats=quats,
        log_scales=torch.as_tensor(np.log(spacing * config.scale_factor), dtype=torch.float32)[:, None].repeat(1, 3),
        opacity_logits=torch.full((n,), float(np.log(config.opacity / (1 - config.opacity)))),
        sh=sh,
    )


def points_from_pixels(
    photos: Sequence[TrainingPhoto],
    xyz: Array,
    *,
    count: int,
    config: InitConfig,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """Sample pixels of all photos and give them the inverse-distance-weighted depth of the sparse points seen near them.

    Sparse points sit on texture only; these samples start the plain walls, the sky and whatever had no feature.

    Returns:
        points [M, 3] scene units and their colours [M, 3] in [0, 1], M <= count.
    """
    per_photo = max(1, count // max(1, len(photos)))
    points, colours = [], []
    for photo in photos:
        camera = photo.camera
        local = xyz @ camera.cam_from_world[:3, :3].T + camera.cam_from_world[:3, 3]
        local = local[local[:, 2] > 1e-6]
        uv = local @ camera.K.T
        uv = uv[:, :2] / uv[:, 2:]
        inside = (uv[:, 0] >= 0) & (uv[:, 0] < camera.width) & (uv[:, 1] >= 0) & (uv[:, 1] < camera.height)
        if inside.sum() < config.neighbours:
            continue
        pixels = rng.uniform(0, 1, (per_photo, 2)) * [camera.width, camera.height]
        distance, index = cKDTree(uv[inside]).query(pixels, k=config.neighbours)
        weight = 1 / (distance + 2.0)
        inverse_depth = (weight / local[inside][index, 2]).sum(1) / weight.sum(1)
        points.append(camera.in_world(camera.rays(pixels) / inverse_depth[:, None]))
        columns, rows = pixels.astype(int).T
        colours.append(photo.rgb[rows, columns] / 255.0)
    if not points:
        return np.zeros((0, 3)), np.zeros((0, 3))
    return np.concatenate(points), np.concatenate(colours)


def initial_gaussians(
    photos: Sequence[TrainingPhoto],
    xyz: Array,
    rgb: Array,
    *,
    cap: int,
    sh_degree: int,
    config: InitConfig,
    rng: np.random.Generator,
) -> Gaussians:
    """Sparse points plus interpolated pixels, at most `cap * pixel_share` (or the sparse points alone if they are more)."""
    if len(xyz) > cap:
        keep = np.sort(rng.choice(len(xyz), cap, replace=False))
        xyz, rgb = xyz[keep], rgb[keep]
    missing = int(cap * config.pixel_share) - len(xyz)
    if missing > 0:
        more_xyz, more_rgb = points_from_pixels(photos, xyz, count=missing, config=config, rng=rng)
        xyz, rgb = np.concatenate([xyz, more_xyz]), np.concatenate([rgb, more_rgb])
    return gaussians_from_points(xyz, rgb, sh_degree=sh_degree, config=config)
