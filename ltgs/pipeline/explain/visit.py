"""Why the program decided what it decided about one visit: pictures drawn from the stored scene, and a page around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ltgs.core.chronology import Chronology
from ltgs.core.decisions import Box, DecisionRecord, InstanceVerdict, RemovalTest
from ltgs.core.progress import Progress, ProgressEvent, silent
from ltgs.core.scene import Scene
from ltgs.core.views import ComparedView
from ltgs.errors import UsageError
from ltgs.io.atomic import explained, write_file
from ltgs.io.images import write_jpeg
from ltgs.io.scene_store import SceneStore
from ltgs.optim.initialize import TrainingPhoto
from ltgs.pipeline.config import from_plain
from ltgs.pipeline.explain import pictures as draw
from ltgs.pipeline.explain.facts import ObjectFacts, touched_objects
from ltgs.pipeline.explain.page import GENERATOR, page
from ltgs.pipeline.explain.words import Crop, Explanation, Figure, Other, PhotoRow
from ltgs.pipeline.outputs import object_ids
from ltgs.pipeline.stages import stored_photos
from ltgs.pipeline.update import compare_again

MAX_PHOTOS = 16
"""Photos of a visit that are shown, evenly chosen; more would make the page too heavy to open."""
MAX_CROPS = 4
"""Photos per place of an object, those that show most of it."""
MAX_REFUSED = 12
"""Refused removals shown with a picture, those with most pixels."""
CROP_PX = 260
"""Side of a crop in the page."""
PICTURES = "pictures"


@dataclass(frozen=True)
class _Compared:
    """One photo against the scene before and after, with the pixels of objects that left and came."""

    before: ComparedView
    after: ComparedView
    left: Mapping[int, NDArray[np.bool_]]
    came: Mapping[int, NDArray[np.bool_]]


def explain_visit(
    store: SceneStore, time: int, folder: Path, *, backend: str = "auto", progress: Progress = silent
) -> Path:
    """Write index.html and its pictures into a folder; earlier pages of this command are replaced.

    Args:
        time: a later visit's index; the first visit has nothing to compare with.

    Returns:
        The page.

    Raises:
        UsageError: the first visit was asked for, or the folder holds a page of another origin.
        InputError: the folder cannot be written.
    """
    scene = store.load()
    if time < 1:
        later = f"Choose a visit from 1 to {len(scene.visits) - 1}." if len(scene.visits) > 1 else "Add one with `ltgs update`."
        raise UsageError(f"--time {time}: the first visit is what later ones are compared with; nothing was decided about it. {later}")
    target = folder / "index.html"
    _check_target(target)
    with explained("create", folder):
        (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    facts = touched_objects(scene, time)
    photos = _spread(stored_photos(store, scene.photos(time=time)), MAX_PHOTOS)
    views = _compare(store, scene, time, photos, facts, backend, progress)
    writer = _Writer(folder, progress)
    rows = tuple(_row(writer, i, view, scene.visits[time].decisions) for i, view in enumerate(views, 1))
    crops = {f.object_id: _object_crops(writer, f, views) for f in facts}
    record = scene.visits[time].decisions
    others = tuple(_others(writer, record, views)) if record is not None else ()
    refused = tuple(_refused(writer, record, views)) if record is not None else ()
    text = page(Explanation(store.path.resolve().name, scene, time, rows, tuple(facts), crops, others, refused))
    data = text.encode("utf-8")
    with explained("write", target, len(data)):
        write_file(target, data)
    return target


def _check_target(target: Path) -> None:
    """Somebody else's index.html is not replaced."""
    if target.is_file():
        with explained("read", target), target.open("rb") as stream:
            head = stream.read(2000)
        if GENERATOR.encode() not in head:
            raise UsageError(f"{target}: is a page of another origin. Choose an empty folder with -o.")


def _spread(photos: Sequence[TrainingPhoto], count: int) -> list[TrainingPhoto]:
    if len(photos) <= count:
        return list(photos)
    return [photos[i] for i in np.linspace(0, len(photos) - 1, count).round().astype(int)]


def _compare(
    store: SceneStore, scene: Scene, time: int, photos: Sequence[TrainingPhoto], facts: Sequence[ObjectFacts], backend: str,
    progress: Progress,
) -> list[_Compared]:
    """The comparison that the update made, repeated with the stored photos, and whose pixels are whose."""
    if not photos:
        return []
    progress(ProgressEvent("explain", message=f"comparing {len(photos)} photos with the scene before and after"))
    config, _ = from_plain(scene.config.get("run", {}), where=f"{store.path}: stored configuration")
    replay = stored_photos(store, scene.photos(time=0))
    before, after = compare_again(scene, time, photos, replay, config=config.update, backend=backend)
    left = {f.object_id for f in facts if f.left}
    came = {f.object_id for f in facts if f.came}
    owners = [_owners(scene.chronology, t, views, backend) for t, views in ((time - 1, before), (time, after))]
    return [
        _Compared(b, a, {k: was == k for k in sorted(left)}, {k: now == k for k in sorted(came)})
        for b, a, was, now in zip(before, after, *owners, strict=True)
    ]


def _owners(chronology: Chronology, time: int, views: Sequence[ComparedView], backend: str) -> list[NDArray[np.int64]]:
    state = chronology.state_at(time)
    return [object_ids(state, v.camera, torch.from_numpy(v.alpha), backend) for v in views]


class _Writer:
    """Writes pictures under plain numbered names: names of the user's files never become paths."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.folder, self.progress, self.count = folder, progress, 0

    def __call__(self, name: str, image: draw.Picture) -> str:
        """Write one picture; returns its address relative to the page."""
        write_jpeg(self.folder / PICTURES / f"{name}.jpg", image)
        self.count += 1
        self.progress(ProgressEvent("explain", self.count, None))
        return f"{PICTURES}/{name}.jpg"


def _row(writer: _Writer, number: int, compared: _Compared, record: DecisionRecord | None) -> PhotoRow:
    before, after = compared.before, compared.after
    other = {
        f"#{i.number}": i.boxes[before.camera.name] for i in (record.instances if record is not None else ())
        if shown_as_other(i) and not i.in_hole and before.camera.name in i.boxes and _fits(i.boxes[before.camera.name], compared)
    }
    drawn, labels = draw.instances(before.photo, compared.left, compared.came, other)
    images = (
        ("photo", "Photo", "of this visit", draw.picture(before.photo)),
        ("before", "Render before", "the visit before, in this light", draw.picture(before.shown)),
        ("difference", "Difference", "photo minus render; grey = equal", draw.difference(before)),
        ("change", "Change map", "score as heat, decision outlined", draw.change_map(before)),
        ("instances", "Left and came", "hatched = left, tinted = came", drawn),
        ("after", "Render after", "this visit", draw.picture(after.shown)),
    )
    height, width = before.photo.shape[:2]
    figures = tuple(
        Figure(title, note, writer(f"p{number:02d}_{name}", image), width, height, tuple(labels) if name == "instances" else ())
        for name, title, note, image in images
    )
    return PhotoRow(before.camera.name, figures, float(before.mask.mean()), float(after.mask.mean()), before.noise)


def shown_as_other(instance: InstanceVerdict) -> bool:
    """Whether content is listed among what became no object; what is only looked at again later is not."""
    return instance.verdict in ("leftover", "newly seen", "dropped") or (instance.verdict == "open" and instance.in_hole)


def _object_crops(writer: _Writer, facts: ObjectFacts, views: Sequence[_Compared]) -> tuple[Crop, ...]:
    """Where an object was and where it is, each in the photos that show most of it."""
    found: list[Crop] = []
    for name, words in (("left", "where it was"), ("came", "where it is")):
        masks = [getattr(v, name).get(facts.object_id) for v in views]
        sizes = [0 if m is None else int(m.sum()) for m in masks]
        best = [i for i in np.argsort(sizes)[::-1] if sizes[i] > 0][:MAX_CROPS]
        for index in sorted(best):
            mask = masks[index]
            box = draw.mask_box(mask) if mask is not None else None
            if box is not None and mask is not None:
                base = f"o{facts.object_id}_{name}_p{index + 1:02d}"
                found.append(_crop(writer, base, words, views[index], box))
    return tuple(found)


def _crop(writer: _Writer, base: str, where: str, compared: _Compared, box: Box, *, boxed: str = "") -> Crop:
    """The same window of the render before, the photo and the render after; the box is drawn into the one named `boxed`."""
    before, after = compared.before, compared.after
    height, width = before.photo.shape[:2]
    window = draw.crop_window(box, width, height)
    images = {
        "before": draw.picture(before.shown), "photo": draw.picture(before.photo), "after": draw.picture(after.shown),
    }
    if boxed:
        images[boxed] = draw.with_box(images[boxed], box)
    files = {name: writer(f"{base}_{name}", draw.crop(image, window, CROP_PX)) for name, image in images.items()}
    return Crop(before.camera.name, where, files["before"], files["photo"], files["after"])


def _others(writer: _Writer, record: DecisionRecord, views: Sequence[_Compared]) -> list[Other]:
    """Content that became no object, each with a crop of the photo that shows it largest."""
    return [
        Other(f"#{i.number}", i, None, _largest(writer, f"n{i.number}", i.boxes, views, "photo"))
        for i in record.instances if shown_as_other(i)
    ]


def _refused(writer: _Writer, record: DecisionRecord, views: Sequence[_Compared]) -> list[Other]:
    """Removals that were tried and refused, those with most pixels first."""
    tests = [t for t in record.removals if not t.taken]
    tests.sort(key=lambda t: -_pixels(t))
    return [
        Other(f"r{n}", None, t, _largest(writer, f"r{n}", t.boxes, views, "before")) for n, t in enumerate(tests[:MAX_REFUSED], 1)
    ]


def _pixels(test: RemovalTest) -> float:
    return test.scores.get("altered_px", float(test.num_gaussians))


def _largest(
    writer: _Writer, base: str, boxes: Mapping[str, Box], views: Sequence[_Compared], boxed: str
) -> Crop | None:
    """A crop in the shown photo with the largest box."""
    def area(view: _Compared) -> int:
        box = boxes.get(view.before.camera.name)
        return (box[2] - box[0]) * (box[3] - box[1]) if box is not None and _fits(box, view) else 0

    best = max(views, key=area, default=None)
    if best is None or area(best) == 0:
        return None
    return _crop(writer, base, "", best, boxes[best.before.camera.name], boxed=boxed)


def _fits(box: Box, view: _Compared) -> bool:
    """A box from a scene file may lie outside of the photo it names."""
    height, width = view.before.photo.shape[:2]
    return box[2] <= width and box[3] <= height
