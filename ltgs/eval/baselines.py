"""What a chronology must beat: five ways to follow a changing place with whole scenes, given its photos, poses and rasteriser.

    frozen    the first visit's scene, as if nothing had been noticed
    finetune  every Gaussian trained further on the photos of each visit
    replay    the same, half of the steps on photos of the first visit
    local     only Gaussians that the photos show changed are trained and may multiply, all else is frozen. The idea of
              Ackermann et al., "CL-Splats" (2025), with this program's change masks instead of DINOv2 features
    scratch   a new scene from the photos of each visit alone, trained as a first visit is

All get the photos and poses stored in the scene, the same number of steps per visit, one full photo a step, and the same
largest number of Gaussians. `scratch` starts at the first visit's triangulated points, which three photos alone would not
give: its figures are an upper bound of the idea.
"""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.change.compare import CompareConfig, Shot, compare
from ltgs.change.harmonise import fit_colour
from ltgs.core.cameras import stack_cameras
from ltgs.core.chronology import Appearance, SceneState
from ltgs.core.gaussians import Gaussians
from ltgs.core.progress import Progress, ProgressEvent, silent
from ltgs.core.scene import Scene
from ltgs.errors import InputError, UsageError
from ltgs.io.scene_store import SceneStore
from ltgs.optim.growth import GrowthConfig
from ltgs.optim.initialize import TrainingPhoto
from ltgs.optim.residual import expected_residual
from ltgs.optim.trainer import TrainConfig, TrainResult, WarmStart, train
from ltgs.render import render
from ltgs.render.lift import lift_to_gaussians

Array = NDArray[np.float64]


@dataclass(frozen=True)
class BaselineConfig:
    """The budget, the same for every baseline."""

    steps: int = 500
    """Training steps per visit."""
    room_to_grow: float = 1.2
    """Largest number of Gaussians, in units of the first visit's."""
    growth_rounds: int = 10
    """Growth rounds per visit."""
    changed_share: float = 0.5
    """`local`: a Gaussian may change if more than this share of the pixels it is seen in changed (majority vote)."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Learning rates and weights; steps, cap, growth and warm-up follow from the budget."""
    compare: CompareConfig = field(default_factory=CompareConfig)
    """Change masks of `local`."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.room_to_grow < 1 or self.growth_rounds < 1:
            raise UsageError(
                f"A baseline needs at least 1 step, 1 round of growth and room for the first visit's Gaussians, got "
                f"{self.steps}, {self.growth_rounds} and {self.room_to_grow}."
            )

    def training(self, first_count: int) -> TrainConfig:
        """The training configuration of one visit."""
        every = max(1, int(0.7 * self.steps / (self.growth_rounds + 1)))
        return replace(
            self.train, steps=self.steps, cap=int(first_count * self.room_to_grow), half_resolution_share=0.0,
            sh_every=max(1, self.steps // 4), growth=GrowthConfig(every=every, start=every, stop_share=0.7),
            lr_means_final=0.01, lr_final=1.0,  # of 3DGS, for Gaussians that are trained already
        )


@dataclass(frozen=True)
class Visits:
    """The photos of a stored scene and what its first visit knows: all that a baseline may use."""

    first: Gaussians
    photos: tuple[tuple[TrainingPhoto, ...], ...]
    """[T] photos of every visit that were placed and not held out."""
    exposures: Array
    """[P, 3, 4] colour affines of the first visit's photos."""
    points: Array
    """[M, 3] triangulated points of the first visit."""
    extent: float
    """Radius of the first visit's cameras, scene units."""
    expected: Tensor | None = None
    """[N, 4] mean and variance of the residual cues per Gaussian of the first visit; None = measured anew."""


@dataclass(frozen=True)
class BaselineStates:
    """What a baseline shows at every time."""

    name: str
    states: tuple[SceneState, ...]
    """[T] the scene as it was after each visit."""
    first_again: SceneState
    """The first visit as the last scene shows it: a method that goes on with one scene has nothing else left of it."""
    cpu_seconds: tuple[float, ...]
    """[T] processor seconds of every visit, 0 for the first."""

    @property
    def num_times(self) -> int:
        return len(self.states)

    def state_at(self, time: int) -> SceneState:
        """The scene after the visit of this time."""
        return self.states[time]


def stored_visits(store: SceneStore, scene: Scene) -> Visits:
    """Read what baselines may use from a stored scene.

    Raises:
        InputError: the first visit's photos or points are not stored.
    """
    photos = []
    for visit in scene.visits:
        records = [p for p in scene.photos(time=visit.timestep, holdout=False) if p.camera is not None and p.image_blob is not None]
        photos.append(tuple(TrainingPhoto(p.camera, store.read_image(p.image_blob)) for p in records if p.camera and p.image_blob))
    base = scene.side_data.get("localization_map", {})
    if not photos or not photos[0] or "xyz" not in base:
        raise InputError(
            f"{store.path}: holds no photos or no points of its first visit, which the baselines start from. Reconstruct it anew."
        )
    own = [p.exposure for p in scene.photos(time=0, holdout=False) if p.camera is not None and p.image_blob is not None]
    residual = scene.side_data.get("expected_residual")
    return Visits(
        scene.chronology.background, tuple(photos), np.array(own), base["xyz"].double().numpy(), scene.extent,
        None if residual is None else torch.cat([residual["mean"], residual["variance"]], 1),
    )


def run_baseline(
    name: str, visits: Visits, *, config: BaselineConfig | None = None, backend: str = "auto", seed: int = 0,
    progress: Progress = silent,
) -> BaselineStates:
    """Follow the place with one of `BASELINES` over all visits. A visit without photos repeats the state before.

    Raises:
        UsageError: there is no baseline of this name.
        ConvergenceError: training broke.
    """
    if name not in BASELINES:
        raise UsageError(f"There is no baseline {name!r}. Choose from {', '.join(BASELINES)}.")
    run = _Run(visits, config or BaselineConfig(), backend, seed)
    step = BASELINES[name]
    states, seconds = [SceneState(run.gaussians, _no_objects(run.gaussians), Appearance())], [0.0]
    for time in range(1, len(visits.photos)):
        start = clock.process_time()
        progress(ProgressEvent("baseline", time, len(visits.photos) - 1, message=f"{name}, visit {time}"))
        if visits.photos[time]:
            light = step(run, time)
            states.append(SceneState(run.gaussians, _no_objects(run.gaussians), light))
        else:
            states.append(states[-1])
        seconds.append(clock.process_time() - start)
    again = SceneState(run.gaussians, _no_objects(run.gaussians), run.first_light)
    return BaselineStates(name, tuple(states), again, tuple(seconds))


def _no_objects(gaussians: Gaussians) -> Tensor:
    return torch.zeros(len(gaussians), dtype=torch.int64)


class _Run:
    """The one scene that a baseline goes on with."""

    def __init__(self, visits: Visits, config: BaselineConfig, backend: str, seed: int) -> None:
        self.visits, self.config, self.backend, self.seed = visits, config, backend, seed
        self.gaussians = visits.first.detach()
        self.training = replace(config.training(len(self.gaussians)), sh_degree=self.gaussians.sh_degree)
        self.first_light = Appearance()
        self.expected = visits.expected

    def train(self, photos: Sequence[TrainingPhoto], time: int, *, warm: WarmStart | None, cap: int | None = None) -> TrainResult:
        """One visit's training under the budget."""
        config = self.training if cap is None else replace(self.training, cap=cap)
        points = colours = np.zeros((0, 3))
        if warm is None:
            points, colours = _coloured(self.visits.points, photos)
            own = self.config.train
            config = replace(config, half_resolution_share=0.2, lr_means_final=own.lr_means_final, lr_final=own.lr_final)
        return train(
            photos, points, colours, extent=self.visits.extent, config=config, seed=self.seed + time, backend=self.backend,
            warm=warm,
        )


def _frozen(run: _Run, time: int) -> Appearance:
    return Appearance()


def _finetune(run: _Run, time: int) -> Appearance:
    result = run.train(run.visits.photos[time], time, warm=WarmStart(run.gaussians))
    run.gaussians = result.gaussians
    return _light(result.exposures)


def _replay(run: _Run, time: int) -> Appearance:
    """Photos of the visit are repeated until they are as many as the first visit's; a step draws any of them alike."""
    old, new = run.visits.photos[0], run.visits.photos[time]
    times = max(1, round(len(old) / len(new)))
    guess = np.concatenate([run.visits.exposures, *[_colour_fits(run, new)] * times])
    result = run.train([*old, *[p for _ in range(times) for p in new]], time, warm=WarmStart(run.gaussians, exposures=guess))
    run.gaussians = result.gaussians
    run.first_light = _light(result.exposures[: len(old)])
    return _light(result.exposures[len(old):])


def _local(run: _Run, time: int) -> Appearance:
    photos = run.visits.photos[time]
    masks, fits = _changes(run, photos)
    sums = lift_to_gaussians(
        run.gaussians, [p.camera for p in photos], [m[..., None].astype(np.float32) for m in masks], backend=run.backend
    ).sum(0)
    changed = sums[:, 0] > run.config.changed_share * sums[:, 1].clamp_min(1e-6)
    if not bool(changed.any()):
        return _light(fits)
    kept, expected = run.gaussians[~changed], _expected(run)[~changed]
    warm = WarmStart(run.gaussians[changed], kept, fits)
    result = run.train(photos, time, warm=warm, cap=run.training.cap - len(kept))
    run.gaussians = Gaussians.concatenate([kept, result.gaussians])
    measured = expected_residual(run.gaussians, photos, result.exposures, backend=run.backend)
    new = torch.cat([measured["mean"], measured["variance"]], 1)[len(kept):]
    run.expected = torch.cat([expected, new])
    return _light(result.exposures)


def _scratch(run: _Run, time: int) -> Appearance:
    result = run.train(run.visits.photos[time], time, warm=None)
    run.gaussians = result.gaussians
    return _light(result.exposures)


BASELINES: dict[str, Callable[[_Run, int], Appearance]] = {
    "frozen": _frozen, "finetune": _finetune, "replay": _replay, "local": _local, "scratch": _scratch,
}
"""Name to what it does with one visit: changes the run's Gaussians and returns the visit's light."""


def _light(exposures: Array) -> Appearance:
    """The light that a visit's photos share."""
    return Appearance(exposures.mean(0))


def _expected(run: _Run) -> Tensor:
    """[N, 4] expected residual of the present Gaussians, measured on the first visit's photos if it is not stored."""
    if run.expected is None or len(run.expected) != len(run.gaussians):
        found = expected_residual(run.gaussians, run.visits.photos[0], run.visits.exposures, backend=run.backend)
        run.expected = torch.cat([found["mean"], found["variance"]], 1)
    return run.expected


def _colour_fits(run: _Run, photos: Sequence[TrainingPhoto]) -> Array:
    """[P, 3, 4] robust colour affine of every photo against the present scene."""
    fits = []
    for photo in photos:
        with torch.no_grad():
            out = render(run.gaussians, stack_cameras([photo.camera]), backend=run.backend, with_depth=False)  # type: ignore[arg-type]
        shown, solid = out.rgb[0].clamp(0, 1).numpy(), out.alpha[0, ..., 0].numpy() > 0.9
        fits.append(fit_colour(shown, _unit(photo), solid, config=run.config.compare.harmonise).affine)
    return np.array(fits)


def _changes(run: _Run, photos: Sequence[TrainingPhoto]) -> tuple[list[NDArray[np.bool_]], Array]:
    """Change mask [H, W] of every photo against the present scene, and the colour affines [P, 3, 4]."""
    shots = [Shot(p.camera, _unit(p)) for p in photos]
    views, grounds = compare(run.gaussians, _expected(run), shots, config=run.config.compare, backend=run.backend)
    return [v.mask for v in views], np.array([g.fit.affine for g in grounds])


def _unit(photo: TrainingPhoto) -> NDArray[np.float32]:
    """[H, W, 3] in [0, 1]."""
    return photo.rgb.astype(np.float32) / np.float32(255)


def _coloured(points: Array, photos: Sequence[TrainingPhoto]) -> tuple[Array, Array]:
    """Points that some photo could see, with the colour of the first such photo."""
    colours = np.full((len(points), 3), np.nan)
    for photo in photos:
        camera = photo.camera
        local = points @ camera.cam_from_world[:3, :3].T + camera.cam_from_world[:3, 3]
        uv = (local @ camera.K.T)[:, :2] / np.where(local[:, 2:] > 0, local[:, 2:], np.nan)
        seen = (uv >= 0).all(1) & (uv < [camera.width, camera.height]).all(1) & np.isnan(colours[:, 0])
        columns, rows = uv[seen].astype(int).T
        colours[seen] = photo.rgb[rows, columns] / 255
    known = ~np.isnan(colours[:, 0])
    return points[known], colours[known]
