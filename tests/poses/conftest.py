"""One small first visit, reconstructed once for all tests of this folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from ltgs.poses.features import FeatureConfig, PhotoInput
from ltgs.poses.sfm import SfmConfig, SfmResult, reconstruct_poses

from .place import Place, arc, shoot

SMALL = SfmConfig(features=FeatureConfig(max_keypoints=800))


@dataclass(frozen=True)
class FirstVisit:
    folder: Path
    photos: list[PhotoInput]
    truth: dict[str, np.ndarray]
    workdir: Path
    result: SfmResult


@pytest.fixture(scope="session")
def first_visit(tmp_path_factory: pytest.TempPathFactory) -> FirstVisit:
    folder = tmp_path_factory.mktemp("place")
    photos, truth = shoot(Place(), folder / "t0", arc(7), k1=-0.1)
    return FirstVisit(folder, photos, truth, folder / "work", reconstruct_poses(photos, folder / "work", config=SMALL))
