"""Which part of the revealed surfaces goes when an object turns out never to have left: the part that was painted into its hole."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.chronology import Chronology, Presence
from ltgs.core.events import SAME_POSE, step_at
from ltgs.core.gaussians import template_radius
from ltgs.core.scene import Scene
from ltgs.core.se3 import rotation_angle_deg
from ltgs.objects.hull import in_image, project
from ltgs.render import render

Mask = NDArray[np.bool_]
RIM = 0.006
"""Holes are this much wider than the object, relative to the longer image side (as `ltgs.objects.carve.hole_masks` makes them)."""


def surfaces_without(scene: Scene, object_id: int, *, backend: str = "auto") -> dict[int, Tensor]:
    """What stays of the revealed surfaces if an object had never left a hole: surface id to [N] bool.

    A surface fills the holes of everything that left at its visit, seen through that visit's photos. If the object alone
    left then, the whole surface goes. Else each of its Gaussians belongs to the first photo in which it lies in a hole; it
    goes if the object's own outline covers it there, since what that photo shows there is the object itself.
    """
    chronology = scene.chronology
    stays: dict[int, Tensor] = {}
    for time in departures(chronology, object_id):
        others = [k for k, t in chronology.templates.items() if k != object_id and t.kind == "object" and _left(chronology, k, time)]
        cameras = scene.visits[time].cameras
        for k, template in chronology.templates.items():
            # Surfaces that were drawn before complete what no photo had seen well; nothing left there.
            came = chronology.tracks[k].presence[time - 1] == Presence.ABSENT
            if template.kind == "surface" and template.created_at == time and came:
                pose = chronology.tracks[k].world_from_object[time]
                points = template.gaussians.means.double().numpy() @ pose[:3, :3].T + pose[:3, 3]
                gone = np.ones(len(points), dtype=bool)
                if others:
                    gone = _in_hole(chronology, object_id, others, time, cameras, points, backend)
                stays[k] = torch.from_numpy(~gone)
    return stays


def departures(chronology: Chronology, object_id: int) -> list[int]:
    """Times at which an object was no longer where it had been: removed or moved."""
    return [t for t in range(1, chronology.num_times) if _left(chronology, object_id, t)]


def _left(chronology: Chronology, object_id: int, time: int) -> bool:
    step = step_at(chronology.tracks[object_id], time)
    if step.before == Presence.ABSENT or step.last is None:
        return False
    if step.pose is None:
        return True
    shift = np.linalg.norm(step.pose[:3, 3] - step.last[:3, 3])
    radius = template_radius(chronology.templates[object_id].gaussians)
    turn = np.radians(rotation_angle_deg(step.pose[:3, :3] @ step.last[:3, :3].T))
    return bool(shift + radius * turn > SAME_POSE * radius)


def _in_hole(
    chronology: Chronology, object_id: int, others: Sequence[int], time: int, cameras: Sequence[Camera],
    points: NDArray[np.float64], backend: str,
) -> Mask:
    """[N] bool: points whose first photo with a hole there has the object's own hole there."""
    gone, settled = np.zeros(len(points), dtype=bool), np.zeros(len(points), dtype=bool)
    for camera in cameras:
        own = _outline(chronology, object_id, time, camera, backend)
        holes = [own, *(_outline(chronology, k, time, camera, backend) for k in others)]
        uv, depth = project(camera, points)
        inside = in_image(camera, uv, depth) & ~settled
        rows, columns = uv[inside, 1].astype(int), uv[inside, 0].astype(int)
        index = np.flatnonzero(inside)
        gone[index] = own[rows, columns]
        settled[index] = np.any(holes, axis=0)[rows, columns]
    return gone


def _outline(chronology: Chronology, object_id: int, time: int, camera: Camera, backend: str) -> Mask:
    """[H, W] bool: where an object stood before `time`, as wide as the hole it was taken to leave."""
    pose = torch.as_tensor(chronology.tracks[object_id].world_from_object[time - 1], dtype=torch.float32)
    placed = chronology.templates[object_id].gaussians.transformed(pose)
    with torch.no_grad():
        alpha = render(placed, stack_cameras([camera]), backend=backend, with_depth=False).alpha[0, ..., 0]  # type: ignore[arg-type]
    rim = max(1, round(RIM * max(camera.width, camera.height)))
    kernel = np.ones((2 * rim + 1,) * 2, np.uint8)
    return cv2.dilate((alpha.numpy() > 0.1).astype(np.uint8), kernel) > 0
