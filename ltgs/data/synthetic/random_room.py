"""A room drawn from a seed: furniture, things, cameras, lights and a timeline of five visits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from ltgs.core.cameras import Camera
from ltgs.data.synthetic.layout import (
    CONTACT_M,
    ObjectModel,
    Piece,
    Placement,
    Visit,
    check_layout,
    may_touch,
    penetration,
    piece_corners,
    world_from_object,
)
from ltgs.data.synthetic.random_objects import draw_objects
from ltgs.data.synthetic.random_setting import Setting, draw_lights, draw_setting, first_views, sparse_views
from ltgs.data.synthetic.room import RoomModel
from ltgs.data.synthetic.tracer import Part, trace

Array = NDArray[np.float64]
State = dict[str, Placement]
Change = Callable[[State], State]

PHOTOS_LATER, TESTS = 3, 4
GAP_M = 0.02
"""Free space kept between things, and between a thing and the edge of what it stands on."""
SHIFT_M, TURN_DEG = 0.18, 30.0
"""Least distance and turn of a thing that is moved or returned."""
TRIES = 60
"""How often one thing's place, one visit's changes or the whole room is drawn anew before the next larger part is."""
CHECK_SIZE = (96, 72)
"""Pixels of the small pictures in which visibility is counted."""
SEEN_SHARE = 5e-4
"""A thing counts as seen in a photo if it covers this share of it (13 x 12 pixels of 640 x 480)."""


class _NoRoom(ValueError):
    """No place or no visible change was found; the caller draws something else."""


@dataclass(frozen=True)
class _Eye:
    """A camera of small size with the depth of the furniture, to count what a photo will show."""

    camera: Camera
    depth: NDArray[np.float32]
    """[h, w] planar, inf = nothing."""


def random_room(seed: int) -> RoomModel:
    """A room of 12 to 14 things on a table and a second surface at first, with five visits.

    t1 one thing moved and one removed; t2 two added under other light; t3 the removed one returned elsewhere, one
    tipped over, two swapped; t4 only other light, or one moved, one removed and one added.

    Raises:
        ValueError: no layout of this seed keeps all things apart, supported and visible.
    """
    last = ""
    for attempt in range(TRIES):
        try:
            return _draw_room(seed, np.random.default_rng([seed, 5, attempt]))
        except _NoRoom as error:
            last = str(error)
    raise ValueError(f"Seed {seed}: no room was found in {TRIES} draws (last reason: {last}). Use another seed.")


def _draw_room(seed: int, rng: np.random.Generator) -> RoomModel:
    setting = draw_setting(rng)
    models = draw_objects(rng, int(rng.integers(15, 18)))
    lights = draw_lights(rng, setting.target)
    poses = [first_views(rng, setting.target)]
    poses += [sparse_views(rng, setting.target, PHOTOS_LATER) for _ in range(4)]
    tests = [sparse_views(rng, setting.target, TESTS) for _ in range(5)]
    # Drawn apart from the attempts, which would favour the easier ending.
    quiet_end = bool(np.random.default_rng([seed, 6]).random() < 0.5)
    states = _Timeline(rng, setting, models, poses).draw(quiet_end=quiet_end)
    names = _light_names(rng, quiet_end=quiet_end)
    date = datetime(2025, int(rng.integers(1, 7)), int(rng.integers(1, 28)), 10, int(rng.integers(60)))
    visits = []
    for state, name, photo_poses, test_poses in zip(states, names, poses, tests, strict=True):
        moment = date.replace(hour={"day": 11, "evening": 18, "lamp": 21}[name])
        visits.append(Visit(moment, lights[name], state, photo_poses, test_poses))
        date += timedelta(days=int(rng.integers(6, 40)))
    day = lights["day"]
    for visit in visits:
        check_layout(models, setting.furniture, visit)
    # With a quiet end, one of the things drawn is never brought in.
    shown = tuple(m for m in models if any(m.name in state for state in states))
    return RoomModel(
        f"random_room_{seed}",
        setting.shell,
        setting.furniture,
        shown,
        day.lamps,
        day.ambient or (0.5, 0.5, 0.5),
        tuple(visits),
    )


def _light_names(rng: np.random.Generator, *, quiet_end: bool) -> tuple[str, ...]:
    """Name of each visit's light: day, day, other light, that or day, and at the end another one if nothing moves."""
    dim = "evening" if rng.random() < 0.5 else "lamp"
    third = dim if rng.random() < 0.5 else "day"
    others = [n for n in ("day", "evening", "lamp") if not quiet_end or n != third]
    return "day", "day", dim, third, others[int(rng.integers(len(others)))]


def _check_camera(pose: Array) -> Camera:
    w, h = CHECK_SIZE
    focal = 28 / 36 * w
    return Camera("check", 0, w, h, np.array([[focal, 0, w / 2], [0, focal, h / 2], [0, 0, 1]]), pose)


class _Timeline:
    """Draws the states of the visits one after the other; every step is drawn anew until it is sound and visible."""

    def __init__(self, rng: np.random.Generator, setting: Setting, models: Sequence[ObjectModel], poses: Sequence[Sequence[Array]]) -> None:
        self.rng, self.setting = rng, setting
        self.models = {m.name: m for m in models}
        self.boxes: dict[tuple[str, Placement], list[Array]] = {}
        self.solids = [piece_corners(p, np.eye(4)) for p in setting.furniture]
        static = [_part(p, np.eye(4)) for p in (setting.shell, *setting.furniture)]
        # Every third photo is enough to judge the first visit.
        chosen = [list(poses[0])[::3], *poses[1:]]
        cameras = [[_check_camera(p) for p in visit] for visit in chosen]
        self.eyes = [[_Eye(c, trace(static, c)[0]) for c in visit] for visit in cameras]

    def draw(self, *, quiet_end: bool) -> list[State]:
        """The five states; with `quiet_end` the last is as the one before.

        Raises:
            _NoRoom: some step was not found.
        """
        names = [str(n) for n in self.rng.permutation(list(self.models))]
        tall = [n for n in names if self._is_tall(n)]
        if not tall:
            raise _NoRoom("nothing is tall enough to tip over")
        # Three things come later; the last of them only if the fifth visit changes anything.
        late = [n for n in names if n != tall[0]][:3]
        start = self._step(0, {}, lambda s: self._furnish([n for n in names if n not in late]))
        first = self._step(1, start, self._move_and_remove)
        second = self._step(2, first, lambda s: self._add(s, late[:2]))
        (gone,) = start.keys() - first.keys()
        third = self._step(3, second, lambda s: self._return_tip_swap(s, gone, start[gone]))
        if quiet_end:
            return [start, first, second, third, third]
        fourth = self._step(4, third, lambda s: self._add(self._move_and_remove(s), late[2:]))
        return [start, first, second, third, fourth]

    def _step(self, time: int, before: State, change: Change) -> State:
        """The state after `change`, drawn until all that changed can be seen in all but one photo of the visit."""
        reason = ""
        for _ in range(TRIES):
            try:
                after = change(before)
                self._check_seen(time, before, after)
                return after
            except _NoRoom as error:
                reason = str(error)
        raise _NoRoom(f"visit {time}: {reason}")

    def _is_tall(self, name: str) -> bool:
        x, y, z = self.models[name].extents()
        return bool(z > 1.35 * max(x, y))

    def _boxes(self, name: str, place: Placement) -> list[Array]:
        """[8, 3] corners of every piece of a thing at a place."""
        key = (name, place)
        if key not in self.boxes:
            pose = world_from_object(self.models[name], place)
            self.boxes[key] = [piece_corners(p, pose) for p in self.models[name].pieces]
        return self.boxes[key]

    def _is_free(self, boxes: Sequence[Array], state: State) -> bool:
        """Do these boxes keep the gap to all other things and not cut into the furniture?"""
        if any(penetration(b, s) > CONTACT_M for b in boxes for s in self.solids if may_touch(b, s)):
            return False
        others = [o for name, place in state.items() for o in self._boxes(name, place)]
        return not any(penetration(b, o) > -GAP_M for b in boxes for o in others if may_touch(b, o, GAP_M))

    def _place(
        self, name: str, state: State, *, away: Placement | None = None, tilt_deg: float = 0.0, least_m: float = SHIFT_M
    ) -> Placement:
        """A free place; with `away`, at least `least_m` and `TURN_DEG` from that one.

        Raises:
            _NoRoom: none was found.
        """
        others = {n: p for n, p in state.items() if n != name}
        surfaces = self.setting.surfaces
        for _ in range(TRIES):
            surface = surfaces[int(self.rng.choice(len(surfaces), p=[s.share for s in surfaces]))]
            x, y = (float(self.rng.uniform(*r)) for r in (surface.x, surface.y))
            place = Placement(round(x, 3), round(y, 3), surface.z, float(self.rng.integers(-180, 180)), tilt_deg)
            boxes = self._boxes(name, place)
            corners = np.concatenate(boxes)
            low, high = corners.min(0), corners.max(0)
            if low[0] < surface.x[0] + GAP_M or high[0] > surface.x[1] - GAP_M:
                continue
            if low[1] < surface.y[0] + GAP_M or high[1] > surface.y[1] - GAP_M:
                continue
            if away is not None and not _is_away(place, away, least_m):
                continue
            if self._is_free(boxes, others):
                return place
        raise _NoRoom(f"no place for {name}")

    def _furnish(self, names: Sequence[str]) -> State:
        """Put the largest things first, as one would."""
        state: State = {}
        for name in sorted(names, key=lambda n: -float(np.prod(self.models[n].extents()[:2]))):
            state[name] = self._place(name, state)
        return state

    def _pick(self, names: Sequence[str], count: int) -> list[str]:
        if len(names) < count:
            raise _NoRoom("too few things to choose from")
        return [str(n) for n in self.rng.choice(sorted(names), count, replace=False)]

    def _move_and_remove(self, state: State) -> State:
        moved, removed = self._pick(list(state), 2)
        after = {n: p for n, p in state.items() if n != removed}
        after[moved] = self._place(moved, after, away=state[moved])
        return after

    def _add(self, state: State, names: Sequence[str]) -> State:
        after = dict(state)
        for name in names:
            after[name] = self._place(name, after)
        return after

    def _return_tip_swap(self, state: State, gone: str, left_from: Placement) -> State:
        after = dict(state)
        after[gone] = self._place(gone, after, away=left_from)
        (tipped,) = self._pick([n for n in state if self._is_tall(n)], 1)
        # What is laid down may lie anywhere, also right beside where it stood.
        after[tipped] = self._place(tipped, after, away=state[tipped], tilt_deg=90.0, least_m=0.0)
        first, second = self._pick([n for n in state if n != tipped], 2)
        if not _is_away(state[first], state[second], SHIFT_M, 0.0):
            raise _NoRoom("the two things to swap stand side by side")
        for name, other in ((first, second), (second, first)):
            place = state[other]
            yaw = state[name].yaw_deg + float(self.rng.choice([-1, 1]) * self.rng.integers(int(TURN_DEG), 120))
            after[name] = Placement(place.x, place.y, place.support_z, yaw)
        for name in (first, second):
            if not self._is_free(self._boxes(name, after[name]), {n: p for n, p in after.items() if n != name}):
                raise _NoRoom(f"no space to swap {first} and {second}")
            if not self._is_supported(name, after[name]):
                raise _NoRoom(f"{name} would hang over an edge")
        return after

    def _is_supported(self, name: str, place: Placement) -> bool:
        corners = np.concatenate(self._boxes(name, place))
        low, high = corners.min(0), corners.max(0)
        return any(
            abs(s.z - place.support_z) < 1e-6 and s.x[0] < low[0] < high[0] < s.x[1] and s.y[0] < low[1] < high[1] < s.y[1]
            for s in self.setting.surfaces
        )

    def _check_seen(self, time: int, before: State, after: State) -> None:
        """All things of the first visit, later all that changed: seen in two of three photos, where it was and is.

        Raises:
            _NoRoom: one of them is hidden.
        """
        eyes = self.eyes[time]
        needed = max(int(len(eyes) * 2 / 3), 1)
        # A first visit shows each thing from many sides, so a third of its photos is enough.
        needed = max(len(eyes) // 3, 2) if time == 0 else needed
        changed = [n for n in self.models if before.get(n) != after.get(n)]
        for state in (before, after):
            counts = {n: 0 for n in changed if n in state}
            if counts:
                for eye in eyes:
                    for name, share in self._shares(eye, state).items():
                        if name in counts and share >= SEEN_SHARE:
                            counts[name] += 1
            hidden = [n for n, c in counts.items() if c < needed]
            if hidden:
                raise _NoRoom(f"{hidden[0]} is hidden in too many photos")

    def _shares(self, eye: _Eye, state: State) -> dict[str, float]:
        """Share of the picture that each thing covers."""
        parts, owners = [], []
        for name, place in state.items():
            pose = world_from_object(self.models[name], place)
            for piece in self.models[name].pieces:
                parts.append(_part(piece, pose))
                owners.append(name)
        depth, hit, _ = trace(parts, eye.camera)
        counts = np.bincount(hit[(hit >= 0) & (depth < eye.depth)], minlength=len(parts)) / hit.size
        shares: dict[str, float] = dict.fromkeys(state, 0.0)
        for owner, share in zip(owners, counts, strict=True):
            shares[owner] += float(share)
        return shares


def _part(piece: Piece, world_from_frame: Array) -> Part:
    """A part without pictures, for depth alone."""
    return Part(piece.shape, world_from_frame @ piece.pose(), ())


def _is_away(first: Placement, second: Placement, least_m: float, least_deg: float = TURN_DEG) -> bool:
    distance = np.linalg.norm([first.x - second.x, first.y - second.y, first.support_z - second.support_z])
    turn = abs((first.yaw_deg - second.yaw_deg + 180) % 360 - 180)
    return bool(distance >= least_m and turn >= least_deg)
