"""Stereo data sets on disk, each in the layout of its own download, with the traps of its format.

Unknown disparity is NaN after reading, whatever the file says (infinity, zero, a mask).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ltgs.errors import FormatError, InputError, UsageError
from ltgs.io.atomic import explained, read_capped
from ltgs.io.images import decode_png, read_photo
from ltgs.io.pfm import read_pfm

_MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class PairFiles:
    """One pair with its truth; files that a data set does not have are None."""

    left: Path
    right: Path
    truth: Path
    """PFM in pixels, KITTI PNG (16 bit, value / 256, 0 = unknown) or NPY in pixels."""
    nonoccluded: Path | None = None
    """Middlebury and ETH3D: mask, 255 where both cameras see; KITTI: truth of such pixels only."""
    known: Path | None = None
    """Mask of known truth (Booster)."""
    classes: Path | None = None
    """Difficulty of the material, 0 to 3 (Booster)."""
    shrink: int = 1
    """Factor by which the pair is reduced after reading."""


@dataclass(frozen=True)
class StereoPair:
    """A pair in memory."""

    left: NDArray[np.uint8]
    """[H, W, 3]."""
    right: NDArray[np.uint8]
    disparity: NDArray[np.float32]
    """[H, W] pixels, positive; NaN = unknown."""
    nonoccluded: NDArray[np.bool_] | None = None
    """[H, W] known truth that both cameras see."""
    classes: NDArray[np.uint8] | None = None


def find_pairs(kind: str, root: Path | str, variant: str = "") -> list[PairFiles]:
    """All training pairs of a data set, sorted by path.

    Raises:
        UsageError: an unknown kind or variant.
        InputError: the folder holds none.
    """
    if kind not in _FINDERS:
        raise UsageError(f"there is no data set {kind!r}; choose one of {', '.join(_FINDERS)}.")
    root = Path(root)
    pairs = sorted(_FINDERS[kind](root, variant), key=lambda p: str(p.left))
    if not pairs:
        raise InputError(f"{root}: no pairs in the layout of {kind} ({_LAYOUTS[kind]}). Check the folder.")
    return pairs


def read_pair(files: PairFiles) -> StereoPair:
    """Read a pair with its truth.

    Raises:
        InputError, FormatError: a file is missing, damaged, or the sizes differ.
    """
    left, right = read_photo(files.left).rgb, read_photo(files.right).rgb
    disparity = read_truth(files.truth)
    if files.known is not None:
        disparity = np.where(_mask(files.known) > 0, disparity, np.nan).astype(np.float32)
    nonoccluded = None
    if files.nonoccluded is not None:
        kitti = files.nonoccluded.parent.name.startswith("disp_noc")
        seen = np.isfinite(read_truth(files.nonoccluded)) if kitti else _mask(files.nonoccluded) == 255
        nonoccluded = seen & np.isfinite(disparity)
    classes = None if files.classes is None else _mask(files.classes)
    for name, value in (("right", right), ("truth", disparity), ("mask", nonoccluded), ("classes", classes)):
        if value is not None and value.shape[:2] != left.shape[:2]:
            size, other = (f"{x.shape[1]}x{x.shape[0]}" for x in (left, value))
            raise FormatError(f"{files.left}: {size} pixels, but its {name} has {other}. Check that they belong together.")
    pair = StereoPair(left, right, disparity, nonoccluded, classes)
    return pair if files.shrink == 1 else shrunk(pair, files.shrink)


def read_truth(path: Path) -> NDArray[np.float32]:
    """[H, W] positive disparity, NaN where unknown; the name's ending tells the format.

    Raises:
        FormatError: an 8-bit PNG (such files are pictures of disparity, not disparity), or another shape.
    """
    if path.suffix == ".pfm":
        values: NDArray[Any] = read_pfm(path)
        values = values if values.ndim == 2 else values[..., 0]
        # SceneFlow stores some left disparities negative; infinity means unknown in ETH3D and Middlebury.
        return np.where(np.isfinite(values), np.abs(values), np.nan).astype(np.float32)
    with explained("read", path):
        if path.suffix == ".npy":
            try:
                values = np.load(path, allow_pickle=False)
            except (ValueError, EOFError) as error:
                raise FormatError(f"{path}: not an array file ({error}). Copy it again.") from error
        else:
            values = decode_png(read_capped(path, _MAX_BYTES), str(path))
            if values.dtype != np.uint16 or values.ndim != 2:
                raise FormatError(f"{path}: KITTI disparity is one channel of 16 bit, this is {values.dtype} {list(values.shape)}.")
            values = values.astype(np.float32) / np.float32(256)
    if values.ndim != 2 or values.dtype.kind != "f":
        raise FormatError(f"{path}: disparity must be [H, W] floats, got {values.dtype} {list(values.shape)}.")
    return np.where(np.isfinite(values) & (values > 0), values, np.nan).astype(np.float32)


def shrunk(pair: StereoPair, factor: int) -> StereoPair:
    """Images averaged, truth and masks sampled at the nearest pixel, disparity divided by the factor."""
    h, w = (n // factor for n in pair.disparity.shape)

    def nearest(x: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(x[factor // 2 :: factor, factor // 2 :: factor][:h, :w])

    left, right = (cv2.resize(x[: h * factor, : w * factor], (w, h), interpolation=cv2.INTER_AREA) for x in (pair.left, pair.right))
    return StereoPair(
        left.astype(np.uint8), right.astype(np.uint8), (nearest(pair.disparity) / factor).astype(np.float32),
        None if pair.nonoccluded is None else nearest(pair.nonoccluded), None if pair.classes is None else nearest(pair.classes),
    )


def _mask(path: Path) -> NDArray[np.uint8]:
    with explained("read", path):
        values = decode_png(read_capped(path, _MAX_BYTES), str(path))
    if values.dtype != np.uint8:
        raise FormatError(f"{path}: a mask has 8 bits per pixel, this has {values.dtype}.")
    return values if values.ndim == 2 else values[..., 0]


def _sceneflow(root: Path, variant: str) -> Iterator[PairFiles]:
    """FlyingThings3D (TRAIN only), Monkaa and Driving, side by side or alone."""
    passes = {"": ("clean", "final"), "both": ("clean", "final"), "clean": ("clean",), "final": ("final",)}
    if variant not in passes:
        raise UsageError(f"sceneflow: variant must be clean, final or both, got {variant!r}.")
    for base in (root, *(root / name for name in ("FlyingThings3D", "Monkaa", "Driving"))):
        for kind in passes[variant]:
            frames = base / f"frames_{kind}pass"
            for left in frames.rglob("*/left/*"):
                inside = left.relative_to(frames)
                truth = (base / "disparity" / inside).with_suffix(".pfm")
                # The test part of FlyingThings3D lies in the same tree.
                if "TEST" in inside.parts or left.suffix not in (".png", ".webp") or not truth.is_file():
                    continue
                yield PairFiles(left, left.parent.parent / "right" / left.name, truth)


def _kitti(year: int) -> tuple[str, str, str, str]:
    return ("image_2", "image_3", "disp_occ_0", "disp_noc_0") if year == 2015 else ("colored_0", "colored_1", "disp_occ", "disp_noc")


def _kitti_pairs(root: Path, year: int) -> Iterator[PairFiles]:
    """Only frames `*_10` have a truth; `*_11` is the next moment."""
    left, right, occ, noc = _kitti(year)
    base = root / "training" if (root / "training").is_dir() else root
    for path in (base / left).glob("*_10.png"):
        nonoccluded = base / noc / path.name
        yield PairFiles(path, base / right / path.name, base / occ / path.name, nonoccluded if nonoccluded.is_file() else None)


def _eth3d(root: Path, variant: str) -> Iterator[PairFiles]:
    """Truth beside the images or in the folder of its own download."""
    images = root / "two_view_training" if (root / "two_view_training").is_dir() else root
    for left in images.glob("*/im0.png"):
        for folder in (left.parent, root / "two_view_training_gt" / left.parent.name):
            if (folder / "disp0GT.pfm").is_file():
                mask = folder / "mask0nocc.png"
                yield PairFiles(left, left.parent / "im1.png", folder / "disp0GT.pfm", mask if mask.is_file() else None)
                break


def _middlebury(root: Path, variant: str) -> Iterator[PairFiles]:
    """MiddEval3 with its mask (255 seen by both, 128 occluded, 0 unknown), and the scenes of 2014."""
    if variant not in ("", "F", "H", "Q"):
        raise UsageError(f"middlebury: variant must be F, H or Q, got {variant!r}.")
    folders = [base / f"training{variant or 'H'}" for base in (root, root / "MiddEval3")]
    for left in (path for base in (*folders, root) for path in base.glob("*/im0.png")):
        for name in ("disp0GT.pfm", "disp0.pfm"):
            if (left.parent / name).is_file():
                mask = left.parent / "mask0nocc.png"
                yield PairFiles(left, left.parent / "im1.png", left.parent / name, mask if mask.is_file() else None)
                break


def _booster(root: Path, variant: str) -> Iterator[PairFiles]:
    """Several lights per scene share one truth; `variant` is the factor of reduction (4 in published comparisons)."""
    if variant and not (variant.isdigit() and int(variant) >= 1):
        raise UsageError(f"booster: variant must be a whole factor of reduction, got {variant!r}.")
    base = root / "train" / "balanced" if (root / "train" / "balanced").is_dir() else root
    for left in base.glob("*/camera_00/*.png"):
        scene = left.parent.parent
        known, classes = scene / "mask_00.png", scene / "mask_cat.png"
        yield PairFiles(
            left, scene / "camera_02" / left.name, scene / "disp_00.npy", None, known if known.is_file() else None,
            classes if classes.is_file() else None, int(variant or 1),
        )


_FINDERS = {
    "sceneflow": _sceneflow, "kitti2012": lambda root, _: _kitti_pairs(root, 2012), "kitti2015": lambda root, _: _kitti_pairs(root, 2015),
    "eth3d": _eth3d, "middlebury": _middlebury, "booster": _booster,
}
_LAYOUTS = {
    "sceneflow": "frames_finalpass/.../left/*.png, disparity/.../left/*.pfm", "kitti2012": "training/colored_0, colored_1, disp_occ",
    "kitti2015": "training/image_2, image_3, disp_occ_0", "eth3d": "two_view_training/*/im0.png, two_view_training_gt/*/disp0GT.pfm",
    "middlebury": "trainingH/*/im0.png, disp0GT.pfm", "booster": "train/balanced/*/camera_00/*.png, disp_00.npy",
}
