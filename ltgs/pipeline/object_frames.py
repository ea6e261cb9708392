"""How the template of one object lies in the frame of another that is the same thing, and whether two look alike in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.chronology import ObjectTrack, Presence, Template
from ltgs.core.gaussians import Gaussians, template_radius
from ltgs.core.scene import Scene
from ltgs.core.se3 import invert_rigid, make_rigid
from ltgs.core.views import ComparedView
from ltgs.objects.associate import AssociateConfig, match_instances
from ltgs.objects.backing import Model
from ltgs.objects.hull import HullInstance
from ltgs.objects.register import RegisterConfig, gain_in_place
from ltgs.poses.gauge import up_direction
from ltgs.render import render

Array = NDArray[np.float64]
GREY = 0.5
"""Colour behind the pictures of single templates; no object blends into it as a whole."""
SAME_PLACE = 0.5
"""Middles of two templates closer than this, relative to the larger radius, are at one place: they were built from few photos."""
FAR = 1e9
"""Depth of that background, scene units."""


@dataclass
class _Candidate:
    """The object that is registered."""

    object_id: int
    model: Model
    last_pose: Array


@dataclass(frozen=True)
class FrameChange:
    """One template told in the frame of another."""

    other_from_object: Array
    """[4, 4]"""
    how: str
    """In words, for the user."""


def scene_up(scene: Scene) -> Array:
    """[3] vertical direction of the world, from how the first visit's photos were held."""
    poses = [p.camera.cam_from_world for p in scene.photos(time=0) if p.camera is not None]
    return up_direction(np.array(poses)) if poses else np.array([0.0, 0.0, 1.0])


def frame_change(
    scene: Scene, object_id: int, other: int, *, register: RegisterConfig, associate: AssociateConfig, seed: int = 0,
    backend: str = "auto",
) -> FrameChange:
    """Find how the template of `object_id` has to lie where `other` first stood to be the same thing.

    Equal templates have equal frames. Else the one is registered to pictures of the other, taken from the photos' places
    when the other was first seen. Where that explains too little, or there are no such photos, the object stood still if the
    other stood where it stands, else their middles meet and it is taken to have kept its last orientation.
    """
    chronology = scene.chronology
    own, its = chronology.templates[object_id].gaussians, chronology.templates[other].gaussians
    if all(torch.equal(a, b) for a, b in zip(own.tensors().values(), its.tensors().values(), strict=True)):
        return FrameChange(np.eye(4), "both have the same template")
    track = chronology.tracks[other]
    time = first_seen(track)
    world_from_other = track.world_from_object[time]
    last = _last_pose(chronology.tracks[object_id], time)
    # The middles meet, so that an origin at the rim of a handle does not shift the object.
    start = make_rigid(last[:3, :3], _middle(its, world_from_other) - last[:3, :3] @ _middle(own, np.eye(4)))
    size = max(template_radius(own), template_radius(its))
    stood = bool(np.linalg.norm(start[:3, 3] - last[:3, 3]) <= SAME_PLACE * size)
    views, instance = pictures_of(its, world_from_other, scene.visits[time].cameras, backend=backend)
    matches, _ = match_instances(
        {object_id: _Candidate(object_id, Model(own), start)}, [instance] if views else [], views, up=scene_up(scene),
        config=associate, register=register, rng=np.random.default_rng(seed), backend=backend,
    )
    if matches:
        found = matches[0].hypothesis
        doubt = ", its rotation is ambiguous" if found.ambiguous else ""
        how = f"registered to object {other}, {found.gain:.0%} explained{doubt}"
        return FrameChange(invert_rigid(world_from_other) @ found.world_from_object, how)
    where = "it is taken to have stood still" if stood else "it is placed there as it stood before"
    how = f"object {object_id} does not explain what object {other} looked like; {where}"
    return FrameChange(invert_rigid(world_from_other) @ (last if stood else start), how)


def first_seen(track: ObjectTrack) -> int:
    """First time an object was present; if it never was, the first at which it may have been.

    Raises:
        ValueError: it was absent all the time.
    """
    for wanted in (Presence.PRESENT, Presence.UNKNOWN):
        times = np.flatnonzero(track.presence == wanted)
        if len(times):
            return int(times[0])
    raise ValueError(f"object {track.object_id} was absent all the time.")


def pictures_of(
    template: Gaussians, world_from_object: Array, cameras: Sequence[Camera], *, backend: str = "auto"
) -> tuple[list[ComparedView], HullInstance]:
    """An object alone before a grey wall, as photos of these cameras, and the instance that it is there.

    Cameras that do not see it are left out; all pictures have the light of the first visit.
    """
    placed = template.transformed(torch.as_tensor(world_from_object, dtype=torch.float32))
    views, masks = [], []
    for camera in cameras:
        with torch.no_grad():
            out = render(placed, stack_cameras([camera]), backend=backend, with_depth=False)  # type: ignore[arg-type]
        alpha = out.alpha[0, ..., 0].numpy()
        mask = alpha > 0.5
        if not mask.any():
            continue
        photo = (out.rgb[0].numpy() + GREY * (1 - alpha[..., None])).clip(0, 1).astype(np.float32)
        ones = np.ones(mask.shape, np.float32)
        views.append(ComparedView(
            camera, photo, np.full_like(photo, GREY), np.eye(3, 4), np.ones_like(photo), ones, FAR * ones, mask.astype(np.float32),
            mask, ~mask, 1e-2,
        ))
        masks.append(mask)
    return views, HullInstance(placed.means.double().numpy(), tuple(masks), len(views))


def looks_alike(
    one: Template, pose_one: Array, two: Template, pose_two: Array, cameras: Sequence[Camera], *, register: RegisterConfig,
    backend: str = "auto",
) -> float:
    """Share of a picture of `one` that drawing `two` instead explains, <= 1; negative if the wall alone is closer.

    NaN if no camera sees `one`.
    """
    views, _ = pictures_of(one.gaussians, pose_one, cameras, backend=backend)
    gain = gain_in_place(Model(two.gaussians), pose_two, views, config=register, backend=backend) if views else None
    return float("nan") if gain is None else gain


def _middle(template: Gaussians, pose: Array) -> Array:
    """[3] median of the centres in the world."""
    if not len(template):
        return pose[:3, 3]
    return pose[:3, :3] @ template.means.median(0).values.double().numpy() + pose[:3, 3]


def _last_pose(track: ObjectTrack, time: int) -> Array:
    """[4, 4] pose at the last time before `time` that has one, else at the first after it."""
    known = np.flatnonzero(track.presence != Presence.ABSENT)
    before = known[known < time]
    if len(known) == 0:
        return np.eye(4)
    return track.world_from_object[before[-1] if len(before) else known[0]]
