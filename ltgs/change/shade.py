"""Light instead of content: whether what differs is the old surface under another light.

A cast shadow or a patch of lamp light multiplies the colours of a surface that is still there. The factor belongs to the surface:
all photos of a visit that see a point of it show the same one. It is nearly the same for all colours, and it varies smoothly or
steps at an edge, but does not take the surface's own texture away. New content hides that texture, or has a colour of its own,
or stands in front of the surface, so that the photos disagree about where on the surface it lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from ltgs.change.earlier import EarlierConfig, best_cues, look_at_surface
from ltgs.core.views import ComparedView

Image = NDArray[np.float32]


@dataclass(frozen=True)
class ShadeConfig:
    """A change of light on a known surface."""

    window: float = 0.008
    """Side of the window within which the factor is one value or has one edge (a median), relative to the longer image side."""
    offset: float = 0.03
    """Added to both colours before their ratio is taken, so that noise in the dark does not become light."""
    limit: float = 1.4
    """Largest natural logarithm of the factor."""
    soft: float = 0.003
    """Standard deviation of the blur, relative to the longer image side, under which a curved object in another light is
    compared: its known shape is off by a few pixels, and so are the edges of the light on it."""
    relit: float = 0.6
    """Share of a region that another light must explain then."""
    new_edges: float = 0.2
    """Largest share of a region's edges in the photo that the known surface does not have: a thing has an outline of its own."""
    edge_reach: float = 0.006
    """Distance up to which edges of photo and known surface belong together, relative to the longer image side."""
    edge_factor: float = 1.5
    """Strength of an edge in the photo, relative to that of the known surface, up to which light alone can have made it."""
    min_seen: float = 0.5
    """Share of a region that another photo of the visit must see on the old surface for anything to be said."""


def light_factor(view: ComparedView, config: ShadeConfig) -> Image:
    """[H, W] by what the known surface's brightness is multiplied in the photo, its texture left out."""
    photo, shown = (np.log(image.mean(-1) + config.offset) for image in (view.photo, view.shown))
    ratio = np.clip(photo - shown, -config.limit, config.limit)
    side = 2 * max(1, round(config.window * max(ratio.shape) / 2)) + 1
    # OpenCV has medians of float images up to 5x5 only; 8 bits are steps of about one per cent.
    steps = np.round((ratio + config.limit) * (255 / (2 * config.limit))).astype(np.uint8)
    return np.exp(cv2.medianBlur(steps, side) * np.float32(2 * config.limit / 255) - config.limit).astype(np.float32)


def light_cues(
    views: Sequence[ComparedView], *, where: Sequence[NDArray[np.bool_]] | None = None, soft: bool = False,
    config: ShadeConfig | None = None, earlier: EarlierConfig | None = None,
) -> list[Image]:
    """What would still differ if only the light had changed.

    Args:
        where: per photo [H, W] the pixels in question; its mask if not given.
        soft: blur both sides first, for surfaces known only roughly.
        earlier: how photos are compared once one is brought into the view of the other.

    Returns:
        for every photo, [H, W, 2] residual cues against the known surface times the factor that another photo of the
        visit shows at the same place of it; +inf where no other photo sees the place, and away from the pixels in question.
    """
    config, earlier = config or ShadeConfig(), earlier or EarlierConfig()
    factors = [light_factor(v, config) for v in views]
    depths = [np.where(v.alpha > 0.5, v.depth, 0).astype(np.float32) for v in views]
    out = []
    for i, view in enumerate(views):
        points = view.camera.surface(view.depth)
        looks = [
            look_at_surface(points, other.camera, depths[j], factors[j], earlier.depth_slack)
            for j, other in enumerate(views) if j != i
        ]
        looks = [replace(look, seen=look.seen & (view.alpha > 0.6)) for look in looks]
        sigma = config.soft * max(view.mask.shape) if soft else 0.0

        def show(moved: Image, box: tuple[slice, slice], shown: Image = view.shown, sigma: float = sigma) -> Image:
            lit = np.clip((shown[box] + config.offset) * moved[..., None] - config.offset, 0, 1).astype(np.float32)
            return _blurred(lit, sigma)

        asked = view.mask if where is None else where[i]
        out.append(best_cues(_blurred(view.photo, sigma), looks, show, where=asked, config=earlier))
    return out


def _blurred(image: Image, sigma: float) -> Image:
    return cv2.GaussianBlur(image, (0, 0), sigma).astype(np.float32) if sigma > 0 else image


def light_share(
    pixels: Sequence[NDArray[np.bool_]], cues: Sequence[Image], *, config: ShadeConfig | None = None,
    earlier: EarlierConfig | None = None,
) -> float | None:
    """Share of a region that a change of light explains; None if the photos see too little of its place in common.

    Args:
        pixels: per view [H, W] the region.
        cues: `light_cues` of the views.
    """
    config, earlier = config or ShadeConfig(), earlier or EarlierConfig()
    own = np.concatenate([c[p] for c, p in zip(cues, pixels, strict=True)])
    seen = np.isfinite(own).all(-1)
    if len(own) == 0 or seen.mean() < config.min_seen:
        return None
    return float((own[seen] < np.array(earlier.convincing, np.float32)).all(-1).mean())


def is_relit(
    views: Sequence[ComparedView], pixels: Sequence[NDArray[np.bool_]], *, config: ShadeConfig | None = None,
    earlier: EarlierConfig | None = None,
) -> bool:
    """Whether a region is a known object in another light.

    The shape of a small object is known too roughly for its new shading to be matched to the pixel, so it is compared softly.
    A plain thing that lies flat on a surface would pass for light then, but its outline is new, whereas the shading of a
    known object steps where the object had its edges before.

    Args:
        pixels: per view [H, W] the region.
    """
    config = config or ShadeConfig()
    if new_edge_share(views, pixels, config=config) > config.new_edges:
        return False
    share = light_share(pixels, light_cues(views, where=pixels, soft=True, config=config, earlier=earlier), config=config, earlier=earlier)
    return share is not None and share >= config.relit


def new_edge_share(
    views: Sequence[ComparedView], pixels: Sequence[NDArray[np.bool_]], *, config: ShadeConfig | None = None
) -> float:
    """Share of a region's edges in the photos that the known surface does not show nearby; 0 without edges.

    Edges are gradients of the logarithm of brightness, which a factor that is the same on both sides leaves alone.
    """
    config = config or ShadeConfig()
    new = total = 0.0
    for view, mask in zip(views, pixels, strict=True):
        if not mask.any():
            continue
        size = max(mask.shape)
        reach = max(1, round(config.edge_reach * size))
        own = cv2.dilate(mask.astype(np.uint8), np.ones((2 * reach - 1,) * 2, np.uint8)) > 0
        photo, shown = (_edges(image, config.offset, config.soft * size) for image in (view.photo, view.shown))
        near = cv2.dilate(shown, np.ones((2 * reach + 1,) * 2, np.uint8))
        new += float(np.maximum(photo - config.edge_factor * near, 0)[own].sum())
        total += float(photo[own].sum())
    return new / total if total > 0 else 0.0


def _edges(image: Image, offset: float, sigma: float) -> Image:
    """[H, W] gradient magnitude of the logarithm of brightness, per pixel."""
    bright = cv2.GaussianBlur(np.log(image.mean(-1) + np.float32(offset)), (0, 0), max(sigma, 0.5))
    return np.hypot(cv2.Sobel(bright, cv2.CV_32F, 1, 0), cv2.Sobel(bright, cv2.CV_32F, 0, 1)) / np.float32(8)
