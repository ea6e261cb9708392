"""What was left over of objects that are gone: Gaussians beside them that the photos no longer show, though too few to be a set."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict

import cv2
import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from ltgs.core.gaussians import Gaussians
from ltgs.core.views import ComparedView
from ltgs.objects.hull import HullInstance
from ltgs.objects.removal import removal_benefit
from ltgs.pipeline.update_captures import VisitCaptures
from ltgs.pipeline.update_parts import KnownObject

log = logging.getLogger("ltgs.pipeline")


class Leftovers:
    """Takes leftovers away, object by object."""

    def __init__(self, visit: VisitCaptures, kept: Tensor, placed: Sequence[Gaussians], new: Sequence[HullInstance]) -> None:
        """Start from the state that is kept.

        Args:
            kept: [N] bool, which of the state's Gaussians are still in their place.
            placed: objects at their new places.
            new: content that is not drawn yet; its pixels say nothing.
        """
        self.visit, self.config, self.kept, self.placed = visit, visit.config.leftovers, kept.clone(), list(placed)
        self.static = ~torch.isin(visit.ids, torch.tensor(visit.drawn_ids("object"), dtype=visit.ids.dtype))
        rim = np.ones((2 * visit.config.hull.grow_px + 1,) * 2, np.uint8)
        self.taken = [cv2.dilate(np.any(p, axis=0).astype(np.uint8), rim) > 0 for p in zip(*(i.pixels for i in new), strict=True)]

    def of(self, obj: KnownObject, views: Sequence[ComparedView]) -> tuple[Tensor, list[ComparedView]]:
        """Leftovers of an object that left, [M] indices into the state's Gaussians, and the views without them.

        Args:
            views: captures against the kept Gaussians and the placed objects.
        """
        beside = self._beside(obj, views)
        trial, after = self.kept.clone(), list(views)
        for _ in range(self.config.layers):
            layer = self._contradicted(beside[trial[beside]], trial, after)
            if len(layer) == 0:
                break
            trial[layer] = False
            after = self.visit.compare_kept(after, self.visit.gaussians[layer], trial, self.placed)
        gone = (self.kept & ~trial).nonzero()[:, 0]
        if len(gone) < self.config.fewest:
            return gone[:0], list(views)
        benefit = removal_benefit(views, after)
        log.info("beside object %d: %d of %d Gaussians are contradicted: %s", obj.object_id, len(gone), len(beside), benefit)
        refusal = "" if benefit.explained >= self.config.explained else "the photos fit hardly better without it"
        note = f"left over of object {obj.object_id}"
        self.visit.record.removal(self.visit.gaussians.means[gone], asdict(benefit), reason=refusal, note=note)
        if refusal:
            return gone[:0], list(views)
        self.kept = trial
        return gone, after

    def _beside(self, obj: KnownObject, views: Sequence[ComparedView]) -> Tensor:
        """[M] static Gaussians near an object where it stood, but for those of what it stood on."""
        stood = obj.template.transformed(torch.as_tensor(obj.last_pose, dtype=torch.float32))
        rows = (self.kept & self.static).nonzero()[:, 0]
        distance, _ = cKDTree(stood.means.double().numpy()).query(self.visit.gaussians.means[rows].double().numpy())
        near = rows[torch.from_numpy(distance < self.config.near * obj.model.radius)]
        beneath = self.visit.in_support(Gaussians.concatenate([stood, self.visit.gaussians[near]]), views)[len(stood) :]
        return near[~beneath]

    def _contradicted(self, asked: Tensor, kept: Tensor, views: Sequence[ComparedView]) -> Tensor:
        """Those of some of the state's Gaussians [M] that the photos contradict."""
        if len(asked) == 0:
            return asked
        drawn = Gaussians.concatenate([self.visit.gaussians[kept], *self.placed])
        rows = torch.searchsorted(kept.nonzero()[:, 0], asked)
        images = []
        for index, view in enumerate(views):
            open_to = (~self.taken[index]).astype(np.float32) if self.taken else np.ones_like(view.score)
            images.append(np.stack([np.clip(view.score, 0, 1) * open_to, open_to], -1))
        sums = self.visit.lift(drawn, views, images, rows)[:, rows]
        seen = (sums[..., 1] > self.config.seen_px).float()
        total = (sums[..., 1] * seen).sum(0)
        mean = (sums[..., 0] * seen).sum(0) / total.clamp_min(1e-6)
        return asked[(total > 0) & (mean >= self.config.score)]
