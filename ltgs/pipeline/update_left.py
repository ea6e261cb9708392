"""What left: sets of Gaussians that the captures prove gone, judged as the things they are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.core.chronology import BACKGROUND_ID
from ltgs.core.gaussians import Gaussians
from ltgs.core.views import ComparedView
from ltgs.objects.associate import Match
from ltgs.objects.backing import Model
from ltgs.objects.carve import Judges, VacatedSet, find_vacated, pixel_footprint
from ltgs.objects.register import gain_in_place
from ltgs.objects.split import is_whole, linked, side_by_side
from ltgs.objects.support import covered
from ltgs.objects.templates import enclosed
from ltgs.pipeline.update_captures import VisitCaptures
from ltgs.pipeline.update_parts import KnownObject
from ltgs.pipeline.update_proofs import existed, remains_of, share_inside

log = logging.getLogger("ltgs.pipeline")
Array = NDArray[np.float64]


class Departures:
    """Finds what left at one visit."""

    def __init__(self, visit: VisitCaptures) -> None:
        self.visit = visit
        self.refused: list[Tensor] = []
        """Sets that could not be proven gone, [M] indices into the state's Gaussians each."""

    def vacated(
        self, kept: Tensor, placed: Sequence[Gaussians], views: Sequence[ComparedView],
        arrived: Sequence[tuple[KnownObject, Match]],
    ) -> tuple[list[VacatedSet], list[ComparedView]]:
        """Sets that left, as indices into the state's Gaussians, and the views without them.

        Args:
            views: captures against the kept Gaussians and any of the placed objects.
        """
        index = kept.nonzero()[:, 0]
        everything = Gaussians.concatenate([self.visit.gaussians[kept], *placed])
        fixed = torch.arange(len(everything)) >= len(index)

        def compare_kept(views: Sequence[ComparedView], lost: Tensor, mask: Tensor) -> list[ComparedView]:
            still = torch.zeros_like(kept)
            still[index[mask[: len(index)]]] = True
            return self.visit.compare_kept(views, everything[lost], still, placed)

        def held(members: Tensor) -> list[int]:
            """Ids of the stored objects of which a set holds everything."""
            return [k for k, m in stored.items() if bool(torch.isin(m, members).all())]

        def displaced(members: Tensor) -> bool:
            return self._displaced(everything.means[members], held(members), arrived)

        carve = self.visit.config.carve
        refused: list[Tensor] = []
        suspects: list[Tensor] = []
        if placed:
            views = self.visit.compare_kept(views, Gaussians.concatenate(placed), kept, placed)
            # What is left over around objects just placed is their own error unless its outline is clear.
            carve = replace(carve, min_outline=carve.outline)
            again = [*(m[kept[m]] for m in self.refused), *self._beneath_arrived(kept, arrived, views)]
            suspects = [torch.searchsorted(index, m) for m in again]
        stored = {k: torch.searchsorted(index, m) for k, m in self._standing(kept).items()}
        found, after = find_vacated(
            everything, views, lift=self.visit.lift, compare=compare_kept, config=carve, fixed=fixed, record=self.visit.record,
            also=[*stored.values(), *(m for m in suspects if displaced(m))], refused=refused, judges=Judges(
                displaced=displaced,
                piece=lambda members: bool(self.piece_of(index[members])),
                whole=lambda members: bool(held(members)),
                veto=lambda members: self._never_was(index[members]),
                foreign=lambda members: self._foreign(index, members),
                unowned=lambda members: self._unowned(index[members]),
                alone=lambda members, others, views: self._is_whole(index, everything, members, others, views),
                upper=lambda members, views: members[~self.visit.in_support(everything[members], views)],
                parts=lambda members, views: self._side_by_side(index, everything, members, views),
            ),
        )
        self.refused = [index[m] for m in refused]
        sets = self._without_unmoved([replace(s, members=index[s.members]) for s in found], after)
        if len(sets) < len(found):
            still = kept.clone()
            for vacated in sets:
                still[vacated.members] = False
            stayed = torch.cat([s.members for s in found])
            after = self.visit.compare_kept(after, everything[stayed], still, placed)
        return sets, after

    def _displaced(self, means: Tensor, stored: Sequence[int], arrived: Sequence[tuple[KnownObject, Match]]) -> bool:
        """Whether an object that was found stands now where Gaussians with these centres [M, 3] were, or reaches into them.

        Args:
            stored: ids of the stored objects that they hold.
        """
        proof, points = self.visit.config.proof, means.double().numpy()
        for obj, match in arrived:
            if match.hypothesis.gain < proof.min_gain and (match.explained or 0.0) < self.visit.config.review.sure_mean:
                continue
            pose = match.hypothesis.world_from_object
            if share_inside(points, obj.template, pose, proof) >= proof.inside:
                return True
            # A shell around something slim has hardly a Gaussian within it.
            own = obj.template.transformed(torch.as_tensor(pose, dtype=torch.float32)).means.double().numpy()
            if any(share_inside(own, self.visit.old.templates[k].gaussians, self.visit.old.tracks[k].last_pose(), proof) >= proof.inside
                   for k in stored):
                return True
        return False

    def _beneath_arrived(
        self, kept: Tensor, arrived: Sequence[tuple[KnownObject, Match]], views: Sequence[ComparedView]
    ) -> list[Tensor]:
        """Things that no stored object holds and that stand where an object was found, however much it hides them from the photos.

        Args:
            views: captures against the kept Gaussians and the arrived objects.

        Returns:
            indices [M] into the state's Gaussians each.
        """
        proof, up, out = self.visit.config.proof, self.visit.up, []
        link = self.visit.config.carve.link_px * pixel_footprint(views)
        free = (kept & (self._object_ids(torch.arange(len(kept))) == BACKGROUND_ID)).nonzero()[:, 0]
        points = self.visit.gaussians.means[free].double().numpy()
        for obj, match in arrived:
            pose = match.hypothesis.world_from_object
            own = obj.template.transformed(torch.as_tensor(pose, dtype=torch.float32)).means.double().numpy()
            floor, top = np.quantile(own @ up, (0.02, 0.98))
            near = np.linalg.norm(points - np.median(own, axis=0), axis=1) < proof.region * obj.model.radius
            near &= points @ up > floor + proof.sole * (top - floor)
            rows = np.flatnonzero(near)
            if len(rows) < self.visit.config.carve.least:
                continue
            labels = linked(self.visit.gaussians[free[rows]], link)
            for label in np.flatnonzero(np.bincount(labels) >= self.visit.config.carve.least):
                thing = rows[labels == label]
                if share_inside(points[thing], obj.template, pose, proof) >= proof.inside:
                    log.info("object %d stands where %d Gaussians of the place are", obj.object_id, len(thing))
                    out.append(free[thing])
        return out

    def is_displaced(self, kept: Tensor, arrived: Sequence[tuple[KnownObject, Match]]) -> bool:
        """Whether an object that was found stands where a stored one is still kept."""
        return any(self._displaced(self.visit.gaussians.means[m], [k], arrived) for k, m in self._standing(kept).items())

    def _without_unmoved(self, sets: Sequence[VacatedSet], views: Sequence[ComparedView]) -> list[VacatedSet]:
        """Sets that left, but for objects that explain the captures where they stood: their template is only inaccurate.

        Args:
            views: captures against what remains without the sets.
        """
        out = []
        for vacated in sets:
            owners = self.visit.ids[vacated.members]
            ids = [k for k in owners.unique().tolist() if k and self.visit.old.templates[k].kind == "object"]
            gains = [
                gain_in_place(
                    Model(self.visit.old.templates[k].gaussians), self.visit.old.tracks[k].last_pose(), views,
                    config=self.visit.config.register, backend=self.visit.backend,
                )
                for k in ids
            ]
            log.info("objects %s at their old places explain %s", ids, gains)
            enough = self.visit.config.unmoved_gain_contradicted if vacated.contradicted else self.visit.config.unmoved_gain
            unmoved = len(ids) == 1 and gains[0] is not None and gains[0] >= enough
            if unmoved and float((owners == ids[0]).float().mean()) > 0.5:
                self.visit.record.stays(ids[0], "drawn where it stood it explains the photos; only its template is inaccurate")
                self.visit.undecided.append(f"Object {ids[0]} looks different from its template but still explains its place.")
            else:
                out.append(vacated)
        return out

    def _side_by_side(self, index: Tensor, everything: Gaussians, members: Tensor, views: Sequence[ComparedView]) -> list[Tensor]:
        """The things among some of the Gaussians that are drawn now: stored objects, and what only a support connects.

        Args:
            index: [K] which of the state's Gaussians are drawn; what was placed in addition comes after them.
        """
        owners = self._object_ids(index[members])
        out = [members[owners == k] for k in owners.unique().tolist() if k]
        rest = members[owners == BACKGROUND_ID]
        if len(rest) == 0:
            return out
        beneath = self.visit.in_support(everything[rest], views).numpy()
        link = self.visit.config.carve.link_px * pixel_footprint(views)
        rows = side_by_side(everything[rest], beneath, link, up=self.visit.up, config=self.visit.config.split)
        if len(rows) + len(out) > 1:
            log.info("%d things stand side by side among %d Gaussians", len(rows) + len(out), len(members))
        return [rest[r] for r in rows] + out

    def _object_ids(self, members: Tensor) -> Tensor:
        """[M] id of the stored object that each of the state's Gaussians belongs to; that of the background for all else."""
        owners, templates = self.visit.ids[members], self.visit.old.templates
        surfaces = [k for k in owners.unique().tolist() if k and templates[k].kind != "object"]
        return torch.where(torch.isin(owners, torch.tensor(surfaces, dtype=owners.dtype)), BACKGROUND_ID, owners)

    def _foreign(self, index: Tensor, members: Tensor) -> Tensor:
        """Which of the Gaussians that are drawn now belong to stored objects that hold none of these [M].

        Args:
            index: [K] which of the state's Gaussians are drawn; what was placed in addition comes after them.
        """
        owners = self._object_ids(index)
        return ((owners != BACKGROUND_ID) & ~torch.isin(owners, owners[members].unique())).nonzero()[:, 0]

    def _unowned(self, members: Tensor) -> bool:
        """Whether most of the state's Gaussians [M] belong to no stored object."""
        return float((self._object_ids(members) == BACKGROUND_ID).float().mean()) >= 0.5

    def _is_whole(
        self, index: Tensor, everything: Gaussians, members: Tensor, others: Tensor, views: Sequence[ComparedView]
    ) -> bool:
        """Whether Gaussians that no stored object holds are a thing of which nothing goes on among others that none holds."""
        if not self._unowned(index[members]):
            return False
        others = others[self._object_ids(index[others]) == BACKGROUND_ID]
        beneath, planes = self.visit.support_of(everything[members], views)
        if covered(planes, np.stack([v.camera.center for v in views]), self.visit.up, config=self.visit.config.support):
            return False
        link = self.visit.config.carve.link_px * pixel_footprint(views)
        points, rest = (everything.means[rows].double().numpy() for rows in (members, others))
        config = self.visit.config.split
        if len(views) == 1:
            config = replace(config, attached=config.attached_unseen, ends=0.0)
        return is_whole(points, beneath.numpy(), rest, link, up=self.visit.up, config=config)

    def with_inside(
        self, sets: Sequence[VacatedSet], kept: Tensor, placed: Sequence[Gaussians], views: Sequence[ComparedView]
    ) -> tuple[list[VacatedSet], list[ComparedView]]:
        """Sets with what of the background lies inside them: no photo saw it, and the captures may not decide it.

        Args:
            views: captures against what remains without the sets.
        """
        still, out = kept.clone(), []
        for vacated in sets:
            still[vacated.members] = False
        before = still.clone()
        for vacated in sets:
            own = vacated.members[self.visit.ids[vacated.members] == BACKGROUND_ID]
            if len(own) < 0.5 * len(vacated.members):
                out.append(vacated)
                continue
            own = own[~self.visit.in_support(self.visit.gaussians[own], views)]
            open_to = (still & (self.visit.ids == BACKGROUND_ID)).nonzero()[:, 0]
            means = self.visit.gaussians.means.double().numpy()
            inner = open_to[torch.from_numpy(enclosed(means[open_to.numpy()], means[own.numpy()]))]
            still[inner] = False
            out.append(replace(vacated, members=torch.cat([vacated.members, inner]).sort().values))
        lost = (before & ~still).nonzero()[:, 0]
        log.info("inside of what left: %d Gaussians", len(lost))
        if len(lost):
            views = self.visit.compare_kept(views, self.visit.gaussians[lost], still, placed)
        return out, list(views)

    def _standing(self, kept: Tensor) -> dict[int, Tensor]:
        """Stored objects of which everything is still kept, by id: indices [M] into the state's Gaussians."""
        rows = {k: (self.visit.ids == k).nonzero()[:, 0] for k in self.visit.drawn_ids("object")}
        return {k: m for k, m in rows.items() if kept[m].all()}

    def _never_was(self, members: Tensor) -> str:
        """Why the first visit's photos say that these Gaussians [M] were no thing of their own; empty if they do not."""
        own = members[self.visit.ids[members] == BACKGROUND_ID]
        if not self.visit.replay or len(own) < 0.5 * len(members):
            return ""
        share = existed(self.visit.first, own, self.visit.earlier_photos(), self.visit.config.proof, backend=self.visit.backend)
        log.debug("existed: %s of %d at %s", share, len(own), self.visit.gaussians.means[own].median(0).values.numpy())
        return "" if share is None or share >= self.visit.config.proof.existed else "the first visit's photos do not need it either"

    def piece_of(self, members: Tensor) -> int:
        """The object that a set can only be a piece of, 0 if none."""
        points, least = self.visit.gaussians.means[members].double().numpy(), self.visit.config.carve.least
        return remains_of(points, self.visit.old, self.visit.config.proof, least=least)
