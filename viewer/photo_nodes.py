"""The photos of each visit as small pictures standing where they were taken; a click flies there."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
import viser
from numpy.typing import NDArray

from ltgs.core.scene import PhotoRecord, Scene
from ltgs.core.se3 import matrix_to_quat
from ltgs.errors import LtgsError
from viewer.view_frame import VIEW_RADIUS, ViewFrame, ViewPose, pose_of_camera, sample_points, vertical_fov

log = logging.getLogger("ltgs.viewer")
THUMBNAIL_SIDE = 160
"""Longer side of a photo shown in the scene, pixels; about 6 kB each as JPEG."""
MAX_FRUSTA = 300
"""Photos drawn in total; more would hide the place. Every visit gets an even share."""
ImageReader = Callable[[str], NDArray[Any]]


def thumbnail(image: NDArray[Any], side: int = THUMBNAIL_SIDE) -> NDArray[np.uint8]:
    """[h, w, 3] uint8 copy of an [H, W, 3] picture (uint8, or float in [0, 1]) with a longer side of at most `side`."""
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] < 3:
        raise ValueError(f"a photo must have shape [H, W, 3], got {list(pixels.shape)}.")
    pixels = pixels[..., :3]
    if pixels.dtype != np.uint8:
        pixels = (np.clip(pixels.astype(np.float32), 0, 1) * 255).round().astype(np.uint8)
    factor = side / max(pixels.shape[:2])
    if factor < 1:
        size = (max(1, round(pixels.shape[1] * factor)), max(1, round(pixels.shape[0] * factor)))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(pixels)


def thin(photos: list[PhotoRecord], limit: int) -> list[PhotoRecord]:
    """At most `limit` photos, evenly spread over the list."""
    if len(photos) <= limit:
        return photos
    return [photos[i] for i in np.linspace(0, len(photos) - 1, limit).round().astype(int)]


class PhotoNodes:
    """Camera frusta with thumbnails. Pictures are read on a thread of their own, and only once the user shows them."""

    def __init__(
        self, server: viser.ViserServer, scene: Scene, frame: ViewFrame, read: ImageReader,
        on_click: Callable[[Any, PhotoRecord, ViewPose], None],
    ) -> None:
        self._server, self._read = server, read
        self._groups: dict[int, viser.SceneNodeHandle] = {}
        self._frusta: dict[int, list[tuple[PhotoRecord, viser.CameraFrustumHandle]]] = {}
        self._visible, self._all_visits, self._time = False, False, 0
        self._loaded: set[int] = set()
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self.problems: list[str] = []
        points = sample_points(scene)
        share = max(1, MAX_FRUSTA // max(len(scene.visits), 1))
        with server.atomic():
            for visit in scene.visits:
                placed = [p for p in visit.photos if p.localised and p.camera is not None]
                name = f"/photos_visit_{visit.timestep}"
                self._groups[visit.timestep] = server.scene.add_frame(name, show_axes=False, visible=False)
                self._frusta[visit.timestep] = [
                    (photo, self._add(f"{name}/{i}", photo, frame, points, on_click))
                    for i, photo in enumerate(thin(placed, share))
                ]

    @property
    def count(self) -> int:
        """Number of photos drawn."""
        return sum(len(f) for f in self._frusta.values())

    def _add(
        self, name: str, photo: PhotoRecord, frame: ViewFrame, points: NDArray[np.float64],
        on_click: Callable[[Any, PhotoRecord, ViewPose], None],
    ) -> viser.CameraFrustumHandle:
        camera = photo.camera
        assert camera is not None
        pose = pose_of_camera(camera, frame, points)
        handle = self._server.scene.add_camera_frustum(
            name, vertical_fov(camera), camera.width / camera.height, scale=0.07 * VIEW_RADIUS,
            thickness=1.5, thickness_units="screen", color=(150, 150, 150) if photo.holdout else (80, 160, 255),
            wxyz=matrix_to_quat(torch.as_tensor(pose.view_from_camera[:3, :3])).numpy(), position=pose.position,
            cast_shadow=False, receive_shadow=False,
        )
        handle.on_click(lambda event: on_click(event, photo, pose))
        return handle

    def show(self, *, visible: bool | None = None, all_visits: bool | None = None, time: int | None = None) -> None:
        """Change what is drawn: whether at all, of all visits or the current one, and which is current."""
        with self._lock:
            self._visible = self._visible if visible is None else visible
            self._all_visits = self._all_visits if all_visits is None else all_visits
            self._time = self._time if time is None else time
            wanted = [t for t in self._groups if self._visible and (self._all_visits or t == self._time)]
            with self._server.atomic():
                for t, group in self._groups.items():
                    if group.visible != (t in wanted):
                        group.visible = t in wanted
            missing = [t for t in wanted if t not in self._loaded]
            self._loaded.update(missing)
        if missing:
            threading.Thread(target=self._load, args=(missing,), daemon=True, name="ltgs-thumbnails").start()

    def _load(self, times: list[int]) -> None:
        for t in times:
            for photo, handle in self._frusta[t]:
                if self._closed.is_set() or photo.image_blob is None:
                    continue
                try:
                    handle.image = thumbnail(self._read(photo.image_blob))
                except (LtgsError, OSError, ValueError) as error:
                    # One damaged picture only loses its thumbnail; its place in the scene is still shown.
                    self.problems.append(photo.name)
                    log.warning("No thumbnail of %r: %s", photo.name, error)

    def close(self) -> None:
        """Stop reading pictures."""
        self._closed.set()
