"""Pictures and files from a stored scene: renders at given cameras, Gaussians for other programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.chronology import Appearance, Chronology, SceneState
from ltgs.core.gaussians import Gaussians
from ltgs.core.progress import Progress, ProgressEvent, silent
from ltgs.errors import InputError, UsageError
from ltgs.io.atomic import explained, write_file
from ltgs.io.images import write_png
from ltgs.io.ply import write_ply
from ltgs.io.splat import write_splat
from ltgs.render import render

KINDS = ("rgb", "depth", "alpha", "objects")
OBJECT_CHANNELS = 16
"""Objects rendered at once when asking which one owns a pixel; bounds memory with many objects."""
OPAQUE = 0.5
"""Accumulated opacity from which a pixel shows something."""


def parse_kinds(text: str) -> tuple[str, ...]:
    """Split "rgb,depth" and check the words.

    Raises:
        UsageError: an unknown kind or none.
    """
    kinds = tuple(dict.fromkeys(k.strip() for k in text.split(",") if k.strip()))
    unknown = [k for k in kinds if k not in KINDS]
    if unknown or not kinds:
        raise UsageError(f"--what {text}: unknown kind {(unknown or ['nothing'])[0]!r}. Choose from {', '.join(KINDS)}.")
    return kinds


def render_images(
    chronology: Chronology, time: int, cameras: Sequence[Camera], kinds: Sequence[str], folder: Path, *,
    backend: str = "auto", progress: Progress = silent,
) -> list[Path]:
    """Write one PNG per camera and kind, `<camera name without ending>_<kind>.png`, and render.json with the depth's unit.

    rgb: 8-bit, in the light of that visit. depth: 16-bit z, 0 = nothing there. alpha: 8-bit opacity. objects: object id
    per pixel, 0 = background or nothing.

    Raises:
        InputError: no cameras, a camera name that leads out of the folder, or the folder cannot be written.
    """
    if not cameras:
        raise InputError("There is no camera to render at.")
    targets = [_inside(folder, c.name) for c in cameras]
    if len(set(targets)) < len(targets):
        # Names that differ in their ending only ("a.jpg", "a.png") keep it.
        targets = [t.with_name(PurePosixPath(c.name).name) for t, c in zip(targets, cameras, strict=True)]
    state = chronology.state_at(time)
    written: list[Path] = []
    depths: list[tuple[NDArray[np.float32], Path]] = []
    for index, (camera, target) in enumerate(zip(cameras, targets, strict=True)):
        with explained("create", target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
        images = _images(state, camera, kinds, backend)
        if "depth" in images:
            depths.append((images.pop("depth"), target.with_name(f"{target.name}_depth.png")))
        for kind, image in images.items():
            written.append(target.with_name(f"{target.name}_{kind}.png"))
            write_png(written[-1], image)
        progress(ProgressEvent("render", index + 1, len(cameras)))
    note: dict = {"time": time, "cameras": [c.name for c in cameras], "kinds": list(kinds)}
    if depths:
        # One factor for all images, a power of ten, so that values compare between images and fill 16 bits.
        largest = max((float(d.max()) for d, _ in depths), default=0.0)
        steps = 10.0 ** np.floor(np.log10(65535 / largest)) if largest > 0 else 1000.0
        for depth, path in depths:
            write_png(path, np.rint(np.clip(depth * steps, 0, 65535)).astype(np.uint16))
            written.append(path)
        note["depth_steps_per_unit"] = steps
    with explained("write", folder):
        write_file(folder / "render.json", json.dumps(note, indent=1).encode())
    return written


def _inside(folder: Path, name: str) -> Path:
    """Where a camera's pictures go, without ending; a name from a file must not lead out of the folder."""
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or not parts.name or "\0" in name:
        raise InputError(f"The camera name {name!r} leads out of the output folder. Rename it in the cameras file.")
    return folder / parts.with_suffix("")


def _images(state: SceneState, camera: Camera, kinds: Sequence[str], backend: str) -> dict[str, NDArray]:
    stacked = stack_cameras([camera])
    out: dict[str, NDArray] = {}
    with torch.no_grad():
        shown = render(state.lit(), stacked, backend=backend, with_depth="depth" in kinds)  # type: ignore[arg-type]
        alpha = shown.alpha[0, ..., 0]
        if "rgb" in kinds:
            rgb = state.appearance.apply(shown.rgb[0]).clamp(0, 1)
            out["rgb"] = (rgb * 255).round().to(torch.uint8).numpy()
        if "alpha" in kinds:
            out["alpha"] = (alpha.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        if "depth" in kinds:
            depth = torch.where(alpha > OPAQUE, shown.depth[0, ..., 0], torch.zeros(()))
            out["depth"] = depth.clamp_min(0).numpy()
        if "objects" in kinds:
            ids = object_ids(state, camera, alpha, backend)
            largest = int(state.object_ids.max()) if len(state.object_ids) else 0
            out["objects"] = ids.astype(np.uint8 if largest < 256 else np.uint16)
    return out


def object_ids(state: SceneState, camera: Camera, alpha: Tensor, backend: str) -> NDArray[np.int64]:
    """[H, W] id of the object that owns most of a pixel; 0 where that is the background or the pixel is mostly empty."""
    present = [int(k) for k in state.object_ids.unique() if k > 0]
    best = alpha.clone()
    owner = torch.zeros(alpha.shape, dtype=torch.int64)
    shares = []
    stacked = stack_cameras([camera])
    with torch.no_grad():
        for start in range(0, len(present), OBJECT_CHANNELS):
            group = present[start : start + OBJECT_CHANNELS]
            features = torch.stack([(state.object_ids == k).float() for k in group], 1)
            out = render(state.gaussians, stacked, backend=backend, features=features, with_depth=False)  # type: ignore[arg-type]
            assert out.features is not None
            shares += [(k, out.features[0, ..., i]) for i, k in enumerate(group)]
    for _, share in shares:
        best = best - share  # what is left for the background
    for k, share in shares:
        wins = share > best
        owner[wins], best = k, torch.maximum(best, share)
    owner[alpha < OPAQUE] = 0
    return owner.numpy()


def lit_gaussians(gaussians: Gaussians, appearance: Appearance) -> Gaussians:
    """Gaussians whose own colours include a visit's light: the affine acts on SH coefficients exactly (before clamping)."""
    matrix = torch.as_tensor(appearance.colour, dtype=gaussians.sh.dtype)
    sh = gaussians.sh @ matrix[:, :3].T
    offset = matrix[:, :3] @ torch.full((3,), 0.5, dtype=sh.dtype) + matrix[:, 3] - 0.5
    sh = torch.cat([sh[:, :1] + offset / 0.28209479177387814, sh[:, 1:]], 1)
    return replace(gaussians, sh=sh)


def export_gaussians(chronology: Chronology, time: int, form: str, path: Path) -> int:
    """Write the scene at one time as a PLY or .splat file; returns the number of Gaussians.

    Raises:
        UsageError: unknown format.  InputError: the file cannot be written.
    """
    writers = {"ply": write_ply, "splat": write_splat}
    if form not in writers:
        raise UsageError(f"--format {form}: choose ply or splat.")
    state = chronology.state_at(time)
    gaussians = lit_gaussians(state.lit(), state.appearance)
    with explained("create", path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    writers[form](path, gaussians)
    return len(gaussians)


def export_sequence(chronology: Chronology, form: str, folder: Path) -> Iterator[Path]:
    """Write every time as frame0000, frame0001, ... in the way viewers play a sequence of files."""
    for time in range(chronology.num_times):
        path = folder / f"frame{time:04d}.{form}"
        export_gaussians(chronology, time, form, path)
        yield path
