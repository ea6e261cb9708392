"""Why an update decided what it decided: every removal tried, every object tried against new content, every verdict on it.

The types are plain and stored with the visit; `DecisionRecorder` collects them while an update runs. Nothing here decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.core.cameras import Camera
from ltgs.core.chronology import Chronology, Presence

Array = NDArray[np.float64]
Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of a working photo; right and bottom are outside of it."""
Verdict = Literal["matched", "new", "leftover", "newly seen", "light", "dropped", "covered", "open"]
"""What became of new content: a known object stands there; a new object; only the error of an object next to it; seen for
the first time but perhaps not new; only another light on a known surface; too weak; a fragment whose pixels better supported
content explains; looked at again at a later stage."""
VERDICTS: tuple[str, ...] = get_args(Verdict)


@dataclass(frozen=True)
class RemovalTest:
    """A set of Gaussians that was taken away for a try."""

    stage: str
    """When in the update it was tried, e.g. "round 1"."""
    centre: tuple[float, float, float]
    """Median of its Gaussians, scene units."""
    radius: float
    """Distance within which 90 % of them lie, scene units."""
    num_gaussians: int
    scores: Mapping[str, float]
    """What the photos say about its absence, by name, e.g. explained, outline, holes (see objects.carve.RemovalBenefit)."""
    taken: bool
    """It counts as having left."""
    reason: str = ""
    """Why it was not taken; of a taken set what proves it besides the scores, if anything."""
    object_id: int = 0
    """The object it is (part of), 0 if it is no object."""
    boxes: Mapping[str, Box] = field(default_factory=dict)
    """Photo name to the box that holds it there."""


@dataclass(frozen=True)
class PairTest:
    """A known object that was tried against new content."""

    stage: str
    object_id: int
    instance: int
    """Number of the InstanceVerdict."""
    sweep_gain: float | None
    """Share of the cost around the content that the best rotation of the coarse sweep explains; None: not swept."""
    gain: float | None
    """The same after refinement; None: not refined."""
    chosen: bool
    reason: str = ""
    """Why it was not chosen."""
    ambiguous: bool = False
    """A clearly different rotation explains the photos as well."""


@dataclass(frozen=True)
class InstanceVerdict:
    """New content that was seen, and what it was taken for."""

    number: int
    """1, 2, ... within the visit."""
    stage: str
    centre: tuple[float, float, float]
    """Scene units."""
    radius: float
    """Scene units."""
    area_px: int
    """Changed pixels over all photos."""
    num_views: int
    in_hole: bool
    """It stands where something left."""
    verdict: Verdict
    object_id: int = 0
    """The object it belongs to, 0 if none."""
    reason: str = ""
    boxes: Mapping[str, Box] = field(default_factory=dict)
    """Photo name to the box that holds its pixels there."""


@dataclass(frozen=True)
class DecisionRecord:
    """All that was considered at one visit, in the order in which it was tried."""

    removals: tuple[RemovalTest, ...] = ()
    pairs: tuple[PairTest, ...] = ()
    instances: tuple[InstanceVerdict, ...] = ()


class Content(Protocol):
    """New content as `objects.hull.HullInstance` describes it."""

    @property
    def points(self) -> Array: ...  # [M, 3] scene units

    @property
    def pixels(self) -> tuple[NDArray[np.bool_], ...]: ...  # per view [H, W]

    @property
    def num_views(self) -> int: ...


class Registration(Protocol):
    """A pose found for an object, as `objects.hypothesis.PoseHypothesis` describes it."""

    @property
    def gain(self) -> float: ...

    @property
    def ambiguous(self) -> bool: ...


class DecisionRecorder:
    """Collects what an update considers. The caller sets `stage`; content is recognised by identity, not by value."""

    max_refused = 16
    """Refused removals kept, those with most Gaussians: the small ones explain nothing to anybody."""

    def __init__(self, cameras: Sequence[Camera] = ()) -> None:
        """
        Args:
            cameras: of the visit's photos, in the order of the views.
        """
        self.stage = ""
        self.cameras = list(cameras)
        self._removals: list[tuple[RemovalTest, Tensor]] = []
        self._put_back: dict[tuple[str, int], str] = {}
        self._pairs: list[PairTest] = []
        self._content: list[Content] = []
        self._instances: list[InstanceVerdict] = []

    def removal(self, points: Tensor, scores: Mapping[str, float], *, reason: str, note: str = "") -> None:
        """A set was tried.

        Args:
            points: [M, 3] centres of its Gaussians, scene units.
            reason: why it stays; empty if it left.
            note: what proves besides the scores that it left.
        """
        cloud = points.detach().double().numpy()
        centre, radius = _middle(cloud)
        rounded = {name: _short(value) for name, value in scores.items()}
        boxes = {c.name: box for c in self.cameras if (box := projected_box(c, cloud)) is not None}
        test = RemovalTest(self.stage, centre, radius, len(cloud), rounded, not reason, reason or note, 0, boxes)
        self._removals.append((test, points.detach()[:: max(1, len(points) // 256)].float()))

    def stays(self, object_id: int, reason: str) -> None:
        """What was taken away at this stage of an object is put back."""
        self._put_back[self.stage, object_id] = reason

    def seen(self, content: Content, *, in_hole: bool = False) -> int:
        """The number of some new content, given at first sight."""
        for number, known in enumerate(self._content, 1):
            if known is content:
                return number
        self._content.append(content)
        centre, radius = _middle(content.points)
        boxes = {}
        for camera, mask in zip(self.cameras, content.pixels, strict=False):
            box = _mask_box(mask)
            if box is not None:
                boxes[camera.name] = box
        self._instances.append(InstanceVerdict(
            len(self._content), self.stage, centre, radius, int(sum(m.sum() for m in content.pixels)), content.num_views,
            in_hole, "open", boxes=boxes,
        ))
        return len(self._content)

    def seen_all(self, contents: Sequence[Content], num_outside: int) -> None:
        """Content found at this stage: the first `num_outside` stand in the open, the others where something left."""
        for index, content in enumerate(contents):
            self.seen(content, in_hole=index >= num_outside)

    def verdict(self, content: Content, verdict: Verdict, object_id: int = 0, reason: str = "") -> None:
        """What some content was taken for; a later word replaces an earlier one."""
        number = self.seen(content)
        self._instances[number - 1] = replace(self._instances[number - 1], verdict=verdict, object_id=object_id, reason=reason)

    def withdraw(self, object_id: int, reason: str) -> None:
        """What was taken for this object, new or known, is none."""
        self._instances = [
            replace(i, verdict="dropped", object_id=0, reason=reason) if i.object_id == object_id and i.verdict in ("new", "matched") else i
            for i in self._instances
        ]

    def pairs(
        self, ids: Sequence[int], contents: Sequence[Content], sweeps: Mapping[tuple[int, int], float],
        refined: Mapping[tuple[int, int], Registration], chosen: Sequence[tuple[int, int]],
        needed: Mapping[tuple[int, int], float],
    ) -> None:
        """All pairs of one assignment.

        Args:
            sweeps, refined, chosen, needed: keyed by (index into ids, index into contents).
            needed: the gain that a refined pair must reach.
        """
        for row, object_id in enumerate(ids):
            for column, content in enumerate(contents):
                key = (row, column)
                found = refined.get(key)
                number = self.seen(content)
                self._pairs.append(PairTest(
                    self.stage, int(object_id), number, _short(sweeps[key]) if key in sweeps else None,
                    _short(found.gain) if found is not None else None, key in chosen,
                    _why_not(key, sweeps, found, chosen, needed.get(key, 0.0)), found is not None and found.ambiguous,
                ))
                if key in chosen:
                    self.verdict(content, "matched", int(object_id))

    def finish(self, chronology: Chronology, time: int) -> DecisionRecord:
        """Everything collected; removals are linked to the objects that the chronology, up to this visit, made of them."""
        clouds = {
            k: chronology.templates[k].gaussians.transformed(
                torch.as_tensor(chronology.tracks[k].world_from_object[time - 1], dtype=torch.float32)).means.detach()
            for k in chronology.present_ids(time - 1)
            if chronology.templates[k].kind == "object" and chronology.tracks[k].presence[time - 1] != Presence.ABSENT
        }
        linked = [replace(test, object_id=_owner(points, test.radius, clouds)) for test, points in self._removals]
        linked = [
            replace(t, taken=False, reason=self._put_back[t.stage, t.object_id])
            if t.taken and (t.stage, t.object_id) in self._put_back else t for t in linked
        ]
        # The same set is often tried again in a later pass; the last word counts.
        once = {(t.centre, t.num_gaussians): t for t in linked if not t.taken}
        refused = sorted(once.values(), key=lambda t: -t.num_gaussians)[: self.max_refused]
        kept = tuple(t for t in linked if t.taken or any(t is r for r in refused))
        instances = tuple(
            replace(i, boxes={}) if i.verdict == "covered"
            else replace(i, reason="no known object fits into the hole or beside it") if i.verdict == "open" and i.in_hole else i
            for i in self._instances
        )
        return DecisionRecord(kept, tuple(self._pairs), instances)


def _why_not(
    key: tuple[int, int], sweeps: Mapping[tuple[int, int], float], found: Registration | None,
    chosen: Sequence[tuple[int, int]], needed: float,
) -> str:
    if key in chosen:
        return ""
    if key not in sweeps:
        return "not tried: its colours are others, the place is too small for it, or no photo shows it well enough"
    if found is None:
        return "not refined: no rotation of the sweep comes close to what other pairs explain"
    if found.gain < needed:
        return f"explains {100 * found.gain:.0f}% of what differs, {100 * needed:.0f}% are needed"
    return "another assignment explains more"


def _short(value: float) -> float:
    """Four digits: scores are read by people and stored in every generation."""
    return float(f"{float(value):.4g}") if np.isfinite(value) else 0.0


def _middle(points: Array) -> tuple[tuple[float, float, float], float]:
    """Median and the distance from it within which 90 % of the points lie."""
    if len(points) == 0:
        return (0.0, 0.0, 0.0), 0.0
    centre = np.median(points, axis=0)
    x, y, z = (_short(v) for v in centre)
    return (x, y, z), _short(float(np.quantile(np.linalg.norm(points - centre, axis=1), 0.9)))


def _mask_box(mask: NDArray[np.bool_]) -> Box | None:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def projected_box(camera: Camera, points: Array) -> Box | None:
    """The box that holds 96 % of the points in an image, None where they are behind the camera or outside of the image.

    Args:
        points: [M, 3] scene units.
    """
    local = points @ camera.cam_from_world[:3, :3].T + camera.cam_from_world[:3, 3]
    local = local[local[:, 2] > 1e-6]
    if len(local) == 0 or len(local) < 0.5 * len(points):
        return None
    uv = (local @ camera.K.T)[:, :2] / local[:, 2:]
    (left, top), (right, bottom) = np.quantile(uv, 0.02, axis=0), np.quantile(uv, 0.98, axis=0)
    box = (
        max(0, int(np.floor(left))), max(0, int(np.floor(top))),
        min(camera.width, int(np.ceil(right)) + 1), min(camera.height, int(np.ceil(bottom)) + 1),
    )
    return box if box[0] < box[2] and box[1] < box[3] else None


def _owner(points: Tensor, radius: float, clouds: Mapping[int, Tensor]) -> int:
    """The object whose Gaussians these are: most of them lie on its own."""
    best, best_distance = 0, 0.1 * max(radius, 1e-12)
    for object_id, cloud in clouds.items():
        if len(cloud) and len(points):
            distance = float(torch.cdist(points, cloud).amin(1).median())
            if distance < best_distance:
                best, best_distance = object_id, distance
    return best


def renumbered(record: DecisionRecord, names: Mapping[int, int]) -> DecisionRecord:
    """The same record with other object ids; ids that `names` does not hold stay."""
    def new(object_id: int) -> int:
        return names.get(object_id, object_id)

    return DecisionRecord(
        tuple(replace(t, object_id=new(t.object_id)) for t in record.removals),
        tuple(replace(t, object_id=new(t.object_id)) for t in record.pairs),
        tuple(replace(t, object_id=new(t.object_id)) for t in record.instances),
    )
