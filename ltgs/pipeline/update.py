"""One more visit: light, change, what left, what came, who is who, poses, refinement, events. The past is not touched."""

from __future__ import annotations

import logging
import time as clock
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.change.compare import Shot, compare, with_mask
from ltgs.change.earlier import EarlierPhoto, Witness, nearest_cameras, prepare_earlier, witness
from ltgs.change.harmonise import ColourFit
from ltgs.change.lift import lift_to_gaussians
from ltgs.change.light import visit_light
from ltgs.change.relight import fit_light_field
from ltgs.core.chronology import BACKGROUND_ID, Chronology, Presence
from ltgs.core.decisions import DecisionRecord, DecisionRecorder
from ltgs.core.gaussians import Gaussians
from ltgs.core.progress import Progress, ProgressEvent, silent
from ltgs.core.scene import Scene
from ltgs.core.views import ComparedView
from ltgs.objects.associate import Match, match_instances
from ltgs.objects.carve import VacatedSet, find_vacated, hole_masks
from ltgs.objects.hull import HullInstance, hull_instances, seen_empty
from ltgs.objects.register import template_radius
from ltgs.objects.templates import cut_out
from ltgs.optim.complete import Target
from ltgs.optim.initialize import TrainingPhoto
from ltgs.optim.refine import RefineItem, refine_visit
from ltgs.pipeline.update_assemble import Decisions, assemble
from ltgs.pipeline.update_complete import complete_visit
from ltgs.pipeline.update_config import UpdateConfig
from ltgs.pipeline.update_learned import Learned
from ltgs.pipeline.update_parts import UNSURE, KnownObject, drawn_without, expected_residuals, fit_quality, own_exposures, owner_of
from ltgs.pipeline.update_proofs import existed, share_inside
from ltgs.poses.gauge import up_direction

__all__ = ["UpdateConfig", "VisitUpdate", "update_visit"]
log = logging.getLogger("ltgs.pipeline")
Array = NDArray[np.float64]
METHOD = {
    "change": "weight-free: harmonised colour + 1-SSIM over expected residual",
    "objects": "weight-free: per-Gaussian evidence, removal test, visual hull",
    "association": "weight-free: render-and-compare",
}


@dataclass(frozen=True)
class VisitUpdate:
    """Result of one update."""

    chronology: Chronology
    exposures: Array
    """[P, 3, 4] colour affine per photo, render in the visit's light to photo."""
    quality: dict[str, float]
    method: dict[str, str]
    undecided: tuple[str, ...]
    timing: dict[str, float]
    views_before: tuple[ComparedView, ...] = ()
    views_after: tuple[ComparedView, ...] = ()
    decisions: DecisionRecord | None = None


def update_visit(
    scene: Scene,
    photos: Sequence[TrainingPhoto],
    replay: Sequence[TrainingPhoto],
    *,
    config: UpdateConfig | None = None,
    backend: str = "auto",
    seed: int = 0,
    progress: Progress = silent,
) -> VisitUpdate:
    """Extend the chronology by one visit.

    Args:
        photos: the visit's localised photos, at least one for anything to be decided.
        replay: photos of the first visit, used while refining objects that were there then.

    Returns:
        the chronology, one time longer; without photos every track is unknown at the new time.
    """
    config = config or UpdateConfig()
    if not photos:
        return _unseen(scene.chronology)
    return _Update(scene, photos, replay, config, backend, seed, progress).run()


def _unseen(chronology: Chronology) -> VisitUpdate:
    tracks = {
        k: t.extended(Presence.ABSENT if t.presence[-1] == Presence.ABSENT else Presence.UNKNOWN)
        for k, t in chronology.tracks.items()
    }
    longer = replace(chronology, tracks=tracks, appearance=(*chronology.appearance, chronology.appearance[-1]))
    return VisitUpdate(
        longer, np.zeros((0, 3, 4)), {}, dict(METHOD), ("No photo of this visit was localised; nothing could be decided.",), {}
    )


class _Update:
    """Working state of one update; the steps run in the order of `run`."""

    def __init__(
        self, scene: Scene, photos: Sequence[TrainingPhoto], replay: Sequence[TrainingPhoto], config: UpdateConfig,
        backend: str, seed: int, progress: Progress,
    ) -> None:
        self.scene, self.config, self.backend, self.seed, self.progress = scene, config, backend, seed, progress
        self.old = scene.chronology
        self.time = self.old.num_times
        self.shots = [Shot(p.camera, p.rgb.astype(np.float32) / 255) for p in photos]
        self.record = DecisionRecorder([p.camera for p in photos])
        self.replay = list(replay)
        self.rng = np.random.default_rng(seed + 7919 * self.time)
        self.timing: dict[str, float] = {}
        self.undecided: list[str] = []
        state = self.old.state_at(self.time - 1)
        self.gaussians, self.ids = state.gaussians.detach(), state.object_ids
        self.expected = self._expected(self.old, self.ids)
        self.fits: list[ColourFit] = []
        self.witnesses: list[Witness] | None = None
        self.first = self.old.state_at(0).gaussians.detach()
        self.earlier: dict[int, EarlierPhoto] = {}
        self.refused: list[Tensor] = []
        self.learned = Learned(config.learned, config.compare.evidence)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = clock.perf_counter()
        self.progress(ProgressEvent(stage, 0, None, message=f"visit {self.time}: {stage}"))
        yield
        self.timing[stage] = self.timing.get(stage, 0.0) + clock.perf_counter() - start

    def _compare(self, gaussians: Gaussians, expected: Tensor) -> list[ComparedView]:
        return compare(
            gaussians, expected, self.shots, fits=self.fits, witnesses=self.witnesses, rescore=self.learned.rescore,
            config=self.config.compare, backend=self.backend,
        )[0]

    def _lift(self, gaussians: Gaussians, views: Sequence[ComparedView], images: Sequence[NDArray[np.float32]]) -> Tensor:
        return lift_to_gaussians(gaussians, [v.camera for v in views], images, backend=self.backend)

    def run(self) -> VisitUpdate:
        with self._timed("change"):
            before = self.before()
        decisions = self._explain(before)
        light = visit_light(self.fits, self.old.appearance[-1], config=self.config.light)
        chronology, items = assemble(self.old, decisions, light, build=self.config.build, rng=self.rng)
        with self._timed("refine"):
            chronology = self._refine(chronology, items, decisions.views)
        with self._timed("complete"):
            chronology = self._complete(chronology, self._compare_final(chronology))
        after = self._compare_final(chronology)
        with self._timed("light"):
            chronology = self._relight(chronology, after)
        return VisitUpdate(
            chronology, own_exposures(self.fits, chronology.appearance[-1]), fit_quality(before, after), self.learned.method(METHOD),
            tuple(self.undecided), self.timing, tuple(before), tuple(after), self.record.finish(chronology, self.time),
        )

    def _compare_final(self, chronology: Chronology) -> list[ComparedView]:
        final = chronology.state_at(self.time)
        return self._compare(final.gaussians, self._expected(chronology, final.object_ids))

    def before(self) -> list[ComparedView]:
        """The captures against the scene of the visit before; fits their light and asks the first visit's photos."""
        before, self.fits = compare(
            self.gaussians, self.expected, self.shots, rescore=self.learned.rescore, config=self.config.compare, backend=self.backend
        )
        self.witnesses = self._ask_earlier(before)
        return self._compare(self.gaussians, self.expected)

    def _ask_earlier(self, views: Sequence[ComparedView]) -> list[Witness]:
        """What the first visit's photos show where the new photos look."""
        cameras = [p.camera for p in self.replay]
        out = []
        for view, fit in zip(views, self.fits, strict=True):
            picks = nearest_cameras(view.camera, cameras, self.config.compare.earlier)
            out.append(witness(
                view.camera, view.photo, view.depth, view.alpha, fit, [self._earlier(i) for i in picks],
                where=view.mask, config=self.config.compare.earlier,
            ))
        return out

    def _earlier(self, index: int) -> EarlierPhoto:
        """A photo of the first visit with the scene's depth then; made once."""
        if index not in self.earlier:
            exposures = self._first_exposures()
            photo = self.replay[index]
            self.earlier[index] = prepare_earlier(
                self.first, photo.camera, photo.rgb, exposures[index] if exposures is not None else None, backend=self.backend
            )
        return self.earlier[index]

    def _new_for_sure(self, instances: Sequence[HullInstance]) -> list[HullInstance]:
        """Instances that stand where the first visit's photos looked through."""
        if not self.replay or not instances:
            return list(instances)
        photos = [self._earlier(i) for i in range(len(self.replay))]
        cameras, depths = [p.camera for p in photos], [p.depth for p in photos]
        new = []
        for instance in instances:
            points = instance.points[self.rng.permutation(len(instance.points))[:400]]
            if np.median(seen_empty(points, cameras, depths)) >= self.config.looked_through:
                new.append(instance)
            else:
                self.record.verdict(instance, "newly seen", reason="no earlier photo had looked through its place")
                self.undecided.append("Something differs where no earlier photo had looked: newly seen, not counted as new.")
        return new

    def _first_exposures(self) -> list[Array] | None:
        """[3, 4] colour affine per replay photo, None if the replay photos are not the stored ones."""
        exposures = [p.exposure for p in self.scene.photos(time=0, holdout=False) if p.image_blob is not None]
        return exposures if len(exposures) == len(self.replay) else None

    def _explain(self, before: Sequence[ComparedView]) -> Decisions:
        """Alternate between what left and what came until nothing more is explained.

        An object found at a new place is drawn there before the next round, so that what stood there before can be seen to
        have left too (two objects that changed places).
        """
        known: dict[int, KnownObject] = {}
        matches: list[Match] = []
        late: list[Array] = []
        kept = torch.ones(len(self.gaussians), dtype=torch.bool)
        views, instances = list(before), []
        for round_index in range(self.config.rounds):
            self.record.stage = f"round {round_index + 1}"
            placed = [self._place(known[m.object_id], m) for m in matches]
            with self._timed("vacated"):
                sets, views = self._vacated(kept, placed, views, [(known[m.object_id], m) for m in matches])
            for vacated in sets:
                kept[vacated.members] = False
            if round_index and not sets:
                break
            if round_index:
                late += [self.gaussians.means[s.members].double().median(0).values.numpy() for s in sets]
            self._add_known(known, sets)
            with self._timed("instances"):
                # Without placed objects the views are those of the bare remaining scene already.
                gone = self._compare_with(kept, []) if placed else views
                holes = hole_masks(before, gone)
                outside = [with_mask(v, v.mask & ~h) for v, h in zip(views, holes, strict=True)]
                instances = hull_instances(outside, config=self.config.hull, record=self.record)[: self.config.max_objects]
                # A known object may stand in the hole that another one left; something new must show outside.
                inside = [with_mask(v, h & (v.mask | (v.alpha < 0.6))) for v, h in zip(views, holes, strict=True)]
                num_outside = len(instances)
                if len(known) > 1:
                    instances += hull_instances(inside, config=self.config.hull.in_hole())[: self.config.max_objects]
                instances = self.learned.with_outlines(instances, views)
                self.record.seen_all(instances, num_outside)
            taken = {m.object_id for m in matches}
            with self._timed("association"):
                found, unmatched = match_instances(
                    {k: v for k, v in known.items() if k not in taken}, instances, views, up=self._up(),
                    config=self.config.associate, register=self.config.register, rng=self.rng, backend=self.backend,
                    record=self.record,
                )
            matches += found
            instances = self._apart_from([instances[i] for i in unmatched if i < num_outside], known, matches)
            if not found:
                break
        with self._timed("association"):
            self.record.stage = "second look"
            matches = self._second_look(known, matches, kept, late)
        return Decisions(known, matches, self._new_for_sure(instances), views, holes, self.record)

    def _second_look(
        self, known: dict[int, KnownObject], matches: Sequence[Match], kept: Tensor, late: Sequence[Array]
    ) -> list[Match]:
        """Register objects once more if what stood in their way was found to have left only later.

        Args:
            late: [3] each, where something left that was still drawn when the matches were made.
        """
        out = []
        for match in matches:
            obj = known[match.object_id]
            reach = 2 * template_radius(obj.template)
            centre = match.hypothesis.world_from_object[:3, 3]
            if any(np.linalg.norm(centre - place) < reach for place in late):
                others = [self._place(known[m.object_id], m) for m in matches if m is not match]
                again, _ = match_instances(
                    {match.object_id: obj}, [match.instance], self._compare_with(kept, others), up=self._up(),
                    config=self.config.associate, register=self.config.register, rng=self.rng, backend=self.backend,
                    record=self.record,
                )
                match = again[0] if again else match
            out.append(match)
        return out

    def _apart_from(
        self, instances: Sequence[HullInstance], known: dict[int, KnownObject], matches: Sequence[Match]
    ) -> list[HullInstance]:
        """Instances that are not just what remains around an object placed a little wrong, now or at an earlier visit."""
        standing = [
            (m.object_id, m.hypothesis.world_from_object[:3, 3], template_radius(known[m.object_id].template), np.inf)
            for m in matches
        ]
        for k, track in self.old.tracks.items():
            template = self.old.templates[k]
            if k not in known and template.kind == "object" and track.presence[-1] == Presence.PRESENT:
                radius = template_radius(template.gaussians)
                standing.append((k, track.last_pose()[:3, 3], 1.2 * radius, 0.5 * radius))
        apart = []
        for instance in instances:
            owner = owner_of(instance, standing, self.config.own_radius)
            if owner is None:
                apart.append(instance)
            else:
                self.record.verdict(instance, "leftover", owner, "lies around that object: its own error")
                self.undecided.append(f"What still differs around object {owner} is taken for its own error, not for a new object.")
        return apart

    def _place(self, known: KnownObject, match: Match) -> Gaussians:
        return known.template.transformed(torch.as_tensor(match.hypothesis.world_from_object, dtype=torch.float32))

    def _compare_with(self, kept: Tensor, placed: Sequence[Gaussians]) -> list[ComparedView]:
        """Captures against the kept part of the state plus objects at their new places."""
        extra = Gaussians.concatenate(list(placed)) if placed else Gaussians.empty(self.gaussians.sh_degree)
        expected = torch.cat([self.expected[kept], UNSURE.repeat(len(extra), 1)])
        return self._compare(Gaussians.concatenate([self.gaussians[kept], extra]), expected)

    def _vacated(
        self, kept: Tensor, placed: Sequence[Gaussians], views: Sequence[ComparedView],
        arrived: Sequence[tuple[KnownObject, Match]],
    ) -> tuple[list[VacatedSet], list[ComparedView]]:
        """Sets that left, as indices into the state's Gaussians, and the views without them."""
        index = kept.nonzero()[:, 0]
        everything = Gaussians.concatenate([self.gaussians[kept], *placed])
        fixed = torch.arange(len(everything)) >= len(index)

        def compare_kept(_: Gaussians, mask: Tensor) -> list[ComparedView]:
            still = torch.zeros_like(kept)
            still[index[mask[: len(index)]]] = True
            return self._compare_with(still, placed)

        def displaced(members: Tensor) -> bool:
            points = everything.means[members].double().numpy()
            return any(
                m.hypothesis.gain >= proof.min_gain
                and share_inside(points, k.template, m.hypothesis.world_from_object, proof) >= proof.inside
                for k, m in arrived
            )

        proof, refused = self.config.proof, []
        start = self._compare_with(kept, placed) if placed else list(views)
        carve = self.config.carve
        if placed:
            # What is left over around objects just placed is their own error unless its outline is clear.
            carve = replace(carve, min_outline=carve.outline)
        still_kept = [torch.searchsorted(index, m[kept[m]]) for m in self.refused] if placed else []
        sets, after = find_vacated(
            everything, start, lift=self._lift, compare=compare_kept, config=carve, fixed=fixed, record=self.record,
            also=[m for m in still_kept if displaced(m)], displaced=displaced, refused=refused,
            veto=lambda members: self._never_was(index[members]),
        )
        self.refused = [index[m] for m in refused]
        return [replace(s, members=index[s.members]) for s in sets], after

    def _never_was(self, members: Tensor) -> str:
        """Why the first visit's photos say that these Gaussians [M] were no thing of their own; empty if they do not."""
        own = members[self.ids[members] == BACKGROUND_ID]
        if not self.replay or len(own) < 0.5 * len(members):
            return ""
        photos = [self._earlier(i) for i in range(len(self.replay))]
        share = existed(self.first, own, photos, self.config.proof, backend=self.backend)
        log.debug("existed: %s of %d at %s", share, len(own), self.gaussians.means[own].median(0).values.numpy())
        return "" if share is None or share >= self.config.proof.existed else "the first visit's photos do not need it either"

    def _expected(self, chronology: Chronology, ids: Tensor) -> Tensor:
        return expected_residuals(self.scene, chronology, ids, sure_views=self.config.sure_views)

    def _up(self) -> Array:
        """[3] vertical direction of the world, from how the first visit's photos were held."""
        poses = [p.camera.cam_from_world for p in self.scene.photos(time=0) if p.camera is not None]
        return up_direction(np.array(poses))

    def _add_known(self, known: dict[int, KnownObject], sets: Sequence[VacatedSet]) -> None:
        """Add objects that left now (cut out of the background, or templates already) and templates absent before."""
        next_id = max([self.old.next_id - 1, *known]) + 1
        surfaces = [k for k in self.ids.unique().tolist() if k and self.old.templates[k].kind == "surface"]
        num_static = int((self.ids == BACKGROUND_ID).sum())
        static_index = self.old.static_mask.nonzero()[:, 0]
        for vacated in sets:
            owners = self.ids[vacated.members]
            for object_id in owners[owners > 0].unique().tolist():
                share = float((owners == object_id).sum()) / max(1, int((self.ids == object_id).sum()))
                if share > 0.4 and object_id not in known and self.old.templates[object_id].kind == "object":
                    known[object_id] = self._stored(object_id, left=True)
            still = vacated.members[(owners == BACKGROUND_ID) | torch.isin(owners, torch.tensor(surfaces, dtype=owners.dtype))]
            if len(still) >= max(8, 0.5 * len(vacated.members)):
                template, pose = cut_out(self.gaussians, still)
                rows = {k: still[self.ids[still] == k] - int((self.ids == k).nonzero()[0]) for k in surfaces}
                known[next_id] = KnownObject(
                    next_id, template, pose, static_index[still[still < num_static]], True, {k: r for k, r in rows.items() if len(r)}
                )
                next_id += 1
        for object_id, track in self.old.tracks.items():
            absent = track.presence[-1] == Presence.ABSENT
            if absent and object_id not in known and self.old.templates[object_id].kind == "object":
                known[object_id] = self._stored(object_id, left=False)

    def _stored(self, object_id: int, *, left: bool) -> KnownObject:
        return KnownObject(
            object_id, self.old.templates[object_id].gaussians, self.old.tracks[object_id].last_pose(), None, left
        )

    def _refine(self, chronology: Chronology, items: Sequence[RefineItem], views: Sequence[ComparedView]) -> Chronology:
        if not items:
            return chronology
        touched = {item.object_id for item in items}
        frozen = drawn_without(chronology, self.time, touched)
        first = drawn_without(chronology, 0, touched)
        exposures = self._first_exposures()
        refined = refine_visit(
            frozen, items, views, self.replay, first, config=self.config.refine, backend=self.backend,
            seed=self.seed + self.time, progress=self.progress,
            first_exposure=exposures.__getitem__ if exposures is not None else None,
        )
        templates, tracks = dict(chronology.templates), dict(chronology.tracks)
        for item in refined:
            templates[item.object_id] = replace(templates[item.object_id], gaussians=item.gaussians)
            poses = tracks[item.object_id].world_from_object.copy()
            poses[self.time] = item.pose_now
            tracks[item.object_id] = replace(tracks[item.object_id], world_from_object=poses)
        return replace(chronology, templates=templates, tracks=tracks)

    def _complete(self, chronology: Chronology, views: Sequence[ComparedView]) -> Chronology:
        """The chronology with what these photos show of places that the first visit hardly saw."""
        exposures = self._first_exposures()
        first = [
            Target(p.camera, p.rgb.astype(np.float32) / 255, exposures[i] if exposures is not None else np.eye(3, 4), None)
            for i, p in enumerate(self.replay)
        ]
        data = self.scene.side_data.get("expected_residual")
        return complete_visit(
            chronology, views, first, None if data is None else data["num_views"], config=self.config.complete,
            build=self.config.build, backend=self.backend, seed=self.seed + self.time, progress=self.progress,
        )

    def _relight(self, chronology: Chronology, views: Sequence[ComparedView]) -> Chronology:
        """The chronology with the light field of the new time."""
        centers = [p.camera.center for p in self.scene.photos(time=0) if p.camera is not None]
        viewpoint = torch.as_tensor(np.mean(centers, axis=0), dtype=torch.float32)
        light = fit_light_field(
            chronology.state_at(self.time), views, viewpoint, config=self.config.relight, backend=self.backend
        )
        return replace(chronology, appearance=(*chronology.appearance[:-1], replace(chronology.appearance[-1], field=light)))



def compare_again(
    scene: Scene, time: int, photos: Sequence[TrainingPhoto], replay: Sequence[TrainingPhoto], *, config: UpdateConfig,
    backend: str = "auto",
) -> tuple[list[ComparedView], list[ComparedView]]:
    """A stored visit's photos against the scene of the visit before, and against that of the visit, as the update compared them."""
    past = replace(scene, chronology=scene.chronology.until(time), visits=scene.visits[:time])
    update = _Update(past, photos, replay, config, backend, 0, silent)
    before = update.before()
    final = scene.chronology.state_at(time)
    return before, update._compare(final.gaussians, update._expected(scene.chronology, final.object_ids))
