"""What each visit costs on disk: from the manifest, and from the log what its commit wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ltgs.core.scene import Scene
from ltgs.io.scene_codec import tensors_to_bytes
from ltgs.io.scene_store import SceneStore
from ltgs.io.template_codec import compact


@dataclass(frozen=True)
class VisitBytes:
    """Bytes of one visit."""

    time: int
    kept: int
    """Blobs of the current generation that this visit brought: its working images and the tensors that no later visit replaced."""
    written: int | None
    """What its commit added to the folder: new blobs and the growth of the manifest. None if the log does not say."""
    motions: tuple[int, ...]
    """Per object that moved or returned at this visit, what its motion takes besides the pose: its template, if stored anew."""


def visit_bytes(store: SceneStore, scene: Scene) -> tuple[VisitBytes, ...]:
    """Bytes of every visit of a stored scene.

    A template that a later visit refined again has replaced the blob of the earlier one; it counts for both with the size it
    has now, since both wrote it.

    Raises:
        FormatError, InputError: the store cannot be read.
    """
    kept = store.storage_by_time()
    written = _written(store)
    stored_at = store.templates_stored_at()
    sizes = {k: len(tensors_to_bytes(compact(t.gaussians))) for k, t in scene.chronology.templates.items()}
    out = []
    for t in range(len(scene.visits)):
        moved = [e.object_id for e in scene.chronology.events if e.time == t and e.kind in ("moved", "returned")]
        motions = tuple(sizes[k] if stored_at[k] >= t else 0 for k in moved)
        out.append(VisitBytes(t, kept.get(t, 0), written.get(t), motions))
    return tuple(out)


def _written(store: SceneStore) -> Mapping[int, int]:
    """Time to bytes of the commit that added it, from the log; corrections of stored visits do not count."""
    out: dict[int, int] = {}
    before = 0
    for entry in store.read_log():
        size, count = entry.get("bytes"), entry.get("num_times")
        if entry.get("event") == "commit" and isinstance(size, int) and isinstance(count, int):
            if count > before:
                out[count - 1] = size
            before = count
    return out
