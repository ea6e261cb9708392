"""Moving a visitor's camera: to a photo's pose, or to look at an object, in a short smooth flight."""

from __future__ import annotations

import time

import numpy as np
import viser
from numpy.typing import NDArray

from viewer.view_frame import DEFAULT_FOV_RAD, ViewPose, looking_at

Array = NDArray[np.float64]
FLIGHT_STEPS = 12
FLIGHT_SECONDS = 0.4


def fly_to(client: viser.ClientHandle, pose: ViewPose, up: Array, *, keep_fov: bool = False) -> None:
    """Move one visitor's camera to `pose`. Position, target and field of view are blended; the up direction jumps first.

    A visitor who leaves during the flight ends it silently: viser drops messages to closed connections.
    """
    camera = client.camera
    start_position, start_target, start_fov = np.array(camera.position), np.array(camera.look_at), float(camera.fov)
    fov = start_fov if keep_fov or not start_fov > 0 else pose.fov_rad
    camera.up_direction = pose.orbit_up(up)
    for step in range(1, FLIGHT_STEPS + 1):
        a = step / FLIGHT_STEPS
        a = a * a * (3 - 2 * a)
        with client.atomic():
            position = (1 - a) * start_position + a * pose.position
            target = (1 - a) * start_target + a * pose.look_at
            if np.linalg.norm(target - position) < 1e-6:
                target = target + 1e-3 * pose.view_from_camera[:3, 2]
            camera.position = position
            camera.look_at = target
            if fov > 0 and step == FLIGHT_STEPS:
                camera.fov = fov
        client.flush()
        time.sleep(FLIGHT_SECONDS / FLIGHT_STEPS)


def fly_to_object(client: viser.ClientHandle, centre: Array, radius: float, up: Array) -> None:
    """Look at a sphere from where the visitor stands, moved so that it fills about half of the picture's height."""
    camera = client.camera
    fov = float(camera.fov) if 0.1 < float(camera.fov) < 3.0 else DEFAULT_FOV_RAD
    away = np.array(camera.position) - centre
    norm = float(np.linalg.norm(away))
    away = away / norm if norm > 1e-6 else np.asarray(up, dtype=np.float64)
    distance = max(radius, 0.05) / np.tan(fov / 2) * 2.2
    # A visitor who already stands close enough is only turned around; one who is far comes nearer.
    pose = looking_at(centre, away, float(np.clip(norm, 0.8 * distance, distance)), up, fov)
    fly_to(client, pose, up, keep_fov=True)
