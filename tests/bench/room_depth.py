"""Depth of update photos against the true depth of rendered rooms, with and without the first visit's render.

    python -m tests.bench.room_depth --rooms DIR --scenes DIR [--only desk] [--method TEXT ...] [--masks true] [--json out.json]

`--scenes` holds one stored scene per room whose first visit was reconstructed (`ltgs reconstruct ROOM/photos/<first visit> -o
SCENES/ROOM`). Every update photo is placed on it as `ltgs update` does. Static surfaces are measured in rectified pairs with the nearest
photo of the first visit; new and moved objects by `measure_surfaces` from the photos of their visit alone, and, for comparison, by
rectified pairs. `--method` picks those whose names contain a text. Depths are compared in the photo's own pixels, relative to the truth;
an object counts once per photo that shows it. The rooms are rendered, not photographed.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ltgs.change.compare import Ground, Shot, compare
from ltgs.change.earlier import EarlierConfig, nearest_cameras, prepare_earlier, witness
from ltgs.core.cameras import Camera
from ltgs.core.progress import silent
from ltgs.core.scene import Scene
from ltgs.core.views import ComparedView
from ltgs.data.rooms import Room, read_room
from ltgs.depth.pairs import PairConfig, choose_stereo_pairs
from ltgs.depth.surfaces import measure_surfaces
from ltgs.depth.sweep import SweepView
from ltgs.depth.types import Source
from ltgs.depth.views import measure_view
from ltgs.errors import InputError
from ltgs.io.scene_store import SceneStore
from ltgs.optim.initialize import TrainingPhoto
from ltgs.pipeline import stages
from ltgs.pipeline.config import load_config
from ltgs.poses.align import align_cameras
from ltgs.poses.map import LocalizationMap

Map = NDArray[np.float32]
Mask = NDArray[np.bool_]
MIN_PIXELS = 200
"""Objects smaller than this in a photo are not scored: a pixel of outline more or less would decide."""
GROSS = 0.05
STATIC = ("static, pairs, no prior", "static, pairs, rendered prior", "static, the render itself")
OBJECTS = ("objects, pairs, rendered prior", "objects, sweep, photos only", "objects, sweep, rendered prior")


@dataclass(frozen=True)
class View:
    """One placed update photo with everything known and true about it."""

    compared: ComparedView
    rgb: NDArray[np.uint8]
    truth: Map
    """[H, W] depth in scene units."""
    change: NDArray[np.uint8]
    """[H, W] true change since the first visit: 1 content is new here, 2 content left."""
    objects: NDArray[np.uint8]
    wanted: Mask
    """[H, W] pixels taken for changed."""

    @property
    def camera(self) -> Camera:
        return self.compared.camera

    @property
    def surface(self) -> Map:
        """[H, W] rendered depth, NaN where the scene is not known."""
        return np.where(self.compared.alpha > 0.5, self.compared.depth, np.float32(np.nan)).astype(np.float32)


def place(scene: Scene, room: Room, time_index: int) -> list[TrainingPhoto]:
    """The visit's photos, placed on the first visit and undistorted as an update does it."""
    config = load_config("cpu_full")
    visit = stages.scan_visit(room.captures()[time_index], silent)
    base = LocalizationMap.from_tensors(scene.side_data["localization_map"])
    poses = stages.pose_later_visit(visit, None, base, config, silent)
    out = []
    for photo in visit.photos:
        if photo.name in poses.posed:
            camera, image = stages.working_photo(photo.path, poses.posed[photo.name], time_index, config.max_size)
            out.append(TrainingPhoto(camera, image))
    return out


def compared_views(scene: Scene, photos: Sequence[TrainingPhoto], first: Sequence[TrainingPhoto]) -> list[ComparedView]:
    """Photos against the first visit's scene, with that visit's photos as second witness."""
    state = scene.chronology.state_at(0).gaussians.detach()
    residual = scene.side_data["expected_residual"]
    expected = torch.cat([residual["mean"], residual["variance"]], 1)
    shots = [Shot(p.camera, (p.rgb / 255).astype(np.float32)) for p in photos]
    views, grounds = compare(state, expected, shots)
    exposures = [p.exposure for p in scene.photos(time=0, holdout=False)]
    config, seen = EarlierConfig(), []
    for view, ground in zip(views, grounds, strict=True):
        picks = nearest_cameras(view.camera, [p.camera for p in first], config)
        earlier = [prepare_earlier(state, first[i].camera, first[i].rgb, exposures[i]) for i in picks]
        found = witness(view.camera, view.photo, view.depth, view.alpha, ground.fit, earlier, where=view.mask)
        seen.append(Ground(ground.fit, found))
    return compare(state, expected, shots, grounds=seen)[0]


def load_visit(
    scene: Scene, room: Room, first: Sequence[TrainingPhoto], time_index: int, metres: float, true_masks: bool
) -> list[View]:
    """A visit's views; `metres` per scene unit."""
    photos = place(scene, room, time_index)
    out = []
    for photo, compared in zip(photos, compared_views(scene, photos, first), strict=True):
        change, depth = room.change_mask(photo.camera.name), room.depth(photo.camera.name)
        assert change is not None and depth is not None
        wanted = change > 0 if true_masks else compared.mask
        out.append(View(compared, photo.rgb, (depth / metres).astype(np.float32), change, room.mask(photo.camera.name), wanted))
    return out


@dataclass
class Tally:
    """Relative errors of one method."""

    errors: list[NDArray[np.float64]]
    """Per region the errors of its measured pixels."""
    wanted: list[int]
    """Per region its pixels."""
    names: list[str]
    seconds: float = 0.0

    def add(self, name: str, depth: Map, truth: Map, where: Mask) -> None:
        """Score a region; pixels without a true depth do not count."""
        where = where & np.isfinite(truth)
        measured = where & np.isfinite(depth)
        self.errors.append(np.abs(depth[measured] / truth[measured] - 1).astype(np.float64))
        self.wanted.append(int(where.sum()))
        self.names.append(name)

    def row(self) -> dict[str, float | None]:
        """Pooled over pixels, and as means over the regions."""
        pooled, count = np.concatenate(self.errors) if self.errors else np.zeros(0), sum(self.wanted)
        share = [len(e) / n for e, n in zip(self.errors, self.wanted, strict=True)]
        medians = [float(np.median(e)) for e in self.errors if len(e)]
        return {
            "regions": len(self.wanted), "median_error_percent": 100 * float(np.median(pooled)) if len(pooled) else None,
            "median_of_regions_percent": 100 * float(np.median(medians)) if medians else None,
            "within_2_percent": 100 * float((pooled < 0.02).mean()) if len(pooled) else None,
            "gross_percent": 100 * float((pooled > GROSS).mean()) if len(pooled) else None,
            "coverage_percent": 100 * sum(map(len, self.errors)) / count if count else None,
            "coverage_of_regions_percent": 100 * float(np.mean(share)) if share else None,
            "coverage_seen_twice_percent": self._coverage_seen_twice(), "cpu_s": self.seconds,
        }

    def _coverage_seen_twice(self) -> float | None:
        """Coverage of the objects that at least two photos of the visit show: from one photo nothing can be measured."""
        keys = [(name.partition("/")[0], name.partition(" ")[2]) for name in self.names]
        shown = Counter(keys)
        twice = [(len(e), n) for e, n, key in zip(self.errors, self.wanted, keys, strict=True) if key[1] and shown[key] > 1]
        return 100 * sum(e for e, _ in twice) / sum(n for _, n in twice) if twice else None

    def details(self) -> list[dict[str, Any]]:
        """One entry per region."""
        return [
            {"region": name, "pixels": n, "coverage_percent": 100 * len(e) / n,
             "median_error_percent": 100 * float(np.median(e)) if len(e) else None}
            for name, e, n in zip(self.names, self.errors, self.wanted, strict=True)
        ]


def timed(tally: Tally, work: Callable[[], Any]) -> Any:
    """Run and add the processor time."""
    start = time.process_time()
    try:
        return work()
    finally:
        tally.seconds += time.process_time() - start


def measure_static(view: View, first: Sequence[TrainingPhoto], tallies: dict[str, Tally]) -> None:
    """One update photo against the best partner of the first visit."""
    still = (view.change == 0) & (view.compared.alpha > 0.5)
    label = view.camera.name
    if STATIC[2] in tallies:
        tallies[STATIC[2]].add(label, view.surface, view.truth, still)
    cameras = [view.camera, *(p.camera for p in first)]
    surfaces: list[Map | float] = [view.surface, *[float("nan")] * len(first)]
    pairs = choose_stereo_pairs(cameras, surfaces, wheres=[~view.wanted, *[None] * len(first)], config=PairConfig(partners=1))
    kernel = np.ones((2 * max(2, view.camera.width // 100) + 1,) * 2, np.uint8)
    trusted = cv2.dilate(view.wanted.astype(np.uint8), kernel) == 0
    near, far = np.nanquantile(view.surface, (0.01, 0.99))
    for name, given in (
        (STATIC[0], {"depth_range": (0.6 * float(near), 1.3 * float(far))}),
        (STATIC[1], {"depth": view.surface, "depth_valid": trusted}),
    ):
        depth = np.full_like(view.truth, np.nan)
        if name not in tallies:
            continue
        if pairs:
            other = first[pairs[0].second - 1]
            photos, both = (view.rgb, other.rgb), (view.camera, other.camera)
            try:
                found = timed(tallies[name], lambda p=photos, b=both, g=given: measure_view(p, b, **g))  # type: ignore[misc]
                depth, _ = found.at_view(view.camera)
            except InputError as error:
                print(f"{label} with {other.camera.name}: {error}")
        tallies[name].add(label, depth, view.truth, still & trusted)


def pair_depths(views: Sequence[View]) -> list[Map]:
    """Best depth per view from rectified pairs of the visit."""
    cameras, surfaces = [v.camera for v in views], [v.surface for v in views]
    pairs = choose_stereo_pairs(cameras, surfaces, wheres=[v.wanted for v in views], config=PairConfig(max_angle=40.0, max_axes=60.0))
    out = [np.full_like(v.truth, np.nan) for v in views]
    for pair in pairs:
        a, b = views[pair.first], views[pair.second]
        try:
            found = measure_view((a.rgb, b.rgb), (a.camera, b.camera), depth=a.surface, depth_valid=~a.wanted)
        except InputError:
            continue
        depth, source = found.at_view(a.camera)
        missing = ~np.isfinite(out[pair.first]) & (source == Source.STEREO)
        out[pair.first][missing] = depth[missing]
    return out


def measure_objects(room: Room, views: Sequence[View], tallies: dict[str, Tally]) -> None:
    """All methods on the new and moved objects of one visit."""
    kernel = np.ones((5, 5), np.uint8)
    known = [
        SweepView(v.camera, v.rgb, (cv2.dilate(v.wanted.astype(np.uint8), kernel) > 0) | ~v.compared.agreed, v.surface) for v in views
    ]
    blind = [replace(v, content=None, surface=None) for v in known]
    typical = float(np.nanmedian([np.nanmedian(v.surface) for v in views]))
    wanted = [v.wanted for v in views]
    methods: dict[str, Callable[[], list[Map]]] = {
        OBJECTS[0]: lambda: pair_depths(views),
        OBJECTS[1]: lambda: [f.depth for f in measure_surfaces(blind, wanted, typical_depth=typical)],
        OBJECTS[2]: lambda: [f.depth for f in measure_surfaces(known, wanted)],
    }
    results = {name: timed(tallies[name], work) for name, work in methods.items() if name in tallies}
    for name, depths in results.items():
        for view, depth in zip(views, depths, strict=True):
            for number in np.unique(view.objects[view.change == 1]):
                where = (view.change == 1) & (view.objects == number)
                if where.sum() >= MIN_PIXELS:
                    tallies[name].add(f"{view.camera.name} {room.object(int(number)).name}", depth, view.truth, where)


def measure_room(
    scene: Scene, room: Room, first: Sequence[TrainingPhoto], names: Sequence[str], true_masks: bool
) -> dict[str, Tally]:
    """The named methods on all later visits."""
    ours = {p.name: p.camera.cam_from_world for p in scene.photos(time=0) if p.camera is not None}
    metres = align_cameras(ours, {p.name: p.camera.cam_from_world for p in room.photos}).scale
    tallies = {name: Tally([], [], []) for name in names}
    for time_index in range(1, room.num_times):
        views = load_visit(scene, room, first, time_index, metres, true_masks)
        for view in views:
            measure_static(view, first, tallies)
        measure_objects(room, views, tallies)
        print(f"{room.name}: visit {time_index} measured", flush=True)
    return tallies


COLUMNS = {
    "median_error_percent": "median error %", "within_2_percent": "within 2 %", "gross_percent": f"above {100 * GROSS:.0f} %",
    "coverage_percent": "coverage %", "coverage_seen_twice_percent": "of what two photos show %",
    "coverage_of_regions_percent": "coverage, mean of objects %", "cpu_s": "CPU s",
}


def table(rows: dict[str, dict[str, dict[str, float | None]]]) -> str:
    """Markdown; one line per room and method."""
    lines = ["| room | method | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for room, methods in rows.items():
        for method, row in methods.items():
            shown = ["-" if row[c] is None else f"{row[c]:.2f}" if "error" in c else f"{row[c]:.0f}" for c in COLUMNS]
            lines.append(f"| {room} | {method} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rooms", type=Path, required=True)
    parser.add_argument("--scenes", type=Path, required=True)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--method", action="append", default=[])
    parser.add_argument("--masks", choices=("estimated", "true"), default="estimated")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    names = [n for n in (*STATIC, *OBJECTS) if not options.method or any(m in n for m in options.method)]
    rows, details = {}, {}
    for root in sorted(p for p in options.rooms.iterdir() if (p / "truth").is_dir()):
        if options.only and root.name not in options.only:
            continue
        store = SceneStore.open(options.scenes / root.name)
        scene, room = store.load(), read_room(root)
        tallies = measure_room(scene, room, stages.stored_photos(store, scene.photos(time=0)), names, options.masks == "true")
        rows[root.name] = {name: tally.row() for name, tally in tallies.items()}
        details[root.name] = {name: tally.details() for name, tally in tallies.items()}
    print(table(rows))
    if options.json:
        machine = {"cpu": platform.processor() or platform.machine(), "python": platform.python_version()}
        options.json.write_text(json.dumps({"machine": machine, "masks": options.masks, "rooms": rows, "details": details}, indent=1))


if __name__ == "__main__":
    main()
