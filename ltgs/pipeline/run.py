"""The order of the stages, what is resumed and what is committed: one commit per visit, the past is never touched."""

from __future__ import annotations

import dataclasses
import logging
import resource
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltgs.change.learned import check_learned
from ltgs.core.captures import Capture
from ltgs.core.chronology import Chronology
from ltgs.core.progress import Progress, ProgressEvent, silent
from ltgs.core.scene import PhotoRecord, Scene, VisitRecord
from ltgs.data.photo_folder import read_captures, read_visit_folder
from ltgs.errors import InputError, UsageError
from ltgs.io.images import photo_sha256
from ltgs.io.posed import PosedPhoto
from ltgs.io.scene_store import SceneStore
from ltgs.optim.device import training_device
from ltgs.pipeline import stages
from ltgs.pipeline.cameras import assign_cameras, check_some, given_cameras
from ltgs.pipeline.checkpoint import fingerprint
from ltgs.pipeline.config import RunConfig, from_plain, override, to_plain
from ltgs.pipeline.insert import before_time, insert_position, insert_visit
from ltgs.pipeline.interrupt import StopSignal, stop_signal
from ltgs.pipeline.run_state import RunState
from ltgs.pipeline.update import update_visit
from ltgs.poses.map import LocalizationMap
from ltgs.render import choose_backend

log = logging.getLogger("ltgs.pipeline")


@dataclass(frozen=True)
class RunOutcome:
    """What a run did."""

    scene: Scene
    committed: tuple[int, ...]
    """Timesteps stored by this call; empty if all was there already."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall-clock seconds per stage over the visits of this call."""
    peak_memory_mb: float = 0.0
    backend_reason: str = ""
    order_rule: str = ""


@dataclass(frozen=True)
class Job:
    """One call of `reconstruct`."""

    photos: Path
    scene: Path
    config: RunConfig
    cameras: Path | None = None
    times: Path | None = None
    resume: bool = False
    overwrite: bool = False


def reconstruct(job: Job, *, progress: Progress = silent) -> RunOutcome:
    """Photos in, stored scene with a timeline out.

    Raises:
        UsageError: the scene exists and neither resume nor overwrite was asked for, or the resumed run had other inputs.
        InputError: the photos cannot be used; the message names files, reasons and remedies.
        KeyboardInterrupt: stopped by a signal; what was finished is stored and `resume` continues.
    """
    if job.resume and job.overwrite:
        raise UsageError("--resume and --overwrite contradict each other; choose one.")
    # The rasteriser is chosen first, so that a machine that cannot run it is told so before hours of work.
    training_device(job.config.train.device, job.config.backend)
    backend, reason = pick_backend(_after_training(job.config.backend))
    listing = read_captures(job.photos, times=job.times)
    for warning in listing.warnings:
        progress(ProgressEvent("scan", message=warning, level="warning"))
    rule = listing.order_rule
    progress(ProgressEvent("scan", message=f"{len(listing.captures)} visits, {_count(listing.captures)} photos, {rule}"))
    cameras = None if job.cameras is None else given_cameras(job.cameras, progress)
    store = _open_for(job)
    with store.lock(), stop_signal() as stop:
        state = RunState(store)
        state.check_or_write(job.config, None if cameras is None else _cameras_key(cameras), resume=job.resume)
        run = _Run(store, job.config, cameras, job.cameras, backend, progress, stop, {"order": rule})
        for timestep, capture in enumerate(listing.captures):
            run.visit(dataclasses.replace(capture, timestep=timestep))
        return run.outcome(reason, rule)


def add_visit(
    scene: Path, folder: Path, *, captured_at: datetime | None = None, cameras: Path | None = None,
    backend: str | None = None, settings: Mapping[str, Any] | None = None, progress: Progress = silent,
) -> RunOutcome:
    """Add one visit to a stored scene with the configuration the scene was made with.

    A visit dated between stored ones is inserted there. Repeating the call after it was killed, or after it succeeded, is safe.

    Args:
        settings: dotted path to value, for this visit only, e.g. {"update.learned.dino": "/models/dinov2-small"}.

    Raises:
        UsageError: the visit is earlier than the first stored one, or another visit of this name is stored.
        InputError: the scene or the photos cannot be used.
    """
    store = SceneStore.open(scene)
    current = store.load()
    config, dropped = from_plain(current.config.get("run", {}), where=f"{scene}: stored configuration")
    if dropped:
        message = f"the scene was made by another version; settings it no longer has: {', '.join(dropped)}"
        progress(ProgressEvent("update", message=message, level="warning"))
    config = override(config, settings or {})
    if backend is not None:
        config = dataclasses.replace(config, backend=backend)
    name, reason = pick_backend(_after_training(config.backend))
    capture = read_visit_folder(folder)
    if captured_at is not None:
        capture = dataclasses.replace(capture, captured_at=captured_at)
    given = None if cameras is None else given_cameras(cameras, progress)
    with store.lock(), stop_signal() as stop:
        run = _Run(store, config, given, cameras, name, progress, stop, {})
        known = [v.timestep for v in current.visits if v.name == capture.name]
        if known:
            run.check_same(current.visits[known[0]], capture)
            progress(ProgressEvent("update", message=f"{capture.name} is stored already as time {known[0]}; nothing to do"))
            return run.outcome(reason, "")
        time = insert_position(current, capture.captured_at, capture.name)
        run.visit(dataclasses.replace(capture, timestep=time), insert=time < len(current.visits))
        return run.outcome(reason, "")


class _Run:
    """State shared by the visits of one call."""

    def __init__(
        self, store: SceneStore, config: RunConfig, cameras: Sequence[PosedPhoto] | None, cameras_path: Path | None,
        backend: str, progress: Progress, stop: StopSignal, facts: dict[str, str],
    ) -> None:
        check_learned(config.update.learned)
        self.store, self.config, self.cameras, self.cameras_path = store, config, cameras, cameras_path
        self.backend, self.progress, self.stop, self.facts = backend, progress, stop, facts
        self.scene = store.load() if store.generation > 0 else None
        self.committed: list[int] = []
        self.seconds: dict[str, float] = {}

    def visit(self, capture: Capture, *, insert: bool = False) -> None:
        """Process and commit one visit, or check that it is stored already.

        Args:
            insert: it comes before the visit stored at its time, which moves on.
        """
        t, whole = capture.timestep, self.scene
        if whole is not None and t < len(whole.visits) and not insert:
            self.check_same(whole.visits[t], capture)
            self.progress(ProgressEvent("resume", message=f"time {t} ({_title(capture)}) is stored already"))
            return
        watch = stages.Stopwatch()
        self.progress(ProgressEvent("visit", message=f"time {t}: {_title(capture)}, {len(capture.frames)} photos"))
        with watch.stage("scan"):
            found = stages.scan_visit(capture, self.progress)
        given = None
        if self.cameras is not None:
            given = assign_cameras(self.cameras, found.photos, self.progress)
            if t == 0:
                assert self.cameras_path is not None
                check_some(given, self.cameras, found.photos, self.cameras_path)
        scene = self._first(found, given, watch) if whole is None else self._later(whole, found, given, watch, insert=insert)
        self._commit(scene, watch, t, f"time {t}: {_title(capture)}")

    def check_same(self, stored: VisitRecord, capture: Capture) -> None:
        """A resumed run must see the photos it saw before.

        Raises:
            UsageError: names what differs.
        """
        before = {p.name: p.file_sha256 for p in stored.photos}
        now = {f.name: f for f in capture.frames}
        lost, new = sorted(before.keys() - now.keys()), sorted(now.keys() - before.keys())
        changed = [n for n in sorted(before.keys() & now.keys()) if before[n] and photo_sha256(now[n].path) != before[n]]
        for names, what in ((lost, "missing now"), (new, "new"), (changed, "changed")):
            if names:
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                raise UsageError(
                    f"time {stored.timestep} ({stored.name}) was stored with other photos: {names[0]}{more} {what}. "
                    "Use the folder the scene was made from, or --overwrite, or another scene folder."
                )

    def _first(self, found: stages.VisitInput, given: dict[str, PosedPhoto] | None, watch: stages.Stopwatch) -> Scene:
        store, config = self.store, self.config
        with watch.stage("poses"):
            result, poses = stages.pose_first_visit(found, given, store.stage_dir("poses"), config, self.progress)
        with watch.stage("photos"):
            records, images = stages.make_records(store, 0, found, poses, config, self.progress)
        self._report_unplaced(records)
        photos = stages.training_photos(records, images)
        if not photos:
            raise InputError("All localised photos are held out, none is left to train on. Use --holdout-every 0.")
        with watch.stage("train"):
            trained = stages.train_first_visit(
                photos, result, store.stage_dir("train"), config, self.backend, self.progress, self.stop
            )
        with watch.stage("residual"):
            gaussians, residual = stages.clear_residual(trained, photos, config, self.backend)
            heldout = stages.training_photos(records, images, holdout=True)
            exposures = list(trained.exposures)
            quality = dict(trained.figures) | {"haze": float(len(trained.gaussians) - len(gaussians))}
            quality["train_psnr"] = stages.mean_psnr(gaussians, photos, backend=self.backend, exposures=exposures)
            if heldout:
                quality["heldout_psnr"] = stages.mean_psnr(gaussians, heldout, backend=self.backend)
        quality |= {f"poses_{k}": v for k, v in result.figures.items()}
        records = _with_exposures(records, trained.exposures)
        stereo = config.first_stereo.words(config.train.depth_weight)
        method = {
            "poses": poses.method, "train": "Gaussian splatting, growth under a cap, per-photo exposure" + stereo,
            "rasteriser": self.backend, "trained_on": training_device(config.train.device, config.backend)[0].type,
        }
        return Scene(
            Chronology.initial(gaussians), (self._record(found.capture, records, method, watch, quality),),
            side_data={"localization_map": result.map.to_tensors(), "expected_residual": residual},
            config={"run": to_plain(config), "cameras": "estimated" if given is None else "given", **self.facts},
        )

    def _later(
        self, whole: Scene, found: stages.VisitInput, given: dict[str, PosedPhoto] | None, watch: stages.Stopwatch, *,
        insert: bool = False,
    ) -> Scene:
        t = found.capture.timestep
        scene = before_time(whole, t) if insert else whole
        if insert:
            message = f"{_title(found.capture)} lies before {whole.visits[t].name}: it becomes time {t}, later times move on"
            self.progress(ProgressEvent("update", message=message))
        with watch.stage("poses"):
            base = LocalizationMap.from_tensors(scene.side_data["localization_map"])
            last_seen = scene.chronology.state_at(t - 1).gaussians.detach()
            poses = stages.pose_later_visit(found, given, base, self.config, self.progress, last_seen, scene.sampled)
        with watch.stage("photos"):
            records, images = stages.make_records(self.store, t, found, poses, self.config, self.progress, scene.sampled)
            photos = stages.training_photos(records, images)
            replay = stages.stored_photos(self.store, scene.photos(time=0)) if photos else []
        self._report_unplaced(records)
        if not photos:
            message = f"no photo of {_title(found.capture)} was placed; the visit is stored, nothing is decided"
            self.progress(ProgressEvent("update", message=message, level="warning"))
        update = update_visit(
            scene, photos, replay, stored=lambda time: stages.stored_photos(self.store, scene.photos(time=time)),
            config=self.config.update, backend=self.backend, seed=self.config.seed, progress=self.progress,
        )
        for stage, seconds in update.timing.items():
            watch.seconds[stage] = watch.seconds.get(stage, 0.0) + seconds
        quality = {k: float(v) for k, v in update.quality.items()}
        heldout = stages.training_photos(records, images, holdout=True)
        if heldout:
            shown = update.chronology.state_at(t)
            quality["heldout_psnr"] = stages.mean_psnr(
                shown.lit(), heldout, backend=self.backend, appearance=shown.appearance
            )
        records = _with_exposures(records, update.exposures)
        method = {"poses": poses.method, "rasteriser": self.backend, **update.method}
        visit = self._record(found.capture, records, method, watch, quality, tuple(update.undecided))
        visit = dataclasses.replace(visit, decisions=update.decisions)
        updated = dataclasses.replace(scene, chronology=update.chronology, visits=(*scene.visits, visit))
        if not insert:
            return updated
        with watch.stage("insert"):
            joined, remarks = insert_visit(whole, updated, t, update=self.config.update, backend=self.backend)
        for remark in remarks:
            self.progress(ProgressEvent("insert", message=remark))
        return joined

    def _record(
        self, capture: Capture, records: Sequence[PhotoRecord], method: dict[str, str], watch: stages.Stopwatch,
        quality: dict[str, float], undecided: tuple[str, ...] = (),
    ) -> VisitRecord:
        return VisitRecord(
            capture.timestep, capture.name, capture.captured_at, tuple(records), method, dict(watch.seconds), quality, undecided
        )

    def _report_unplaced(self, records: Sequence[PhotoRecord]) -> None:
        for record in records:
            if not record.localised:
                self.progress(ProgressEvent("poses", message=f"{record.name} was not placed: {record.reason}", level="warning"))

    def _commit(self, scene: Scene, watch: stages.Stopwatch, t: int, message: str) -> None:
        self.store.commit(scene, message=message)
        self.scene = scene
        self.committed.append(t)
        for stage, seconds in watch.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        self.store.append_log({
            "event": "visit", "time": t, "seconds": {k: round(v, 3) for k, v in watch.seconds.items()},
            "peak_memory_mb": round(peak_memory_mb(), 1),
        })
        if t == 0:
            # The map is in the scene now; caches and checkpoints of the first visit would only take space.
            for stage in ("poses", "train"):
                shutil.rmtree(self.store.stage_dir(stage), ignore_errors=True)
        self.progress(ProgressEvent("commit", message=f"{message} stored", figures={"seconds": sum(watch.seconds.values())}))

    def outcome(self, reason: str, rule: str) -> RunOutcome:
        """The summary of this call."""
        assert self.scene is not None
        return RunOutcome(self.scene, tuple(self.committed), self.seconds, peak_memory_mb(), reason, rule)


def pick_backend(requested: str) -> tuple[str, str]:
    """The rasteriser to use and why.

    Raises:
        UsageError: the requested one does not exist or cannot run here.
    """
    try:
        return choose_backend("cpu", requested)
    except ValueError as error:
        raise UsageError(f"--backend: {error} Leave it at auto to let the program choose.") from error


def _after_training(requested: str) -> str:
    """The rasteriser of everything but training, which runs on the processor: gsplat serves the training only."""
    return "auto" if requested == "gsplat" else requested


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts kibibytes, macOS bytes.
    return peak / 1024 if sys.platform != "darwin" else peak / 2**20


def _open_for(job: Job) -> SceneStore:
    if SceneStore.exists(job.scene):
        if job.overwrite:
            return SceneStore.create(job.scene, overwrite=True)
        if job.resume:
            return SceneStore.open(job.scene)
        raise UsageError(
            f"{job.scene}: already holds a scene. Add --resume to continue it, --overwrite to start anew, "
            "or choose another folder."
        )
    return SceneStore.create(job.scene)


def _with_exposures(records: Sequence[PhotoRecord], exposures: NDArray[np.float64]) -> list[PhotoRecord]:
    """Fitted colour affines belong to the photos that were trained on, in their order."""
    rest = iter(exposures)
    return [dataclasses.replace(r, exposure=next(rest)) if r.localised and not r.holdout else r for r in records]


def _cameras_key(cameras: Sequence[PosedPhoto]) -> str:
    return fingerprint([
        [c.name, c.width, c.height, c.model, list(c.params), np.asarray(c.cam_from_world).tolist()] for c in cameras
    ])


def _count(captures: Sequence[Capture]) -> int:
    return sum(len(c.frames) for c in captures)


def _title(capture: Capture) -> str:
    date = capture.captured_at.date().isoformat() if capture.captured_at else ""
    return date if capture.name == date else f"{capture.name} ({date})" if date else capture.name
