"""The photos of a new visit beside the scene of the visit before: one light, one set of witnesses for every hypothesis."""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.change.compare import Ground, Shot, compare_altered, footprint
from ltgs.change.compare import compare as compare_photos
from ltgs.change.earlier import EarlierPhoto, Witness, depth_of, nearest_cameras, prepare_earlier, witness
from ltgs.change.harmonise import ColourFit
from ltgs.change.revealed import PlanePatch
from ltgs.change.shade import light_cues
from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.chronology import Chronology
from ltgs.core.decisions import DecisionRecorder
from ltgs.core.gaussians import Gaussians
from ltgs.core.progress import Progress, ProgressEvent
from ltgs.core.scene import Scene
from ltgs.core.views import ComparedView
from ltgs.objects.backing import Model, with_backing
from ltgs.objects.ground import base_points, grounded
from ltgs.objects.hull import HullConfig, HullInstance, hull_instances, in_image, project, seen_empty
from ltgs.objects.sides import Sighting, seen_sides
from ltgs.objects.support import SupportConfig, extent, find_support, surroundings_of
from ltgs.optim.initialize import TrainingPhoto
from ltgs.optim.patch import Target
from ltgs.optim.sharpen import sharpen
from ltgs.pipeline.update_config import UpdateConfig
from ltgs.pipeline.update_haze import without_haze
from ltgs.pipeline.update_learned import Learned
from ltgs.pipeline.update_parts import Cutting
from ltgs.pipeline.update_residuals import UNSURE, expected_residuals
from ltgs.poses.gauge import up_direction
from ltgs.render import render
from ltgs.render.lift import lift_to_gaussians

Array = NDArray[np.float64]
PhotosAt = Callable[[int], Sequence[TrainingPhoto]]
"""The stored photos of a time."""


class VisitCaptures:
    """What all steps of one update share."""

    def __init__(
        self, scene: Scene, photos: Sequence[TrainingPhoto], replay: Sequence[TrainingPhoto], config: UpdateConfig,
        backend: str, seed: int, progress: Progress, stored: PhotosAt | None = None,
    ) -> None:
        self.scene, self.backend, self.seed, self.progress = scene, backend, seed, progress
        self.shots = [Shot(p.camera, p.rgb.astype(np.float32) / np.float32(255)) for p in photos]
        self.old = without_haze(scene, self.shots, config=config.haze, compare=config.compare, backend=backend)
        self.first = self.old.state_at(0).gaussians.detach()
        self.config = config.for_scene(self._in_frame())
        self.time = self.old.num_times
        self.record = DecisionRecorder([p.camera for p in photos])
        self.replay, self.stored = list(replay), stored
        self.rng = np.random.default_rng(seed + 7919 * self.time)
        self.timing: dict[str, float] = {}
        self.undecided: list[str] = []
        state = self.old.state_at(self.time - 1)
        self.gaussians, self.ids = state.gaussians.detach(), state.object_ids
        self.expected = self.expected_of(self.old, self.ids)
        self.grounds: list[Ground] = []
        self._final: tuple[Chronology, list[ComparedView]] | None = None
        self.earlier: dict[int, EarlierPhoto] = {}
        self._depths: dict[int, list[tuple[Camera, NDArray[np.float32]]]] = {}
        self.learned = Learned(config.learned, config.compare.evidence)

    def _in_frame(self) -> float:
        """How many of the first visit's Gaussians lie in the frame of one of its photos, median of the photos."""
        means = self.first.means.double().numpy()
        counts = [int(in_image(c, *project(c, means)).sum()) for c in self.scene.visits[0].cameras]
        return float(np.median(counts)) if counts else 0.0

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Measure a stage and report that it began."""
        start = clock.perf_counter()
        self.progress(ProgressEvent(stage, 0, None, message=f"visit {self.time}: {stage}"))
        yield
        self.timing[stage] = self.timing.get(stage, 0.0) + clock.perf_counter() - start

    @property
    def fits(self) -> list[ColourFit]:
        """The light of every photo, from the visit before to this one."""
        return [ground.fit for ground in self.grounds]

    def drawn_ids(self, kind: Literal["object", "surface"]) -> list[int]:
        """Ids of the stored templates of a kind of which the state shows something."""
        return [k for k in self.ids.unique().tolist() if k and self.old.templates[k].kind == kind]

    def compare(self, gaussians: Gaussians, expected: Tensor) -> list[ComparedView]:
        """The captures against some Gaussians with their expected residuals [N, 4], on the grounds fitted before."""
        return compare_photos(
            gaussians, expected, self.shots, grounds=self.grounds, rescore=self.learned.rescore,
            config=self.config.compare, backend=self.backend,
        )[0]

    def compare_altered(
        self, views: Sequence[ComparedView], altered: Gaussians, gaussians: Gaussians, expected: Tensor
    ) -> list[ComparedView]:
        """As `compare`, for a state that differs from that of `views` only by having or lacking the altered Gaussians."""
        if self.learned.rescore is not None:
            # A network looks at the whole photo.
            return self.compare(gaussians, expected)
        return compare_altered(
            views, altered, gaussians, expected, self.shots, self.grounds, config=self.config.compare, backend=self.backend
        )

    def compare_kept(
        self, views: Sequence[ComparedView], altered: Gaussians, kept: Tensor, placed: Sequence[Gaussians]
    ) -> list[ComparedView]:
        """Captures against the kept part of the state plus objects at their new places.

        Args:
            views: captures against a state that differs from this one by some of the altered Gaussians at most.
        """
        extra = Gaussians.concatenate(placed)
        expected = torch.cat([self.expected[kept], UNSURE.repeat(len(extra), 1)])
        return self.compare_altered(views, altered, Gaussians.concatenate([self.gaussians[kept], extra]), expected)

    def lift(
        self, gaussians: Gaussians, views: Sequence[ComparedView], images: Sequence[NDArray[np.float32]], only: Tensor | None = None
    ) -> Tensor:
        """Alpha-weighted sums of images per view and Gaussian, see `lift_to_gaussians`; `only` [M] names the rows that count."""
        cameras = [v.camera for v in views]
        regions = None if only is None else [footprint(gaussians[only], c, backend=self.backend) for c in cameras]
        return lift_to_gaussians(gaussians, cameras, images, regions=regions, backend=self.backend)

    def compare_final(self, chronology: Chronology) -> list[ComparedView]:
        """The captures against the newest time of a chronology; of the one asked for last they are still at hand."""
        if self._final is None or self._final[0] is not chronology:
            final = chronology.state_at(self.time)
            self._final = chronology, self.compare(final.gaussians, self.expected_of(chronology, final.object_ids))
        return self._final[1]

    def in_light(self, chronology: Chronology, views: Sequence[ComparedView]) -> list[ComparedView]:
        """Views against the newest time of a chronology that show it in the light stored for that time."""
        lit, out = chronology.state_at(self.time).lit().detach(), []
        for view in views:
            with torch.no_grad():
                rgb = render(lit, stack_cameras([view.camera]), backend=self.backend, with_depth=False).rgb[0].numpy()  # type: ignore[arg-type]
            shown = rgb @ view.colour_affine[:, :3].T + view.colour_affine[:, 3]
            out.append(replace(view, shown=np.clip(shown, 0, 1).astype(np.float32)))
        return out

    def before(self) -> list[ComparedView]:
        """The captures against the scene of the visit before; fits their light and asks the first visit's photos."""
        def compare_now(grounds: Sequence[Ground] | None) -> tuple[list[ComparedView], list[Ground]]:
            return compare_photos(
                self.gaussians, self.expected, self.shots, grounds=grounds, rescore=self.learned.rescore,
                config=self.config.compare, backend=self.backend,
            )

        views, grounds = compare_now(None)
        asked = [Ground(g.fit, w) for g, w in zip(grounds, self._ask_earlier(views, grounds), strict=True)]
        views, self.grounds = compare_now(asked)
        return views

    def _ask_earlier(self, views: Sequence[ComparedView], grounds: Sequence[Ground]) -> list[Witness]:
        """What the first visit's photos show where the new photos look, and what another light would show there."""
        cameras = [p.camera for p in self.replay]
        out = []
        light = light_cues(views, config=self.config.compare.shade, earlier=self.config.compare.earlier)
        for view, ground, lit in zip(views, grounds, light, strict=True):
            picks = nearest_cameras(view.camera, cameras, self.config.compare.earlier)
            seen = witness(
                view.camera, view.photo, view.depth, view.alpha, ground.fit, [self.earlier_photo(i) for i in picks],
                where=view.mask, config=self.config.compare.earlier,
            )
            out.append(replace(seen, light=lit))
        return out

    def earlier_photo(self, index: int) -> EarlierPhoto:
        """A photo of the first visit with the scene's depth then; made once."""
        if index not in self.earlier:
            exposures = self.first_exposures
            photo = self.replay[index]
            self.earlier[index] = prepare_earlier(
                self.first, photo.camera, photo.rgb, exposures[index] if exposures is not None else None, backend=self.backend
            )
        return self.earlier[index]

    @cached_property
    def first_targets(self) -> list[Target]:
        """The replay photos, to be fitted as they were taken."""
        exposures: Sequence[Array | None] = self.first_exposures or [None] * len(self.replay)
        return [Target.of_photo(p, e) for p, e in zip(self.replay, exposures, strict=True)]

    def targets_at(self, time: int) -> list[Target]:
        """The photos of an earlier time, to be fitted as they were taken."""
        if time == 0:
            return self.first_targets
        exposures = {p.name: np.vstack([p.exposure, [0, 0, 0, 1]]) for p in self.scene.photos(time=time)}
        light = np.vstack([self.old.appearance[time].colour, [0, 0, 0, 1]])
        photos = self.stored(time) if self.stored else ()
        return [Target.of_photo(p, (exposures[p.camera.name] @ light)[:3]) for p in photos]

    def earlier_photos(self) -> list[EarlierPhoto]:
        """All photos of the first visit."""
        return [self.earlier_photo(i) for i in range(len(self.replay))]

    def instances(self, views: Sequence[ComparedView], config: HullConfig, *, told: bool = False, weak: bool = False) -> list[HullInstance]:
        """Instances of new content in the masks of some views, those that a single photo shows brought to the ground beneath them.

        Args:
            told: the record of decisions is told what was dropped. weak: see `hull_instances`.
        """
        found = hull_instances(views, config=config, record=self.record if told else None, weak=weak)
        return grounded(found, views, self.up, margin_px=config.grow_px, config=self.config.register.ground)

    def in_support(self, own: Gaussians, views: Sequence[ComparedView], *, fitted: bool = False) -> Tensor:
        """[M] bool: which of an object's Gaussians, in the world, belong to what it stands on or leans against, in its shadow.

        Args:
            views: the captures without the object.
            fitted: it was built above these surfaces, so that only what lies right on them is theirs.
        """
        config = self.config.support
        if fitted:
            config = replace(config, thickness=config.thickness_fitted)
        return torch.from_numpy(self._support(own, views, config)[0])

    def support_of(self, own: Gaussians, views: Sequence[ComparedView]) -> tuple[Tensor, list[Array]]:
        """The same, and the planes of what an object stands on or leans against: [4] each, with normals towards it."""
        beneath, planes = self._support(own, views, self.config.support)
        return torch.from_numpy(beneath), planes

    def support_patches(self, own: Gaussians, views: Sequence[ComparedView]) -> list[PlanePatch]:
        """The planes that go on around an object, in the world, as far as it may have hidden them.

        Args:
            views: the captures without the object.
        """
        centre, radius = extent(own.means.double().numpy())
        return [PlanePatch(p, centre, self.config.reveal.reach * radius) for p in self.support_of(own, views)[1]]

    def _support(
        self, own: Gaussians, views: Sequence[ComparedView], config: SupportConfig
    ) -> tuple[NDArray[np.bool_], list[Array]]:
        outlines = [footprint(own, v.camera, above=0.3, backend=self.backend) for v in views]
        points = own.means.double().numpy()
        return find_support(points, surroundings_of(points, views, outlines, config=config), self.up, config=config)

    def looked_through(self, points: Array) -> NDArray[np.int64]:
        """[M] how many photos of the first visit saw something behind points [M, 3]."""
        photos = self.earlier_photos()
        return seen_empty(points, [p.camera for p in photos], [p.depth for p in photos])

    def seen_at_first(self, points: Array) -> NDArray[np.int64]:
        """[M] how many photos of the first visit saw points [M, 3] or something behind them."""
        photos = self.earlier_photos()
        return seen_empty(points, [p.camera for p in photos], [p.depth for p in photos], margin=-self.config.depth_slack)

    def model(self, template: Gaussians, poses: Mapping[int, Array]) -> Model:
        """An object with the sides of it that photos have seen, and what those of the first visit leave open at its back.

        Args:
            poses: [4, 4] where it stood at the times to whose photos it was fitted.
        """
        if 0 not in poses:
            # A few photos leave most sides unseen: excused for them, anything would fit.
            return Model(template)
        sightings = [Sighting(camera, pose, depth) for time, pose in poses.items() for camera, depth in self.depths_at(time)]
        first = self.depths_at(0)
        model = with_backing(template, poses[0], [c for c, _ in first], [d for _, d in first], up=self.up, backend=self.backend)
        return replace(model, sides=seen_sides(template, sightings, backend=self.backend))

    def depths_at(self, time: int) -> list[tuple[Camera, NDArray[np.float32]]]:
        """The cameras of an earlier time with the depth [H, W] of the scene then, 0 where unknown; made once."""
        if time not in self._depths:
            if time == 0:
                self._depths[0] = [(p.camera, p.depth) for p in self.earlier_photos()]
            else:
                state = self.old.state_at(time).gaussians.detach()
                cameras = self.scene.visits[time].cameras
                self._depths[time] = [(c, depth_of(state, c, backend=self.backend)) for c in cameras]
        return self._depths[time]

    def with_base(self, model: Model, pose: Array, views: Sequence[ComparedView]) -> Model:
        """An object with the ground beneath it as it stood at a pose [4, 4], if it may have to be found by a single photo.

        Args:
            views: the captures without the object.
        """
        if len(self.shots) > 1:
            return model
        placed = model.seen.transformed(torch.as_tensor(pose, dtype=torch.float32))
        level = [p for p in self.support_of(placed, views)[1] if p[:3] @ self.up >= self.config.support.level]
        if not level:
            return model
        base = base_points(placed.means.double().numpy(), level[0])
        return replace(model, base=torch.as_tensor((base - pose[:3, 3]) @ pose[:3, :3], dtype=torch.float32))

    def sharpened(self, template: Gaussians, first_pose: Array, cut: Cutting) -> Gaussians:
        """An object cut out of the first visit's scene, where it stood at `first_pose` [4, 4], fitted again to that visit's photos."""
        with self.timed("sharpen"):
            state = self.old.state_at(0)
            others = torch.ones(len(state.gaussians), dtype=torch.bool)
            static = self.old.static_mask.nonzero()[:, 0]
            others[: len(static)] = ~torch.isin(static, cut.members)
            for surface, rows in cut.surface_rows.items():
                own = (state.object_ids == surface).nonzero()[:, 0]
                others[own[rows[rows < len(own)]]] = False
            pose = torch.as_tensor(first_pose, dtype=torch.float32)
            return sharpen(
                template, pose, state.gaussians[others].detach(), self.first_targets, config=self.config.sharpen,
                backend=self.backend, seed=self.seed + self.time,
            )

    @cached_property
    def first_exposures(self) -> list[Array] | None:
        """[3, 4] colour affine per replay photo, None if the replay photos are not the stored ones."""
        exposures = [p.exposure for p in self.scene.photos(time=0, holdout=False) if p.image_blob is not None]
        return exposures if len(exposures) == len(self.replay) else None

    def expected_of(self, chronology: Chronology, ids: Tensor) -> Tensor:
        """[N, 4] expected residuals of a state with these object ids."""
        return expected_residuals(
            self.scene, chronology, ids, sure_views=self.config.sure_views, template_doubt=self.config.template_doubt
        )

    @cached_property
    def up(self) -> Array:
        """[3] vertical direction of the world, from how the first visit's photos were held."""
        poses = [p.camera.cam_from_world for p in self.scene.photos(time=0) if p.camera is not None]
        return up_direction(np.array(poses))
