"""What left, what came and who is who: the decisions of one update."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.change.compare import with_mask
from ltgs.change.revealed import PlanePatch, Revealed, find_revealed
from ltgs.core.gaussians import Gaussians, template_radius
from ltgs.core.views import ComparedView
from ltgs.objects.associate import Match, match_instances
from ltgs.objects.carve import VacatedSet
from ltgs.objects.hull import HullInstance
from ltgs.objects.palette import pixels_like, template_palette
from ltgs.objects.removal import hole_masks
from ltgs.objects.split import split_instance
from ltgs.pipeline.update_assemble import Decisions
from ltgs.pipeline.update_captures import VisitCaptures
from ltgs.pipeline.update_former import former_objects
from ltgs.pipeline.update_inventory import Inventory
from ltgs.pipeline.update_left import Departures
from ltgs.pipeline.update_leftover import Leftovers
from ltgs.pipeline.update_new import NewContent
from ltgs.pipeline.update_parts import KnownObject, place, sinks, with_doubt
from ltgs.pipeline.update_proofs import needed

log = logging.getLogger("ltgs.pipeline")
Array = NDArray[np.float64]


@dataclass
class _Explained:
    """What of a visit is explained so far."""

    kept: Tensor
    """[N] bool, the state's Gaussians that have not left."""
    views: list[ComparedView]
    """The captures against what is kept and the matched objects where they are."""
    matches: list[Match] = field(default_factory=list)
    instances: list[HullInstance] = field(default_factory=list)
    """New content that no match explains."""
    holes: list[NDArray[np.bool_]] = field(default_factory=list)
    """Per photo [H, W], what departed objects left open."""
    late: list[Array] = field(default_factory=list)
    """Where something was seen to have left only once others were drawn at their new places."""
    turns: int = 0


class Decider:
    """Decides about one visit."""

    def __init__(self, visit: VisitCaptures) -> None:
        self.visit = visit
        self.content = NewContent(visit)
        self.left = Departures(visit)
        self.inventory = Inventory(visit, self.left.piece_of)
        self.patches: list[PlanePatch] = []
        """Planes around what left."""
        self.revealed: list[Revealed] = []
        """What these show where it stood, per photo."""

    def decide(self, before: Sequence[ComparedView]) -> Decisions:
        """Alternate between what left and what came until nothing more is explained.

        An object found at a new place is drawn there before the next round, so that what stood there before can be seen to
        have left too (two objects that changed places).
        """
        known = self.inventory.known
        now = _Explained(torch.ones(len(self.visit.gaussians), dtype=torch.bool), list(before))
        while self._rounds(before, now):
            now.matches, now.instances, now.views = self._sifted(known, now.matches, now.instances, now.views, now.kept, now.holes)
            if now.turns >= self.visit.config.turns or not self.left.is_displaced(now.kept, self._arrived(now.matches)):
                break
        matches, views, holes = now.matches, now.views, now.holes
        instances = self.content.apart_from(now.instances, known, matches, views)
        with self.visit.timed("association"):
            self.visit.record.stage = "second look"
            matches = self._second_look(known, matches, views, now.kept, now.late)
            views, holes = self._without_leftovers(known, matches, instances, views, now.kept, holes)
        sure, spread = self.visit.config.review.sure_mean, self.visit.config.register.uncertainty
        matches = [with_doubt(known[m.object_id], m, sure, spread) for m in matches]
        new = self.content.things(self.content.for_sure(instances, views), views)
        camouflaged = [self.content.camouflaged(i, views) for i in new]
        missing = {k: o for k, o in known.items() if o.left and k not in {m.object_id for m in matches}}
        former = former_objects(new, missing, views, self.visit.up, config=self.visit.config.former, backend=self.visit.backend)
        return Decisions(known, matches, new, views, holes, self.visit.record, self.inventory.remains, camouflaged, former)

    def _arrived(self, matches: Sequence[Match]) -> list[tuple[KnownObject, Match]]:
        return [(self.inventory.known[m.object_id], m) for m in matches]

    def _rounds(self, before: Sequence[ComparedView], now: _Explained) -> bool:
        """Look for what left and what came, in turns, and note it; whether anything was looked for that was not known yet."""
        known = self.inventory.known
        for index in range(self.visit.config.rounds):
            again = index > 0 or now.turns > 0
            self.visit.record.stage = f"round {now.turns * self.visit.config.rounds + index + 1}"
            placed = [place(obj, m) for obj, m in self._arrived(now.matches)]
            with self.visit.timed("vacated"):
                sets, views = self.left.vacated(now.kept, placed, now.views, self._arrived(now.matches))
                sets, now.views = self.left.with_inside(sets, now.kept, placed, views)
            for vacated in sets:
                now.kept[vacated.members] = False
            if again and not sets:
                if index == 0:
                    return False
                break
            if again:
                now.late += [self.visit.gaussians.means[s.members].double().median(0).values.numpy() for s in sets]
            self.inventory.add(sets, now.views)
            with self.visit.timed("instances"):
                bare = self.visit.compare_kept(now.views, Gaussians.concatenate(placed), now.kept, [])
                now.holes = hole_masks(before, bare)
                self._uncover(sets, bare, now.holes)
                instances, num_outside = self._new_content(now.views, now.holes, known)
            taken = {m.object_id for m in now.matches}
            with self.visit.timed("association"):
                found, unmatched = self._match({k: v for k, v in known.items() if k not in taken}, instances, now.views)
            now.matches += found
            now.instances = [instances[i] for i in unmatched if i < num_outside]
            if not found:
                break
        now.turns += 1
        return True

    def _without_leftovers(
        self, known: Mapping[int, KnownObject], matches: Sequence[Match], instances: Sequence[HullInstance],
        views: Sequence[ComparedView], kept: Tensor, holes: Sequence[NDArray[np.bool_]],
    ) -> tuple[list[ComparedView], list[NDArray[np.bool_]]]:
        """The views without what was left over of objects that left, and the holes with those that it leaves."""
        self.visit.record.stage = "leftovers"
        leftovers = Leftovers(self.visit, kept, [place(known[m.object_id], m) for m in matches], instances)
        after = list(views)
        for obj in [o for o in known.values() if o.left]:
            gone, after = leftovers.of(obj, after)
            if len(gone):
                self.inventory.add_remains(obj.object_id, gone)
        return after, [h | o for h, o in zip(holes, hole_masks(views, after), strict=True)]

    def _uncover(self, sets: Sequence[VacatedSet], views: Sequence[ComparedView], holes: Sequence[NDArray[np.bool_]]) -> None:
        """Look for the surfaces around what left in the holes [H, W] that it left.

        Args:
            views: captures against what remains.
        """
        for vacated in sets:
            self.patches += self.visit.support_patches(self.visit.gaussians[vacated.members], views)
        compare = self.visit.config.compare
        self.revealed = find_revealed(views, holes, self.patches, config=self.visit.config.reveal, earlier=compare.earlier)
        log.info("uncovered: %s pixels", [int(r.mask.sum()) for r in self.revealed])

    def _with_uncovered(self, views: Sequence[ComparedView]) -> list[ComparedView]:
        """The views with what was uncovered taken for known."""
        slack = self.visit.config.compare.earlier.depth_slack
        return [r.shown_in(v, slack) for r, v in zip(self.revealed, views, strict=True)]

    def _sifted(
        self, known: Mapping[int, KnownObject], matches: Sequence[Match], instances: Sequence[HullInstance],
        views: Sequence[ComparedView], kept: Tensor, holes: Sequence[NDArray[np.bool_]],
    ) -> tuple[list[Match], list[HullInstance], list[ComparedView]]:
        """The matches that explain something, the new content beside them, and the views with the matched objects drawn.

        Objects that were not found are looked for once more in what is left, where other things hang together with it no longer,
        and then where it has their colours.
        """
        matches, instances, views = list(matches), list(instances), list(views)
        config = self.visit.config.review
        searches = [(self._search_by_colour, config.found_mean_by_colour)]
        if matches:
            drawn = [place(known[m.object_id], m) for m in matches]
            matches = self._needed(known, matches, [], views, kept, config.found_mean)
            instances, views = self._what_is_left(known, matches, views, kept, holes, drawn)
            # Without a match the views are those that were searched just now.
            searches.insert(0, (self._search_again, config.found_mean))
        for search, least in searches:
            missing = {k: v for k, v in known.items() if k not in {m.object_id for m in matches}}
            if not missing:
                break
            with self.visit.timed("association"):
                found = search(missing, instances, views, holes)
            late = self._needed(known, found, matches, views, kept, least)
            if late:
                matches = [*matches, *late]
                instances, views = self._what_is_left(known, matches, views, kept, holes, [])
        return matches, instances, views

    def _search_again(
        self, missing: Mapping[int, KnownObject], instances: Sequence[HullInstance], views: Sequence[ComparedView],
        holes: Sequence[NDArray[np.bool_]],
    ) -> list[Match]:
        return self._match(missing, instances, views)[0] if instances else []

    def _search_by_colour(
        self, missing: Mapping[int, KnownObject], instances: Sequence[HullInstance], views: Sequence[ComparedView],
        holes: Sequence[NDArray[np.bool_]],
    ) -> list[Match]:
        """Matches of objects, one by one, with what has their colours among content of several things, in the holes as well."""
        known = self._with_uncovered(views)
        everything = [v.mask | (h & (v.alpha < 0.6)) for v, h in zip(known, holes, strict=True)]
        content = self.visit.instances(
            [with_mask(v, m) for v, m in zip(known, everything, strict=True)], self.visit.config.hull.in_hole()
        )
        found: list[Match] = []
        for object_id, obj in missing.items():
            own = template_palette(obj.model.seen, obj.last_pose[:3, :3].T @ self.visit.up, backend=self.visit.backend)
            if own is None:
                continue
            own_matches: list[Match] = []
            for instance in content:
                like = pixels_like(own, instance, known)
                if sum(int(m.sum()) for m in like) > self.visit.config.mixed * instance.area_px:
                    continue  # all of it was looked at before
                inside = [with_mask(v, m) for v, m in zip(known, like, strict=True)]
                parts = self.visit.instances(inside, self.visit.config.hull.in_hole())[:2]
                own_matches += self._match({object_id: obj}, parts, views, by_colour=True)[0] if parts else []
            if own_matches:
                found.append(max(own_matches, key=lambda m: m.hypothesis.gain))
        return found

    def _needed(
        self, known: Mapping[int, KnownObject], matches: Sequence[Match], others: Sequence[Match], views: Sequence[ComparedView],
        kept: Tensor, least: float,
    ) -> list[Match]:
        """The matches whose objects, drawn where they were found, explain something; the content of the rest is open again.

        Args:
            others: matches that are sure.
            least: mean drop of the score that an object must bring.
        """
        left, drawn = list(matches), [place(known[m.object_id], m) for m in matches]
        while left:
            gains = self._gains(known, left, others, views, kept, drawn)
            short = [i for i, g in enumerate(gains) if g is not None and (g[0] < least or g[1] < self.visit.config.review.found_least)]
            if not short:
                return [m if g is None else replace(m, explained=g[0]) for m, g in zip(left, gains, strict=True)]
            # One by one: drawn at a wrong place, an object takes from what another one explains there.
            worst = left.pop(min(short, key=lambda i: gains[i] or (0.0, 0.0)))
            self.visit.record.withdraw(worst.object_id, "drawn there the object explains too little of the photos")
        return left

    def _gains(
        self, known: Mapping[int, KnownObject], matches: Sequence[Match], others: Sequence[Match], views: Sequence[ComparedView],
        kept: Tensor, drawn: Sequence[Gaussians],
    ) -> list[tuple[float, float] | None]:
        """How much every one of the matches explains where all of them, and the others, are drawn; see `needed`.

        Args:
            drawn: what else may be drawn in the views.
        """
        everything = [place(known[m.object_id], m) for m in (*matches, *others)]
        together = self.visit.compare_kept(views, Gaussians.concatenate([*everything, *drawn]), kept, everything)
        out: list[tuple[float, float] | None] = []
        for index, match in enumerate(matches):
            rest = [p for i, p in enumerate(everything) if i != index]
            out.append(needed(self.visit.compare_kept(together, everything[index], kept, rest), together, self.visit.config.review))
            log.info("object %d where it was found: the score drops by %s", match.object_id, out[-1])
        return out

    def _what_is_left(
        self, known: Mapping[int, KnownObject], matches: Sequence[Match], views: Sequence[ComparedView], kept: Tensor,
        holes: Sequence[NDArray[np.bool_]], drawn: Sequence[Gaussians],
    ) -> tuple[list[HullInstance], list[ComparedView]]:
        """New content beside the objects that were found, and the views with these drawn where they are.

        Args:
            views: captures against the kept Gaussians and any of the placed objects.
            drawn: what else may be drawn there, because it was taken for found.
        """
        self.visit.record.stage = "what is left"
        placed = [place(known[m.object_id], m) for m in matches]
        with self.visit.timed("instances"):
            views = self.visit.compare_kept(views, Gaussians.concatenate([*placed, *drawn]), kept, placed)
            instances, num_outside = self._new_content(views, holes, {})
        return instances[:num_outside], views

    def _new_content(
        self, views: Sequence[ComparedView], holes: Sequence[NDArray[np.bool_]], known: Mapping[int, KnownObject]
    ) -> tuple[list[HullInstance], int]:
        """Instances of new content, and how many of them, the first ones, lie outside of the holes that departed objects left.

        A known object may also stand in the hole that another one left, or, turned, in its own, or lie across the edge of one, or
        be a part of what hangs together; something new must show outside, or where the ground could be seen in a hole.
        """
        config, most, views = self.visit.config.hull, self.visit.config.max_objects, self._with_uncovered(views)
        outside = [with_mask(v, v.mask & (~h | r.other)) for v, h, r in zip(views, holes, self.revealed, strict=True)]
        instances = self.visit.instances(outside, config, told=True, weak=bool(known))[:most]
        num_outside = sum(not i.is_weak for i in instances)
        if known:
            open_now = [h & (v.mask | (v.alpha < 0.6)) for v, h in zip(views, holes, strict=True)]
            inside = [with_mask(v, o) for v, o in zip(views, open_now, strict=True)]
            instances += self.visit.instances(inside, config.in_hole())[:most]
            across = self.visit.instances([with_mask(v, v.mask | o) for v, o in zip(views, open_now, strict=True)], config.in_hole())
            instances += [i for i in across if 0.15 < _share_in(i, holes) < 0.85][:most]
            instances += [part for i in instances for part in split_instance(i, views, self.visit.config.split)]
            instances = _distinct(instances, num_outside, self.visit.config.same)[: num_outside + 3 * most]
        instances = self.visit.learned.with_outlines(instances, views)
        self.visit.record.seen_all([i for i in instances if not i.is_weak], num_outside)
        return instances, num_outside

    def _match(
        self, known: Mapping[int, KnownObject], instances: Sequence[HullInstance], views: Sequence[ComparedView], *,
        by_colour: bool = False,
    ) -> tuple[list[Match], list[int]]:
        """Matches, and the indices of instances without one; content that was chosen by its colours is as like as any."""
        config = self.visit.config
        associate = replace(config.associate, min_gain_alike=config.associate.min_gain) if by_colour else config.associate
        matches, unmatched = match_instances(
            known, instances, self._with_uncovered(views), up=self.visit.up, config=associate, register=config.register,
            rng=self.visit.rng, backend=self.visit.backend, record=self.visit.record,
        )
        for match in matches:
            if sinks(known[match.object_id], match, self.visit.up, config.sinks):
                self.visit.record.withdraw(match.object_id, "it would stand below the ground where it stood")
                matches = [m for m in matches if m is not match]
                unmatched.append(next(i for i, instance in enumerate(instances) if instance is match.instance))
        return matches, sorted(unmatched)

    def _second_look(
        self, known: Mapping[int, KnownObject], matches: Sequence[Match], views: Sequence[ComparedView], kept: Tensor,
        late: Sequence[Array],
    ) -> list[Match]:
        """Register objects once more if what stood in their way was found to have left only later.

        Args:
            views: captures against the kept Gaussians and any of the placed objects.
            late: [3] each, where something left that was still drawn when the matches were made.
        """
        out = []
        placed = [place(known[m.object_id], m) for m in matches]
        for index, match in enumerate(matches):
            obj = known[match.object_id]
            reach = 2 * template_radius(obj.template)
            centre = match.hypothesis.world_from_object[:3, 3]
            if any(np.linalg.norm(centre - place) < reach for place in late):
                others = [p for i, p in enumerate(placed) if i != index]
                alone = self.visit.compare_kept(views, Gaussians.concatenate(placed), kept, others)
                again, _ = self._match({match.object_id: obj}, [match.instance], alone)
                match = replace(again[0], explained=match.explained) if again else match
            out.append(match)
        return out


def _distinct(instances: Sequence[HullInstance], num_first: int, same: float) -> list[HullInstance]:
    """Instances without those, after the first ones, whose pixels are nearly those of another one before."""
    out = list(instances[:num_first])
    for instance in instances[num_first:]:
        if all(_common_share(instance, other) < same for other in out):
            out.append(instance)
    return out


def _common_share(one: HullInstance, other: HullInstance) -> float:
    """Pixels that two instances have in common relative to those that any of them has."""
    common = sum(int((a & b).sum()) for a, b in zip(one.pixels, other.pixels, strict=True))
    return common / max(one.area_px + other.area_px - common, 1)


def _share_in(instance: HullInstance, masks: Sequence[NDArray[np.bool_]]) -> float:
    """Share of an instance's pixels inside some masks."""
    return sum(int((p & m).sum()) for p, m in zip(instance.pixels, masks, strict=True)) / max(instance.area_px, 1)
