"""The fused SSIM against scikit-image, against its own plain torch form, and its gradient."""

from __future__ import annotations

import pytest
import torch

from ltgs.imaging.losses import photometric_loss
from ltgs.imaging.ssim import ssim, ssim_map
from ltgs.native import available_isas


def pair(height: int, width: int, images: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(height * 100 + width)
    a = torch.rand(images, height, width, 3, generator=rng)
    return a, (a + 0.2 * torch.randn(a.shape, generator=rng)).clamp(0, 1)


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("size", [(11, 11), (23, 40), (37, 17)])
def test_value_and_gradient_equal_the_float64_definition(
    size: tuple[int, int], padding: str, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LTGS_ISA", isa)
    a, b = pair(*size, images=2)
    leaf, exact = a.clone().requires_grad_(), a.double().requires_grad_()
    value, want = ssim(leaf, b, padding=padding), ssim(exact, b.double(), padding=padding)  # type: ignore[arg-type]
    assert value.item() == pytest.approx(want.item(), abs=2e-6)
    value.backward()
    want.backward()
    assert leaf.grad is not None and exact.grad is not None
    assert float((leaf.grad - exact.grad).norm() / exact.grad.norm()) < 2e-5


def test_equals_skimage() -> None:
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is a development dependency")
    a, b = pair(33, 47)
    want = metrics.structural_similarity(
        a[0].numpy(), b[0].numpy(), gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0, channel_axis=-1
    )
    assert ssim(a, b, padding="valid").item() == pytest.approx(want, abs=5e-6)


def test_identical_images_and_the_map() -> None:
    a, b = pair(20, 30)
    assert ssim(a, a).item() == pytest.approx(1.0, abs=1e-6)
    assert ssim_map(a[0], b[0]).shape == (20, 30, 3)
    assert ssim_map(a, b).mean().item() == pytest.approx(ssim(a, b).item(), abs=1e-6)
    assert ssim_map(a, b, padding="valid").shape == (1, 10, 20, 3)


def test_the_layout_in_memory_does_not_matter() -> None:
    a, b = pair(20, 30)
    planes = a[0].permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert torch.equal(ssim_map(planes, b[0]), ssim_map(a[0], b[0]))
    gradients = []
    for image in (planes, a[0]):
        leaf = image.detach().requires_grad_()
        ssim(leaf, b[0]).backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


def test_photometric_loss_is_zero_for_equal_images() -> None:
    a, b = pair(16, 16)
    assert photometric_loss(a, a).item() == pytest.approx(0.0, abs=1e-6)
    assert photometric_loss(a, b, ssim_weight=0.0).item() == pytest.approx((a - b).abs().mean().item())


def test_wrong_shapes_are_named() -> None:
    a, b = pair(8, 8)
    with pytest.raises(ValueError, match="one shape"):
        ssim(a, b[0])
    with pytest.raises(ValueError, match="at least 11x11"):
        ssim(a, b, padding="valid")
    with pytest.raises(ValueError, match="padding must be"):
        ssim(a, b, padding="reflect")  # type: ignore[arg-type]
