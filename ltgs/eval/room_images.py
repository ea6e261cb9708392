"""A scene's pictures against a room's: held-out views of every time, the changed part of them, and change masks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.chronology import Chronology, SceneState
from ltgs.core.progress import Progress, ProgressEvent, silent
from ltgs.core.scene import Scene
from ltgs.data.rooms import Room, RoomPhoto
from ltgs.eval.metrics import apply_colour, fit_colour, image_metrics
from ltgs.io.images import read_photo
from ltgs.poses.gauge import Similarity
from ltgs.render import render

Mask = NDArray[np.bool_]
Place = Callable[[RoomPhoto], Camera]
"""Gives the camera of a room's photo in a scene, see `placed_in`."""


class TimeStates(Protocol):
    """Anything that can show the place at every time: a chronology, or a baseline that keeps whole scenes."""

    @property
    def num_times(self) -> int: ...

    def state_at(self, time: int) -> SceneState:
        """Gaussians and light at a time, 0 <= time < num_times."""
        ...


@dataclass(frozen=True)
class RoomView:
    """One held-out view against its render."""

    name: str
    time: int
    metrics: dict[str, float]
    """Full frame, see `ltgs.eval.metrics.image_metrics`."""
    errors: dict[str, tuple[float, float, int]]
    """Region to sums of the squared error raw and after the colour fit, and the number of values.

    Regions: "objects" (all that ever change), at t = 0 each of them as `object_region(id)`, later "changed" and "unchanged"
    against the first visit.
    """


@dataclass(frozen=True)
class MaskScore:
    """Change mask of one update photo against the truth; the sets are pixels."""

    name: str
    time: int
    both: int
    either: int
    predicted: int
    expected: int

    @property
    def iou(self) -> float:
        return self.both / self.either if self.either else 1.0

    @property
    def f1(self) -> float:
        total = self.predicted + self.expected
        return 2 * self.both / total if total else 1.0


def object_region(object_id: int) -> str:
    """Name of the region that shows one object at the first visit."""
    return f"object {object_id}"


def placed_in(scene: Scene, scene_from_room: Similarity) -> Place:
    """The room's cameras in a scene, which may have been fitted to smaller photos."""
    def place(photo: RoomPhoto) -> Camera:
        return scene.sampled(replace(photo.camera, cam_from_world=scene_from_room.camera(photo.camera.cam_from_world)))

    return place


def heldout_views(
    states: TimeStates, room: Room, place: Place, *, backend: str = "auto", progress: Progress = silent
) -> list[RoomView]:
    """Render every held-out view of the room and compare it, in the visit's light."""
    tests = [p for p in room.tests if p.time < states.num_times]
    views, state, at = [], None, -1
    for index, photo in enumerate(sorted(tests, key=lambda p: p.time)):
        if photo.time != at or state is None:
            at, state = photo.time, states.state_at(photo.time)
        truth = read_photo(photo.path).rgb.astype(np.float64) / 255
        shown = _shown(state, place(photo), backend)
        fitted = apply_colour(fit_colour(shown, truth), shown)
        errors = {
            k: (float(((shown - truth)[m] ** 2).sum()), float(((fitted - truth)[m] ** 2).sum()), 3 * int(m.sum()))
            for k, m in _regions(room, photo).items()
        }
        views.append(RoomView(photo.name, photo.time, image_metrics(shown, truth), errors))
        progress(ProgressEvent("eval", index + 1, len(tests)))
    return views


def _regions(room: Room, photo: RoomPhoto) -> dict[str, Mask]:
    """[H, W] pixels of every region of a held-out view."""
    changing = sorted({e.object_id for e in room.events})
    labels = room.mask(photo.name)
    regions = {"objects": np.isin(labels, changing)}
    if photo.time == 0:
        regions |= {object_region(k): labels == k for k in changing}
    change = room.change_mask(photo.name)
    if change is not None:
        regions |= {"changed": change > 0, "unchanged": change == 0}
    return regions


def change_masks(
    chronology: Chronology, room: Room, place: Place, *, backend: str = "auto"
) -> list[MaskScore]:
    """What the events alter in each update photo since the visit before, against the truth."""
    out = []
    for photo in room.photos:
        truth = room.change_mask(photo.name, since_previous=True) if 0 < photo.time < chronology.num_times else None
        if truth is None:
            continue
        camera = place(photo)
        predicted = predicted_change(chronology, photo.time, camera, backend=backend)
        expected = truth > 0
        out.append(MaskScore(
            photo.name, photo.time, int((predicted & expected).sum()), int((predicted | expected).sum()),
            int(predicted.sum()), int(expected.sum()),
        ))
    return out


def predicted_change(chronology: Chronology, time: int, camera: Camera, *, backend: str = "auto") -> Mask:
    """[H, W] pixels where an object that came, left or moved at `time` is seen now or was seen before."""
    came = {e.object_id for e in chronology.events if e.time == time and e.kind != "removed"}
    left = {e.object_id for e in chronology.events if e.time == time and e.kind in ("removed", "moved")}
    left |= {chronology.templates[e.object_id].replaces for e in chronology.events if e.time == time and e.kind == "replaced"}
    now = _share(chronology.state_at(time), came, camera, backend) > 0.5
    return now | (_share(chronology.state_at(time - 1), left, camera, backend) > 0.5)


def _share(state: SceneState, ids: set[int], camera: Camera, backend: str) -> NDArray[np.float32]:
    """[H, W] how much of each pixel's colour comes from these objects."""
    own = torch.isin(state.object_ids, torch.tensor(sorted(ids), dtype=torch.int64)).float()[:, None]
    with torch.no_grad():
        out = render(state.gaussians, stack_cameras([camera]), backend=backend, features=own, with_depth=False)  # type: ignore[arg-type]
    return out.feature_image()[0, ..., 0].numpy()


def _shown(state: SceneState, camera: Camera, backend: str) -> NDArray[np.float64]:
    with torch.no_grad():
        out = render(state.lit(), stack_cameras([camera]), backend=backend, with_depth=False)  # type: ignore[arg-type]
    return state.appearance.apply(out.rgb[0]).clamp(0, 1).double().numpy()


def region_psnr(views: Sequence[RoomView], region: str | Collection[str], time: int) -> dict[str, float | None]:
    """PSNR pooled over the pixels of a region, or of several, in all views of a time, raw and after the colour fit.

    None without pixels.
    """
    wanted = {region} if isinstance(region, str) else set(region)
    sums = np.array([v.errors[k] for v in views if v.time == time for k in sorted(wanted & v.errors.keys())]).reshape(-1, 3).sum(0)
    if sums[2] == 0:
        return {"psnr": None, "psnr_colour_fit": None}
    return {k: float(-10 * np.log10(max(sums[i] / sums[2], 1e-10))) for i, k in enumerate(("psnr", "psnr_colour_fit"))}
