"""New content that is an object which left, in another form: by its looks, where no rigid motion explains it.

A drawer that opens and a blanket that is folded anew change their shape, and what few photos show of a thing that was turned may
be sides that no photo saw before. Such a thing gets a template of its own that is linked to the former one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ltgs.change.compare import footprint
from ltgs.core.views import ComparedView
from ltgs.objects.hull import HullInstance
from ltgs.objects.palette import content_palette, likeness, template_palette
from ltgs.pipeline.update_parts import KnownObject

log = logging.getLogger("ltgs.pipeline")


@dataclass(frozen=True)
class FormerConfig:
    """What makes new content the next form of an object."""

    alike: float = 0.83
    """Least likeness of their colours: of objects that left while others appeared 20 pairs of different ones had up to .77 and one .82 (a
    printed box and a ball), the three that were the same .81, .84 and .94."""
    size: float = 2.5
    """Most by which one of them may be larger than the other, seen at the same place: templates from few photos have ragged edges."""
    photos: int = 2
    """Fewest photos that must show the new content."""


def former_objects(
    new: Sequence[HullInstance], missing: Mapping[int, KnownObject], views: Sequence[ComparedView], up: np.ndarray,
    *, config: FormerConfig, backend: str = "auto",
) -> list[int]:
    """For every new content the id of the object of which it is the next form, 0 if none; every object has one at most.

    Args:
        missing: objects that left now and were not found again.
        up: [3] unit, the vertical.
    """
    contents = {i: content_palette(instance, views) for i, instance in enumerate(new) if instance.num_views >= config.photos}
    pairs = []
    for k, obj in missing.items() if contents else ():
        own = template_palette(obj.model.seen, obj.last_pose[:3, :3].T @ up, backend=backend)
        for index, colours in contents.items():
            like = likeness(own, colours)
            log.info("new content at %s is like object %d: %s", new[index].centroid, k, like)
            if like is None or like < config.alike:
                continue
            size = _size(obj, new[index], views, backend)
            log.info("its size is %.2f of that object's", size)
            if 1 / config.size <= size <= config.size:
                pairs.append((like, index, k))
    out = [0] * len(new)
    for _, index, k in sorted(pairs, reverse=True):
        if not out[index] and k not in out:
            out[index] = k
    return out


def _size(obj: KnownObject, instance: HullInstance, views: Sequence[ComparedView], backend: str) -> float:
    """How large content appears, relative to the object at its place."""
    pose = np.array(obj.last_pose)
    pose[:3, 3] = instance.centroid
    placed = obj.template.transformed(torch.as_tensor(pose, dtype=torch.float32))
    drawn = sum(
        int(footprint(placed, v.camera, above=0.3, backend=backend).sum())
        for v, mask in zip(views, instance.pixels, strict=True) if mask.any()
    )
    return float(np.sqrt(instance.area_px / max(drawn, 1)))
