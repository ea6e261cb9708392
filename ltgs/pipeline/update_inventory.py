"""Objects that can explain new content: what left now, cut out of the place, and stored ones that are away."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from ltgs.core.chronology import BACKGROUND_ID, Presence
from ltgs.core.views import ComparedView
from ltgs.objects.carve import VacatedSet, pixel_footprint
from ltgs.objects.split import filled, main_body, touching_things
from ltgs.objects.templates import framed
from ltgs.pipeline.update_captures import VisitCaptures
from ltgs.pipeline.update_parts import Cutting, KnownObject

log = logging.getLogger("ltgs.pipeline")


class Inventory:
    """Collects them while a visit is decided about."""

    def __init__(self, visit: VisitCaptures, piece_of: Callable[[Tensor], int]) -> None:
        """
        Args:
            piece_of: the object that Gaussians [M] of the state can only be a piece of, 0 if none.
        """
        self.visit, self.piece_of = visit, piece_of
        self.known: dict[int, KnownObject] = {}
        """By their ids; those of objects that left now and had none are new."""
        self.remains: list[tuple[int, Cutting]] = []
        """Pieces of objects and surfaces, by id, that were not cut out with them."""
        self.surfaces = visit.drawn_ids("surface")
        """Ids of the stored surfaces that are drawn."""

    def add(self, sets: Sequence[VacatedSet], views: Sequence[ComparedView]) -> None:
        """Add objects that left now (cut out of the background, or templates already) and templates absent before.

        Args:
            views: captures against what remains without the sets.
        """
        for vacated in sets:
            owners = self.visit.ids[vacated.members]
            for object_id in owners[owners > 0].unique().tolist():
                share = float((owners == object_id).sum()) / max(1, int((self.visit.ids == object_id).sum()))
                if share > 0.4 and object_id not in self.known and self.visit.old.templates[object_id].kind == "object":
                    self.known[object_id] = self._stored(object_id, views, left=True)
            still = vacated.members[(owners == BACKGROUND_ID) | torch.isin(owners, torch.tensor(self.surfaces, dtype=owners.dtype))]
            if len(still) < max(8, 0.5 * len(vacated.members)):
                continue
            owner = self.piece_of(still) or self._patch_of(still, vacated.num_views)
            if owner:
                self.add_remains(owner, still)
            else:
                self._cut_out(still, views)
        # What is there in its next form is not away.
        renewed = {self.visit.old.templates[k].replaces for k in self.visit.drawn_ids("object") if k not in self.known}
        for object_id, track in self.visit.old.tracks.items():
            absent = track.presence[-1] == Presence.ABSENT and object_id not in renewed
            if absent and object_id not in self.known and self.visit.old.templates[object_id].kind == "object":
                self.known[object_id] = self._stored(object_id, views, left=False)

    def _cut_out(self, members: Tensor, views: Sequence[ComparedView]) -> None:
        """Add the things that a set makes up, if there is enough of them, as objects that nobody knew.

        Args:
            views: captures without the set.
        """
        beneath = self._beneath(members, views)
        log.info("cut out: %d Gaussians of the first visit, without %d of what is beneath", int((~beneath).sum()), int(beneath.sum()))
        own, floor = members[~beneath], members[beneath]
        if len(own) < self.visit.config.carve.least:
            return
        things = self._things(own)
        means = self.visit.gaussians.means.double().numpy()
        under = np.argmin([cKDTree(means[t.numpy()]).query(means[floor.numpy()])[0] for t in things], axis=0)
        for k, thing in enumerate(things):
            self._add_cut(thing, floor[torch.from_numpy(under == k)], views)

    def _things(self, members: Tensor) -> list[Tensor]:
        """The things among some Gaussians that touched, [M] each, told apart where the first visit's photos looked through between them."""
        config, points = self.visit.config.split, self.visit.gaussians.means[members].double().numpy()
        solid = filled(points, lambda places: self.visit.looked_through(places) > 0, config=config)
        rows = touching_things(points, solid, up=self.visit.up, config=config)
        if len(rows) == 1 or min(len(r) for r in rows) < self.visit.config.carve.least:
            return [members]
        log.info("%d things that touch: %s Gaussians", len(rows), [len(r) for r in rows])
        return [members[torch.from_numpy(r)] for r in rows]

    def _add_cut(self, members: Tensor, floor: Tensor, views: Sequence[ComparedView]) -> None:
        """Add an object that nobody knew.

        Args:
            members: [M] its Gaussians. floor: [F] those of what was beneath it.
        """
        own, footing = self._cutting(members), self._cutting(floor)
        object_id = max([self.visit.old.next_id - 1, *self.known]) + 1
        template, pose = framed(own.gaussians)
        template = self.visit.sharpened(template, pose, own)
        model = self.visit.with_base(self.visit.model(template, {0: pose}), pose, views)
        self.known[object_id] = KnownObject(object_id, template, pose, True, model, own, footing if len(floor) else None)

    def add_remains(self, owner: int, members: Tensor) -> None:
        """Gaussians [M] of the state go that were not cut out with their owner."""
        self.remains.append((owner, self._cutting(members)))

    def _beneath(self, members: Tensor, views: Sequence[ComparedView]) -> Tensor:
        """[M] bool: which of a set's Gaussians are no part of the thing: what it stands on, and what lies scattered around it.

        Args:
            views: captures without the set.
        """
        beneath = self.visit.in_support(self.visit.gaussians[members], views)
        link = self.visit.config.carve.link_px * pixel_footprint(views)
        body = main_body(self.visit.gaussians[members[~beneath]], link, config=self.visit.config.split)
        beneath[(~beneath).nonzero()[:, 0][~body]] = True
        return beneath

    def _patch_of(self, members: Tensor, num_views: int) -> int:
        """The surface that most of a set belongs to, 0 if none: a patch of it was wrong, but no thing has left.

        A surface that completes what the first visit hardly saw is drawn from then on, and holds things as the background does; a
        single photo is not enough to tell one of them from its own errors.
        """
        alone = num_views < 2
        started = {k: self.visit.old.tracks[k].presence[0] for k in self.surfaces}
        late = [k for k, was in started.items() if was == Presence.ABSENT or (alone and was == Presence.UNKNOWN)]
        shares = {k: float((self.visit.ids[members] == k).float().mean()) for k in late}
        return max(shares, key=shares.__getitem__) if sum(shares.values()) > 0.5 else 0

    def _cutting(self, members: Tensor) -> Cutting:
        """Members of a set by where they come from: the background, or one of the surfaces."""
        static = self.visit.old.static_mask.nonzero()[:, 0]
        rows = {k: members[self.visit.ids[members] == k] - int((self.visit.ids == k).nonzero()[0]) for k in self.surfaces}
        return Cutting(
            self.visit.gaussians[members], static[members[self.visit.ids[members] == BACKGROUND_ID]],
            {k: r for k, r in rows.items() if len(r)},
        )

    def _stored(self, object_id: int, views: Sequence[ComparedView], *, left: bool) -> KnownObject:
        template, track = self.visit.old.templates[object_id].gaussians, self.visit.old.tracks[object_id]
        model = self.visit.with_base(self.visit.model(template, track.portraits(self.visit.time)), track.last_pose(), views)
        return KnownObject(object_id, template, track.last_pose(), left, model)
