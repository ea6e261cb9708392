"""What a renderer returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class RenderOutput:
    """Images of C cameras; all of them carry gradients when an input does."""

    rgb: Tensor
    """[C, H, W, 3] sRGB over the background, not clamped above."""
    alpha: Tensor
    """[C, H, W, 1] accumulated opacity, 0..1."""
    depth: Tensor
    """[C, H, W, 1] expected z in scene units, 0 where alpha is 0 (and everywhere with ``with_depth=False``)."""
    features: Tensor | None
    """[C, H, W, D] composited extra channels, or None."""
    backend: str
    """Which renderer made it: "cpu", "reference" or "gsplat"."""
    visible: Tensor
    """[C, N] bool: the Gaussian's footprint, occluded or not, reaches a pixel (its bounding test, for gsplat)."""
    num_dropped: int | Tensor = 0
    """Gaussians left out because a parameter is not finite or the projection overflows; the maximum over the cameras. From
    gsplat it is a scalar tensor on the device, because reading it waits for the device."""
    stats: dict[str, int] = field(default_factory=dict)
    """Sums over the cameras: num_visible, num_entries (Gaussian-tile pairs), num_pairs (evaluated Gaussian-pixel pairs); empty
    for gsplat."""

    def feature_image(self) -> Tensor:
        """[C, H, W, D] the extra channels.

        Raises:
            ValueError: none were asked for.
        """
        if self.features is None:
            raise ValueError("no extra channels were rendered.")
        return self.features
