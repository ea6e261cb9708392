"""A second witness of change: what the first visit's photos themselves show at the places that a new photo sees.

A render can be wrong where the first visit was thin: a blurred edge, a reflection, a floater. There a photo of the first visit,
brought into the new view through the rendered depth, still agrees with the new photo. New or departed content agrees with none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ltgs.change.harmonise import ColourFit
from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.gaussians import Gaussians
from ltgs.imaging.cues import residual_cues
from ltgs.render import render

Image = NDArray[np.float32]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class EarlierConfig:
    """Comparison with the first visit's photos."""

    photos: int = 4
    """Nearest photos of the first visit that are asked."""
    reach_px: float = 1.5
    """Displacement tried to every side, pixels at an image of 640 px: pose and depth errors."""
    convincing: tuple[float, float] = (0.06, 0.36)
    """Colour and structure cue below which an earlier photo excuses a wrong render; halfway to what other content shows."""
    depth_slack: float = 0.03
    """Relative difference of depths up to which a point counts as seen by an earlier photo."""
    support: float = 0.012
    """Window over which one displacement must hold, standard deviation relative to the longer image side."""
    max_angle: float = 60.0
    """Photos that look from directions further apart than this, in degrees, are not asked."""


@dataclass(frozen=True)
class Witness:
    """Residual cues of a new photo against the best earlier photo per pixel."""

    cues: Image
    """[H, W, 2] as `residual_cues`; +inf where no earlier photo saw the place."""
    depth: Image
    """[H, W] rendered depth it was made with, scene units: valid for this surface only."""
    light: Image | None = None
    """[H, W, 2] the same against the surface under another light, see `change.shade`."""

    def part(self, box: tuple[slice, slice]) -> Witness:
        """The same for a crop of the photo (rows, columns)."""
        return Witness(self.cues[box], self.depth[box], None if self.light is None else self.light[box])


@dataclass(frozen=True)
class EarlierPhoto:
    """A photo of the first visit with the depth the scene had then."""

    camera: Camera
    rgb: Image
    """[H, W, 3] in [0, 1], its own exposure removed."""
    depth: Image
    """[H, W], 0 where nothing is known."""


def prepare_earlier(
    first: Gaussians, camera: Camera, rgb: NDArray[np.uint8], exposure: Array | None = None, *, backend: str = "auto"
) -> EarlierPhoto:
    """A photo of the first visit with the depth of the scene as it was then.

    Args:
        exposure: [3, 4] affine that brings rendered colours to the photo's.
    """
    depth = depth_of(first, camera, backend=backend)
    colours = rgb.astype(np.float32) / np.float32(255)
    if exposure is not None:
        colours = ((colours - exposure[:, 3]) @ np.linalg.pinv(exposure[:, :3]).T).astype(np.float32)
    return EarlierPhoto(camera, colours, depth)


def depth_of(gaussians: Gaussians, camera: Camera, *, backend: str = "auto") -> Image:
    """[H, W] depth of a scene, 0 where nothing is known."""
    with torch.no_grad():
        shown = render(gaussians, stack_cameras([camera]), backend=backend)  # type: ignore[arg-type]
    assert shown.depth is not None
    return np.where(shown.alpha[0, ..., 0].numpy() > 0.5, shown.depth[0, ..., 0].numpy(), 0).astype(np.float32)


def nearest_cameras(camera: Camera, cameras: Sequence[Camera], config: EarlierConfig) -> list[int]:
    """Indices of the first visit's cameras that stood nearest, among those that look in a similar direction."""
    if not cameras:
        return []
    forward = np.array([c.cam_from_world[2, :3] for c in cameras])
    angle = np.rad2deg(np.arccos(np.clip(forward @ camera.cam_from_world[2, :3], -1, 1)))
    distance = np.array([np.linalg.norm(c.center - camera.center) for c in cameras])
    spread = max(float(np.median(distance)), 1e-9)
    # Ten degrees of another direction count like a tenth of the median distance.
    order = np.argsort(distance / spread + angle / 100)
    return [int(i) for i in order if angle[i] <= config.max_angle][: config.photos]


def witness(
    camera: Camera, photo: Image, depth: Image, alpha: Image, fit: ColourFit, earlier: Sequence[EarlierPhoto], *,
    where: NDArray[np.bool_], config: EarlierConfig | None = None,
) -> Witness:
    """Compare a new photo with earlier photos brought into its view.

    Args:
        depth, alpha: [H, W] of the current scene at the camera.
        fit: light of the new photo, first-visit colours to its own.
        where: [H, W] pixels in question; only their surroundings are looked at.
    """
    config = config or EarlierConfig()
    points = camera.surface(depth)
    looks = [look_at_surface(points, other.camera, other.depth, other.rgb, config.depth_slack) for other in earlier]
    looks = [replace(look, seen=look.seen & (alpha > 0.6)) for look in looks]
    cues = best_cues(photo, looks, lambda moved, box: fit.part(box).apply(np.clip(moved, 0, 1)), where=where, config=config)
    return Witness(cues, depth)


@dataclass(frozen=True)
class Look:
    """Another photo's picture as it would lie on the surfaces of a view."""

    image: Image
    """[h, w] or [h, w, 3] in the other photo."""
    map_u: Image
    map_v: Image
    """[H, W] where the view's pixels are in it (cv2.remap)."""
    seen: NDArray[np.bool_]
    """[H, W] whether it shows them."""


def best_cues(
    photo: Image, looks: Sequence[Look], show: Callable[[Image, tuple[slice, slice]], Image], *, where: NDArray[np.bool_],
    config: EarlierConfig,
) -> Image:
    """[H, W, 2] residual cues of a photo against the best of several pictures per pixel; +inf where none shows the place.

    Args:
        show: what a picture brought to a box (rows, columns) of the photo says the photo should look like there.
        where: [H, W] pixels in question; only their surroundings are looked at.
    """
    best = np.full((*photo.shape[:2], 2), np.inf, np.float32)
    size = max(photo.shape[:2])
    for box in _boxes(where, border=max(12, round(2 * config.support * size))):
        best_total = np.full(photo[box].shape[:2], np.inf, np.float32)
        for look in looks:
            seen = look.seen[box]
            if seen.mean() < 0.05:
                continue
            for cues, total in _displaced(look, box, photo[box], show, size, config):
                better = seen & (total < best_total)
                best_total[better] = total[better]
                best[box][better] = cues[better]
    return best


def _displaced(
    look: Look, box: tuple[slice, slice], photo: Image, show: Callable[[Image, tuple[slice, slice]], Image], size: int,
    config: EarlierConfig,
) -> Iterator[tuple[Image, Image]]:
    """Cues and their windowed sum for every displacement of another picture."""
    sigma = config.support * size
    seen = look.seen[box]
    valid = seen.astype(np.float32)
    weight = cv2.GaussianBlur(valid, (0, 0), sigma) + 1e-6
    target = torch.from_numpy(np.ascontiguousarray(photo))
    steps = np.array([-1, 0, 1]) * config.reach_px * size / 640
    for dv in steps:
        for du in steps:
            moved = cv2.remap(look.image, look.map_u[box] + np.float32(du), look.map_v[box] + np.float32(dv), cv2.INTER_LINEAR,
                              borderMode=cv2.BORDER_REPLICATE)
            shown = np.where(seen[..., None], show(np.asarray(moved, np.float32), box), photo)
            cues = residual_cues(torch.from_numpy(np.ascontiguousarray(shown)), target).numpy()
            # Structure varies about three times as much as colour where nothing changed.
            yield cues, cv2.GaussianBlur((cues[..., 0] * 3 + cues[..., 1]) * valid, (0, 0), sigma) / weight


def _boxes(where: NDArray[np.bool_], border: int) -> list[tuple[slice, slice]]:
    """Boxes around the marked regions and a border; near regions share one."""
    kernel = np.ones((2 * border + 1,) * 2, np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(cv2.dilate(where.astype(np.uint8), kernel))
    return [(slice(y, y + h), slice(x, x + w)) for x, y, w, h, _ in stats[1:].tolist()]


def cap_cues(cues: Image, depth: Image, seen: Witness, config: EarlierConfig) -> Image:
    """[H, W, 2] the smaller of both witnesses' cues, where an earlier photo agrees well with the new one.

    Only where the surface is still the one that the witness was made for.
    """
    return _capped(cues, seen.cues, depth, seen.depth, config)


def cap_by_light(cues: Image, depth: Image, seen: Witness, config: EarlierConfig) -> Image:
    """[H, W, 2] the cues, capped where another light on the same surface explains the photo well."""
    return cues if seen.light is None else _capped(cues, seen.light, depth, seen.depth, config)


def _capped(cues: Image, other: Image, depth: Image, made_for: Image, config: EarlierConfig) -> Image:
    use = np.abs(depth - made_for) <= 0.02 * np.maximum(made_for, 1e-9)
    use &= (other < np.array(config.convincing, np.float32)).all(-1)
    return np.where(use[..., None], np.minimum(cues, other), cues)


def look_at_surface(points: Array, camera: Camera, depth: Image, image: Image, slack: float) -> Look:
    """A picture, with the depth [h, w] its camera sees, as it lies on surface points [H, W, 3] of a view.

    Args:
        slack: relative difference of depths up to which a point counts as seen.
    """
    local = points @ camera.cam_from_world[:3, :3].T + camera.cam_from_world[:3, 3]
    z = local[..., 2]
    safe = np.where(z > 1e-6, z, 1.0)
    uv = local @ camera.K.T
    # Pixel (0, 0) of an array has its centre at (0.5, 0.5).
    map_u, map_v = (uv[..., 0] / safe - 0.5).astype(np.float32), (uv[..., 1] / safe - 0.5).astype(np.float32)
    height, width = depth.shape
    inside = (z > 1e-6) & (map_u >= 0) & (map_v >= 0) & (map_u <= width - 1) & (map_v <= height - 1)
    there = cv2.remap(depth, map_u, map_v, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    return Look(image, map_u, map_v, inside & (np.abs(there - z) <= slack * safe))
