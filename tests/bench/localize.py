"""Placing later photos on a stored first visit: errors, processor seconds and where they go, and their growth with the visit.

Opt-in: `OMP_NUM_THREADS=1 python -m tests.bench.localize SCENE ROOM [--repeat 1,4,16]` prints JSON lines. SCENE holds at least
the first visit of the rendered room ROOM. `--repeat` repeats the stored photos so many times, which keeps the answer and shows the cost.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from ltgs.io.scene_store import SceneStore
from ltgs.poses import localize
from ltgs.poses.align import align_cameras, pose_errors
from ltgs.poses.localize import LocalizeConfig, localize_photos
from ltgs.poses.map import LocalizationMap
from tests.bench.poses import photo_inputs

PARTS = {"features_of_all": "features", "preview_stack": "retrieval", "nearest_photos": "retrieval", "match_descriptors": "matching",
         "_estimate": "pnp"}


def repeated(base: LocalizationMap, times: int) -> LocalizationMap:
    """The same map with every photo and its observations stored several times under other names."""
    photos = tuple(
        replace(p, posed=replace(p.posed, name=f"{k}/{p.posed.name}")) for k in range(times) for p in base.photos
    )
    first = np.concatenate([[0], *(base.first[1:] + k * len(base.xy) for k in range(times))])
    arrays = {name: np.concatenate([getattr(base, name)] * times) for name in ("xy", "size", "point", "descriptors")}
    return replace(base, photos=photos, first=first, **arrays)


@contextmanager
def stopwatch(seconds: dict[str, float]):
    """Processor seconds spent in the parts of the localisation."""

    def timed(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            try:
                return call(*args, **kwargs)
            finally:
                seconds[part] = seconds.get(part, 0.0) + time.process_time() - start

        return wrapped

    with mock.patch.multiple(localize, **{n: timed(part, getattr(localize, n)) for n, part in PARTS.items()}):
        yield


def figures(base: LocalizationMap, room: Path, config: LocalizeConfig) -> dict[str, Any]:
    """Errors after aligning the first visit, and processor seconds per photo."""
    truth = {c["name"]: np.array(c["cam_from_world"]) for c in json.loads((room / "cameras.json").read_text())["cameras"]}
    visits = sorted(p for p in (room / "photos").iterdir() if p.is_dir())
    later = [p for v in visits[1:] for p in photo_inputs(v, room / "photos")]
    own = {p.posed.name.split("/", 1)[1] if p.posed.name not in truth else p.posed.name: p.posed.cam_from_world for p in base.photos}
    gauge = align_cameras(own, truth)
    extent = pose_errors(own, truth).extent
    parts: dict[str, float] = {}
    start = time.process_time()
    with stopwatch(parts):
        found = localize_photos(base, later, config=config)
    total = time.process_time() - start
    poses = {f.localization.name: gauge.camera(f.posed.cam_from_world) for f in found if f.posed is not None}
    errors = pose_errors(poses, truth, align=False)
    percent = 100 * errors.center / extent
    first = pose_errors({n: gauge.camera(p) for n, p in own.items()}, truth, align=False)
    return {
        "room": room.name, "stored_photos": len(base.photos), "placed": f"{len(poses)}/{len(later)}",
        "deg": _spread(errors.rotation_deg), "percent": _spread(percent),
        "first_visit_deg": _spread(first.rotation_deg), "first_visit_percent": _spread(100 * first.center / extent),
        "inliers_median": float(np.median([f.localization.num_inliers for f in found])),
        "cpu_s_per_photo": round(total / len(later), 3), "parts": {k: round(v / len(later), 4) for k, v in parts.items()},
    }


def _spread(values: np.ndarray) -> dict[str, float]:
    return {"median": round(float(np.median(values)), 4), "max": round(float(values.max()), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scene", type=Path)
    parser.add_argument("room", type=Path)
    parser.add_argument("--repeat", default="1", help="how often the stored photos are repeated, separated by commas")
    parser.add_argument("--shortlist", type=int, default=LocalizeConfig.shortlist)
    arguments = parser.parse_args()
    base = LocalizationMap.from_tensors(SceneStore.open(arguments.scene).load().side_data["localization_map"])
    config = LocalizeConfig(shortlist=arguments.shortlist)
    for times in (int(t) for t in arguments.repeat.split(",")):
        print(json.dumps(figures(repeated(base, times) if times > 1 else base, arguments.room, config)), flush=True)


if __name__ == "__main__":
    main()
