"""What later visits need to find their place on the first one: its cameras, points and descriptors, as plain arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.core.checks import check_shape
from ltgs.errors import FormatError
from ltgs.io.posed import PosedPhoto
from ltgs.poses.features import DESCRIPTOR_KIND
from ltgs.poses.gauge import camera_center

Array = NDArray[np.float64]
VERSION = 1


@dataclass(frozen=True)
class MapPhoto:
    """One posed photo of the base and which camera took it."""

    posed: PosedPhoto
    camera_model: str
    """Make and model from EXIF, empty if unknown."""
    focal_prior_px: float | None
    """EXIF focal length in pixels; equal priors mean that fitted intrinsics may be reused."""


@dataclass(frozen=True)
class LocalizationMap:
    """Base photos and their observations of 3-D points; independent of the folder it was computed in."""

    photos: tuple[MapPhoto, ...]
    xyz: NDArray[np.float64]
    """[P, 3] points, scene units."""
    first: NDArray[np.int64]
    """[C + 1] observations of photo i are the rows first[i]:first[i + 1] of the arrays below."""
    xy: NDArray[np.float32]
    """[O, 2] keypoints in original pixels, first pixel centre (0.5, 0.5)."""
    size: NDArray[np.float32]
    """[O] keypoint diameters in original pixels."""
    point: NDArray[np.int64]
    """[O] index into xyz."""
    descriptors: NDArray[np.uint8]
    """[O, 128]."""
    max_long_side: int
    """Pixels at which keypoints were detected; new photos use the same."""

    def __post_init__(self) -> None:
        check_shape("xyz", self.xyz, "P 3")
        check_shape("first", self.first, f"{len(self.photos) + 1}")
        o = len(self.xy)
        check_shape("xy", self.xy, f"{o} 2")
        check_shape("size", self.size, f"{o}")
        check_shape("point", self.point, f"{o}")
        check_shape("descriptors", self.descriptors, f"{o} 128")
        if self.first[0] != 0 or self.first[-1] != o or np.any(np.diff(self.first) < 0):
            raise ValueError(f"first must rise from 0 to {o}, got {self.first.tolist()[:8]}...")
        if o and (self.point.min() < 0 or self.point.max() >= len(self.xyz)):
            raise ValueError(f"point indices must lie in 0..{len(self.xyz) - 1}.")

    def rows(self, index: int) -> slice:
        """Observation rows of base photo `index`."""
        return slice(int(self.first[index]), int(self.first[index + 1]))

    @property
    def centers(self) -> Array:
        """[C, 3] camera centres."""
        return np.array([camera_center(p.posed.cam_from_world) for p in self.photos]).reshape(-1, 3)

    @property
    def extent(self) -> float:
        """Largest distance of a base camera from the cameras' centroid, scene units."""
        centers = self.centers
        return float(np.linalg.norm(centers - centers.mean(0), axis=1).max()) if len(centers) else 0.0

    @property
    def viewing_distance(self) -> float:
        """Median distance from base cameras to the points they observe, scene units."""
        distances = [
            np.linalg.norm(self.xyz[self.point[self.rows(i)]] - center, axis=1) for i, center in enumerate(self.centers)
        ]
        joined = np.concatenate(distances) if distances else np.zeros(0)
        return float(np.median(joined)) if len(joined) else 1.0

    def to_tensors(self) -> dict[str, Tensor]:
        """Plain tensors for a safetensors file."""
        meta = {
            "version": VERSION, "descriptor_kind": DESCRIPTOR_KIND, "max_long_side": self.max_long_side,
            "photos": [
                {
                    "name": p.posed.name, "width": p.posed.width, "height": p.posed.height, "model": p.posed.model,
                    "params": [float(v) for v in p.posed.params], "camera_model": p.camera_model,
                    "focal_prior_px": p.focal_prior_px,
                }
                for p in self.photos
            ],
        }
        encoded = json.dumps(meta, ensure_ascii=False).encode()
        poses = np.stack([p.posed.cam_from_world for p in self.photos]) if self.photos else np.zeros((0, 4, 4))
        arrays = {
            "cam_from_world": poses, "xyz": self.xyz, "first": self.first, "xy": self.xy, "size": self.size,
            "point": self.point, "descriptors": self.descriptors,
        }
        tensors = {k: torch.from_numpy(np.array(v, copy=True, order="C")) for k, v in arrays.items()}
        return tensors | {"meta_json": torch.frombuffer(bytearray(encoded), dtype=torch.uint8)}

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> LocalizationMap:
        """Inverse of `to_tensors`.

        Raises:
            FormatError: arrays are missing, of wrong shape, or made by descriptors of another kind.
        """
        try:
            meta = json.loads(bytes(tensors["meta_json"].numpy()).decode())
            if meta["version"] != VERSION or meta["descriptor_kind"] != DESCRIPTOR_KIND:
                raise FormatError(
                    f"the localisation map holds {meta['descriptor_kind']} (version {meta['version']}), this program uses "
                    f"{DESCRIPTOR_KIND} (version {VERSION}). Reconstruct the scene again to add visits with this program."
                )
            poses = tensors["cam_from_world"].numpy()
            photos = tuple(
                MapPhoto(
                    PosedPhoto(
                        name=m["name"], width=int(m["width"]), height=int(m["height"]), model=m["model"],
                        params=tuple(float(v) for v in m["params"]), cam_from_world=pose,
                    ),
                    m["camera_model"], m["focal_prior_px"],
                )
                for m, pose in zip(meta["photos"], poses, strict=True)
            )
            names = ("xyz", "first", "xy", "size", "point", "descriptors")
            arrays = {key: tensors[key].numpy() for key in names}
            return LocalizationMap(photos=photos, max_long_side=int(meta["max_long_side"]), **arrays)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise FormatError(f"the localisation map is damaged ({error}). Run `ltgs verify` on the scene.") from error
