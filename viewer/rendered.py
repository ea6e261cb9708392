"""Exact pictures made on this machine by the project's rasteriser: full colour model, the visit's light, any visitor's view."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ltgs.core.cameras import Cameras
from ltgs.core.chronology import Chronology
from ltgs.core.gaussians import Gaussians
from ltgs.core.se3 import invert_rigid
from ltgs.core.sh import rgb_to_dc
from viewer.scene_nodes import PALETTE
from viewer.view_frame import ViewFrame

Image = NDArray[np.uint8]
Array = NDArray[np.float64]
RenderMode = Literal["photo colours", "depth", "objects"]
RENDER_MODES: tuple[RenderMode, ...] = get_args(RenderMode)
MAX_SIDE = 1600
log = logging.getLogger("ltgs.viewer")


@dataclass(frozen=True)
class RenderedView:
    """A visitor's camera, copied so that it cannot change while the picture is made."""

    view_from_camera: Array
    """[4, 4] rigid, view units, OpenCV axes."""
    fov_rad: float
    """Vertical field of view."""
    aspect: float
    """Width over height."""

    def cameras(self, frame: ViewFrame, long_side: int, fitted_focal: float | None = None) -> Cameras:
        """The camera in the world, for a picture whose longer side has `long_side` pixels (16..1600).

        Args:
            fitted_focal: see `Scene.fitted_focal`; the picture is filtered for its own size.

        Raises:
            ValueError: the view holds numbers that are not finite or out of range.
        """
        pose = np.asarray(self.view_from_camera, dtype=np.float64)
        fine = np.isfinite(pose).all() and 1e-3 < self.fov_rad < 3.1 and 0.05 < self.aspect < 20
        if not fine:
            raise ValueError("the browser reported a camera that cannot be rendered; reload the page.")
        side = min(max(int(long_side), 16), MAX_SIDE)
        width = side if self.aspect >= 1 else max(1, round(side * self.aspect))
        height = max(1, round(side / self.aspect)) if self.aspect >= 1 else side
        focal = 0.5 * height / np.tan(self.fov_rad / 2)
        world_from_camera = pose.copy()
        world_from_camera[:3, 3] = frame.to_world(pose[:3, 3])
        intrinsics = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        return Cameras(
            torch.as_tensor(intrinsics[None], dtype=torch.float32),
            torch.as_tensor(invert_rigid(world_from_camera)[None], dtype=torch.float32),
            width, height, ("view",), 1.0 if fitted_focal is None else float(focal / fitted_focal),
        )


def render_view(
    chronology: Chronology, time: int, cameras: Cameras, mode: RenderMode, *, light: bool = True,
) -> Image:
    """One exact picture.

    Args:
        light: apply the visit's colour change to "photo colours".

    Returns:
        [H, W, 3] uint8. Depth is coloured by inverse depth, near = red; objects keep their palette colours on grey.
    """
    from ltgs.render import render  # Loading the native extension is left to the first picture.

    state = chronology.state_at(time)
    gaussians = (state.lit() if light and mode == "photo colours" else state.gaussians).detach()
    if mode == "objects":
        gaussians = _paint_objects(gaussians, state.object_ids)
    with torch.no_grad():
        output = render(gaussians, cameras)
        if mode == "depth":
            return depth_image(output.depth[0, ..., 0].cpu().numpy(), output.alpha[0, ..., 0].cpu().numpy())
        rgb = output.rgb[0]
        if mode == "photo colours" and light:
            # The light acts on what is there; empty pixels stay black, as in training.
            rgb = state.appearance.apply(rgb) * (output.alpha[0] > 0.01)
        return (rgb.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def _paint_objects(gaussians: Gaussians, object_ids: torch.Tensor) -> Gaussians:
    grey = gaussians.base_rgb.clamp(0, 1).mean(1, keepdim=True).expand(-1, 3) * 0.6
    palette = torch.tensor(PALETTE, dtype=grey.dtype) / 255
    colours = palette[(object_ids.cpu() - 1) % len(PALETTE)]
    shaded = torch.where(object_ids.cpu()[:, None] > 0, colours, grey.cpu())
    return replace(gaussians, sh=rgb_to_dc(shaded)[:, None].to(gaussians.device))


def depth_image(depth: NDArray[np.float32], alpha: NDArray[np.float32]) -> Image:
    """[H, W] depth to [H, W, 3] colours of inverse depth between its 2nd and 98th percentile; black where nothing is."""
    solid = (alpha > 0.5) & np.isfinite(depth) & (depth > 0)
    out = np.zeros((*depth.shape, 3), np.uint8)
    if not solid.any():
        return out
    inverse = 1.0 / depth[solid]
    low, high = np.percentile(inverse, [2, 98])
    shade = np.clip((inverse - low) / max(high - low, 1e-9), 0, 1)
    colours = cv2.applyColorMap((shade * 255).astype(np.uint8)[:, None], cv2.COLORMAP_TURBO)[:, 0]
    out[solid] = colours[:, ::-1]
    return out


class LatestOnly:
    """Runs jobs on one thread and keeps only the newest waiting one, so a moving camera cannot pile up work."""

    def __init__(self, on_error: Callable[[str], None]) -> None:
        self._on_error = on_error
        self._job: Callable[[], None] | None = None
        self._condition = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="ltgs-exact-render")
        self._thread.start()

    def submit(self, job: Callable[[], None]) -> None:
        """Replace the waiting job."""
        with self._condition:
            self._job = job
            self._condition.notify()

    def close(self) -> None:
        """Drop the waiting job and end the thread after the running one."""
        with self._condition:
            self._closed, self._job = True, None
            self._condition.notify()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while True:
            with self._condition:
                while self._job is None and not self._closed:
                    self._condition.wait()
                if self._closed:
                    return
                job, self._job = self._job, None
            try:
                assert job is not None
                job()
            except Exception as error:
                # A failed picture is shown in the panel and logged; the viewer itself goes on.
                log.warning("The exact picture could not be made: %s", error, exc_info=log.isEnabledFor(logging.DEBUG))
                self._on_error(str(error))
