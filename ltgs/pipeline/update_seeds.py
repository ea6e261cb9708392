"""Where measured surfaces enter an update: a visit's photos are swept for each new object; its visual hull fills what they leave open."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from ltgs.core.views import ComparedView
from ltgs.depth.seeds import ObjectSeeds, SeedConfig, seed_object
from ltgs.depth.sweep import SweepView
from ltgs.objects.hull import HullInstance

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


class StereoSeeds:
    """Measures the new objects of one visit, and remembers for its record how many that worked for."""

    def __init__(self, views: Sequence[ComparedView], *, grow_px: int, use: bool = True, config: SeedConfig | None = None) -> None:
        """Prepare.

        Args:
            views: the visit's photos against what is still in its place.
            grow_px: dilation of the change masks, pixels: their error, as `HullConfig.grow_px`.
            use: measure at all; False leaves every object to its hull.
            config: settings of the sweep and of what is trusted.
        """
        self.views = list(views)
        self.grow_px, self.use = grow_px, use
        self.config = config or SeedConfig()
        self.measured = 0
        self.asked = 0
        self._swept: list[SweepView] = []
        self._colours: list[NDArray[np.float64]] = []

    def __call__(self, instance: HullInstance, hull: Array) -> ObjectSeeds | None:
        """Surface of a new object, colours in the first visit's light.

        Args:
            instance: the object. hull: [H, 3] samples of its visual hull, scene units.

        Returns:
            None if stereo is off or the photos do not measure enough: a single photo, no texture, or depths that contradict each other.
        """
        self.asked += 1
        if not self.use or sum(bool(p.any()) for p in instance.pixels) < 2:
            return None
        if not self._swept:
            self._swept = [sweep_view(v, self.grow_px) for v in self.views]
            self._colours = [v.in_first_light() for v in self.views]
        found = seed_object(self._swept, instance.pixels, hull, colours=self._colours, config=self.config)
        if not found.reliable(self.config):
            return None
        self.measured += 1
        return found

    def method(self) -> dict[str, str]:
        """How new templates were started, for the record of the visit; empty without new objects."""
        if not self.asked:
            return {}
        if not self.use:
            return {"templates": "visual hull"}
        if not self.measured:
            return {"templates": "visual hull; stereo between the visit's photos measured none of the new objects"}
        some = "all" if self.measured == self.asked else f"{self.measured} of {self.asked}"
        return {"templates": f"stereo between the visit's photos for {some} new objects, visual hull for the rest"}


def sweep_view(view: ComparedView, grow_px: int) -> SweepView:
    """A compared photo as the sweep needs it: new content may be seen where the photo differs from the known scene or nearly does.

    Args:
        view: the photo and what is known of its place. grow_px: dilation of the change mask, pixels.
    """
    kernel = np.ones((2 * grow_px + 1,) * 2, np.uint8)
    content = (cv2.dilate(view.mask.astype(np.uint8), kernel) > 0) | ~view.agreed
    surface = np.where(view.alpha > 0.5, view.depth, np.float32(np.nan)).astype(np.float32)
    return SweepView(view.camera, (np.clip(view.photo, 0, 1) * 255).round().astype(np.uint8), content, surface)
