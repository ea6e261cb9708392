"""6-DoF pose of a known object in new photos by render-and-compare: a coarse sweep, scouts, then descent to the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ltgs.core.se3 import axis_rotations, make_rigid, rotation_angle_deg, so3_exp
from ltgs.core.views import ComparedView
from ltgs.objects.backing import Model
from ltgs.objects.crops import CostConfig, Crop, centred_on_masks, empty_cost, make_crops, pose_costs, unseen_share
from ltgs.objects.ground import GroundConfig, Stand
from ltgs.objects.hull import HullInstance
from ltgs.objects.hypothesis import PoseHypothesis, UncertaintyConfig, covariance_at, moved_by, spread_of_ties

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RegisterConfig:
    """Render-and-compare."""

    upright: int = 48
    """Rotations of the coarse sweep about the vertical, from the orientation the object had."""
    tipped: int = 18
    """Turns about the vertical of an object that fell over, for each of the four sides that it can fall on."""
    free_rotations: int = 40
    """Rotations spread over all of SO(3)."""
    turns: int = 36
    """Turns of the best pose about the vertical, and about the object's long axis if it lies, that are compared in the end:
    the colours of a nearly symmetric object hardly tell them apart at the resolution of the sweep."""
    long: float = 1.5
    """Length relative to the width from which an object may also roll about its long axis: a cup would turn upside down."""
    same_tilt_deg: float = 30.0
    """Sides that no photo has seen are excused for poses whose vertical differs by less from that of the best."""
    most_unseen: float = 0.9
    """The turn of a pose that shows more than this of sides which no photo had seen is a guess: so had two of three wrong turns, and one of
    eleven right ones."""
    num_turned: int = 8
    """Best of these turns that are scouted as well."""
    coarse_px: int = 40
    """Longer side of the crops of the coarse sweep, pixels."""
    fine_px: int = 96
    """Longer side of the crops of the refinement, pixels."""
    num_eased: int = 48
    """Best coarse poses that take a few steps at that resolution: half a radius off, a right turn looks no better than many wrong ones."""
    ease_steps: int = 6
    """Adam steps of these."""
    num_scouted: int = 16
    """Best of them that are refined a little, to see which deserve more."""
    scout_px: int = 64
    """Longer side of their crops, pixels."""
    scout_steps: tuple[int, int] = (8, 16)
    """Adam steps of that first refinement: of all of them, and of the better ones."""
    num_hopeful: int = 4
    """How many these are."""
    num_refined: int = 3
    """Best scouted poses that are refined to the end."""
    steps: int = 40
    """Adam steps of the last refinement."""
    rate_translation: float = 0.03
    """Adam rate of the translation relative to the object's radius."""
    rate_rotation: float = 0.04
    """Adam rate of the rotation, radians."""
    cost: CostConfig = field(default_factory=CostConfig)
    """How a drawn object is judged."""
    uncertainty: UncertaintyConfig = field(default_factory=UncertaintyConfig)
    """Covariances."""
    ground: GroundConfig = field(default_factory=GroundConfig)
    """What an object stands on that a single photo shows."""
    symmetry_tie: float = 1.10
    """A refined pose whose cost is within this factor of the best but turned by more than 20 degrees marks a symmetry."""


@dataclass(frozen=True)
class Sweep:
    """Poses of one object at one instance and how well each explains the crops."""

    starts: Array
    """[P, 4, 4] world_from_object, to start a refinement from."""
    costs: Array
    """[P] mean robust cost per pixel."""
    cost_empty: float
    """The same crops with nothing drawn."""

    @property
    def gain(self) -> float:
        """Share of the cost that the best pose explains; may be negative."""
        return 1 - float(self.costs.min()) / max(self.cost_empty, 1e-12)


def sweep_template(
    model: Model,
    views: Sequence[ComparedView],
    instance: HullInstance,
    *,
    last_rotation: Array,  # [3, 3] orientation at the last known time
    up: Array,  # [3] unit, world direction in which objects stand
    free: Array,  # [R, 3, 3] orientations from all of SO(3) that are tried as well
    config: RegisterConfig | None = None,
    backend: str = "auto",
) -> Sweep | None:
    """Score many poses of an object inside an instance of new content, at low resolution.

    Returns:
        None if no view shows the instance well enough to compare.
    """
    config, model = config or RegisterConfig(), model.plain
    coarse = make_crops(views, instance, model.radius, config.coarse_px, config.cost.margin)
    if not coarse or len(model) < 4:
        return None
    # Medians meet, not origins: a handle moves the middle of the box but hardly the median.
    middle = model.seen.means.median(0).values
    rotations = _start_rotations(model.seen.means.double().numpy(), last_rotation, up, free, config)
    starts = np.array([make_rigid(r, instance.centroid - r @ middle.double().numpy()) for r in rotations])
    stand = _stand(model, views, instance, config)
    with torch.no_grad():
        chunks = []
        for part in np.array_split(starts, max(1, len(starts) // 64)):
            poses = torch.as_tensor(part, dtype=torch.float32)
            poses = stand.cast(poses, middle) if stand is not None else poses
            poses = centred_on_masks(model, poses, coarse, middle=middle, backend=backend)
            poses = stand.cast(poses, middle) if stand is not None else poses
            chunks.append((poses, pose_costs(model, poses, coarse, config.cost, backend)))
    starts = torch.cat([c[0] for c in chunks]).double().numpy()
    costs = torch.cat([c[1] for c in chunks]).double().numpy()
    return Sweep(starts, costs, empty_cost(coarse, config.cost))


def scout_template(
    model: Model,
    views: Sequence[ComparedView],
    instance: HullInstance,
    sweep: Sweep,
    *,
    config: RegisterConfig | None = None,
    backend: str = "auto",
) -> Sweep:
    """The best poses of a sweep, refined a little: whether an object can be at an instance shows here already."""
    config, model = config or RegisterConfig(), model.plain
    coarse, crops = _searched(model, views, instance, config)
    first = np.argsort(sweep.costs, kind="stable")[: config.num_eased]
    stand = _stand(model, views, instance, config)
    found = _scouted(model, sweep.starts[first], coarse, crops, stand, config.num_scouted, config, backend)
    return Sweep(np.array([p for p, _ in found]), np.array([c for _, c in found]), empty_cost(crops, config.cost))


def register_template(
    model: Model,
    views: Sequence[ComparedView],
    instance: HullInstance,
    scouted: Sweep,
    *,
    config: RegisterConfig | None = None,
    backend: str = "auto",
) -> PoseHypothesis:
    """Refine the best scouted poses to the end."""
    config, model = config or RegisterConfig(), model.plain
    best = _spread_best(scouted.starts, scouted.costs, config.num_refined, apart_deg=10.0)
    fine = make_crops(views, instance, model.radius, config.fine_px, config.cost.margin)
    stand = _stand(model, views, instance, config)
    return _hypothesis(model, _refine(model, scouted.starts[best], fine, config.steps, config, backend, stand), fine, config, backend)


def compare_turns(
    model: Model,
    views: Sequence[ComparedView],
    instance: HullInstance,
    found: PoseHypothesis,
    *,
    up: Array,  # [3] unit, world direction in which objects stand
    config: RegisterConfig | None = None,
    backend: str = "auto",
) -> PoseHypothesis:
    """The better of a pose and its best turns about the vertical and about the object's long axis.

    Only here sides that no photo has seen are excused: in a wider search they would fit many places.
    """
    config = config or RegisterConfig()
    coarse, scout = _searched(model, views, instance, config)
    fine = make_crops(views, instance, model.radius, config.fine_px, config.cost.margin)
    best = found.world_from_object
    turns = _turns(model, best, up, scout, config, backend)
    apart = np.array([rotation_angle_deg(p[:3, :3].T @ best[:3, :3]) > 12 for p in turns.starts])
    starts, costs = turns.starts[apart], turns.costs[apart]
    stand = _stand(model, views, instance, config)
    scouted = _scouted(model, starts, coarse, scout, stand, config.num_turned, config, backend, apart_deg=15.0)
    known = _excused(model, found.ranked, up, fine, config, backend)
    last = [pose for pose, _ in scouted[: config.num_refined]] + ([known[0][0]] if model.sides is not None else [])
    final = _refine(model, np.array(last), fine, config.steps, config, backend, stand)
    ranked = sorted([*known, *final], key=lambda r: r[1])
    # How fast the cost rises along the turns says how well the photos tell them apart; refined, all would cost a little less.
    scale = min((cost for _, cost in final), default=np.inf) / max(float(costs.min(initial=np.inf)), 1e-12)
    better = _hypothesis(model, ranked, fine, config, backend, [(p, float(c) * scale) for p, c in zip(starts, costs, strict=True)])
    return replace(better, unseen=unseen_share(model, better.world_from_object, fine, backend))


def _tilt_deg(pose: Array, other: Array, up: Array) -> float:
    """Angle between the verticals of two poses [3 or 4, 3 or 4], degrees."""
    return float(np.rad2deg(np.arccos(np.clip(pose[:3, :3].T @ up @ (other[:3, :3].T @ up), -1, 1))))


def _excused(
    model: Model, ranked: Sequence[tuple[Array, float]], up: Array, crops: Sequence[Crop], config: RegisterConfig, backend: str
) -> Sequence[tuple[Array, float]]:
    """Poses of a plain model, best first, with their costs by what photos have seen of it, and sorted by these.

    Poses that are tilted against the best keep their costs relative to its: excused for what nobody saw of it, a cup upside down is
    as good as an upright one.
    """
    if model.sides is None:
        return ranked
    (best, plain), poses = ranked[0], np.array([pose for pose, _ in ranked])
    with torch.no_grad():
        costs = pose_costs(model, torch.as_tensor(poses, dtype=torch.float32), crops, config.cost, backend).double().numpy()
    tilt = np.array([_tilt_deg(pose, best, up) for pose in poses])
    others = np.array([cost for _, cost in ranked]) * costs[0] / max(plain, 1e-12)
    costs = np.where(tilt < config.same_tilt_deg, costs, others)
    return sorted(zip(poses, costs.tolist(), strict=True), key=lambda r: r[1])


def _hypothesis(
    model: Model, ranked: Sequence[tuple[Array, float]], fine: Sequence[Crop], config: RegisterConfig, backend: str,
    others: Sequence[tuple[Array, float]] = (),
) -> PoseHypothesis:
    """The best of some refined poses (best first); a clearly turned one that is nearly as good marks a symmetry.

    Args:
        others: more poses and their costs that only widen the covariance.
    """
    pose, cost = ranked[0]
    ambiguous = any(
        c < cost * config.symmetry_tie and rotation_angle_deg(p[:3, :3].T @ pose[:3, :3]) > 20 for p, c in ranked[1:]
    )
    covariance = covariance_at(model, pose, fine, config.cost, config.uncertainty, backend)
    one_sided = model.radius if model.num_guessed else 0.0
    covariance += spread_of_ties([*ranked, *others], one_sided, config.uncertainty)
    return PoseHypothesis(pose, *_strict_costs(model, pose, fine, config, backend), covariance, ambiguous, tuple(ranked))


def _strict_costs(model: Model, pose: Array, crops: Sequence[Crop], config: RegisterConfig, backend: str) -> tuple[float, float]:
    """Cost of the crops with the object drawn at a pose [4, 4], and with nothing drawn.

    Whether the object is there at all must not be decided by sides that nobody saw being excused; nor does a bad guess speak
    against it.
    """
    strict, at = replace(config.cost, guess_discount=0.0), torch.as_tensor(pose, dtype=torch.float32)[None]
    with torch.no_grad():
        shown = min(float(pose_costs(m, at, crops, strict, backend)[0]) for m in (model, Model(model.seen)))
    return shown, empty_cost(crops, strict)


def gain_around(
    model: Model, pose: Array, views: Sequence[ComparedView], instance: HullInstance, *, config: RegisterConfig | None = None,
    backend: str = "auto",
) -> float:
    """Share of the cost around an instance that drawing the object at a pose [4, 4] explains; 0 if no view shows it."""
    config = config or RegisterConfig()
    crops = make_crops(views, instance, model.radius, config.fine_px, config.cost.margin)
    if not crops:
        return 0.0
    shown, empty = _strict_costs(model, pose, crops, config, backend)
    return 1 - shown / max(empty, 1e-12)


def gain_in_place(
    model: Model, pose: Array, views: Sequence[ComparedView], *, config: RegisterConfig | None = None, backend: str = "auto"
) -> float | None:
    """Share of the cost around an object that drawing it at a given pose [4, 4] explains; None if no view shows the place."""
    config = config or RegisterConfig()
    points = model.seen.means.double().numpy() @ pose[:3, :3].T + pose[:3, 3]
    nowhere = tuple(np.zeros(v.mask.shape, bool) for v in views)
    crops = make_crops(views, HullInstance(points, nowhere, len(views)), model.radius, config.fine_px, config.cost.margin)
    if not crops:
        return None
    with torch.no_grad():
        cost = float(pose_costs(model, torch.as_tensor(pose, dtype=torch.float32)[None], crops, config.cost, backend)[0])
    return 1 - cost / max(empty_cost(crops, config.cost), 1e-12)


def _start_rotations(means: Array, last_rotation: Array, up: Array, free: Array, config: RegisterConfig) -> Array:
    """[R, 3, 3]: turned about the vertical from the last orientation, the same tipped over, and the free ones."""
    falls = [so3_exp(torch.as_tensor(axis * np.pi / 2)).numpy() for side in _sides(means @ last_rotation.T, up) for axis in (side, -side)]
    tipped = [axis_rotations(up, config.tipped) @ fall @ last_rotation for fall in falls]
    return np.concatenate([axis_rotations(up, config.upright) @ last_rotation, *tipped, free])


def _sides(points: Array, up: Array) -> Array:
    """[2, 3] level unit directions along the sides of what stands upright (of the smallest rectangle around it, seen from above)."""
    first = np.cross(up, np.eye(3)[np.argmin(np.abs(up))])
    first /= np.linalg.norm(first)
    level = np.stack([first, np.cross(up, first)])
    flat = points @ level.T
    middle = np.median(flat, axis=0)
    reach = np.linalg.norm(flat - middle, axis=1)
    angle = np.deg2rad(cv2.minAreaRect((flat - middle)[reach <= np.quantile(reach, 0.95)].astype(np.float32))[2])
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) @ level


def _turns(model: Model, pose: Array, up: Array, crops: Sequence[Crop], config: RegisterConfig, backend: str) -> Sweep:
    """A pose turned about the vertical and about the object's own long axis."""
    means = model.seen.means.double().numpy()
    middle = np.median(means, axis=0)
    _, spread, axes_of = np.linalg.svd(means - middle, full_matrices=False)
    long_axis = pose[:3, :3] @ axes_of[0]
    lies = abs(float(long_axis @ up)) <= 0.9 and spread[0] >= config.long * spread[1]
    axes = [up, long_axis] if lies else [up]
    rotations = np.concatenate([axis_rotations(axis, config.turns) for axis in axes]) @ pose[:3, :3]
    centre = pose[:3, :3] @ middle + pose[:3, 3]
    starts = torch.as_tensor(np.array([make_rigid(r, centre - r @ middle) for r in rotations]), dtype=torch.float32)
    with torch.no_grad():
        at = centred_on_masks(model, starts, crops, middle=torch.as_tensor(middle, dtype=torch.float32), backend=backend, rounds=1)
        # Centring helps turns whose outline differs; where the mask is cut off it harms.
        both = torch.stack([at, starts])
        costs = pose_costs(model, both.flatten(0, 1), crops, config.cost, backend).reshape(len(both), -1)
        lowest, which = costs.min(0)
    better = both[which, torch.arange(len(starts))]
    return Sweep(better.double().numpy(), lowest.double().numpy(), empty_cost(crops, config.cost))


def _spread_best(poses: Array, costs: Array, count: int, *, apart_deg: float = 20.0) -> list[int]:
    """Indices of the best poses that are turned by more than `apart_deg` against better ones."""
    kept: list[int] = []
    for i in np.argsort(costs):
        if all(rotation_angle_deg(poses[i, :3, :3].T @ poses[k, :3, :3]) > apart_deg for k in kept):
            kept.append(int(i))
        if len(kept) == count:
            break
    return kept


def _searched(model: Model, views: Sequence[ComparedView], instance: HullInstance, config: RegisterConfig) -> tuple[list[Crop], list[Crop]]:
    """The crops of the coarse sweep and of the scouts."""
    coarse, scout = (make_crops(views, instance, model.radius, px, config.cost.margin) for px in (config.coarse_px, config.scout_px))
    return coarse, scout


def _scouted(
    model: Model, starts: Array, coarse: Sequence[Crop], crops: Sequence[Crop], stand: Stand | None, count: int, config: RegisterConfig,
    backend: str, *, apart_deg: float = 20.0,
) -> list[tuple[Array, float]]:
    """The hopeful ones of some poses [P, 4, 4], and their costs, best first: all are eased, the best `count` of them refined a little."""
    if len(starts) == 0:
        return []
    eased = _refine(model, starts, coarse, config.ease_steps, config, backend, stand)
    poses, costs = np.array([pose for pose, _ in eased]), np.array([cost for _, cost in eased])
    picks = _spread_best(poses, costs, count, apart_deg=apart_deg)
    found = _refine(model, poses[picks], crops, config.scout_steps[0], config, backend, stand)
    hopeful = np.array([pose for pose, _ in found[: config.num_hopeful]])
    return _refine(model, hopeful, crops, config.scout_steps[1], config, backend, stand)


def _stand(model: Model, views: Sequence[ComparedView], instance: HullInstance, config: RegisterConfig) -> Stand | None:
    """What holds an object on the ground at an instance."""
    return Stand.of(instance, views, model, config=config.ground)


def _refine(
    model: Model, starts: Array, crops: Sequence[Crop], steps: int, config: RegisterConfig, backend: str, stand: Stand | None
) -> list[tuple[Array, float]]:
    """Descend from every start [P, 4, 4] on its own, all in one batch; the best pose of each and its cost, best first.

    Args:
        stand: what the object must stand on, if anything.
    """
    if len(starts) == 0:
        return []
    poses = torch.as_tensor(starts, dtype=torch.float32)
    shift = torch.zeros(len(poses), 3, requires_grad=True)
    turn = torch.zeros(len(poses), 3, requires_grad=True)
    adam = torch.optim.Adam([
        {"params": [shift], "lr": config.rate_translation * model.radius}, {"params": [turn], "lr": config.rate_rotation},
    ])
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps, eta_min=0.0)
    best, best_costs = poses.clone(), torch.full((len(poses),), float("inf"))
    for _ in range(steps):
        moved = moved_by(poses, torch.cat([shift, turn], 1))
        moved = stand.settled(moved) if stand is not None else moved
        costs = pose_costs(model, moved, crops, config.cost, backend)
        better = costs.detach() < best_costs
        best[better], best_costs[better] = moved.detach()[better], costs.detach()[better]
        if not costs.requires_grad:
            break
        adam.zero_grad()
        costs.sum().backward()
        adam.step()
        decay.step()
    found = zip(best.double().numpy(), best_costs.tolist(), strict=True)
    return sorted(found, key=lambda item: item[1])
