"""A guess at the sides of an object that no photo has seen: its seen side, turned half way round, where that space may be filled.

Photos from one side leave a template open at its back. Registered in photos of that back it would show what lies behind it, and
any wrong pose that shows its known side would fit better. The guess only helps to find the pose; it is never stored or shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.gaussians import Gaussians, template_radius
from ltgs.core.se3 import so3_exp
from ltgs.objects.hull import in_image, project, seen_empty
from ltgs.render import render

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Model:
    """What is drawn to find an object's pose: its template, and behind that a guess of what was never seen of it."""

    gaussians: Gaussians
    """In the object's frame, the template first."""
    num_guessed: int = 0
    """How many of them, the last ones, are guessed."""
    sides: Tensor | None = None
    """[N, 4] of the template's Gaussians, from where photos have seen them, see `seen_sides`; None = from all around."""
    base: Tensor | None = None
    """[B, 3] in the object's frame: where the ground was beneath it; None = not known, or not asked."""

    def __len__(self) -> int:
        return len(self.gaussians)

    @property
    def seen(self) -> Gaussians:
        """The template alone."""
        return self.gaussians[: len(self.gaussians) - self.num_guessed]

    @property
    def radius(self) -> float:
        """Radius of the sphere around the origin that holds 98 % of the template's centres, scene units."""
        return template_radius(self.seen)

    @property
    def plain(self) -> Model:
        """The same, taken to have been seen from all around but for what is guessed."""
        return replace(self, sides=None)

    @property
    def known_sides(self) -> Tensor | None:
        """[N, 4] the same of all Gaussians, of which guessed ones are seen from nowhere; None if all are seen from all around."""
        if self.sides is None and not self.num_guessed:
            return None
        own = len(self.gaussians) - self.num_guessed
        known = torch.zeros(len(self.gaussians), 4)
        known[:own] = self.sides if self.sides is not None else torch.tensor([0.0, 0.0, 0.0, 1.0])
        return known


@dataclass(frozen=True)
class BackingConfig:
    """The guessed back."""

    empty_photos: int = 2
    """Photos that must have looked through a place for it to be empty."""
    gap: float = 1.5
    """Distance to the known Gaussians, in units of their median spacing, from which a guess is added."""
    off_axis: float = 0.7
    """Largest distance of the object's Gaussians from the axis, relative to its own width: beyond, the axis is not its own."""
    min_photos: int = 3
    """Photos that must show the object to place its axis."""


def with_backing(
    template: Gaussians,
    world_from_object: Array,  # [4, 4] where the photos saw it
    cameras: Sequence[Camera],
    depths: Sequence[NDArray[np.float32]],  # per camera [H, W] depth of the scene at that time, 0 where unknown
    *,
    up: Array,  # [3] unit, world
    config: BackingConfig | None = None,
    backend: str = "auto",
) -> Model:
    """A template with its guessed back; without one if its axis cannot be placed."""
    config = config or BackingConfig()
    if len(template) < 8:
        return Model(template)
    axis = _axis_point(template, world_from_object, cameras, depths, config, backend)
    if axis is None or not _is_axis(template, world_from_object, axis, np.asarray(up), config):
        return Model(template)
    turn = np.eye(4)
    turn[:3, :3] = so3_exp(torch.as_tensor(np.asarray(up) * np.pi)).numpy()
    turn[:3, 3] = axis - turn[:3, :3] @ axis
    in_object = np.linalg.inv(world_from_object) @ turn @ world_from_object
    back = template.transformed(torch.as_tensor(in_object, dtype=torch.float32))
    means = back.means.double().numpy()
    own = template.means.double().numpy()
    tree = cKDTree(own)
    spacing = float(np.median(tree.query(own, k=2)[0][:, 1]))
    fresh = tree.query(means)[0] > config.gap * spacing
    world = means @ world_from_object[:3, :3].T + world_from_object[:3, 3]
    fresh &= seen_empty(world, cameras, depths) < config.empty_photos
    return Model(Gaussians.concatenate([template, back[torch.from_numpy(fresh)]]), int(fresh.sum()))


def _is_axis(template: Gaussians, world_from_object: Array, axis: Array, up: Array, config: BackingConfig) -> bool:
    """Whether a vertical axis passes through the middle of an object of which perhaps only one side is known."""
    points = template.means.double().numpy() @ world_from_object[:3, :3].T + world_from_object[:3, 3]
    across = np.linalg.svd(up[None])[2][1:]
    flat = (points - axis) @ across.T
    reach = float(np.quantile(np.linalg.norm(flat, axis=1), 0.98))
    angles = np.linspace(0, np.pi, 18, endpoint=False)
    along = flat @ np.stack([np.cos(angles), np.sin(angles)])
    width = float((np.quantile(along, 0.98, axis=0) - np.quantile(along, 0.02, axis=0)).max())
    return reach <= config.off_axis * width


def _axis_point(
    template: Gaussians, world_from_object: Array, cameras: Sequence[Camera], depths: Sequence[NDArray[np.float32]],
    config: BackingConfig, backend: str,
) -> Array | None:
    """[3] world point whose projection is the middle of the object's outline in all photos that show it whole."""
    placed = template.transformed(torch.as_tensor(world_from_object, dtype=torch.float32))
    centre = placed.means.double().median(0).values.numpy()
    rows, right = [], []
    for camera, depth in zip(cameras, depths, strict=True):
        uv, z = project(camera, centre[None])
        if not in_image(camera, uv, z)[0]:
            continue
        with torch.no_grad():
            out = render(placed, stack_cameras([camera]), backend=backend)  # type: ignore[arg-type]
        mask = (out.alpha[0, ..., 0] > 0.5).numpy()
        seen = mask & ((depth == 0) | (depth > 0.97 * out.depth[0, ..., 0].numpy()))
        v, u = np.nonzero(mask)
        touches = len(u) == 0 or u.min() == 0 or v.min() == 0 or u.max() == camera.width - 1 or v.max() == camera.height - 1
        # Half hidden or cut off, its middle is not where it seems.
        if touches or len(u) < 30 or seen.sum() < 0.85 * len(u):
            continue
        ray = camera.rays(np.array([np.median(u) + 0.5, np.median(v) + 0.5]))
        r, t = camera.cam_from_world[:3, :3], camera.cam_from_world[:3, 3]
        for k in range(2):
            rows.append(r[k] - ray[k] * r[2])
            right.append(ray[k] * t[2] - t[k])
    if len(rows) < 2 * config.min_photos:
        return None
    return np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)[0]
