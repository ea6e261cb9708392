"""What an object stands on or leans against: planes that go on around it. What lies in them is not part of the object.

Gaussians of the surface beneath an object are altered with it: its shadow lies on them, and no photo saw them well. Carried along,
they would stick out of the object at its next place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ltgs.core.views import ComparedView
from ltgs.imaging.masks import grown
from ltgs.objects.hull import seen_points

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SupportConfig:
    """Planes around an object; lengths relative to its radius."""

    ring: float = 0.8
    """Width of the surroundings in which planes are looked for."""
    gap: float = 0.1
    """Distance of the surroundings from the object's outline: its shadow and errors of the outline."""
    inlier: float = 0.06
    """Distance from a plane at which a point of the surroundings still belongs to it."""
    thickness: tuple[float, float] = (0.03, 0.10)
    """Bounds of the distance within which the object's own points belong to a plane; between them three times the spread of the
    surroundings' points decides."""
    thickness_fitted: tuple[float, float] = (0.02, 0.04)
    """The same bounds for an object that was built above the surfaces around it."""
    sharp: float = 0.6
    """A plane is looked at within half the thickness, again and again, as long as so large a share of its points stays."""
    share: float = 0.15
    """Least share of the surroundings that a plane must hold."""
    level_share: float = 0.05
    """The same of a level plane beneath the object: it stands on something, and a board at eye level is seen as a narrow strip."""
    level_below: float = 0.1
    """Largest share of the object's points beneath such a plane: the top of a thing beside the object is as level."""
    level_held: float = 0.4
    """More may lie beneath it, up to this share of what lies in it: a board was cut out with the object, its underside as well."""
    level: float = 0.96
    """Least cosine between the normal of a level plane and the vertical."""
    one_side: float = 0.9
    """Share of the object's points off the plane that must lie on the same side of it."""
    upright: float = 0.75
    """A level plane is taken for exactly level if such a one holds so many of its points: the scene's vertical is known to half
    a degree, while the few points around a thing in a corner tilt a plane by two, and a slanted one holds a table and a lid beside it."""
    level_one_side: float = 0.7
    """The same of a level plane beneath the object: of a board its edge and what is below may have been cut out with a small thing."""
    stays: float = 0.5
    """A plane that takes more than the rest of the object's points is its own face."""
    level_stays: float = 0.2
    """The same of a level plane from which the rest rises: much of the table may have been cut out with a small thing on it."""
    rises: float = 2.5
    """Height of that rest above the plane, in units of the distance within which points belong to it."""
    stands: float = 0.02
    """Share of the object's points that a level plane holds if it stands on it; no other one, such as the top of a thing beside it, is
    looked for then."""
    planes: int = 4
    """Most planes."""
    rounds: int = 1000
    """Random triples per plane."""
    most_points: int = 4000
    """Points of the surroundings that are looked at."""


def find_support(
    points: Array, surroundings: Array, up: Array, *, config: SupportConfig | None = None, seed: int = 0
) -> tuple[NDArray[np.bool_], list[Array]]:
    """Which points of an object lie in, or behind, a plane that goes on around it, and these planes.

    Args:
        points: [M, 3] the object's.
        surroundings: [S, 3] points of surfaces around it.
        up: [3] unit, the vertical.

    Returns:
        [M] bool, all False if no plane is found; and [4] each, unit normals towards the object and offsets.
    """
    config = config or SupportConfig()
    taken = np.zeros(len(points), bool)
    planes: list[Array] = []
    if len(points) < 8 or len(surroundings) < 50:
        return taken, planes
    rng = np.random.default_rng(seed)
    rest = surroundings[rng.permutation(len(surroundings))[: config.most_points]]
    _, radius = extent(points)
    stands = False
    enough, enough_level = config.share * len(rest), config.level_share * len(rest)
    for _ in range(config.planes):
        if len(rest) < enough_level:
            break
        plane, near = _best_plane(rest, config.inlier * radius, config.rounds, rng)
        if near.sum() < enough_level:
            break
        upright = _upright(rest, plane, up, config.inlier * radius)
        is_upright = bool(abs(plane[:3] @ up) >= config.level and upright[1].sum() >= config.upright * near.sum())
        if is_upright:
            plane, near = upright
        held = int(near.sum())
        plane, off = _sharpened(rest[near], plane, config.sharp, fixed=is_upright)
        rest = rest[~near]
        height = points @ plane[:3] + plane[3]
        thick = 3 * 1.4826 * float(np.median(np.abs(off)))
        # Patches of a table around a thing make it seem large: how thick the table may be is a matter of the thing.
        thing = points[np.abs(height) > thick]
        thick = float(np.clip(thick, *(np.array(config.thickness) * (extent(thing)[1] if len(thing) > 8 else radius))))
        above, below = height > thick, height < -thick
        if (below & ~taken).sum() > (above & ~taken).sum():
            above, below, plane = below, above, -plane
        # What another plane has taken says nothing about this one: behind an object on a board there is a wall.
        count, left, right = (~taken).sum(), (above & ~taken).sum(), (below & ~taken).sum()
        held_own = (~above & ~below & ~taken).sum()
        floor = plane[:3] @ up >= config.level and right <= max(config.level_below * count, config.level_held * held_own)
        one_side = config.level_one_side if floor else config.one_side
        if left < max(one_side * (left + right), 1) or (held < enough and not floor):
            continue
        rises = floor and float(np.quantile(np.abs(height[above & ~taken]), 0.9)) >= config.rises * thick
        if left < (config.level_stays if rises else config.stays) * count or (floor and stands):
            continue
        stands = stands or bool(floor and (~above & ~taken).sum() > config.stands * count)
        taken |= ~above
        planes.append(plane)
    return taken, planes


def covered(planes: Sequence[Array], eyes: Array, up: Array, *, config: SupportConfig | None = None) -> bool:
    """Whether something lies beneath a level surface that goes on around it, where no photo could have seen it.

    Gaussians there are what the first visit guessed where a thing hid its own support.

    Args:
        planes: [4] each, around it, with normals towards it (see `find_support`).
        eyes: [C, 3] where the photos were taken.
        up: [3] unit, the vertical.
    """
    config = config or SupportConfig()
    along = [float(p[:3] @ up) for p in planes]
    above = [p for p, cosine in zip(planes, along, strict=True) if cosine <= -config.level and bool((eyes @ p[:3] + p[3] < 0).all())]
    return bool(above) and max(along) < config.level


def _upright(points: Array, plane: Array, up: Array, tolerance: float) -> tuple[Array, NDArray[np.bool_]]:
    """[4] the level plane, facing as another one does, with most points [S, 3] within the tolerance, and which these are."""
    normal = up * (np.sign(plane[:3] @ up) or 1.0)
    height = points @ normal
    ordered = np.sort(height)
    within = np.searchsorted(ordered, ordered + 2 * tolerance, side="right") - np.arange(len(ordered))
    middle = ordered[int(within.argmax())] + tolerance
    return np.append(normal, -middle), np.abs(height - middle) <= tolerance


def _sharpened(points: Array, plane: Array, share: float, *, fixed: bool = False) -> tuple[Array, Array]:
    """[4] the plane fitted again to those of its points [S, 3] that lie close together, and their distances.

    Things of the size of the tolerance stand on a table: they would lift it and make it thick.

    Args:
        fixed: it keeps its normal.
    """
    off = points @ plane[:3] + plane[3]
    while True:
        ordered = np.sort(off)
        width = 0.5 * (ordered[-1] - ordered[0])
        within = np.searchsorted(ordered, ordered + width, side="right") - np.arange(len(off))
        first = int(within.argmax())
        if width <= 0 or within[first] < max(share * len(off), 8):
            return plane, off
        points = points[(off >= ordered[first]) & (off <= ordered[first] + width)]
        better = np.append(plane[:3], -np.mean(points @ plane[:3])) if fixed else fitted_plane(points)
        plane = better * (np.sign(better[:3] @ plane[:3]) or 1.0)
        off = points @ plane[:3] + plane[3]


def fitted_plane(points: Array) -> Array:
    """[4] unit normal, of either sign, and offset of the plane that lies closest to points [S, 3] in the mean square."""
    middle = points.mean(0)
    normal = np.linalg.svd(points - middle, full_matrices=False)[2][2]
    return np.append(normal, -normal @ middle)


def _best_plane(points: Array, tolerance: float, rounds: int, rng: np.random.Generator) -> tuple[Array, NDArray[np.bool_]]:
    """[4] unit normal and offset of the plane with most points [S, 3] within the tolerance, and which these are."""
    triples = points[rng.integers(0, len(points), (rounds, 3))]
    normals = np.cross(triples[:, 1] - triples[:, 0], triples[:, 2] - triples[:, 0])
    lengths = np.linalg.norm(normals, axis=1)
    normals, triples = normals[lengths > 0] / lengths[lengths > 0, None], triples[lengths > 0]
    if len(normals) == 0:
        return np.zeros(4), np.zeros(len(points), bool)
    offsets = -(normals * triples[:, 0]).sum(1)
    counts = (np.abs(points @ normals.T + offsets) < tolerance).sum(0)
    plane = np.append(normals[counts.argmax()], offsets[counts.argmax()])
    near = np.abs(points @ plane[:3] + plane[3]) < tolerance
    for _ in range(3):
        better = fitted_plane(points[near])
        within = np.abs(points @ better[:3] + better[3]) < tolerance
        if within.sum() <= near.sum():
            break
        plane, near = better, within
    return plane, near


def surroundings_of(
    points: Array, views: Sequence[ComparedView], outlines: Sequence[NDArray[np.bool_]], *, config: SupportConfig | None = None
) -> Array:
    """[S, 3] what is seen around an object: surfaces next to its outline in any view and near to it in space.

    Args:
        points: [M, 3] the object's.
        views: the scene without it.
        outlines: [H, W] per view, the object's pixels.
    """
    config = config or SupportConfig()
    centre, radius = extent(points)
    out = [np.zeros((0, 3))]
    for view, outline in zip(views, outlines, strict=True):
        if not outline.any():
            continue
        camera = view.camera
        depth = camera.cam_from_world[2, :3] @ centre + camera.cam_from_world[2, 3]
        reach = camera.K[0, 0] * radius / max(float(depth), 1e-9)
        wide, narrow = (max(1, round(width * reach)) for width in (config.ring, config.gap))
        ring = grown(outline, wide) & ~grown(outline, narrow) & (view.alpha > 0.7)
        world = seen_points(view, ring)
        out.append(world[np.linalg.norm(world - centre, axis=1) < 2.5 * radius])
    return np.concatenate(out)


def extent(points: Array) -> tuple[Array, float]:
    """[3] middle of an object's points and the radius around it that holds 98 % of them."""
    centre = np.median(points, axis=0)
    return centre, float(np.quantile(np.linalg.norm(points - centre, axis=1), 0.98))
