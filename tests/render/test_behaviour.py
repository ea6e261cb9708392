"""What every user of the native backend relies on: determinism, hard inputs, clear errors, no growing memory."""

from __future__ import annotations

import gc
import resource
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ltgs.core.cameras import Cameras
from ltgs.core.gaussians import Gaussians
from ltgs.native import available_isas
from ltgs.render import render
from tests.helpers import threads
from tests.render.scenes import as_float32, as_float64, random_cameras, random_gaussians
from tests.render.test_against_reference import relative_error


def scene(seed: int = 0, count: int = 200, cameras: int = 1, width: int = 53, height: int = 37) -> tuple[Gaussians, Cameras]:
    return as_float32(random_gaussians(seed, count, 1), random_cameras(seed, cameras, width, height))


def with_grad(gaussians: Gaussians) -> tuple[Gaussians, dict[str, Tensor]]:
    leaves = {k: v.clone().requires_grad_() for k, v in gaussians.tensors().items()}
    return Gaussians(**leaves), leaves


def agree(gaussians: Gaussians, cameras: Cameras, limit: float = 5e-6) -> None:
    small = render(gaussians, cameras, backend="cpu")
    large = render(*as_float64(gaussians, cameras), backend="reference")
    assert float((small.rgb.double() - large.rgb).abs().max()) < limit
    assert float((small.alpha.double() - large.alpha).abs().max()) < limit


@pytest.mark.parametrize("isa", available_isas())
def test_any_number_of_threads_gives_the_same_bits(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTGS_ISA", isa)
    gaussians, cameras = scene(1, 3000, 2, 80, 60)
    results = []
    for count in (1, 2, 3):
        with threads(count):
            posed = replace(cameras, cam_from_world=cameras.cam_from_world.clone().requires_grad_())
            leaf, leaves = with_grad(gaussians)
            features = torch.ones(3000, 2, requires_grad=True)
            out = render(leaf, posed, backend="cpu", features=features)
            assert out.features is not None
            (out.rgb.square().sum() + out.depth.sum() + out.features.square().sum()).backward()
            grads = [posed.cam_from_world.grad, features.grad, *(v.grad for v in leaves.values())]
            results.append([out.rgb, out.depth, out.features, *grads])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True) if a is not None and b is not None)


def test_pose_gradient_equals_finite_differences() -> None:
    gaussians, cameras = as_float64(*scene(2, 40))
    pose = cameras.cam_from_world.clone()
    rng = torch.Generator().manual_seed(0)
    weights = torch.randn(1, 37, 53, 3, generator=rng, dtype=torch.float64)
    small = as_float32(gaussians, cameras)
    posed = small[1].cam_from_world.clone().requires_grad_()
    (render(small[0], replace(small[1], cam_from_world=posed), backend="cpu").rgb * weights.float()).sum().backward()
    assert posed.grad is not None

    def loss(moved: Tensor) -> Tensor:
        return (render(gaussians, Cameras(cameras.K, moved, 53, 37), backend="reference").rgb * weights).sum()

    step, differences = 1e-7, torch.zeros(3)  # small, so that no pixel crosses the cut at alpha = 1/255
    for axis in range(3):
        offset = torch.zeros_like(pose)
        offset[0, axis, 3] = step
        differences[axis] = (loss(pose + offset) - loss(pose - offset)) / (2 * step)
    assert relative_error(posed.grad[0, :3, 3], differences.double()) < 1e-4


def test_the_reference_draws_nothing_as_well() -> None:
    gaussians, cameras = as_float64(*scene(0, 0))
    assert not bool(render(gaussians, cameras, backend="reference").rgb.any())


def test_nothing_to_draw() -> None:
    gaussians, cameras = scene(0, 0)
    background = torch.tensor([0.1, 0.2, 0.3])
    leaf, leaves = with_grad(gaussians)
    out = render(leaf, cameras, backend="cpu", background=background)
    assert torch.equal(out.rgb, background.expand_as(out.rgb)) and not bool(out.alpha.any())
    out.rgb.sum().backward()
    assert leaves["means"].grad is None or leaves["means"].grad.shape == (0, 3)


def single(**changes: list[float]) -> Gaussians:
    values = {"means": [0.0, 0.0, 3.0], "quats": [1.0, 0, 0, 0], "log_scales": [-2.0] * 3, "opacity_logits": 1.0, **changes}
    tensors = {k: torch.tensor([v], dtype=torch.float32) for k, v in values.items()}
    return Gaussians(**tensors, sh=torch.full((1, 1, 3), 0.5))


@pytest.mark.parametrize(
    "gaussians",
    [
        single(log_scales=[3.0, 3.0, 3.0]),
        single(opacity_logits=40.0),
        single(log_scales=[-20.0, -20.0, -20.0]),
        single(log_scales=[0.5, -12.0, -12.0], quats=[0.9, 0.1, 0.3, 0.4]),
        single(opacity_logits=-5.4),
        single(quats=[1e-8, 0.0, 0.0, 1e-8]),
    ],
    ids=["screen-filling", "opaque", "a point", "a needle", "just above the cut", "tiny quaternion"],
)
def test_hard_gaussians(gaussians: Gaussians) -> None:
    cameras = random_cameras(0)
    # The needle, 2.7e5 times longer than wide and close to the camera plane, measured 7.4e-6: its centre is rounded to float32.
    agree(gaussians, as_float32(gaussians, cameras)[1], limit=2e-5)


def test_behind_the_camera_is_not_drawn_and_has_no_gradient() -> None:
    front, behind = single(), single(means=[0.0, 0.0, -3.0])
    both = Gaussians(**{k: torch.cat([v, behind.tensors()[k]]) for k, v in front.tensors().items()})
    cameras = as_float32(front, random_cameras(0))[1]
    leaf, leaves = with_grad(both)
    out = render(leaf, cameras, backend="cpu")
    assert out.visible.tolist() == [[True, False]]
    assert torch.equal(out.rgb, render(front, cameras, backend="cpu").rgb)
    out.rgb.sum().backward()
    for value in leaves.values():
        assert value.grad is not None and float(value.grad[1].abs().max()) == 0.0 and float(value.grad[0].abs().max()) >= 0.0


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 1), (1, 33), (50, 31)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    agree(*scene(4, 60, 1, *size))


def test_not_finite_gaussians_are_dropped_and_counted() -> None:
    gaussians, cameras = scene(5, 50)
    tensors = {k: v.clone() for k, v in gaussians.tensors().items()}
    # Those in view only are looked at in full, so put the spoiled ones where they would be seen.
    seen = render(gaussians, cameras, backend="cpu").visible[0].nonzero()[:5, 0].tolist()
    tensors["means"][seen[0], 0] = float("nan")
    tensors["log_scales"][seen[1], 2] = float("inf")
    tensors["opacity_logits"][seen[2]] = float("nan")
    tensors["quats"][seen[3]] = 0.0
    tensors["sh"][seen[4], 1, 1] = float("inf")
    leaf, leaves = with_grad(Gaussians(**tensors))
    out = render(leaf, cameras, backend="cpu")
    assert out.num_dropped == 5 and bool(out.rgb.isfinite().all()) and not bool(out.visible[0, seen].any())
    out.rgb.square().sum().backward()
    for value in leaves.values():
        assert value.grad is not None and bool(value.grad.isfinite().all())
    kept = [i for i in range(50) if i not in seen]
    want = render(Gaussians(**{k: v[kept] for k, v in gaussians.tensors().items()}), cameras, backend="cpu")
    assert torch.equal(out.rgb, want.rgb)


def test_inputs_need_not_be_contiguous() -> None:
    gaussians, cameras = scene(6, 80)
    strided = {k: v.T.contiguous().T if v.ndim == 2 else v.repeat_interleave(2, 0)[::2] for k, v in gaussians.tensors().items()}
    assert not strided["means"].is_contiguous()
    leaf, leaves = with_grad(gaussians)
    other = {k: v.detach().requires_grad_() for k, v in strided.items()}
    a, b = render(leaf, cameras, backend="cpu").rgb, render(Gaussians(**other), cameras, backend="cpu").rgb
    weights = torch.rand(1, 53, 37, 3).transpose(1, 2)
    (a * weights).sum().backward()
    (b * weights).sum().backward()
    assert torch.equal(a, b)
    assert all(torch.equal(leaves[k].grad, other[k].grad) for k in leaves)  # type: ignore[arg-type]


def test_wrong_arguments_are_named() -> None:
    gaussians, cameras = scene(0, 10)
    for options, words in (
        ({"features": torch.zeros(9, 2)}, "features must have shape"),
        ({"background": torch.zeros(4)}, "background must have shape"),
        ({"near": 2.0, "far": 1.0}, "near < far"),
        ({"sh_degree": 4}, "sh_degree must be"),
        ({"backend": "metal"}, "unknown backend"),
        ({"features": torch.zeros(10, 2, dtype=torch.float64)}, "features must be float32"),
    ):
        with pytest.raises(ValueError, match=words):
            render(gaussians, cameras, **{"backend": "cpu", **options})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no gradient with respect to K"):
        render(gaussians, replace(cameras, K=cameras.K.clone().requires_grad_()), backend="cpu")
    with pytest.raises(ValueError, match="must be float32"):
        render(as_float64(gaussians, cameras)[0], cameras, backend="cpu")


def test_only_features_require_a_gradient() -> None:
    gaussians, cameras = scene(7, 60)
    features = torch.rand(60, 3, requires_grad=True)
    out = render(gaussians, cameras, backend="cpu", features=features)
    assert out.features is not None
    out.features.square().sum().backward()
    large = as_float64(gaussians, cameras)
    exact = features.detach().double().requires_grad_()
    want = render(*large, backend="reference", features=exact)
    assert want.features is not None and features.grad is not None and exact.grad is None
    want.features.square().sum().backward()
    assert exact.grad is not None and relative_error(features.grad, exact.grad) < 2e-5


def test_gradcheck_of_the_reference() -> None:
    gaussians, cameras = as_float64(*scene(3, 3, 1, 6, 5))
    # Broad, translucent splats: every pixel stays between the cut at 1/255 and the clamp at 0.999.
    broad = {"log_scales": gaussians.log_scales * 0 - 0.2, "opacity_logits": gaussians.opacity_logits * 0 - 0.5}
    tensors = gaussians.tensors() | broad
    names = list(tensors)
    inputs = [tensors[k].clone().requires_grad_() for k in names]
    pose = cameras.cam_from_world.clone().requires_grad_()

    def images(moved: Tensor, *values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        posed = Cameras(cameras.K, moved, 6, 5)
        out = render(Gaussians(**dict(zip(names, values, strict=True))), posed, backend="reference")
        return out.rgb, out.alpha, out.depth

    # The pose is checked by finite differences above: its entries cannot all be moved without leaving the rotations.
    assert torch.autograd.gradcheck(lambda *v: images(pose.detach(), *v), inputs, eps=1e-6, atol=1e-6)


def test_memory_and_sessions_do_not_pile_up() -> None:
    gaussians, cameras = scene(8, 100)

    def step() -> None:
        leaf, _ = with_grad(gaussians)
        render(leaf, cameras, backend="cpu").rgb.sum().backward()

    gc.disable()  # a reference cycle would keep every step's buffers until the collector runs
    try:
        for _ in range(20):
            step()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(200):
            step()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        left = [o for o in gc.get_objects() if type(o).__name__ == "_RasteriseBackward"]
    finally:
        gc.enable()
    assert not left
    assert grown < 8_000  # kB; one step's frame and images are about 300 kB


def test_second_derivatives_are_refused() -> None:
    gaussians, cameras = scene(8, 10)
    leaf, leaves = with_grad(gaussians)
    loss = render(leaf, cameras, backend="cpu").rgb.square().sum()
    (first,) = torch.autograd.grad(loss, leaves["means"], create_graph=True)
    with pytest.raises(RuntimeError):
        first.sum().backward()
