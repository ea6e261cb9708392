"""SIFT keypoints of one photo: bounded, spread over the image, cached by the photo's hash.

The detector is OpenCV's SIFT: on the development photos it needs a third to a tenth of the processor time of the
VLFeat version inside COLMAP and gives the same poses (see tests/bench/poses.py for the figures).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ltgs.core.progress import Progress, ProgressEvent, silent
from ltgs.errors import InputError
from ltgs.io.images import read_photo

DESCRIPTOR_KIND = "opencv-sift-root-u8-v1"
"""Changes whenever descriptors stop being comparable with stored ones."""


@dataclass(frozen=True)
class FeatureConfig:
    """How keypoints are found."""

    max_keypoints: int = 4096
    """Upper bound per photo. Measured: 2500 loses one of 15 photos of a wide-baseline set that 4096 registers, and gives 40 % fewer
    points to start from; the poses are as good either way, and matching, which grows with the square, costs half as much."""
    max_long_side: int = 1600
    """Pixels; larger photos are reduced before detection. COLMAP's own default for desktop use is of the same size."""
    contrast_threshold: float = 0.0133
    """Of the difference of Gaussians; OpenCV's 0.04 leaves bare walls without keypoints, COLMAP uses the same as here."""
    edge_threshold: float = 10.0
    """Ratio of principal curvatures above which a keypoint is an edge; Lowe 2004 and COLMAP."""


@dataclass(frozen=True)
class PhotoInput:
    """One photo to pose, as the listing of a visit knows it."""

    name: str
    """Unique name, POSIX path relative to the capture root."""
    path: Path
    sha256: str
    """Hash of the file; identifies cached features."""
    width: int
    height: int
    """Pixels after the orientation tag was applied."""
    focal_px: float | None = None
    """Focal length from EXIF in pixels of width x height; None = unknown."""
    camera_model: str = ""
    """Make and model from EXIF; photos of one model, size and focal length share their intrinsics."""


@dataclass(frozen=True)
class PhotoFeatures:
    """Keypoints of one photo."""

    xy: NDArray[np.float32]
    """[N, 2] in original pixels; the centre of the first pixel is (0.5, 0.5)."""
    size: NDArray[np.float32]
    """[N] diameter in original pixels."""
    descriptors: NDArray[np.uint8]
    """[N, 128] RootSIFT times 512."""
    rgb: NDArray[np.uint8]
    """[N, 3] colour at the keypoint."""
    width: int
    height: int
    """Size of the decoded photo."""

    def __len__(self) -> int:
        return len(self.xy)


def detection_scale(width: int, height: int, max_long_side: int) -> float:
    """Exact factor from original pixels to the pixels that thresholds are written for; at most 1."""
    return min(1.0, max_long_side / max(width, height))


def extract_features(rgb: NDArray[np.uint8], config: FeatureConfig) -> PhotoFeatures:
    """Find SIFT keypoints.

    Args:
        rgb: [H, W, 3] uint8.
        config: bounds and thresholds.

    Returns:
        At most `config.max_keypoints` keypoints (possibly none), in a fixed order: best first.
    """
    height, width = rgb.shape[:2]
    scale = detection_scale(width, height, config.max_long_side)
    small = rgb
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    # The precise upscale keeps the doubled first octave free of OpenCV's historical quarter-pixel shift.
    sift = cv2.SIFT.create(0, 3, config.contrast_threshold, config.edge_threshold, 1.6, True)
    found = sift.detect(grey, None) if min(grey.shape) >= 16 else ()
    if len(found) == 0:
        empty = np.zeros((0, 2), np.float32)
        return PhotoFeatures(empty, empty[:, 0], np.zeros((0, 128), np.uint8), np.zeros((0, 3), np.uint8), width, height)
    chosen = [found[i] for i in _spread(found, small.shape, config.max_keypoints)]
    chosen, raw = sift.compute(grey, chosen)  # type: ignore[assignment]
    xy = np.array([k.pt for k in chosen], np.float32).reshape(-1, 2)
    # OpenCV puts the centre of the first pixel at (0, 0).
    factor = np.array([width / small.shape[1], height / small.shape[0]], np.float32)
    size = np.array([k.size for k in chosen], np.float32) * factor.mean()
    column, row = np.rint(xy).astype(int).T
    colours = small[row.clip(0, small.shape[0] - 1), column.clip(0, small.shape[1] - 1)]
    return PhotoFeatures((xy + 0.5) * factor, size, root_sift(np.asarray(raw, np.float32)), colours, width, height)


def root_sift(raw: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[N, 128] SIFT to RootSIFT bytes (Arandjelovic and Zisserman, CVPR 2012; scaled as COLMAP does)."""
    raw = np.asarray(raw, np.float32)
    root = np.sqrt(raw / np.maximum(raw.sum(1, keepdims=True), 1e-12))
    return np.clip(np.rint(root * 512), 0, 255).astype(np.uint8)


def _spread(found: Sequence[cv2.KeyPoint], shape: tuple[int, ...], limit: int) -> NDArray[np.int64]:
    """Indices of at most `limit` keypoints: half by strength alone, half by strength within a 16-cell grid."""
    xy = np.array([k.pt for k in found])
    response = np.array([k.response for k in found])
    angle = np.array([k.angle for k in found])
    order = np.lexsort((angle, xy[:, 1], xy[:, 0], -response))
    if len(order) <= limit:
        return order
    cell_px = max(shape[:2]) / 16
    cell = (xy[order, 1] // cell_px).astype(int) * 64 + (xy[order, 0] // cell_px).astype(int)
    by_cell = np.argsort(cell, kind="stable")
    starts = np.r_[0, np.flatnonzero(np.diff(cell[by_cell])) + 1]
    lengths = np.diff(np.r_[starts, len(cell)])
    rank = np.empty(len(order), int)
    rank[by_cell] = np.arange(len(order)) - np.repeat(starts, lengths)
    strongest = np.arange(len(order)) < limit // 2
    keep = np.lexsort((np.arange(len(order)), rank, ~strongest))[:limit]
    return order[np.sort(keep)]


def config_key(*parts: object) -> str:
    """A short stable hash of configurations and lists; names cache files."""
    def plain(part: object) -> object:
        return asdict(part) if hasattr(part, "__dataclass_fields__") else part  # type: ignore[call-overload]

    text = json.dumps([plain(p) for p in parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def save_arrays(path: Path, arrays: dict[str, NDArray]) -> None:
    """Write an .npz cache file so that a killed run leaves either nothing or the whole file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def load_arrays(path: Path) -> dict[str, NDArray] | None:
    """Read a cache file; None if it is absent or damaged, because a cache can always be made again."""
    try:
        with np.load(path, allow_pickle=False) as data:
            return {key: data[key] for key in data.files}
    except (OSError, ValueError, EOFError, KeyError):
        return None
    except Exception as error:  # zipfile.BadZipFile, zlib.error: a damaged cache file, whatever the layer that noticed
        if type(error).__module__ in ("zipfile", "zlib"):
            return None
        raise


def photo_features(photo: PhotoInput, cache: Path | None, config: FeatureConfig) -> PhotoFeatures:
    """Decode one photo and find its keypoints, or read them from the cache folder.

    Raises:
        InputError: the photo cannot be decoded.
    """
    path = cache / f"{photo.sha256[:32]}_{config_key(config, DESCRIPTOR_KIND)}.npz" if cache and photo.sha256 else None
    stored = load_arrays(path) if path is not None else None
    if stored is not None and set(stored) == {"xy", "size", "descriptors", "rgb", "shape"}:
        width, height = (int(v) for v in stored["shape"])
        return PhotoFeatures(stored["xy"], stored["size"], stored["descriptors"], stored["rgb"], width, height)
    features = extract_features(read_photo(photo.path).rgb, config)
    if path is not None:
        save_arrays(path, {
            "xy": features.xy, "size": features.size, "descriptors": features.descriptors, "rgb": features.rgb,
            "shape": np.array([features.width, features.height]),
        })
    return features


def features_of_all(
    photos: Sequence[PhotoInput], cache: Path | None, config: FeatureConfig, *, progress: Progress = silent,
    num_threads: int | None = None, stage: str = "poses",
) -> tuple[dict[str, PhotoFeatures], dict[str, str]]:
    """Keypoints of every photo; a photo that cannot be used ends in the second dictionary with its reason."""
    features: dict[str, PhotoFeatures] = {}
    failures: dict[str, str] = {}
    threads = max(1, min(len(photos), num_threads or os.cpu_count() or 1, 8))
    with ThreadPoolExecutor(threads) as pool:
        for i, (photo, result) in enumerate(zip(photos, pool.map(_guarded(cache, config), photos), strict=True)):
            if isinstance(result, str):
                failures[photo.name] = result
            elif (result.width, result.height) != (photo.width, photo.height):
                failures[photo.name] = (
                    f"the decoded photo has {result.width}x{result.height} pixels, {photo.width}x{photo.height} were announced"
                )
            else:
                features[photo.name] = result
            progress(ProgressEvent(stage, i + 1, len(photos), f"keypoints of {photo.name}"))
    return features, failures


def _guarded(cache: Path | None, config: FeatureConfig) -> Callable[[PhotoInput], PhotoFeatures | str]:
    def work(photo: PhotoInput) -> PhotoFeatures | str:
        try:
            return photo_features(photo, cache, config)
        except InputError as error:
            return f"cannot be read: {error}"

    return work
