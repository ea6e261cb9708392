"""A chronology as viser scene nodes: every Gaussian is uploaded once, stepping through time only toggles and poses.

What a browser shows is an approximation: the view-independent colour of each Gaussian, covariances in 16-bit floats,
and the colours of the first visit's light (changing them would mean uploading everything again). The exact picture
comes from `viewer.rendered`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
import viser
from numpy.typing import NDArray

from ltgs.core.chronology import Chronology, Presence
from ltgs.core.gaussians import Gaussians
from ltgs.core.palette import OBJECT_COLOURS
from ltgs.core.se3 import matrix_to_quat
from viewer.view_frame import ViewFrame

Array = NDArray[np.float64]
log = logging.getLogger("ltgs.viewer")
MIN_SIGMA, MAX_SIGMA = 1e-3, 200.0
"""View units; inside the range that a 16-bit covariance can hold."""
MAX_ASPECT = 40.0
"""Longest to shortest axis shown. A 16-bit covariance has 11 significant bits, so a thinner Gaussian would turn indefinite."""
HIDDEN_OPACITY = 0.01
"""viser's shader discards fainter fragments, so fainter Gaussians are not sent at all."""
PALETTE = OBJECT_COLOURS


@dataclass(frozen=True)
class SplatBudget:
    """How many Gaussians go to the browser."""

    max_splats: int = 500_000
    """Total over background and objects; 32 bytes each (16 MB here), which a laptop's graphics chip sorts and draws."""


@dataclass(frozen=True)
class Splats:
    """Arrays as viser takes them, view units."""

    centers: NDArray[np.float32]
    """[N, 3]"""
    covariances: NDArray[np.float32]
    """[N, 3, 3]"""
    rgbs: NDArray[np.float32]
    """[N, 3] in [0, 1]."""
    opacities: NDArray[np.float32]
    """[N, 1] in [0, 1]."""

    def __len__(self) -> int:
        return len(self.centers)


@dataclass(frozen=True)
class UploadReport:
    """What was sent to the browser and what was left out."""

    shown: int
    total: int
    invisible: int = 0
    """Too faint to be drawn."""
    broken: int = 0
    """With values that are not finite."""
    dropped: int = 0
    """Least important ones beyond the budget."""
    dropped_weight: float = 0.0
    """Share of the summed importance (opacity times area) that was dropped."""

    def text(self) -> str:
        """One sentence for the panel."""
        words = f"{self.shown:,} of {self.total:,} Gaussians shown"
        notes = []
        if self.dropped:
            notes.append(f"{self.dropped:,} least visible ones left out ({self.dropped_weight:.1%} of the visible area)")
        if self.invisible:
            notes.append(f"{self.invisible:,} too faint to see")
        if self.broken:
            notes.append(f"{self.broken:,} with broken values")
        return words + (f"; {', '.join(notes)}" if notes else "") + "."


def importance(gaussians: Gaussians) -> torch.Tensor:
    """[N] opacity times the area of the Gaussian's largest cross-section, in scene units squared."""
    two_largest = gaussians.log_scales.double().topk(2, dim=1).values.sum(1)
    return gaussians.opacities.double() * two_largest.exp()


def usable_mask(gaussians: Gaussians) -> tuple[torch.Tensor, int, int]:
    """[N] bool of Gaussians that can be shown, with the numbers of invisible and of broken ones."""
    finite = torch.ones(len(gaussians), dtype=torch.bool)
    for value in gaussians.tensors().values():
        rows = value if value.ndim > 1 else value[:, None]
        finite &= torch.isfinite(rows).flatten(1).all(1).cpu()
    finite &= (gaussians.log_scales < 40).all(1).cpu()  # exp(40) scene units is no Gaussian of a place but a broken one.
    bright = gaussians.opacities.cpu() > HIDDEN_OPACITY
    return finite & bright, int((finite & ~bright).sum()), int((~finite).sum())


def to_splats(gaussians: Gaussians, frame: ViewFrame, *, recentre: bool) -> Splats:
    """Convert to what viser draws.

    Args:
        recentre: True for world coordinates; False for an object's own frame, which is only scaled.
    """
    g = gaussians.detach().to("cpu")
    means = g.means.double().numpy()
    centers = frame.to_view(means) if recentre else means * frame.scale
    sigma = g.log_scales.double() + float(np.log(frame.scale))
    sigma = sigma.exp().clamp(MIN_SIGMA, MAX_SIGMA)
    sigma = torch.maximum(sigma, sigma.amax(1, keepdim=True) / MAX_ASPECT) if len(g) else sigma
    shown = Gaussians(g.means.double(), g.quats.double(), sigma.log(), g.opacity_logits.double(), g.sh.double())
    return Splats(
        centers.astype(np.float32),
        shown.covariances.numpy().astype(np.float32),
        g.base_rgb.clamp(0, 1).numpy().astype(np.float32),
        g.opacities[:, None].numpy().astype(np.float32),
    )


def choose_splats(
    parts: Mapping[int, Gaussians], budget: SplatBudget,
) -> tuple[dict[int, torch.Tensor], UploadReport]:
    """Indices to show per part (0 = background), the least important left out beyond the budget.

    Objects are what the timeline is about and usually few, so they are cut only where they alone exceed half the budget.
    """
    keep, invisible, broken = {}, 0, 0
    for key, gaussians in parts.items():
        mask, faint, bad = usable_mask(gaussians)
        keep[key] = mask.nonzero()[:, 0]
        invisible, broken = invisible + faint, broken + bad
    weights = {key: importance(parts[key][index]) for key, index in keep.items()}
    total_weight = float(sum(w.sum() for w in weights.values()))
    objects = sum(len(index) for key, index in keep.items() if key != 0)
    share = min(1.0, budget.max_splats / 2 / objects) if objects else 1.0
    limits = {key: max(1, int(len(index) * share)) for key, index in keep.items() if key != 0}
    limits[0] = max(0, budget.max_splats - sum(min(limits[k], len(keep[k])) for k in limits))
    dropped, lost = 0, 0.0
    for key, index in keep.items():
        if len(index) > limits[key]:
            order = weights[key].argsort(descending=True, stable=True)
            lost += float(weights[key][order[limits[key]:]].sum())
            dropped += len(index) - limits[key]
            keep[key] = index[order[: limits[key]].sort().values]
    shown = sum(len(index) for index in keep.values())
    report = UploadReport(
        shown, sum(len(g) for g in parts.values()), invisible, broken, dropped, lost / total_weight if total_weight else 0.0
    )
    return keep, report


@dataclass
class _ObjectNode:
    handle: viser.SceneNodeHandle
    bounds: tuple[Array, Array]
    """Lower and upper corner in the object's own frame, view units."""
    box: viser.SceneNodeHandle
    label: viser.SceneNodeHandle
    user_visible: bool = True
    shown: bool | None = None
    pose: Array | None = field(default=None)


class SceneNodes:
    """The nodes of one chronology in a viser scene."""

    def __init__(
        self, server: viser.ViserServer, chronology: Chronology, frame: ViewFrame, budget: SplatBudget | None = None,
    ) -> None:
        self._server, self._chronology, self._frame = server, chronology, frame
        self._objects: dict[int, _ObjectNode] = {}
        self.time = 0
        parts = {0: chronology.static_background, **{k: t.gaussians for k, t in sorted(chronology.templates.items())}}
        keep, self.report = choose_splats(parts, budget or SplatBudget())
        if self.report.dropped or self.report.broken:
            log.warning("%s", self.report.text())
        with server.atomic():
            for key, gaussians in parts.items():
                splats = to_splats(gaussians[keep[key]], frame, recentre=key == 0)
                if key == 0:
                    self._background = self._add("/background", splats, visible=True)
                else:
                    self._add_object(key, splats)
        self.set_time(0)

    def _add(self, name: str, splats: Splats, *, visible: bool) -> viser.SceneNodeHandle:
        if len(splats) == 0:
            return self._server.scene.add_frame(name, show_axes=False, visible=visible)  # viser cannot draw an empty group.
        return self._server.scene.add_gaussian_splats(
            name, splats.centers, splats.covariances, splats.rgbs, splats.opacities, visible=visible
        )

    def _add_object(self, object_id: int, splats: Splats) -> None:
        name = f"/object_{object_id}"
        handle = self._add(name, splats, visible=False)
        low, high = robust_bounds(splats.centers)
        colour = PALETTE[(object_id - 1) % len(PALETTE)]
        box = self._server.scene.add_line_segments(
            f"{name}/box", box_edges(low, high), colors=colour, thickness=2.0, thickness_units="screen", visible=False,
        )
        label = self._server.scene.add_label(
            f"{name}/label", f"object {object_id}", position=(low + high) / 2, visible=False, anchor="bottom-center",
        )
        self._objects[object_id] = _ObjectNode(handle, (low, high), box, label)

    def set_time(self, time: int) -> None:
        """Show the state at `time`: only what differs from the state shown is sent, as one batch.

        Raises:
            IndexError: `time` is not a stored timestep.
        """
        present = set(self._chronology.present_ids(time))
        self.time = time
        with self._server.atomic():
            for object_id, node in self._objects.items():
                if object_id in present:
                    self._pose(node, self._chronology.tracks[object_id].world_from_object[time])
                self._show(node, object_id in present and node.user_visible)

    def _pose(self, node: _ObjectNode, world_from_object: Array) -> None:
        if node.pose is not None and np.array_equal(node.pose, world_from_object):
            return
        node.pose = np.array(world_from_object)
        pose = self._frame.pose_to_view(world_from_object)
        node.handle.wxyz = matrix_to_quat(torch.as_tensor(pose[:3, :3])).numpy()
        node.handle.position = pose[:3, 3]

    def _show(self, node: _ObjectNode, visible: bool) -> None:
        if node.shown != visible:
            node.shown = visible
            node.handle.visible = visible

    def set_object_visible(self, object_id: int, visible: bool) -> None:
        """The user's own switch for one object; an absent object stays hidden."""
        node = self._objects[object_id]
        node.user_visible = visible
        self._show(node, visible and object_id in self._chronology.present_ids(self.time))

    def set_background_visible(self, visible: bool) -> None:
        """Show or hide everything that never changes."""
        self._background.visible = visible

    def highlight(self, object_id: int, on: bool) -> None:
        """Draw or hide the box and the label of one object."""
        node = self._objects[object_id]
        with self._server.atomic():
            node.box.visible = on
            node.label.visible = on

    def object_centre(self, object_id: int, time: int) -> tuple[Array, float] | None:
        """Centre and radius of an object's box in the view frame, at the nearest time it has a pose; None without one."""
        track = self._chronology.tracks[object_id]
        known = np.flatnonzero((track.presence != Presence.ABSENT) & np.isfinite(track.world_from_object[:, 0, 0]))
        if len(known) == 0:
            return None
        nearest = int(known[np.abs(known - time).argmin()])
        pose = self._frame.pose_to_view(track.world_from_object[nearest])
        low, high = self._objects[object_id].bounds
        return pose[:3, :3] @ ((low + high) / 2) + pose[:3, 3], float(np.linalg.norm(high - low) / 2)


def robust_bounds(centers: NDArray[np.float32]) -> tuple[Array, Array]:
    """Corners of a box around the middle 98 % of the points along each axis, so that one stray Gaussian cannot inflate it."""
    if len(centers) == 0:
        return np.full(3, -0.1), np.full(3, 0.1)
    low, high = np.percentile(np.asarray(centers, dtype=np.float64), [1, 99], axis=0)
    margin = 0.05 * np.maximum(high - low, 1e-3)
    return low - margin, high + margin


def box_edges(low: Array, high: Array) -> NDArray[np.float32]:
    """[12, 2, 3] line segments of an axis-aligned box."""
    corners = np.array([[(low, high)[(i >> a) & 1][a] for a in range(3)] for i in range(8)])
    pairs = [(i, i | (1 << a)) for i in range(8) for a in range(3) if not (i >> a) & 1]
    return corners[np.array(pairs)].astype(np.float32)
