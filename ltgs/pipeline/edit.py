"""Corrections by the user: one edit of a stored scene, committed as one new generation, or only shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ltgs.core.chronology import Chronology, Event
from ltgs.core.decisions import renumbered
from ltgs.core.edits import checked_object, delete_object, merge_objects, pin_pose, rename_object, split_object
from ltgs.core.scene import Edit, Scene
from ltgs.core.se3 import make_rigid, quat_to_matrix
from ltgs.errors import UsageError
from ltgs.io.json_files import need_array, read_json
from ltgs.io.scene_store import SceneStore
from ltgs.pipeline.config import from_plain
from ltgs.pipeline.edit_surfaces import surfaces_without
from ltgs.pipeline.info import resolve_time
from ltgs.pipeline.object_frames import frame_change

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Edited:
    """Outcome of one operation on a scene."""

    chronology: Chronology
    arguments: Mapping[str, Any]
    """What is recorded of the operation, plain JSON values."""
    remarks: tuple[str, ...] = ()
    """What the user should know, one sentence each."""
    names: Mapping[int, int] = field(default_factory=dict)
    """Old to new id of what was decided at the visits from `since` on."""
    since: int = 0


class Operation(Protocol):
    """One correction, not yet applied."""

    @property
    def name(self) -> str:
        """As recorded: merge, split, delete, pin-pose or rename."""

    def apply(self, scene: Scene, backend: str) -> Edited:
        """The corrected chronology.

        Raises:
            UsageError: it cannot be done; the message says why.
        """


@dataclass(frozen=True)
class Merge:
    """`other` is the same thing as `object_id`."""

    object_id: int
    other: int
    name: str = "merge"

    def apply(self, scene: Scene, backend: str) -> Edited:
        for k in (self.object_id, self.other):
            checked_object(scene.chronology, k)
        # Cheap refusals first: with equal frames everything but the pictures is checked.
        merge_objects(scene.chronology, self.object_id, self.other, np.eye(4))
        config, _ = from_plain(scene.config.get("run", {}))
        change = frame_change(
            scene, self.object_id, self.other, register=config.update.register, associate=config.update.associate,
            seed=config.seed, backend=backend,
        )
        merged = merge_objects(scene.chronology, self.object_id, self.other, change.other_from_object)
        remark = f"object {self.other} is object {self.object_id} from now on: {change.how}"
        return Edited(merged, {"object": self.object_id, "other": self.other}, (remark,), {self.other: self.object_id})


@dataclass(frozen=True)
class Split:
    """From a time on it is another object."""

    object_id: int
    time: str
    """Index, name or date of a visit."""
    name: str = "split"

    def apply(self, scene: Scene, backend: str) -> Edited:
        time = resolve_time(scene, self.time)
        chronology, new = split_object(scene.chronology, self.object_id, time)
        remark = f"from time {time} on, object {self.object_id} is object {new}; it looks the same until new photos say more"
        arguments = {"object": self.object_id, "visit": scene.visits[time].name, "new": new}
        return Edited(chronology, arguments, (remark,), {self.object_id: new}, time)


@dataclass(frozen=True)
class Delete:
    """It never was an object."""

    object_id: int
    name: str = "delete"

    def apply(self, scene: Scene, backend: str) -> Edited:
        template = checked_object(scene.chronology, self.object_id, surface=True)
        surfaces = surfaces_without(scene, self.object_id, backend=backend) if template.kind == "object" else {}
        members = len(scene.chronology.members_of(self.object_id))
        chronology = delete_object(scene.chronology, self.object_id, surfaces)
        remarks = [f"{members} Gaussians return to the background" if members else "its Gaussians vanish"]
        for k, stays in surfaces.items():
            rest = "goes" if k not in chronology.templates else f"loses {int((~stays).sum())} of {len(stays)} Gaussians"
            remarks.append(f"surface {k}, revealed behind it, {rest}")
        return Edited(chronology, {"object": self.object_id}, tuple(remarks))


@dataclass(frozen=True)
class PinPose:
    """At a time the object is in the place, at this pose."""

    object_id: int
    time: str
    """Index, name or date of a visit."""
    pose: Array
    """[4, 4] world_from_object."""
    name: str = "pin-pose"

    def apply(self, scene: Scene, backend: str) -> Edited:
        time = resolve_time(scene, self.time)
        try:
            chronology = pin_pose(scene.chronology, self.object_id, time, self.pose)
        except ValueError as error:
            raise UsageError(f"--pose: {error} Give a rotation and a translation, no scale.") from error
        arguments = {"object": self.object_id, "visit": scene.visits[time].name, "pose": [float(x) for x in self.pose.ravel()]}
        old, new = (c.tracks[self.object_id].world_from_object for c in (scene.chronology, chronology))
        also = [t for t in range(time + 1, len(new)) if not np.array_equal(old[t], new[t], equal_nan=True)]
        remarks = [f"times {', '.join(map(str, also))} had that pose carried over and follow"] if also else []
        return Edited(chronology, arguments, tuple(remarks))


@dataclass(frozen=True)
class Rename:
    """Give an object a name."""

    object_id: int
    new_name: str
    name: str = "rename"

    def apply(self, scene: Scene, backend: str) -> Edited:
        chronology = rename_object(scene.chronology, self.object_id, self.new_name)
        return Edited(chronology, {"object": self.object_id, "name": chronology.templates[self.object_id].name})


@dataclass(frozen=True)
class EditOutcome:
    """What an edit did, or would do."""

    scene: Scene
    generation: int | None
    """The new generation; None if nothing was stored."""
    remarks: tuple[str, ...]
    lost: tuple[Event, ...]
    """Events that are no longer there, with their old ids."""
    gained: tuple[Event, ...]


def edit_scene(path: Path, operation: Operation, *, dry_run: bool = False, backend: str = "auto") -> EditOutcome:
    """Apply one correction to a stored scene and commit it; with `dry_run` nothing is written.

    Raises:
        UsageError: the operation cannot be done.
        InputError: the scene cannot be read or written, or another process holds it.
    """
    store = SceneStore.open(path)
    if dry_run:
        return _apply(store.load(), operation, backend)
    with store.lock():
        outcome = _apply(store.load(), operation, backend)
        generation = store.commit(outcome.scene, message=f"edit: {outcome.scene.edits[-1].words()}"[:200])
    return dataclasses.replace(outcome, generation=generation)


def undo_edit(path: Path, *, dry_run: bool = False) -> EditOutcome:
    """Take the last edit back: the generation before it is committed again as a new one, with a record of the undoing.

    Raises:
        UsageError: the last commit was not an edit, so that undoing it would lose something else.
        InputError: the scene or the generation before cannot be read, or another process holds the scene.
    """
    store = SceneStore.open(path)
    with store.lock():
        current = store.load()
        last = current.edits[-1] if current.edits else None
        if last is None or last.operation == "undo":
            raise UsageError(f"{path}: there is no edit to undo{'' if last is None else '; one step back is all that is kept'}.")
        before = store.load("previous")
        if before.edits != current.edits[:-1] or [v.name for v in before.visits] != [v.name for v in current.visits]:
            raise UsageError(
                f"{path}: something else was stored after the last edit ({last.words()}), and only one generation back is kept. "
                "Correct it with another edit."
            )
        record = Edit("undo", dict(last.arguments) | {"operation": last.operation}, datetime.now(UTC))
        lost = set(current.chronology.templates) - set(before.chronology.templates)
        retired = max(current.chronology.retired, before.chronology.retired, *lost, 0)
        chronology = dataclasses.replace(before.chronology, retired=retired)
        scene = dataclasses.replace(before, chronology=chronology, edits=(*before.edits, last, record))
        outcome = EditOutcome(scene, None, (f"taken back: {last.words()}",), *_differences(current.chronology, before.chronology))
        if dry_run:
            return outcome
        return dataclasses.replace(outcome, generation=store.commit(scene, message=f"edit: {record.words()}"[:200]))


def parse_pose(text: str) -> Array:
    """[4, 4] world_from_object from "tx ty tz qw qx qy qz", or from a JSON file with four rows of four numbers.

    Raises:
        UsageError: neither seven finite numbers nor a file.
        InputError: the file cannot be read or holds something else.
    """
    words = text.replace(",", " ").split()
    try:
        numbers = np.array([float(w) for w in words])
    except ValueError:
        path = Path(text)
        matrix = need_array(read_json(path), (4, 4), f"{path}: the pose")
        if np.abs(matrix[3] - [0, 0, 0, 1]).max() > 1e-9:
            raise UsageError(f"{path}: the last row of a pose must be 0 0 0 1.") from None
        return matrix
    if len(numbers) != 7 or not np.isfinite(numbers).all() or np.linalg.norm(numbers[3:]) < 1e-6:
        raise UsageError(f'--pose {text!r}: give "tx ty tz qw qx qy qz" (scene units, unit quaternion), or a JSON file with 4x4.')
    return make_rigid(quat_to_matrix(torch.as_tensor(numbers[3:])).numpy(), numbers[:3])


def _apply(scene: Scene, operation: Operation, backend: str) -> EditOutcome:
    edited = operation.apply(scene, backend)
    record = Edit(operation.name, edited.arguments, datetime.now(UTC))
    visits = tuple(
        dataclasses.replace(v, decisions=renumbered(v.decisions, edited.names))
        if edited.names and v.decisions is not None and v.timestep >= edited.since else v
        for v in scene.visits
    )
    changed = dataclasses.replace(scene, chronology=edited.chronology, visits=visits, edits=(*scene.edits, record))
    return EditOutcome(changed, None, edited.remarks, *_differences(scene.chronology, edited.chronology))


def _differences(old: Chronology, new: Chronology) -> tuple[tuple[Event, ...], tuple[Event, ...]]:
    """Events only the old, and only the new chronology has."""
    return tuple(e for e in old.events if e not in new.events), tuple(e for e in new.events if e not in old.events)
