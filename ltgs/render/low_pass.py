"""The low-pass filter of a rendered image: what is added to the covariance of every projected Gaussian."""

from __future__ import annotations

from dataclasses import dataclass

BLUR = 0.3
"""px^2 that 3DGS adds to a projected covariance, and with which Gaussians are fitted."""


@dataclass(frozen=True)
class LowPass:
    """Two variances, px^2 of the rendered image."""

    fitted: float
    """What the Gaussians were fitted with: their opacities go with it."""
    total: float
    """What is added. Where it is more than `fitted`, opacities fall so that a splat keeps its energy (as in Mip-Splatting)."""

    @property
    def plain(self) -> float:
        """One variance for a renderer that cannot lower the opacities by a part: halfway, 0.7 dB short on the photos of `low_pass`."""
        return (self.fitted + self.total) / 2 if self.fitted else self.total


def low_pass(sampling: float, *, antialiased: bool = False) -> LowPass:
    """The filter of a camera.

    Args:
        sampling: pixels per pixel of the photos that the Gaussians were fitted to, along one side.
        antialiased: the Gaussians were fitted without a blur (gsplat's "antialiased" mode); `sampling` is not asked.

    The blur of the fit keeps its size in the scene, so it shrinks with the pixels. A reduced image is also averaged over what its pixel
    has more than one of theirs, a box of variance (1 - sampling^2) / 12. `desk`, six photos at half their size against the render:
    28 to 34 dB with `BLUR`, 34 to 38 dB if it is rendered at full size and reduced, 33 to 37 dB so.
    """
    if antialiased:
        return LowPass(0.0, BLUR)
    fitted = BLUR * sampling**2
    return LowPass(fitted, fitted + max(0.0, 1 - sampling**2) / 12)
