"""The command that corrects a scene's chronology."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from ltgs.commands.base import SceneCommand
from ltgs.errors import UsageError

if TYPE_CHECKING:
    from ltgs.pipeline.edit import EditOutcome, Operation


@dataclass
class Edit(SceneCommand):
    """Correct a wrong decision of the timeline: one correction per call, stored as one new generation that can be undone."""

    merge: Annotated[tuple[int, int] | None, arg(metavar="ID OTHER")] = None
    """OTHER is the same thing as ID: one object from now on, with the look of ID."""
    split: Annotated[int | None, arg(metavar="ID")] = None
    """From --time on it is another object."""
    delete: Annotated[int | None, arg(metavar="ID")] = None
    """It never was an object: what was taken from the background for it returns there."""
    pin_pose: Annotated[int | None, arg(metavar="ID")] = None
    """At --time it is in the place, at --pose."""
    rename: Annotated[tuple[int, str] | None, arg(metavar="ID NAME")] = None
    """Give it a name; "" takes the name away."""
    undo: bool = False
    """Take the last edit back, if nothing was stored since."""
    time: Annotated[str | None, arg(metavar="TEXT")] = None
    """Index of the visit, its name, or a date; for --split and --pin-pose."""
    pose: Annotated[str | None, arg(metavar="TEXT")] = None
    """World from object for --pin-pose: "tx ty tz qw qx qy qz", or a JSON file with a 4x4 matrix."""
    dry_run: bool = False
    """Say what would change and store nothing."""
    backend: str = "auto"
    """Rasteriser: auto, cpu, reference or gsplat."""

    def run(self) -> int:
        from ltgs.pipeline.edit import edit_scene, undo_edit
        from ltgs.pipeline.run import pick_backend

        operation = self._operation()
        backend, _ = pick_backend(self.backend)
        if operation is None:
            outcome = undo_edit(self.scene, dry_run=self.dry_run)
        else:
            outcome = edit_scene(self.scene, operation, dry_run=self.dry_run, backend=backend)
        self._report(outcome)
        return 0

    def _operation(self) -> Operation | None:
        """The one correction asked for; None = undo.

        Raises:
            UsageError: none or several, or flags that do not belong to it.
        """
        from ltgs.pipeline.edit import Delete, Merge, PinPose, Rename, Split, parse_pose

        flags = {
            "--merge": self.merge, "--split": self.split, "--delete": self.delete, "--pin-pose": self.pin_pose,
            "--rename": self.rename, "--undo": self.undo or None,
        }
        asked = [flag for flag, value in flags.items() if value is not None]
        if len(asked) != 1:
            given = f"got {' and '.join(asked)}" if asked else "got none"
            raise UsageError(f"Give one of {', '.join(flags)} per call, {given}.")
        for flag, value, users in (("--time", self.time, ("--split", "--pin-pose")), ("--pose", self.pose, ("--pin-pose",))):
            if (asked[0] in users) != (value is not None):
                raise UsageError(f"{asked[0]} {'needs' if value is None else 'does not use'} {flag}.")
        if self.merge is not None:
            return Merge(*self.merge)
        if self.split is not None:
            return Split(self.split, str(self.time))
        if self.delete is not None:
            return Delete(self.delete)
        if self.pin_pose is not None:
            return PinPose(self.pin_pose, str(self.time), parse_pose(str(self.pose)))
        return Rename(*self.rename) if self.rename is not None else None

    def _report(self, outcome: EditOutcome) -> None:
        from ltgs.pipeline.info import event_in_words

        for remark in outcome.remarks:
            print(remark)
        for sign, events in (("-", outcome.lost), ("+", outcome.gained)):
            for event in events:
                print(f"  {sign} {event_in_words(event, outcome.scene)}")
        if not outcome.lost and not outcome.gained:
            print("The events stay as they are.")
        if outcome.generation is None:
            print("Dry run: nothing was stored.")
        else:
            again = "" if self.undo else f"; `ltgs edit {self.scene} --undo` takes it back"
            print(f"Stored as generation {outcome.generation}{again}")
