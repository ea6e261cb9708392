"""Figures on real pairs and rendered rooms, where the development data is present."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from ltgs.data.rooms import read_room
from ltgs.depth.evaluate import BASELINE, NO_PRIOR, STALE, WITH_PRIOR, evaluate_folders
from ltgs.depth.pairs import PairConfig, choose_stereo_pairs
from ltgs.depth.views import measure_view
from ltgs.io.images import read_photo


def test_figures_of_real_pairs(shared_data: Path) -> None:
    if not (shared_data / "stereo").is_dir():
        pytest.skip("the real stereo pairs are absent")
    done = evaluate_folders(shared_data / "stereo", names=("cones", "teddy", "wood2"))
    base, ours, prior = (done.mean(m) for m in (BASELINE, NO_PRIOR, WITH_PRIOR))
    assert ours.bad2 <= 0.9 * base.bad2 and prior.bad2 <= 0.7 * base.bad2 and prior.epe <= 0.6 * base.epe
    assert all(p.scores[NO_PRIOR].bad2 <= p.scores[BASELINE].bad2 + 0.5 for p in done.pairs)
    assert done.mean(STALE, box=True).bad2 <= 1.3 * done.mean(BASELINE, box=True).bad2
    assert all(min(p.occlusion.values()) > 0.75 for p in done.pairs if p.occlusion)


def test_depth_of_a_room(shared_data: Path) -> None:
    """Visit 3 of the desk; two of its photos stand 11 degrees apart. The prior is the true depth of what had not changed."""
    if not (shared_data / "rooms" / "desk").is_dir():
        pytest.skip("the rendered rooms are absent")
    room = read_room(shared_data / "rooms" / "desk")
    photos = [p for p in (*room.photos, *room.tests) if p.time == 3]
    depths = [room.depth(p.name) for p in photos]
    cameras = [p.camera for p in photos]
    known = [d for d in depths if d is not None]
    pair = min(choose_stereo_pairs(cameras, known, config=PairConfig(max_angle=15)), key=lambda p: p.first)
    rgb = tuple(read_photo(photos[k].path).rgb for k in (pair.first, pair.second))
    truth, change = depths[pair.first], room.change_mask(photos[pair.first].name)
    assert truth is not None and change is not None
    near, far = np.nanquantile(truth, (0.01, 0.99))
    still = cv2.dilate((change > 0).astype(np.uint8), np.ones((9, 9), np.uint8)) == 0
    both = cameras[pair.first], cameras[pair.second]
    coverage = []
    for given in ({"depth_range": (0.6 * near, 1.3 * far)}, {"depth": truth, "depth_valid": still}):
        view = measure_view((rgb[0], rgb[1]), (both[0], both[1]), **given)  # type: ignore[arg-type]
        depth, _ = view.at_view(both[0])
        error, measured = np.abs(depth / truth - 1), np.isfinite(depth)
        assert np.median(error[measured & (change == 0)]) < 0.01 and np.median(error[measured & (change == 1)]) < 0.02
        coverage.append((float(measured[change == 0].mean()), float(measured[change == 1].mean())))
    assert coverage[1][0] > coverage[0][0] + 0.1 and coverage[1][1] > 0.6
