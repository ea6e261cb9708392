"""One photo of a visit next to what the known scene shows from there: the common currency of change, objects and refinement."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ltgs.core.cameras import Camera


@dataclass(frozen=True)
class ComparedView:
    """A capture, the render of the known scene at its pose in the capture's light, and where they differ."""

    camera: Camera
    photo: NDArray[np.float32]
    """[H, W, 3] capture in [0, 1]."""
    shown: NDArray[np.float32]
    """[H, W, 3] render, harmonised to the capture's light."""
    colour_affine: NDArray[np.float64]
    """[3, 4] render colour to capture colour."""
    gain: NDArray[np.float32]
    """[H, W, 3] low-frequency gain applied after the affine."""
    alpha: NDArray[np.float32]
    """[H, W] opacity of the render; low where the scene was never seen."""
    depth: NDArray[np.float32]
    """[H, W] rendered depth along +z, scene units, 0 where alpha is 0."""
    score: NDArray[np.float32]
    """[H, W] change score; 1 is the decision level."""
    mask: NDArray[np.bool_]
    """[H, W] changed."""
    agreed: NDArray[np.bool_]
    """[H, W] capture and render agree as closely as they do in well-known places; what is neither is undecided."""
    noise: float
    """Robust standard deviation of capture minus render on unchanged pixels, colour units."""

    def light(self, rgb: NDArray[np.float32], rows: slice | None = None, columns: slice | None = None) -> NDArray[np.float32]:
        """Bring rendered colours of a crop to the capture's light."""
        gain = self.gain[rows or slice(None), columns or slice(None)]
        matrix = self.colour_affine.astype(np.float32)
        return np.clip((rgb @ matrix[:, :3].T + matrix[:, 3]) * gain, 0, 1)

    def in_first_light(
        self, rows: NDArray[np.intp] | slice = slice(None), columns: NDArray[np.intp] | slice = slice(None), *, clip: bool = True
    ) -> NDArray[np.float64]:
        """[..., 3] the capture at some pixels, all by default, in the first visit's light; the opposite of `light`.

        Args:
            clip: bring what a brighter light had cut off back to [0, 1].
        """
        ungained = self.photo[rows, columns].astype(np.float64) / np.maximum(self.gain[rows, columns], 0.1)
        matrix = self.colour_affine
        rgb = (ungained - matrix[:, 3]) @ np.linalg.pinv(matrix[:, :3]).T
        return np.clip(rgb, 0, 1) if clip else rgb
