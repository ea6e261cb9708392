"""What is where at which time: background, reusable object templates, their tracks, the light, and the state at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.core.checks import check_shape
from ltgs.core.gaussians import Gaussians
from ltgs.core.light_field import LightField, facing

Array = NDArray[np.float64]
EventKind = Literal["appeared", "removed", "moved", "returned", "replaced"]
BACKGROUND_ID = 0


class Presence(IntEnum):
    """Whether an object is in the place at a timestep."""

    ABSENT = 0
    PRESENT = 1
    UNKNOWN = 2


@dataclass(frozen=True)
class Template:
    """The Gaussians of one object, in the object's own frame, built once and reused at every time it is present."""

    object_id: int
    """1, 2, ...; 0 is the background."""
    kind: Literal["object", "surface"]
    """"surface" is a revealed or altered patch of the static scene: identity pose, never moves."""
    gaussians: Gaussians
    created_at: int
    """Timestep whose photos built it."""
    name: str = ""
    """What the user calls it; empty = no name."""
    members: Tensor | None = None
    """[M] int64 indices into the background whose place this takes; None = none, or not recorded."""
    surface_parts: Mapping[int, Gaussians] = field(default_factory=dict)
    """Id of a surface to the Gaussians, in the world, that it has lost to this object."""
    footing_of: int = 0
    """The object that this surface was shaded by and that took it along when it left; 0 = it is no such surface."""
    haze: bool = False
    """This surface was in the way of a later visit's photos (see `ltgs.change.haze`): it is drawn at the times before."""
    replaces: int = 0
    """The object of which this is the next form: the same thing by its looks where no rigid motion explains it, because it changed its
    shape or shows sides that nobody had seen; 0 = none."""
    residual: Tensor | None = None
    """[N, 5] of each Gaussian how well it explained the photos it was last fitted to: mean and variance of the colour and the
    structure cue (columns 0-1, 2-3) and the number of photos; None = not measured since the Gaussians changed."""

    def __post_init__(self) -> None:
        if self.object_id < 1:
            raise ValueError(f"object_id must be >= 1, got {self.object_id}.")
        if self.members is not None:
            check_shape("members", self.members, "M")
        if self.residual is not None:
            check_shape("residual", self.residual, f"{len(self.gaussians)} 5")

    def of(self, gaussians: Gaussians) -> Template:
        """The template made of other Gaussians, whose residual is not known."""
        return replace(self, gaussians=gaussians, residual=None)


@dataclass(frozen=True)
class ObjectTrack:
    """Presence and pose of one object at every timestep."""

    object_id: int
    presence: NDArray[np.uint8]
    """[T] of Presence values."""
    world_from_object: Array
    """[T, 4, 4], NaN where absent; at unknown times the last known pose."""
    pose_covariance: Array
    """[T, 6, 6] of (translation in scene units, rotation vector in radians), NaN where not estimated."""
    registration_error: Array
    """[T] root mean square residual, scene units; NaN where not registered."""
    pinned: frozenset[int] = frozenset()
    """Times whose pose the user has set; nothing but another edit changes them."""

    def __post_init__(self) -> None:
        check_shape("presence", self.presence, "T")
        t = len(self.presence)
        check_shape("world_from_object", self.world_from_object, f"{t} 4 4")
        check_shape("pose_covariance", self.pose_covariance, f"{t} 6 6")
        check_shape("registration_error", self.registration_error, f"{t}")
        present = self.presence != Presence.ABSENT
        if not np.isfinite(self.world_from_object[present]).all():
            raise ValueError(f"object {self.object_id} has a time without a pose although it is not absent.")
        if not all(0 <= p < t and self.presence[p] == Presence.PRESENT for p in self.pinned):
            raise ValueError(f"object {self.object_id} has a pinned time at which it is not present.")

    @property
    def num_times(self) -> int:
        return len(self.presence)

    def extended(
        self, presence: Presence, world_from_object: Array | None = None,
        covariance: Array | None = None, error: float = float("nan"),
    ) -> ObjectTrack:
        """A track one timestep longer. A missing pose repeats the last finite one unless the object is absent."""
        pose = np.full((4, 4), np.nan)
        if world_from_object is not None:
            pose = np.asarray(world_from_object, dtype=np.float64)
        elif presence != Presence.ABSENT:
            pose = self.last_pose()
        cov = np.full((6, 6), np.nan) if covariance is None else np.asarray(covariance, dtype=np.float64)
        return ObjectTrack(
            self.object_id,
            np.append(self.presence, np.uint8(presence)).astype(np.uint8),
            np.concatenate([self.world_from_object, pose[None]]),
            np.concatenate([self.pose_covariance, cov[None]]),
            np.append(self.registration_error, error),
            self.pinned,
        )

    def seen_before(self, time: int) -> dict[int, Array]:
        """The times before a given one at which it was there for sure, and its poses [4, 4] then."""
        return {t: self.world_from_object[t] for t in range(min(time, self.num_times)) if self.presence[t] == Presence.PRESENT}

    def portraits(self, time: int) -> dict[int, Array]:
        """Of these times and poses the first of every place where it stood: photos of these times told how it looks."""
        out: dict[int, Array] = {}
        for t, pose in self.seen_before(time).items():
            if not out or not np.array_equal(pose, next(reversed(out.values()))):
                out[t] = pose
        return out

    def last_pose(self) -> Array:
        """[4, 4] pose at the last time one was known.

        Raises:
            ValueError: the object never had a pose.
        """
        known = np.flatnonzero(np.isfinite(self.world_from_object[:, 0, 0]))
        if len(known) == 0:
            raise ValueError(f"object {self.object_id} never had a pose.")
        return self.world_from_object[known[-1]]

    @staticmethod
    def start(object_id: int, timestep: int, world_from_object: Array, *, before: Presence = Presence.ABSENT) -> ObjectTrack:
        """A track of `timestep + 1` entries: `before` at all earlier times, present now.

        With `before=PRESENT` the object is taken to have stood at the same pose all the time (it was part of the first scene).
        """
        t = timestep + 1
        poses = np.full((t, 4, 4), np.nan)
        poses[timestep] = world_from_object
        presence = np.full(t, before, dtype=np.uint8)
        presence[timestep] = Presence.PRESENT
        if before != Presence.ABSENT:
            poses[:] = world_from_object
        return ObjectTrack(object_id, presence, poses, np.full((t, 6, 6), np.nan), np.full(t, np.nan))


@dataclass(frozen=True)
class Appearance:
    """Light of one visit relative to the first: photo colour = affine(render colour). Never changes geometry."""

    colour: Array = field(default_factory=lambda: np.eye(3, 4))
    """[3, 4] affine in sRGB, applied to the rendered colour."""
    changed: bool = False
    """True if the light differs from the visit before by more than the photos' own scatter."""
    exposure_ev: float = 0.0
    """Mean brightness change against the first visit in stops (log2 of linear ratio, approximate)."""
    field: LightField | None = None
    """What differs from place to place beyond that affine; None = nothing is known of it."""

    def apply(self, rgb: Tensor) -> Tensor:
        """[..., 3] render colours to this visit's light, not clamped."""
        m = torch.as_tensor(self.colour, dtype=rgb.dtype, device=rgb.device)
        return rgb @ m[:, :3].T + m[:, 3]

    def distance(self, before: Appearance) -> float:
        """Mean relative difference of what a mid grey becomes in this light and in that of another visit."""
        grey = np.append(np.full(3, 0.4), 1.0)
        return float(np.abs(self.colour @ grey / np.maximum(before.colour @ grey, 1e-3) - 1).mean())


@dataclass(frozen=True)
class Event:
    """One thing that happened between a visit and the one before."""

    time: int
    kind: EventKind
    """"replaced": an object is there in a new form (see `Template.replaces`); that the former one left is no event of its own."""
    object_id: int
    translation: float = 0.0
    """Distance the object's centre moved, scene units; 0 unless moved, returned or replaced."""
    rotation_deg: float = 0.0
    uncertain: bool = False
    note: str = ""

    @property
    def is_of_new(self) -> bool:
        """Whether its object is there for the first time: a thing, or a form of one, that nobody knew."""
        return self.kind in ("appeared", "replaced")


@dataclass(frozen=True)
class SceneState:
    """The scene at one time, ready to render."""

    gaussians: Gaussians
    object_ids: Tensor
    """[N] int64, 0 = background."""
    appearance: Appearance
    origins: Mapping[int, Tensor] = field(default_factory=dict)
    """Object id to [3] the middle of the object; surfaces and the background have none."""

    def normals(self, viewpoint: Tensor) -> Tensor:
        """[N, 3] unit normals: of objects outwards, of all else towards the viewpoint [3]."""
        means = self.gaussians.means
        toward = viewpoint.to(means) - means
        for object_id, origin in self.origins.items():
            own = self.object_ids == object_id
            toward[own] = means[own] - origin.to(means)
        return facing(self.gaussians, toward)

    def lit(self) -> Gaussians:
        """The Gaussians in this time's light field; `appearance.apply` still follows on the rendered picture."""
        light = self.appearance.field
        if light is None or len(self.gaussians) == 0:
            return self.gaussians
        return light.lit(self.gaussians, self.normals(light.viewpoint))


@dataclass(frozen=True)
class Chronology:
    """Everything known about the place over all visits."""

    background: Gaussians
    """The whole first-visit scene, including Gaussians later lifted into templates."""
    lifted: Tensor
    """[L] int64 indices into `background` that belong to templates and are not drawn as background."""
    templates: Mapping[int, Template]
    tracks: Mapping[int, ObjectTrack]
    appearance: tuple[Appearance, ...]
    """[T]"""
    events: tuple[Event, ...] = ()
    metres_per_unit: float | None = None
    """None = scale unknown."""
    retired: int = 0
    """Highest id that an object ever had and has no more; ids are never given twice."""

    def __post_init__(self) -> None:
        if set(self.templates) != set(self.tracks):
            raise ValueError(f"templates {sorted(self.templates)} and tracks {sorted(self.tracks)} must have the same ids.")
        for object_id, track in self.tracks.items():
            if track.num_times != self.num_times:
                raise ValueError(f"track of object {object_id} has {track.num_times} times, expected {self.num_times}.")
        check_shape("lifted", self.lifted, "L")

    @property
    def num_times(self) -> int:
        return len(self.appearance)

    @property
    def static_mask(self) -> Tensor:
        """[N] bool: background Gaussians that are not lifted."""
        mask = torch.ones(len(self.background), dtype=torch.bool)
        mask[self.lifted] = False
        return mask

    @property
    def static_background(self) -> Gaussians:
        """Background without the Gaussians that became templates."""
        return self.background if len(self.lifted) == 0 else self.background[self.static_mask]

    @property
    def next_id(self) -> int:
        """An id that no object has or ever had."""
        return max([self.retired, *self.templates]) + 1

    def members_of(self, object_id: int) -> Tensor:
        """[M] indices of the background Gaussians whose place an object or surface takes; empty if it was built from photos.

        Scenes stored before the indices were recorded know only their union; there each lifted Gaussian that no template
        claims belongs to the template shown at the first visit that has a Gaussian nearest to it.
        """
        template = self.templates[object_id]
        none = torch.zeros(0, dtype=torch.int64)
        if template.members is not None:
            return template.members
        claimed = [t.members for t in self.templates.values() if t.members is not None]
        free = self.lifted[~torch.isin(self.lifted, torch.cat([none, *claimed]))]
        owners = [k for k, t in sorted(self.templates.items()) if self._may_own_lifted(t)]
        if object_id not in owners or len(free) == 0:
            return none
        distances = torch.stack([self._distance_at_first(k, free) for k in owners])
        return free[distances.argmin(0) == owners.index(object_id)]

    def _may_own_lifted(self, template: Template) -> bool:
        # Only what is shown at the first visit can stand for what was lifted out of it.
        return template.members is None and bool(self.tracks[template.object_id].presence[0] != Presence.ABSENT)

    def _distance_at_first(self, object_id: int, indices: Tensor) -> Tensor:
        """[M] distance of background Gaussians to the nearest one of an object as it stood at the first visit."""
        pose = torch.as_tensor(self.tracks[object_id].world_from_object[0], dtype=torch.float32)
        own = self.templates[object_id].gaussians.transformed(pose).means
        if len(own) == 0:
            return torch.full((len(indices),), torch.inf)
        return torch.cat([torch.cdist(part, own).amin(1) for part in self.background.means[indices].split(1024)])

    def present_ids(self, time: int) -> list[int]:
        """Ids drawn at `time`: present or unknown (shown at the last known pose)."""
        self._check_time(time)
        return [k for k, track in sorted(self.tracks.items()) if track.presence[time] != Presence.ABSENT]

    def state_at(self, time: int) -> SceneState:
        """Background and every drawn template at its pose.

        Raises:
            IndexError: `time` is not a stored timestep.
        """
        parts, ids = [self.static_background], [torch.zeros(len(self.background) - len(self.lifted), dtype=torch.int64)]
        origins: dict[int, Tensor] = {}
        for k in self.present_ids(time):
            pose = torch.as_tensor(self.tracks[k].world_from_object[time], dtype=torch.float32)
            parts.append(self.templates[k].gaussians.transformed(pose))
            ids.append(torch.full((len(parts[-1]),), k, dtype=torch.int64))
            if self.templates[k].kind == "object":
                origins[k] = pose[:3, 3]
        return SceneState(Gaussians.concatenate(parts), torch.cat(ids), self.appearance[time], origins)

    def until(self, time: int) -> Chronology:
        """The visits before `time` only, with templates as they are now; objects that came later are absent throughout.

        Raises:
            IndexError: `time` is not in 1..num_times.
        """
        self._check_time(time - 1)
        tracks = {
            k: replace(
                t, presence=t.presence[:time], world_from_object=t.world_from_object[:time],
                pose_covariance=t.pose_covariance[:time], registration_error=t.registration_error[:time],
                pinned=frozenset(p for p in t.pinned if p < time),
            )
            for k, t in self.tracks.items()
        }
        events = tuple(e for e in self.events if e.time < time)
        return replace(self, tracks=tracks, appearance=self.appearance[:time], events=events)

    def _check_time(self, time: int) -> None:
        if not 0 <= time < self.num_times:
            raise IndexError(f"time {time} is not stored; the scene has times 0..{self.num_times - 1}.")

    @staticmethod
    def initial(background: Gaussians) -> Chronology:
        """A chronology of the first visit only."""
        return Chronology(background, torch.zeros(0, dtype=torch.int64), {}, {}, (Appearance(),))
