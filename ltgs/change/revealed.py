"""What a departed object uncovers: surfaces around it go on where it stood, and the photos of one visit agree about them there.

No photo before saw that ground, so whatever it shows differs from the scene; but it is nothing new. Brought through the plane that it
lies in, the photos show the same at every place of it, whereas a thing that stands on the plane is seen elsewhere in each photo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from ltgs.change.earlier import EarlierConfig, Look, best_cues, look_at_surface
from ltgs.core.cameras import Camera
from ltgs.core.views import ComparedView
from ltgs.imaging.masks import grown

CONTRAST_PX = 7
"""Side of the window of the local contrast."""
Image = NDArray[np.float32]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class RevealConfig:
    """Uncovered surfaces."""

    agree: tuple[float, float] = (0.09, 0.5)
    """Colour and structure cue of two photos on the plane up to which they agree."""
    reach: float = 1.5
    """Distance from what left up to which the planes around it are looked for, in units of its radius."""
    near: float = 0.02
    """Distance of what is seen around, relative to its depth, up to which it lies in the plane."""
    ring: float = 0.15
    """Width of these surroundings relative to the longer image side."""
    bins: int = 16
    """Bins per colour channel of what the surroundings show."""
    contrast: tuple[float, ...] = (0.01, 0.02, 0.04, 0.08)
    """Bounds of the bins of local contrast, colour units: a plain thing agrees with itself on any plane, but no print is as plain."""
    usual: float = 5e-4
    """Least share of the surroundings' pixels that a colour and contrast, or those next to it, must have to be one of theirs."""


@dataclass(frozen=True)
class PlanePatch:
    """Part of a plane that something was cut out from."""

    plane: Array
    """[4] unit normal and offset."""
    centre: Array
    """[3]"""
    reach: float
    """Scene units around the centre."""


@dataclass(frozen=True)
class Revealed:
    """Pixels of one photo that show an uncovered surface."""

    mask: NDArray[np.bool_]
    """[H, W]"""
    depth: Image
    """[H, W] along z, scene units; 0 outside."""
    other: NDArray[np.bool_]
    """[H, W] pixels where it could be seen, but something else is."""

    def with_patch(self, depth: Array, own: NDArray[np.bool_], other: NDArray[np.bool_]) -> Revealed:
        """Another plane added: its depth [H, W], where it is shown, and where something else is seen."""
        return Revealed(self.mask | own, np.where(own, depth, self.depth).astype(np.float32), (self.other | other) & ~own)

    def shown_in(self, view: ComparedView, slack: float) -> ComparedView:
        """The view with what was uncovered taken for known, but for what is drawn before it."""
        now = self.mask & ((view.alpha < 0.5) | (view.depth > self.depth * (1 - slack)))
        if not now.any():
            return view
        return replace(
            view, shown=np.where(now[..., None], view.photo, view.shown), alpha=np.where(now, np.float32(1), view.alpha),
            depth=np.where(now, self.depth, view.depth), score=np.where(now, np.float32(0), view.score), mask=view.mask & ~now,
            agreed=view.agreed | now,
        )


def find_revealed(
    views: Sequence[ComparedView], holes: Sequence[NDArray[np.bool_]], patches: Sequence[PlanePatch], *,
    config: RevealConfig | None = None, earlier: EarlierConfig | None = None,
) -> list[Revealed]:
    """Look for the planes around departed objects in the holes that these left.

    Args:
        views: captures against what is still there.
        holes: [H, W] per view, where something was that has left.
    """
    config, earlier = config or RevealConfig(), earlier or EarlierConfig()
    found = [Revealed(np.zeros(v.mask.shape, bool), np.zeros(v.mask.shape, np.float32), np.zeros(v.mask.shape, bool)) for v in views]
    lights = [v.in_first_light(clip=False).astype(np.float32) for v in views]
    for patch in patches:
        depths = [_depth_on(v.camera, patch) for v in views]
        open_to = [
            h & (z > 0) & ((v.alpha < 0.6) | (v.depth > z * (1 - earlier.depth_slack)))
            for v, h, z in zip(views, holes, depths, strict=True)
        ]
        surfaces = [
            np.where(o, z, np.where(v.alpha > 0.5, v.depth, 0)).astype(np.float32)
            for v, o, z in zip(views, open_to, depths, strict=True)
        ]
        for i, view in enumerate(views):
            asked = open_to[i] & ~found[i].mask & (view.mask | (view.alpha < 0.6))
            if asked.any():
                points = view.camera.surface(depths[i])
                looks = [
                    look_at_surface(points, other.camera, surfaces[j], lights[j], earlier.depth_slack)
                    for j, other in enumerate(views) if j != i
                ]
                usual = _usual(view, patch, open_to[i], config)
                found[i] = found[i].with_patch(depths[i], *_shown(_agreeing(view, looks, asked, config, earlier) & usual, asked, looks))
    return found


def _shown(
    agreeing: NDArray[np.bool_], asked: NDArray[np.bool_], looks: Sequence[Look]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where the photos agree about a surface, and where they see its place, but something else there: [H, W] each."""
    own = asked & (cv2.blur(agreeing.astype(np.float32), (5, 5)) > 0.5)
    seen = asked & np.any([look.seen for look in looks], axis=0) & ~own
    return own, cv2.morphologyEx(seen.astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)) > 0


def _depth_on(camera: Camera, patch: PlanePatch) -> Array:
    """[H, W] depth of the patch along the rays of a camera; 0 where they miss it."""
    rotation, shift = camera.cam_from_world[:3, :3], camera.cam_from_world[:3, 3]
    normal = rotation @ patch.plane[:3]
    offset = patch.plane[3] - normal @ shift
    across = camera.rays() @ normal
    depth = -offset / np.where(np.abs(across) > 1e-6, across, np.inf)
    depth = np.where(depth > 1e-6, depth, 0)
    near = np.linalg.norm(camera.surface(depth) - patch.centre, axis=-1) <= patch.reach
    return np.where(near, depth, 0)


def _agreeing(
    view: ComparedView, looks: Sequence[Look], asked: NDArray[np.bool_], config: RevealConfig, earlier: EarlierConfig
) -> NDArray[np.bool_]:
    """[H, W] where another photo shows the same on the plane."""
    def show(moved: Image, box: tuple[slice, slice]) -> Image:
        return view.light(moved, *box)

    cues = best_cues(view.photo, looks, show, where=asked, config=earlier)
    return np.all(cues < np.array(config.agree, np.float32), axis=-1)


def _usual(view: ComparedView, patch: PlanePatch, hole: NDArray[np.bool_], config: RevealConfig) -> NDArray[np.bool_]:
    """[H, W] pixels that look like what the plane shows around the hole."""
    if not hole.any():
        return np.zeros(hole.shape, bool)
    off = np.abs(view.camera.surface(view.depth) @ patch.plane[:3] + patch.plane[3])
    around = grown(hole, max(1, round(config.ring * max(hole.shape)))) & ~hole & ~view.mask
    around &= (view.alpha > 0.8) & (off < config.near * view.depth)
    index = _looks(view.photo, config)
    counts = np.zeros((config.bins,) * 3 + (len(config.contrast) + 1,))
    np.add.at(counts, tuple(index[around].T), 1)
    usual = maximum_filter(counts, size=3, mode="constant") > config.usual * max(around.sum(), 1)
    return usual[tuple(index.reshape(-1, 4).T)].reshape(hole.shape)


def _looks(photo: Image, config: RevealConfig) -> NDArray[np.int64]:
    """[H, W, 4] bins of the colour and of the local contrast of a photo's pixels."""
    smooth = cv2.GaussianBlur(photo, (0, 0), 1.0)
    grey = smooth.mean(-1)
    window = (CONTRAST_PX,) * 2
    spread = np.sqrt(np.maximum(cv2.blur(grey**2, window) - cv2.blur(grey, window) ** 2, 0))
    colours = np.minimum((np.clip(smooth, 0, 1) * config.bins).astype(np.int64), config.bins - 1)
    return np.concatenate([colours, np.digitize(spread, config.contrast)[..., None]], -1)
