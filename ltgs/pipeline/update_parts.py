"""Small pieces of an update: an object that can explain new content, its event, and what is drawn without some objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.change.harmonise import ColourFit
from ltgs.core.chronology import Appearance, Chronology, Event
from ltgs.core.gaussians import Gaussians
from ltgs.core.se3 import rotation_angle_deg
from ltgs.core.views import ComparedView
from ltgs.objects.associate import Match
from ltgs.objects.backing import Model
from ltgs.objects.hull import HullInstance
from ltgs.objects.hypothesis import UncertaintyConfig

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Cutting:
    """Gaussians that are cut out of the place now."""

    gaussians: Gaussians
    """In the world."""
    members: Tensor
    """Indices into the background of those that come from there."""
    surface_rows: Mapping[int, Tensor] = field(default_factory=dict)
    """Id of a surface to the rows of its Gaussians among them."""


@dataclass(frozen=True)
class KnownObject:
    """An object that can explain new content."""

    object_id: int
    template: Gaussians
    last_pose: Array
    left: bool
    """It left its place at this visit (else it was absent already)."""
    model: Model
    """The template with a guess of its unseen back: what is registered."""
    cut: Cutting | None = None
    """What it is made of, if it is cut out of the place now."""
    footing: Cutting | None = None
    """What of the place went with it, in its shadow, without being part of it."""


def place(known: KnownObject, match: Match) -> Gaussians:
    """An object's template in the world where it was found."""
    return known.template.transformed(torch.as_tensor(match.hypothesis.world_from_object, dtype=torch.float32))


def sinks(known: KnownObject, match: Match, up: Array, most: float) -> bool:
    """Whether an object was found beneath the place that it left: in its own hole no known surface keeps it above the ground.

    Args:
        up: [3] unit, the vertical.
        most: how much lower its lowest points may be, relative to its radius.
    """
    if not known.left:
        return False
    means = known.template.means.double().numpy()
    old, new = (means @ p[:3, :3].T + p[:3, 3] for p in (known.last_pose, match.hypothesis.world_from_object))
    # An object that tips over comes down with its middle, but not with its lowest points.
    sunk = float(np.quantile(old @ up, 0.05) - np.quantile(new @ up, 0.05))
    shift = np.median(new, axis=0) - np.median(old, axis=0)
    return sunk > most * known.model.radius and float(np.linalg.norm(shift - shift @ up * up)) < known.model.radius


def with_doubt(known: KnownObject, match: Match, sure: float, spread: UncertaintyConfig) -> Match:
    """A match; where it explains little, it may be turned in any way.

    Args:
        sure: mean drop of the change score from which on a pose is believed.
    """
    if match.turn_guessed or match.explained is None or match.explained >= sure:
        return match
    return match.with_guessed_turn(known.model.radius, config=spread)


def motion_event(time: int, object_id: int, known: KnownObject, match: Match) -> Event:
    pose = match.hypothesis.world_from_object
    shift = float(np.linalg.norm(pose[:3, 3] - known.last_pose[:3, 3]))
    turn = rotation_angle_deg(pose[:3, :3] @ known.last_pose[:3, :3].T)
    note = "rotation ambiguous: symmetric or too few pixels" if match.hypothesis.ambiguous else ""
    if match.turn_guessed:
        note = "it shows sides that nobody saw before, so its rotation is a guess"
    if match.instance.num_views < 2:
        note = note or "a single photo shows it"
    return Event(time, "moved" if known.left else "returned", object_id, shift, turn, uncertain=bool(note), note=note)


def drawn_without(chronology: Chronology, time: int, touched: set[int], *, lit: bool = False) -> Gaussians:
    """What is drawn at a time except the touched objects; `lit` in that time's light, else in the first visit's."""
    state = chronology.state_at(time)
    keep = torch.ones(len(state.gaussians), dtype=torch.bool)
    for object_id in touched:
        keep &= state.object_ids != object_id
    return (state.lit() if lit else state.gaussians)[keep].detach()


def owner_of(
    instance: HullInstance, standing: Sequence[tuple[int, Array, float, float]], own_radius: float
) -> int | None:
    """The object that an instance of new content is only a leftover of, if any.

    Args:
        standing: per object its id, centre [3], radius, and the largest leftover it may have (radius of the instance).
        own_radius: distance of the centres, relative to the object's radius, up to which content is its leftover.
    """
    reach = float(np.quantile(np.linalg.norm(instance.points - instance.centroid, axis=1), 0.9))
    for object_id, centre, radius, largest in standing:
        if np.linalg.norm(instance.centroid - centre) < own_radius * radius and reach <= largest:
            return object_id
    return None


def own_exposures(fits: Sequence[ColourFit], light: Appearance) -> Array:
    """[P, 3, 4] what brings a photo's own colours from the visit's light: affine_photo = exposure after appearance.

    The identity for photos whose own colours are not known.
    """
    inverse = np.linalg.pinv(np.vstack([light.colour, [0, 0, 0, 1]]))
    return np.array([(np.vstack([f.affine, [0, 0, 0, 1]]) @ inverse)[:3] if f.known else np.eye(3, 4) for f in fits])


def fit_quality(before: Sequence[ComparedView], after: Sequence[ComparedView]) -> dict[str, float]:
    """Figures of a visit's photos against the scene of the visit before and against its own."""
    def psnr(views: Sequence[ComparedView]) -> float:
        return float(np.mean([-10 * np.log10(max(float(np.mean((v.shown - v.photo) ** 2)), 1e-10)) for v in views]))

    return {
        "psnr_before": psnr(before), "psnr_after": psnr(after),
        "changed_share_before": float(np.mean([v.mask.mean() for v in before])),
        "changed_share_after": float(np.mean([v.mask.mean() for v in after])),
    }
