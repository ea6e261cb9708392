"""Reader of a room: photos and held-out photos of several dates with true cameras, objects, events and masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ltgs.core.cameras import Camera
from ltgs.core.captures import Capture, Frame
from ltgs.core.checks import check_rotation
from ltgs.data.photo_folder import parse_date
from ltgs.errors import FormatError, InputError
from ltgs.io.atomic import explained, read_capped
from ltgs.io.cameras_json import read_cameras_json
from ltgs.io.images import decode_png
from ltgs.io.json_files import need, need_array, need_int, need_number, read_json

MAX_MASK_BYTES = 256 << 20
Role = Literal["train", "update", "test"]
EventKind = Literal["appeared", "removed", "moved", "returned"]
# The files say "added" where the project's word is "appeared".
_KINDS: dict[str, EventKind] = {
    "added": "appeared",
    "appeared": "appeared",
    "removed": "removed",
    "moved": "moved",
    "returned": "returned",
}


@dataclass(frozen=True)
class RoomPhoto:
    """One photo with its true camera."""

    name: str
    """Relative to photos/ or test/, POSIX; also the name of its masks."""
    path: Path
    role: Role
    camera: Camera

    @property
    def time(self) -> int:
        return self.camera.time


@dataclass(frozen=True)
class RoomObject:
    """One movable object; metres, world z up."""

    object_id: int
    """Its value in the masks, 1..255."""
    name: str
    extents: NDArray[np.float64]
    """[3] bounding box in the object frame, centred on the origin."""
    present: NDArray[np.bool_]
    """[T]"""
    world_from_object: NDArray[np.float64]
    """[T, 4, 4]; NaN where absent."""
    symmetric: bool = False
    """True if rotations about `symmetry_axis` cannot be told apart."""
    symmetry_axis: NDArray[np.float64] | None = None
    """[3] in the object frame."""


@dataclass(frozen=True)
class RoomEvent:
    """One true event at the start of a visit."""

    time: int
    kind: EventKind
    object_id: int
    object_name: str
    translation_m: float | None = None
    rotation_deg: float | None = None


@dataclass(frozen=True)
class RoomLight:
    """The light during one visit."""

    name: str
    changed_vs_t0: bool
    changed_vs_previous: bool
    ev_vs_t0: float


@dataclass(frozen=True)
class Room:
    """A room folder; masks and depth are read when asked for."""

    root: Path
    name: str
    dates: tuple[str, ...]
    """[T] names of the visit folders."""
    photos: tuple[RoomPhoto, ...]
    """What a user would have."""
    tests: tuple[RoomPhoto, ...]
    """Held-out views; never to be trained on."""
    objects: tuple[RoomObject, ...]
    events: tuple[RoomEvent, ...]
    lights: tuple[RoomLight, ...]

    @property
    def num_times(self) -> int:
        return len(self.dates)

    def captures(self) -> list[Capture]:
        """The visits as `photo_folder` would list them."""
        return [
            Capture(t, date, tuple(Frame(p.name, p.path) for p in self.photos if p.time == t), parse_date(date))
            for t, date in enumerate(self.dates)
        ]

    def object(self, object_id: int) -> RoomObject:
        """The object with this id.

        Raises:
            KeyError: there is none.
        """
        for candidate in self.objects:
            if candidate.object_id == object_id:
                return candidate
        raise KeyError(f"{self.name} has no object {object_id}; its ids are {[o.object_id for o in self.objects]}.")

    def mask(self, name: str) -> NDArray[np.uint8]:
        """[H, W] object index of a photo, 0 = static scene.

        Raises:
            InputError, FormatError: the file is missing or damaged, or has another size than the photo.
        """
        return self._labels("masks", name).astype(np.uint8)

    def change_mask(self, name: str, *, since_previous: bool = False) -> NDArray[np.uint8] | None:
        """[H, W] 0 unchanged, 1 a changed object is here now, 2 a changed object was here; None if not stored (t = 0).

        Args:
            since_previous: compare with the previous visit instead of the first one.

        Raises:
            InputError, FormatError: see `mask`.
        """
        folder = "change_masks_prev" if since_previous else "change_masks"
        return self._labels(folder, name).astype(np.uint8) if self._truth(folder, name).is_file() else None

    def depth(self, name: str) -> NDArray[np.float32] | None:
        """[H, W] planar depth in metres, NaN where there is no surface; None if not stored for this photo.

        Raises:
            InputError, FormatError: see `mask`.
        """
        if not self._truth("depth", name).is_file():
            return None
        millimetres = self._labels("depth", name).astype(np.float32)
        return np.where(millimetres > 0, millimetres / np.float32(1000), np.float32(np.nan))

    def _truth(self, folder: str, name: str) -> Path:
        return self.root / "truth" / folder / Path(name).with_suffix(".png")

    def _labels(self, folder: str, name: str) -> NDArray[Any]:
        photo = next((p for p in (*self.photos, *self.tests) if p.name == name), None)
        if photo is None:
            raise InputError(
                f"{self.root}: no photo is called {name}. Use the names of cameras.json and test_cameras.json."
            )
        path = self._truth(folder, name)
        with explained("read", path):
            data = read_capped(path, MAX_MASK_BYTES)
        values = decode_png(data, str(path))
        if values.shape != (photo.camera.height, photo.camera.width):
            size = f"{photo.camera.width}x{photo.camera.height}"
            raise FormatError(f"{path}: has shape {values.shape}, but its photo is {size}. Restore the file.")
        return values


def read_room(root: Path | str) -> Room:
    """Read a folder in the layout of the rooms collection (see datasets/rooms/card.md).

    Raises:
        InputError: the folder, a listed photo or a file is missing.
        FormatError: a file contradicts the layout; file and entry are named.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(
            f"{root}: is not a folder. Pass the folder that holds photos/, test/, cameras.json and truth/."
        )
    changes_path, objects_path = root / "truth" / "changes.json", root / "truth" / "objects.json"
    changes = read_json(changes_path)
    steps = need(changes, "timesteps", list, str(changes_path))
    if not steps:
        raise FormatError(f"{changes_path}: lists no timestep.")
    dates = tuple(need(s, "date", str, f"{changes_path}, timestep {t}") for t, s in enumerate(steps))
    entries = need(read_json(objects_path), "objects", list, str(objects_path))
    objects = tuple(_object(e, len(dates), f"{objects_path}, object {i}") for i, e in enumerate(entries))
    if len({o.object_id for o in objects}) != len(objects) or len({o.name for o in objects}) != len(objects):
        raise FormatError(f"{objects_path}: two objects share an id or a name.")
    ids = {o.name: o.object_id for o in objects}
    events, lights = [], []
    for t, step in enumerate(steps):
        where = f"{changes_path}, timestep {t}"
        for record in need(step, "events", list, where):
            if need(record, "type", str, where) != "none":
                events.append(_event(record, t, ids, where))
        lights.append(_light(need(step, "light", dict, where), where))
    return Room(
        root,
        str(changes.get("scene", root.name)),
        dates,
        _photos(root, "photos", "cameras.json", len(dates)),
        _photos(root, "test", "test_cameras.json", len(dates)),
        objects,
        tuple(events),
        tuple(lights),
    )


def _photos(root: Path, folder: str, cameras: str, num_times: int) -> tuple[RoomPhoto, ...]:
    photos = []
    for camera in read_cameras_json(root / cameras):
        path = root / folder / camera.name
        if not path.is_file():
            raise InputError(f"{path}: is listed in {cameras} but missing. Restore the photo or remove the entry.")
        if not 0 <= camera.time < num_times:
            raise FormatError(
                f"{root / cameras}: {camera.name} has time {camera.time}, but there are {num_times} visits."
            )
        role: Role = "test" if folder == "test" else "train" if camera.time == 0 else "update"
        photos.append(RoomPhoto(camera.name, path, role, camera))
    return tuple(photos)


def _object(record: Any, num_times: int, where: str) -> RoomObject:
    states: Sequence[Any] = need(record, "timesteps", list, where)
    if len(states) != num_times:
        raise FormatError(f"{where}: has {len(states)} timesteps, but changes.json lists {num_times}.")
    present = np.array([need(s, "present", bool, where) for s in states])
    poses = np.full((num_times, 4, 4), np.nan)
    for t, state in enumerate(states):
        if present[t]:
            poses[t] = need_array(
                need(state, "world_from_object", list, where), (4, 4), f"{where}, world_from_object {t}"
            )
            try:
                check_rotation("world_from_object", poses[t])
            except ValueError as error:
                raise FormatError(f"{where}, timestep {t}: {error}") from error
    axis = record.get("symmetry_axis")
    return RoomObject(
        need_int(record, "id", where, 1, 255),
        need(record, "name", str, where),
        need_array(need(record, "extents", list, where), (3,), f"{where}, extents"),
        present,
        poses,
        need(record, "symmetric", bool, where),
        None if axis is None else need_array(axis, (3,), f"{where}, symmetry_axis"),
    )


def _event(record: Any, time: int, ids: dict[str, int], where: str) -> RoomEvent:
    kind, name = need(record, "type", str, where), need(record, "object", str, where)
    if kind not in _KINDS or name not in ids:
        raise FormatError(f"{where}: the event {kind!r} of {name!r} has an unknown type or object.")
    shift, turn = (need_number(record, k, where) if k in record else None for k in ("translation_m", "rotation_deg"))
    return RoomEvent(time, _KINDS[kind], ids[name], name, shift, turn)


def _light(record: Any, where: str) -> RoomLight:
    return RoomLight(
        need(record, "name", str, where),
        need(record, "changed_vs_t0", bool, where),
        need(record, "changed_vs_previous", bool, where),
        need_number(record, "target_ev_vs_t0", where, 0.0),
    )
