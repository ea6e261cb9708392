"""Which photos are compared with which renders: the scene's own held-out photos, or a folder of test photos with cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.chronology import SceneState
from ltgs.core.progress import Progress, ProgressEvent, silent
from ltgs.core.scene import Scene
from ltgs.errors import InputError
from ltgs.eval.metrics import image_metrics
from ltgs.imaging.undistort import undistort_photo, working_size
from ltgs.io.images import read_photo
from ltgs.io.posed import PosedPhoto
from ltgs.io.scene_store import SceneStore
from ltgs.render import render

FAR_AWAY = 5.0
"""Distance of the test cameras' centre from the scene's, in extents, from which the frames of reference surely differ."""


@dataclass(frozen=True)
class ImageScore:
    """One photo against its render."""

    name: str
    time: int
    width: int
    height: int
    """Pixels at which both were compared."""
    metrics: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """Scores of a set of photos."""

    kind: str
    """"held-out photos" or "test photos"."""
    images: tuple[ImageScore, ...]
    skipped: dict[str, str] = field(default_factory=dict)
    """Photo name to the reason why it could not be scored."""
    warnings: tuple[str, ...] = ()


def evaluate_heldout(
    store: SceneStore, scene: Scene, *, backend: str = "auto", progress: Progress = silent
) -> Evaluation:
    """Score the photos that were registered but never trained on, at the working resolution stored in the scene."""
    records = [p for p in scene.photos(holdout=True) if p.camera is not None and p.image_blob is not None]
    states = _States(scene)
    scores = []
    for index, record in enumerate(records):
        assert record.camera is not None and record.image_blob is not None
        photo = store.read_image(record.image_blob).astype(np.float64) / 255
        scores.append(_score(states.at(record.timestep), record.camera, photo, backend))
        progress(ProgressEvent("eval", index + 1, len(records)))
    return Evaluation("held-out photos", tuple(scores))


def evaluate_folder(
    scene: Scene, folder: Path, cameras: Sequence[PosedPhoto], *, max_size: int | None = None, backend: str = "auto",
    progress: Progress = silent,
) -> Evaluation:
    """Score test photos whose cameras are known in the scene's frame of reference.

    Photos are undistorted and brought to their camera's size; `max_size` limits the long side. A camera's time is the one
    in the cameras file, or the visit whose name is the photo's first folder, or 0 if the scene has one visit.

    Raises:
        InputError: no photo could be scored; the message has the first reason.
    """
    states = _States(scene)
    visits = {v.name: v.timestep for v in scene.visits}
    scores, skipped = [], {}
    for index, posed in enumerate(cameras):
        time = _time_of(posed, visits, len(scene.visits))
        if time is None:
            skipped[posed.name] = "neither the cameras file nor the folder name says which visit it belongs to"
        else:
            try:
                camera, photo = _test_photo(folder, posed, time, max_size)
                scores.append(_score(states.at(time), scene.sampled(camera), photo, backend))
            except InputError as error:
                skipped[posed.name] = str(error)
        progress(ProgressEvent("eval", index + 1, len(cameras)))
    if not scores:
        reason = next(iter(skipped.values()), "the cameras file is empty")
        raise InputError(f"{folder}: none of the {len(cameras)} test photos could be scored ({reason}). Check the names.")
    return Evaluation("test photos", tuple(scores), skipped, _frame_warning(scene, cameras))


class _States:
    """The scene's states, built once per time."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self._time = -1
        self._state: SceneState | None = None

    def at(self, time: int) -> SceneState:
        if self._time != time or self._state is None:
            self._time, self._state = time, self.scene.chronology.state_at(time)
        return self._state


def _score(state: SceneState, camera: Camera, photo: NDArray[np.float64], backend: str) -> ImageScore:
    with torch.no_grad():
        out = render(state.lit(), stack_cameras([camera]), backend=backend, with_depth=False)  # type: ignore[arg-type]
        shown = state.appearance.apply(out.rgb[0]).clamp(0, 1).double().numpy()
    return ImageScore(camera.name, camera.time, camera.width, camera.height, image_metrics(shown, photo))


def _time_of(posed: PosedPhoto, visits: dict[str, int], count: int) -> int | None:
    if posed.time is not None:
        return posed.time if 0 <= posed.time < count else None
    by_folder = visits.get(posed.name.split("/")[0])
    return by_folder if by_folder is not None else (0 if count == 1 else None)


def _test_photo(
    folder: Path, posed: PosedPhoto, time: int, max_size: int | None
) -> tuple[Camera, NDArray[np.float64]]:
    path = folder / posed.name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{posed.name}: leads out of the test folder.")
    rgb = read_photo(path).rgb
    height, width = rgb.shape[:2]
    if abs(width * posed.height / (height * posed.width) - 1) > 0.01:
        raise InputError(f"{posed.name}: the photo has {width}x{height} pixels, its camera {posed.width}x{posed.height}.")
    size = (posed.width, posed.height)
    if max_size is not None:
        size = working_size(*size, max_size)
    if size[0] > width:
        # Comparing at more pixels than the photo has would score the interpolation.
        size = (width, height)
    full = posed.resized(width, height)
    image, K = undistort_photo(rgb, full.K, full.distortion, size=size)
    camera = Camera(posed.name, time, image.shape[1], image.shape[0], K, posed.cam_from_world)
    return camera, image.astype(np.float64) / 255


def _frame_warning(scene: Scene, cameras: Sequence[PosedPhoto]) -> tuple[str, ...]:
    """Test cameras in another frame of reference than the scene give numbers without meaning: say so."""
    own = np.array([p.camera.center for p in scene.photos(time=0) if p.camera is not None])
    test = np.array([c.pinhole(0).center for c in cameras])
    if len(own) and np.linalg.norm(np.median(test, 0) - own.mean(0)) > FAR_AWAY * scene.extent:
        return ("The test cameras are far from the scene's. Was the scene reconstructed with --cameras in the same frame?",)
    if scene.config.get("cameras") == "estimated":
        return ("The scene's poses were estimated, so it has its own frame of reference; cameras from elsewhere do not fit.",)
    return ()
