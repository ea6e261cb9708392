"""New content that no known object explains: whether it is an object, light, or an error of the scene."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ltgs.change.compare import footprint
from ltgs.change.shade import is_relit
from ltgs.core.chronology import Presence
from ltgs.core.gaussians import template_radius
from ltgs.core.views import ComparedView
from ltgs.imaging.masks import grown
from ltgs.objects.associate import Match
from ltgs.objects.hull import HullInstance
from ltgs.objects.join import join_pieces, separate_things
from ltgs.objects.palette import content_palette, likeness, likeness_to_surroundings, template_palette
from ltgs.pipeline.update_captures import VisitCaptures
from ltgs.pipeline.update_parts import KnownObject, owner_of, place
from ltgs.pipeline.update_proofs import stood_before

log = logging.getLogger("ltgs.pipeline")


class NewContent:
    """Judges the new content of one visit."""

    def __init__(self, visit: VisitCaptures) -> None:
        self.visit = visit

    def apart_from(
        self, instances: Sequence[HullInstance], known: Mapping[int, KnownObject], matches: Sequence[Match],
        views: Sequence[ComparedView],
    ) -> list[HullInstance]:
        """Instances that are not just what remains around an object placed a little wrong, now or at an earlier visit.

        Args:
            views: captures with the matched objects drawn where they are.
        """
        standing = [
            (m.object_id, m.hypothesis.world_from_object[:3, 3], template_radius(known[m.object_id].template), np.inf)
            for m in matches
        ]
        for k, track in self.visit.old.tracks.items():
            template = self.visit.old.templates[k]
            if k not in known and template.kind == "object" and track.presence[-1] == Presence.PRESENT:
                radius = template_radius(template.gaussians)
                # Of what one visit has built and none has turned since, the other sides are wrong altogether.
                turned = template.created_at == 0 or not np.array_equal(track.last_pose(), track.world_from_object[template.created_at])
                standing.append((k, track.last_pose()[:3, 3], 1.2 * radius, (0.5 if turned else 0.75) * radius))
        placed = {m.object_id for m in matches}
        apart = []
        for instance in instances:
            owner = owner_of(instance, standing, self.visit.config.own_radius) or self._missing_piece(instance, known, matches, views)
            # Of an object that was only just found the pose is not exact yet.
            if owner is None or (owner not in placed and self._drawn_share(instance, owner) < self.visit.config.leftover):
                apart.append(instance)
            else:
                self.visit.record.verdict(instance, "leftover", owner, "lies around that object: its own error")
                self.visit.undecided.append(f"What still differs around object {owner} is taken for its own error, not for a new object.")
        return apart

    def _missing_piece(
        self, instance: HullInstance, known: Mapping[int, KnownObject], matches: Sequence[Match], views: Sequence[ComparedView]
    ) -> int | None:
        """The object just found of which an instance is a piece that its template lacks: right beside it, smaller, of its colours."""
        config = self.visit.config.piece
        for match in matches:
            placed, inside, total = place(known[match.object_id], match), 0, 0
            for mask, view in zip(instance.pixels, views, strict=True):
                drawn = footprint(placed, view.camera, above=0.3, backend=self.visit.backend)
                total += int(drawn.sum())
                inside += int((mask & grown(drawn, max(3, round(config.reach * float(np.sqrt(drawn.sum())))))).sum())
            if inside < config.beside * instance.area_px or instance.area_px > config.smaller * total:
                continue
            up = match.hypothesis.world_from_object[:3, :3].T @ self.visit.up
            template = template_palette(known[match.object_id].template, up, backend=self.visit.backend)
            like = likeness(template, content_palette(instance, views))
            log.info("new content at %s beside object %d is like it: %s", instance.centroid, match.object_id, like)
            if like is not None and like >= config.alike:
                return match.object_id
        return None

    def for_sure(self, instances: Sequence[HullInstance], views: Sequence[ComparedView]) -> list[HullInstance]:
        """Instances that are no known object in another light, of which the photos tell the place, and which stand where the first
        visit's photos looked through, or where an object stood that has left since."""
        instances = [i for i in instances if not self._relit(i, views) and not self._adrift(i, views)]
        if not self.visit.replay or not instances:
            return instances
        new = []
        for instance in instances:
            points = instance.points[self.visit.rng.permutation(len(instance.points))[:400]]
            empty = self.visit.looked_through(points) >= self.visit.config.looked_through
            if np.mean(empty | stood_before(points, self.visit.old)) >= 0.5:
                new.append(instance)
            else:
                self.visit.record.verdict(instance, "newly seen", reason="no earlier photo had looked through its place")
                self.visit.undecided.append("Something differs where no earlier photo had looked: newly seen, not counted as new.")
        return new

    def things(self, instances: Sequence[HullInstance], views: Sequence[ComparedView]) -> list[HullInstance]:
        """One instance for each thing: what hangs together cut apart, pieces joined, as their colours say."""
        config = self.visit.config
        apart = separate_things(instances, views, up=self.visit.up, config=config.join, split=config.split)
        if len(apart) > len(instances):
            log.info("new content of several things: %s", [np.round(t.centroid, 2).tolist() for t in apart])
        return join_pieces(apart, views, config=config.join)

    def _adrift(self, instance: HullInstance, views: Sequence[ComparedView]) -> bool:
        """Whether nothing says how far away new content is: one photo, in which it is not seen to stand on anything."""
        if len(views) > 1 or instance.ground is not None:
            return False
        self.visit.record.verdict(instance, "dropped", reason="a single photo, in which it is not seen what it stands on")
        self.visit.undecided.append("Something is new in the only photo, which does not show what it stands on: not counted.")
        return True

    def camouflaged(self, instance: HullInstance, views: Sequence[ComparedView]) -> bool:
        """Whether new content has the colours of what lies around it: then it may be an error of the scene."""
        like = likeness_to_surroundings(instance, views)
        log.info("new content at %s is like its surroundings: %s", instance.centroid, like)
        return like is not None and like >= self.visit.config.camouflage

    def _relit(self, instance: HullInstance, views: Sequence[ComparedView]) -> bool:
        config = self.visit.config.compare
        if not is_relit(views, instance.pixels, config=config.shade, earlier=config.earlier):
            return False
        self.visit.record.verdict(instance, "light", reason="the known surface in another light explains it")
        self.visit.undecided.append("Something differs that another light on a known surface explains: not counted as new.")
        return True

    def _drawn_share(self, instance: HullInstance, object_id: int) -> float:
        """Share of an instance's pixels where a stored object is drawn, or right beside it."""
        pose = torch.as_tensor(self.visit.old.tracks[object_id].last_pose(), dtype=torch.float32)
        own = self.visit.old.templates[object_id].gaussians.transformed(pose)
        inside = 0
        for mask, shot in zip(instance.pixels, self.visit.shots, strict=True):
            if mask.any():
                drawn = footprint(own, shot.camera, above=0.3, backend=self.visit.backend)
                inside += int((mask & grown(drawn, max(3, round(0.1 * float(np.sqrt(drawn.sum())))))).sum())
        return inside / max(instance.area_px, 1)
