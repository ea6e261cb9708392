"""What colours a thing has, whichever side of it is seen: a histogram that tells one object from another before any pose is tried.

Measured on four rendered rooms (33 pairs of a template and new content that is mostly that object, 291 of different objects): the
same object 0.75 to 0.98, half of them above 0.93; different ones 0.59 in the median, one in a hundred above 0.87.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.gaussians import Gaussians, template_radius
from ltgs.core.views import ComparedView
from ltgs.imaging.masks import grown
from ltgs.objects.hull import HullInstance
from ltgs.render import render

Array = NDArray[np.float64]
BINS = (6, 16, 16)
"""Of lightness, which changes with the light, and of a and b of CIELAB."""
RANGES = ((0.0, 100.0), (-64.0, 64.0), (-64.0, 64.0))
SMOOTHING = (0.7, 0.8, 0.8)
"""Standard deviations of the smoothing, bins."""
MIN_PIXELS = 100
"""Pixels below which no colours are told."""
SIZE = 64
"""Pixels of the pictures of a template."""
AZIMUTHS, ELEVATIONS = 8, (0.3, 0.8)
"""Directions it is seen from; elevations in radians."""
WINDOW, LIKE = 0.006, 0.7
"""Standard deviation, relative to the longer image side, of the window in which pixels are told from others by their colours, and how
much more usual these must be with the object than in the whole content, on average there and up to twice."""
RING, GAP_PX = 0.35, 3
"""Width of the surroundings relative to the root of the content's area, and their distance from it in pixels."""


def palette(colours: NDArray[np.float32]) -> Array | None:
    """Smoothed CIELAB histogram of colours [M, 3] in [0, 1], summing to 1; None of too few."""
    if len(colours) < MIN_PIXELS:
        return None
    counts = np.zeros(BINS)
    np.add.at(counts, _bins(colours), 1)
    smooth = gaussian_filter(counts, SMOOTHING)
    return smooth / max(float(smooth.sum()), 1e-12)


def _bins(colours: NDArray[np.floating]) -> tuple[NDArray[np.int64], ...]:
    """Bins (three times [M]) of colours [M, 3] in [0, 1]; the strongest lie beyond the ranges and count in the last bins."""
    lab = cv2.cvtColor(np.clip(colours, 0, 1).astype(np.float32)[None], cv2.COLOR_RGB2LAB)[0]
    low, high = np.array(RANGES, np.float32).T
    index = np.floor((lab - low) / (high - low) * np.array(BINS)).astype(np.int64)
    return tuple(np.clip(index, 0, np.array(BINS) - 1).T)


def likeness(one: Array | None, other: Array | None) -> float | None:
    """Bhattacharyya coefficient of two palettes, 0 to 1; None if one of them is not known."""
    return None if one is None or other is None else float(np.sqrt(one * other).sum())


def template_palette(template: Gaussians, up: Array, *, backend: str = "auto") -> Array | None:
    """The palette of an object seen from all around and from above.

    Args:
        up: [3] unit, the vertical in the object's frame.
    """
    side = np.cross(up, np.eye(3)[np.argmin(np.abs(up))])
    side /= np.linalg.norm(side)
    front, distance = np.cross(up, side), 4 * template_radius(template)
    colours = []
    for elevation in ELEVATIONS:
        for azimuth in np.arange(AZIMUTHS) * (2 * np.pi / AZIMUTHS):
            level = np.cos(azimuth) * side + np.sin(azimuth) * front
            colours.append(_seen_from(template, distance * (np.cos(elevation) * level + np.sin(elevation) * up), up, backend))
    return palette(np.concatenate(colours))


def _seen_from(template: Gaussians, center: Array, up: Array, backend: str) -> NDArray[np.float32]:
    """[M, 3] colours of a picture of the object's origin."""
    forward = -center / max(float(np.linalg.norm(center)), 1e-12)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    pose[:3, 3] = -pose[:3, :3] @ center
    focal = 1.7 * SIZE
    camera = Camera("", 0, SIZE, SIZE, np.array([[focal, 0, SIZE / 2], [0, focal, SIZE / 2], [0, 0, 1]]), pose)
    with torch.no_grad():
        out = render(template, stack_cameras([camera]), backend=backend, with_depth=False)  # type: ignore[arg-type]
    alpha = out.alpha[0, ..., 0].numpy()
    return (out.rgb[0].numpy() / np.maximum(alpha, 1e-3)[..., None])[alpha > 0.8]


def content_palette(instance: HullInstance, views: Sequence[ComparedView]) -> Array | None:
    """The palette of new content: the photos' colours inside its outlines, brought back to the scene's light."""
    colours = [
        view.in_first_light(*mask.nonzero()) for view, mask in zip(views, instance.pixels, strict=True) if mask.any()
    ]
    return palette(np.concatenate(colours)) if colours else None


def likeness_to_surroundings(instance: HullInstance, views: Sequence[ComparedView]) -> float | None:
    """How alike the colours of new content are to those of the known surfaces around it; None if they are not told.

    Errors of the scene show what lies around them. In three rendered rooms 8 of them had 0.87 to 0.98, 21 new objects 0.57 to
    0.82.
    """
    around = []
    for mask, view in zip(instance.pixels, views, strict=True):
        width = max(GAP_PX, round(RING * float(np.sqrt(mask.sum()))))
        # What differs as well may be more of the same.
        around.append(grown(mask, width) & ~grown(mask, GAP_PX) & ~view.mask & (view.alpha > 0.6))
    return likeness(content_palette(instance, views), content_palette(replace(instance, pixels=tuple(around)), views))


def pixels_like(own: Array, instance: HullInstance, views: Sequence[ComparedView]) -> tuple[NDArray[np.bool_], ...]:
    """Per view [H, W] the pixels of new content that show the colours of an object rather than those of the rest of it.

    Args:
        own: the object's palette.
    """
    whole = content_palette(instance, views)
    if whole is None:
        return tuple(np.zeros_like(m) for m in instance.pixels)
    ratio = np.minimum(own / np.maximum(whole, 1e-9), 2.0)
    out = []
    for view, mask in zip(views, instance.pixels, strict=True):
        rows, columns = mask.nonzero()
        share = np.zeros(mask.shape, np.float32)
        share[mask] = ratio[_bins(view.in_first_light(rows, columns))] if len(rows) else 0
        sigma = WINDOW * max(mask.shape)
        weight = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), sigma)
        out.append(mask & (cv2.GaussianBlur(share, (0, 0), sigma) > LIKE * np.maximum(weight, 1e-3)))
    return tuple(out)
