"""Measured surfaces as the start of a new object: points where the photos agree, and what of its visual hull they leave possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ltgs.depth.surfaces import SurfaceConfig, SurfacePoints, looked_through, measure_surfaces, surface_points
from ltgs.depth.sweep import SweepView
from ltgs.depth.types import Mask

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SeedConfig:
    """Seeds of one object."""

    surface: SurfaceConfig = field(default_factory=SurfaceConfig)
    max_points: int = 4000
    """Most measured points; beyond it they are merged more coarsely."""
    min_coverage: float = 0.3
    """Measured share of an object's pixels below which its points are not trusted."""
    replaced: float = 2.0
    """A hull sample this close to a measured point, in units of the points' spacing, is replaced by it."""


@dataclass(frozen=True)
class ObjectSeeds:
    """The start of a new object."""

    points: Array
    """[M, 3] measured surface points, scene units."""
    colours: Array
    """[M, 3] in [0, 1], of the given photos' light."""
    spacing: float
    """Distance of neighbouring points, scene units; 0 without points."""
    rest: NDArray[np.bool_]
    """[H] samples of the hull that no measured point replaces and no photo looked through: sides that were not measured."""
    coverage: float
    """Measured share of the wanted pixels."""

    def reliable(self, config: SeedConfig) -> bool:
        """Enough of the object was measured to start from it."""
        return len(self.points) > 0 and self.coverage >= config.min_coverage


def seed_object(
    views: Sequence[SweepView], wheres: Sequence[Mask], hull: Array, *, colours: Sequence[NDArray[np.floating]] | None = None,
    config: SeedConfig | None = None,
) -> ObjectSeeds:
    """Measure a new object in the photos of the visit that it came with.

    Args:
        views: the visit's photos with the known scene's depth and with masks of where unknown content may be seen.
        wheres: per view [H, W] the object's pixels; all False where it was not seen.
        hull: [H, 3] samples of its visual hull, possibly none.
        colours: per view [H, W, 3] in [0, 1] to colour the points with, e.g. in the first visit's light; None = the photos'.
        config: settings.

    Returns:
        Seeds; without measured points if no two photos show the object, with the whole hull in `rest`.
    """
    config = config or SeedConfig()
    depths = measure_surfaces(views, wheres, config=config.surface)
    found = _thinned(surface_points(views, depths, colours=colours), config.max_points)
    wanted = sum(int(w.sum()) for w in wheres)
    coverage = sum(int(d.measured.sum()) for d in depths) / max(1, wanted)
    if not len(found):
        return ObjectSeeds(found.xyz, found.rgb, 0.0, np.ones(len(hull), bool), 0.0)
    spacing = float(found.spacing[0])
    rest = np.zeros(0, bool)
    if len(hull):
        rest = (cKDTree(found.xyz).query(hull)[0] > config.replaced * spacing) & (looked_through(hull, views, depths) == 0)
    return ObjectSeeds(found.xyz, found.rgb, spacing, rest, coverage)


def _thinned(points: SurfacePoints, most: int) -> SurfacePoints:
    """Merged until at most so many remain; surfaces grow with the square of the spacing."""
    while len(points) > most:
        points = points.merged(float(points.spacing[0]) * max(1.1, (len(points) / most) ** 0.5))
    return points
