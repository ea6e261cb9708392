"""What a synthetic scene consists of, and random scenes: a room and primitives in front of the left camera."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from torch import Tensor

from ltgs.depth.synth.draw import Draw


class Shape(IntEnum):
    """Unit shapes; a primitive is one of them, stretched and turned."""

    BOX = 0
    SPHERE = 1
    CYLINDER = 2
    """Along the local z axis, with caps."""


class Texture(IntEnum):
    """Solid textures: functions of the point on the object, hence equal in both views."""

    FLAT = 0
    GRADIENT = 1
    CHECKER = 2
    STRIPES = 3
    NOISE = 4
    BLOBS = 5


class Material(IntEnum):
    """How a surface reflects."""

    LAMBERT = 0
    PHONG = 1
    """Lambert and a Blinn-Phong highlight, which moves with the camera."""
    MIRROR = 2
    GLASS = 3
    """Its own colour mixed with what is behind; the true depth is that of its front."""


@dataclass(frozen=True)
class Primitive:
    """One object; lengths in metres, the left camera at the origin looking along +z, x right, y down."""

    shape: Shape
    center: tuple[float, float, float]
    half: tuple[float, float, float]
    """Half sizes along the local axes."""
    rotation: Tensor | None = None
    """[3, 3] world from local; None = not turned."""
    texture: Texture = Texture.NOISE
    colors: Tensor | None = None
    """[2, 3] linear RGB in 0..1; None = two greys."""
    frequency: float = 4.0
    """Texture periods per metre."""
    material: Material = Material.LAMBERT
    thin: bool = False
    """Narrow enough for monocular depth to miss."""


@dataclass(frozen=True)
class Scene:
    """Primitives as tensors, and the light."""

    shape: list[Shape]
    center: Tensor
    """[N, 3]."""
    half: Tensor
    """[N, 3]."""
    rotation: Tensor
    """[N, 3, 3] world from local."""
    texture: Tensor
    """[N] int64."""
    colors: Tensor
    """[N, 2, 3]."""
    frequency: Tensor
    """[N]."""
    material: Tensor
    """[N] int64."""
    thin: Tensor
    """[N] bool."""
    light: Tensor
    """[3] position of the lamp."""
    ambient: float = 0.45

    @staticmethod
    def of(primitives: list[Primitive], light: tuple[float, float, float], ambient: float = 0.45) -> Scene:
        """Collect primitives; the first one is the room, in which the cameras stand."""
        greys = torch.tensor([[0.25] * 3, [0.75] * 3])
        return Scene(
            [p.shape for p in primitives], torch.tensor([p.center for p in primitives]), torch.tensor([p.half for p in primitives]),
            torch.stack([torch.eye(3) if p.rotation is None else p.rotation for p in primitives]),
            torch.tensor([int(p.texture) for p in primitives]),
            torch.stack([greys if p.colors is None else p.colors for p in primitives]),
            torch.tensor([p.frequency for p in primitives]), torch.tensor([int(p.material) for p in primitives]),
            torch.tensor([p.thin for p in primitives]), torch.tensor(light), ambient,
        )

    def to(self, device: torch.device | str) -> Scene:
        """On another device."""
        names = ("center", "half", "rotation", "texture", "colors", "frequency", "material", "thin", "light")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


@dataclass(frozen=True)
class Rig:
    """A rectified stereo pair: equal pinhole cameras, the right one `baseline` metres to the right."""

    width: int
    height: int
    focal: float
    """Pixels."""
    baseline: float

    def disparity(self, depth: Tensor) -> Tensor:
        """Pixels from metres along the optical axis."""
        return self.focal * self.baseline / depth


def random_rig(draw: Draw, width: int, height: int) -> tuple[Rig, float, float]:
    """A rig and the depths between which a scene may lie, so that disparity is about 0.5 % to 25 % of the width."""
    focal = width * draw.uniform(0.6, 1.4)
    far = draw.uniform(3.0, 8.0)
    rig = Rig(width, height, focal, draw.log_uniform(0.005, 0.04) * width * far / focal)
    near = rig.focal * rig.baseline / (draw.uniform(0.08, 0.25) * width)
    return rig, min(max(near, 0.08 * far), 0.5 * far), far


def random_scene(draw: Draw, rig: Rig, near: float, far: float, *, objects: tuple[int, int] = (5, 31)) -> Scene:
    """A room with between objects[0] and objects[1] - 1 things, among them rods, slats, mirrors and panes."""
    reach = draw.uniform(0.6, 1.4) * far * rig.width / rig.focal / 2 + 2 * rig.baseline
    room = replace(
        _surface(draw, far), shape=Shape.BOX, center=(0.0, 0.0, 0.0), half=(reach, reach * draw.uniform(0.5, 0.9), far),
        material=Material.LAMBERT,
    )
    primitives = [room]
    wanted = 1 + draw.integer(*objects)
    while len(primitives) < wanted:
        kind = draw.choice(("solid", "panel", "rod", "slats", "mirror", "pane"), (10, 4, 2, 1, 0.7, 0.7))
        primitives += _things(draw, kind, rig, near, far)
    light = (draw.uniform(-1, 1) * reach, -0.45 * reach, draw.uniform(-0.5, 0.6) * far)
    return Scene.of(primitives[:wanted], light, draw.uniform(0.3, 0.6))


def _things(draw: Draw, kind: str, rig: Rig, near: float, far: float) -> list[Primitive]:
    """One or several primitives around a point that the left camera sees."""
    depth = 1 / draw.uniform(1 / (0.95 * far), 1 / (1.4 * near))
    x, y = ((draw.uniform(-0.5, 0.5) * side) * depth / rig.focal for side in (rig.width, rig.height))
    # Sizes are relative to what the image covers at that depth, so that near things do not fill it.
    span = depth * rig.width / rig.focal
    base = _surface(draw, span)
    center = (x, y, depth)
    if kind == "rod":
        radius = span * draw.uniform(0.002, 0.008)
        half = (radius, radius, span * draw.uniform(0.1, 0.5))
        return [replace(base, shape=Shape.CYLINDER, center=center, half=half, rotation=_frontal(draw), thin=True)]
    if kind == "slats":
        return _slats(draw, base, center, span)
    if kind in ("mirror", "pane", "panel"):
        material = {"mirror": Material.MIRROR, "pane": Material.GLASS}.get(kind, base.material)
        half = (span * draw.uniform(0.05, 0.25), span * draw.uniform(0.05, 0.25), 0.004 * span)
        return [replace(base, shape=Shape.BOX, center=center, half=half, rotation=_tilt(draw, 0.9), material=material)]
    shape = draw.choice((Shape.BOX, Shape.SPHERE, Shape.CYLINDER))
    a, b, c = (span * draw.log_uniform(0.02, 0.15) for _ in range(3))
    return [replace(base, shape=shape, center=center, half=(a, b, c), rotation=draw.rotation())]


def _slats(draw: Draw, base: Primitive, center: tuple[float, float, float], span: float) -> list[Primitive]:
    """Equal upright slats side by side: a fence, whose matches are ambiguous."""
    width, gap = span * draw.uniform(0.004, 0.012), span * draw.uniform(0.02, 0.05)
    height, count = span * draw.uniform(0.1, 0.3), draw.integer(4, 9)
    slat = replace(base, shape=Shape.BOX, half=(width, height, width), thin=True)
    return [replace(slat, center=(center[0] + (i - count / 2) * gap, center[1], center[2])) for i in range(count)]


def _surface(draw: Draw, span: float) -> Primitive:
    """Random texture, colours and plain material; a quarter of all surfaces has no texture."""
    texture = draw.choice(list(Texture), (0.25, 0.08, 0.1, 0.12, 0.3, 0.15))
    frequency = draw.log_uniform(4, 60) / span
    colors = 0.05 + 0.85 * draw.tensor(2, 3)
    # Most real surfaces are greyish.
    colors = torch.lerp(colors, colors.mean(1, keepdim=True), draw.uniform(0, 1))
    material = draw.choice((Material.LAMBERT, Material.PHONG), (0.75, 0.25))
    return Primitive(Shape.BOX, (0.0, 0.0, 1.0), (1.0, 1.0, 1.0), None, texture, colors, frequency, material)


def _tilt(draw: Draw, limit: float) -> Tensor:
    """[3, 3] rotation by at most `limit` radians about a random axis in the image plane."""
    angle, turn = draw.uniform(-limit, limit), draw.uniform(0, math.pi)
    axis = torch.tensor([math.cos(turn), math.sin(turn), 0.0])
    x, y = float(axis[0]), float(axis[1])
    cross = torch.tensor([[0.0, 0.0, y], [0.0, 0.0, -x], [-y, x, 0.0]])
    return torch.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * (cross @ cross)


def _frontal(draw: Draw) -> Tensor:
    """[3, 3] rotation that lays the local z axis near the image plane, in any direction."""
    turn = draw.uniform(0, math.pi)
    z = torch.tensor([math.cos(turn), math.sin(turn), draw.uniform(-0.5, 0.5)])
    z = z / z.norm()
    x = torch.linalg.cross(z, torch.tensor([0.0, 0.0, 1.0]))
    x = x / x.norm()
    return torch.stack([x, torch.linalg.cross(z, x), z], 1)
