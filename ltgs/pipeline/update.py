"""One more visit: light, change, what left, what came, who is who, poses, refinement, events. Past poses and events stay."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ltgs.change.compare import with_mask
from ltgs.change.light import visit_light
from ltgs.change.relight import fit_light_field
from ltgs.core.chronology import Chronology, Presence
from ltgs.core.decisions import DecisionRecord
from ltgs.core.progress import Progress, silent
from ltgs.core.scene import Scene
from ltgs.core.views import ComparedView
from ltgs.optim.initialize import TrainingPhoto
from ltgs.optim.patch import Target
from ltgs.optim.refine import Past, RefineItem, refine_visit
from ltgs.pipeline.update_again import seen_again
from ltgs.pipeline.update_assemble import assemble
from ltgs.pipeline.update_captures import PhotosAt, VisitCaptures
from ltgs.pipeline.update_complete import complete_visit
from ltgs.pipeline.update_config import UpdateConfig
from ltgs.pipeline.update_decide import Decider
from ltgs.pipeline.update_haze import before_visit, haze_until_now
from ltgs.pipeline.update_parts import drawn_without, fit_quality, own_exposures
from ltgs.pipeline.update_residuals import with_residuals
from ltgs.pipeline.update_review import review
from ltgs.pipeline.update_seeds import StereoSeeds
from ltgs.render.lift import splat_features

__all__ = ["UpdateConfig", "VisitUpdate", "update_visit"]
log = logging.getLogger("ltgs.pipeline")
Array = NDArray[np.float64]
METHOD = {
    "change": "weight-free: harmonised colour + 1-SSIM over expected residual",
    "objects": "weight-free: per-Gaussian evidence, removal test, visual hull",
    "association": "weight-free: render-and-compare",
}


def _method(num_photos: int) -> dict[str, str]:
    """How a visit of so many photos is judged."""
    return METHOD if num_photos > 1 else METHOD | {"objects": f"{METHOD['objects']}; distances from what is seen beneath (one photo)"}


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
    stored: PhotosAt | None = None,
    config: UpdateConfig | None = None,
    backend: str = "auto",
    seed: int = 0,
    progress: Progress = silent,
) -> VisitUpdate:
    """Extend the chronology by one visit.

    Args:
        photos: the visit's localised photos, at least one for anything to be decided.
        replay: photos of the first visit, used while refining objects that were there then.
        stored: asked for the photos of the visits after it, used in the same way; None: they are not at hand.

    Returns:
        the chronology, one time longer; without photos every track is unknown at the new time.
    """
    config = config or UpdateConfig()
    if not photos:
        return _unseen(scene.chronology)
    return _Update(VisitCaptures(scene, photos, replay, config, backend, seed, progress, stored)).run()


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
    """The steps of one update, in the order of `run`."""

    def __init__(self, visit: VisitCaptures) -> None:
        self.visit = visit

    def run(self) -> VisitUpdate:
        with self.visit.timed("change"):
            before = self.visit.before()
        decisions = Decider(self.visit).decide(before)
        light = visit_light(self.visit.fits, self.visit.old.appearance[-1], config=self.visit.config.light)
        config = self.visit.config
        measure = StereoSeeds(decisions.views, grow_px=config.hull.grow_px, use=config.stereo_seeds, config=config.seeds)
        with self.visit.timed("seeds"):
            chronology, items = assemble(
                self.visit.old, decisions, light, build=config.build, rng=self.visit.rng, measure=measure, backend=self.visit.backend
            )
        items += seen_again(
            chronology, self.visit.time, decisions.views, {i.object_id for i in items}, config.again, backend=self.visit.backend
        )
        with self.visit.timed("refine"):
            chronology = self._refine(chronology, items, decisions.views)
        with self.visit.timed("review"):
            appeared = [e.object_id for e in chronology.events if e.time == self.visit.time and e.is_of_new]
            hidden = {k for k, alike in zip(appeared, decisions.camouflaged, strict=True) if alike}
            chronology = review(chronology, self.visit, hidden)
        with self.visit.timed("complete"):
            chronology = self._complete(chronology, self.visit.compare_final(chronology))
        chronology = self._compact(chronology)
        views = self.visit.compare_final(chronology)
        with self.visit.timed("light"):
            chronology = self._relight(chronology, self._with_known(chronology, views, items))
            chronology = with_residuals(chronology, self.visit.in_light(chronology, views), backend=self.visit.backend)
        after = self.visit.compare_final(chronology)
        visit = self.visit
        chronology = haze_until_now(chronology, visit.scene.chronology)
        return VisitUpdate(
            chronology, own_exposures(visit.fits, chronology.appearance[-1]), fit_quality(before, after),
            visit.learned.method(_method(len(after))) | measure.method(), tuple(visit.undecided), visit.timing, tuple(before), tuple(after),
            visit.record.finish(chronology, visit.time),
        )

    def _refine(self, chronology: Chronology, items: Sequence[RefineItem], views: Sequence[ComparedView]) -> Chronology:
        if not items:
            return chronology
        touched = {item.object_id for item in items}
        frozen = drawn_without(chronology, self.visit.time, touched)
        refined = refine_visit(
            frozen, items, [Target.of_view(v) for v in views], self._past(chronology, items),
            config=self.visit.config.refine, backend=self.visit.backend, seed=self.visit.seed + self.visit.time,
            progress=self.visit.progress,
        )
        templates, tracks = dict(chronology.templates), dict(chronology.tracks)
        for item in refined:
            if templates[item.object_id].kind == "object":
                item = self._without_support(item, views)
            templates[item.object_id] = templates[item.object_id].of(item.gaussians)
            poses = tracks[item.object_id].world_from_object.copy()
            poses[self.visit.time] = item.pose_now
            tracks[item.object_id] = replace(tracks[item.object_id], world_from_object=poses)
        return replace(chronology, templates=templates, tracks=tracks)

    def _compact(self, chronology: Chronology) -> Chronology:
        """The chronology with what this visit made or changed in values of half the size; surfaces keep the places they have."""
        old, templates = self.visit.old.templates, dict(chronology.templates)
        for k, template in templates.items():
            if k not in old or template.gaussians is not old[k].gaussians:
                templates[k] = replace(template, gaussians=template.gaussians.in_half_precision(means=template.kind == "object"))
        return replace(chronology, templates=templates)

    def _past(self, chronology: Chronology, items: Sequence[RefineItem]) -> dict[int, Past]:
        """The first visit and the last ones at which one of the items was seen."""
        touched = {item.object_id for item in items}
        seen = sorted({time for item in items for time in item.past_poses})
        times = [t for t in seen if t == 0 or t in seen[-self.visit.config.past_visits :]]
        return {
            t: Past(self.visit.targets_at(t), drawn_without(chronology, t, touched, lit=True), chronology.appearance[t].field)
            for t in times
        }

    def _without_support(self, item: RefineItem, views: Sequence[ComparedView]) -> RefineItem:
        """An object without those of its new Gaussians that paint its shadow on what it stands on.

        Args:
            views: the captures without the object.
        """
        if item.num_known == len(item.gaussians):
            return item
        placed = item.gaussians.transformed(torch.as_tensor(item.pose_now, dtype=torch.float32))
        beneath = self.visit.in_support(placed, views, fitted=True)
        beneath[: item.num_known] = False
        return replace(item, gaussians=item.gaussians[~beneath])

    def _complete(self, chronology: Chronology, views: Sequence[ComparedView]) -> Chronology:
        """The chronology with what these photos show of places that the first visit hardly saw.

        A single photo says nothing about how far away what it shows there is.
        """
        if len(views) < 2:
            return chronology
        data = self.visit.scene.side_data.get("expected_residual")
        return complete_visit(
            chronology, views, self.visit.first_targets, None if data is None else data["num_views"], self.visit.looked_through,
            self.visit.seen_at_first, config=self.visit.config.complete,
            build=self.visit.config.build, backend=self.visit.backend, seed=self.visit.seed + self.visit.time, progress=self.visit.progress,
        )

    def _with_known(
        self, chronology: Chronology, views: Sequence[ComparedView], items: Sequence[RefineItem]
    ) -> list[ComparedView]:
        """The views without change where known objects are seen that were refined: what still differs there is light."""
        known = [i.object_id for i in items if i.num_known]
        if not known:
            return list(views)
        state = chronology.state_at(self.visit.time)
        flag = torch.isin(state.object_ids, torch.tensor(known)).float()[:, None]
        out = []
        for view in views:
            share = splat_features(state.gaussians.detach(), flag, view.camera, backend=self.visit.backend)[0][..., 0]
            out.append(with_mask(view, view.mask & (share < 0.5)))
        return out

    def _relight(self, chronology: Chronology, views: Sequence[ComparedView]) -> Chronology:
        """The chronology with the light field of the new time."""
        centers = [p.camera.center for p in self.visit.scene.photos(time=0) if p.camera is not None]
        viewpoint = torch.as_tensor(np.mean(centers, axis=0), dtype=torch.float32)
        light = fit_light_field(
            chronology.state_at(self.visit.time), views, viewpoint, config=self.visit.config.relight, backend=self.visit.backend
        )
        return replace(chronology, appearance=(*chronology.appearance[:-1], replace(chronology.appearance[-1], field=light)))


def compare_again(
    scene: Scene, time: int, photos: Sequence[TrainingPhoto], replay: Sequence[TrainingPhoto], *, config: UpdateConfig,
    backend: str = "auto",
) -> tuple[list[ComparedView], list[ComparedView]]:
    """A stored visit's photos against the scene of the visit before, and against that of the visit, as the update compared them."""
    past = replace(scene, chronology=before_visit(scene.chronology, time), visits=scene.visits[:time])
    visit = VisitCaptures(past, photos, replay, config, backend, 0, silent)
    return visit.before(), visit.compare_final(scene.chronology)
