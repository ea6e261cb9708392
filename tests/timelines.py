"""A small timeline made by hand: four visits, objects that leave, return, move, appear, and a revealed surface. No photos' pixels."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

import numpy as np
import torch
from helpers import blobs, look_at

from ltgs.core.cameras import Camera
from ltgs.core.chronology import Appearance, Chronology, Event, ObjectTrack, Presence, Template
from ltgs.core.events import derive_events
from ltgs.core.gaussians import Gaussians
from ltgs.core.scene import PhotoRecord, Scene, VisitRecord
from ltgs.core.se3 import make_rigid, so3_exp

ABSENT, PRESENT, UNKNOWN = Presence.ABSENT, Presence.PRESENT, Presence.UNKNOWN
NUM_TIMES = 4
PLACES = {1: (0.9, 0.0, 0.2), 2: (-0.9, 0.2, 0.2), 3: (0.0, 0.9, 0.2)}
"""Where the objects stand at first."""
MEMBERS = {1: torch.arange(0, 12), 2: torch.arange(12, 24)}
"""What was cut out of the background."""


def pose(x: float, y: float, z: float = 0.2, yaw_deg: float = 0.0) -> np.ndarray:
    """[4, 4] of an object on the floor."""
    return make_rigid(so3_exp(torch.tensor([0, 0, np.radians(yaw_deg)], dtype=torch.float64)).numpy(), np.array([x, y, z]))


def cluster(seed: int, n: int = 12) -> Gaussians:
    """An object around its own origin, about 0.15 in radius."""
    rng = np.random.default_rng(seed)
    return blobs(rng, rng.uniform(-0.1, 0.1, (n, 3)), 0.03)


def background() -> Gaussians:
    """The two objects of the first visit, then the floor."""
    rng = np.random.default_rng(3)
    floor = blobs(rng, np.column_stack([rng.uniform(-2, 2, (40, 2)), np.zeros(40)]), 0.2)
    return Gaussians.concatenate([placed(1), placed(2), floor])


def placed(k: int) -> Gaussians:
    """An object where it stands at first."""
    return cluster(k).transformed(torch.as_tensor(pose(*PLACES[k]), dtype=torch.float32))


def track(k: int, presence: Sequence[Presence], poses: Sequence[np.ndarray | None]) -> ObjectTrack:
    """A track; a pose of None is NaN."""
    count = len(presence)
    matrices = np.stack([np.full((4, 4), np.nan) if p is None else p for p in poses])
    covariance = np.full((count, 6, 6), np.nan)
    error = np.where(np.array(presence) == ABSENT, np.nan, np.arange(count) / 10)
    covariance[-1] = np.eye(6) * 0.01 if presence[-1] != ABSENT else np.nan
    return ObjectTrack(k, np.array(presence, np.uint8), matrices, covariance, error)


def timeline(objects: Collection[int] = (1, 2, 3, 4), *, recorded: bool = True) -> Chronology:
    """The timeline with some of its objects; the others are (or are not) part of the background at all times.

    1 is removed at 1 and returns at 2 elsewhere; 2 moves at 2 (its rotation is in doubt) and is out of sight at 3; 3 appears
    at 1 and is removed at 2; 4 is a surface revealed at 1.

    Args:
        recorded: whether the templates know what they were cut out of.
    """
    home, gone = {k: pose(*PLACES[k]) for k in PLACES}, None
    away, aside = pose(0.5, -0.8, yaw_deg=30), pose(-0.4, -0.3, yaw_deg=70)
    tracks = {
        1: track(1, [PRESENT, ABSENT, PRESENT, PRESENT], [home[1], gone, away, away]),
        2: track(2, [PRESENT, PRESENT, PRESENT, UNKNOWN], [home[2], home[2], aside, aside]),
        3: track(3, [ABSENT, PRESENT, ABSENT, ABSENT], [gone, home[3], gone, gone]),
        4: track(4, [ABSENT, PRESENT, PRESENT, PRESENT], [gone, np.eye(4), np.eye(4), np.eye(4)]),
    }
    templates = {
        k: Template(k, "object", cluster(k), 0, members=MEMBERS[k] if recorded else None) for k in (1, 2)
    } | {3: Template(3, "object", cluster(3), 1, "vase"), 4: Template(4, "surface", cluster(4), 1)}
    tracks, templates = {k: tracks[k] for k in objects}, {k: templates[k] for k in objects}
    lifted = torch.cat([torch.zeros(0, dtype=torch.int64), *(MEMBERS[k] for k in (1, 2) if k in objects)])
    known = [Event(2, "moved", 2, uncertain=True, note="rotation ambiguous")]
    light = tuple(Appearance(np.eye(3, 4) * (1 + t / 50), False, t / 50) for t in range(NUM_TIMES))
    return Chronology(background(), lifted, templates, tracks, light, derive_events(templates, tracks, known=known))


def camera(time: int, index: int, *, away: bool = False) -> Camera:
    """A camera that looks at the middle of the place, or out of it."""
    angle = 2.1 * index + 0.3 * time
    eye = np.array([3 * np.cos(angle), 3 * np.sin(angle), 1.5])
    target = 2 * eye if away else np.array([0.0, 0.0, 0.2])
    K = np.array([[60.0, 0, 40], [0, 60, 30], [0, 0, 1]])
    return Camera(f"visit {time}/{index}.png", time, 80, 60, K, look_at(eye, target))


def visit(time: int, name: str, when: datetime | None, *, away: bool = False) -> VisitRecord:
    """A visit of three placed photos."""
    photos = tuple(
        PhotoRecord(f"{name}/{i}.png", time, "", True, camera=camera(time, i, away=away)) for i in range(3)
    )
    return VisitRecord(time, name, when, photos, {"poses": "given"}, {"change": 1.0 + time}, {"psnr_after": 30.0 + time})


def scene_of(chronology: Chronology, *, away: Collection[int] = ()) -> Scene:
    """The timeline with a visit on the first of every month; at the times `away` the photos look out of the place."""
    visits = [visit(t, f"month {t + 1}", datetime(2024, t + 1, 1), away=t in away) for t in range(chronology.num_times)]
    return Scene(chronology, tuple(visits))


def content(chronology: Chronology, time: int) -> np.ndarray:
    """[N, 14 + 3 K] what is drawn at a time, as sorted rows, whatever the order of ids."""
    g = chronology.state_at(time).gaussians
    rows = np.concatenate([t.reshape(len(g), -1).numpy() for t in g.tensors().values()], 1)
    return rows[np.lexsort(np.round(rows[:, :3], 4).T)]


def same_content(a: Chronology, time_a: int, b: Chronology, time_b: int) -> bool:
    """Whether two times show the same Gaussians, up to the rounding of their frames."""
    one, two = content(a, time_a), content(b, time_b)
    return one.shape == two.shape and bool(np.allclose(one, two, atol=1e-5))
