"""The loss with a colour affine equals its plain form in value and gradients, with and without weights."""

from __future__ import annotations

import pytest
import torch

from ltgs.imaging.losses import exposed_loss, photometric_loss


@pytest.mark.parametrize("size", [(32, 40), (23, 37), (12, 13)])  # 8, 1 and 4 pixels side by side
@pytest.mark.parametrize("weighted", [False, True])
def test_value_and_gradients_equal_the_plain_float64_form(size: tuple[int, int], weighted: bool) -> None:
    rng = torch.Generator().manual_seed(sum(size))
    image, target = torch.rand(*size, 3, generator=rng), torch.rand(*size, 3, generator=rng)
    affine = torch.eye(3, 4) + 0.1 * torch.randn(3, 4, generator=rng)
    weight = torch.rand(size, generator=rng) if weighted else None
    fast = [image.clone().requires_grad_(), affine.clone().requires_grad_()]
    loss, difference = exposed_loss(fast[0], fast[1], target, 0.3, weight)
    (2.5 * loss).backward()
    exact = [image.double().requires_grad_(), affine.double().requires_grad_()]
    shown = exact[0] @ exact[1][:, :3].T + exact[1][:, 3]
    want = target.double() if weight is None else torch.lerp(shown.detach(), target.double(), weight.double()[..., None])
    plain = photometric_loss(shown, want, 0.3)
    (2.5 * plain).backward()
    assert loss.item() == pytest.approx(plain.item(), abs=2e-6)
    torch.testing.assert_close(difference.double(), (shown - want).detach(), atol=1e-6, rtol=0)
    assert not difference.requires_grad
    for a, b in zip(fast, exact, strict=True):
        assert a.grad is not None and b.grad is not None
        assert float((a.grad - b.grad).norm()) < 2e-5 * float(b.grad.norm()) and float(b.grad.norm()) > 0


def test_other_types_take_the_plain_path_and_agree() -> None:
    rng = torch.Generator().manual_seed(1)
    image, target, affine = torch.rand(16, 16, 3, generator=rng), torch.rand(16, 16, 3, generator=rng), torch.eye(3, 4) * 0.9
    single, _ = exposed_loss(image, affine, target)
    double, _ = exposed_loss(image.double(), affine.double(), target.double())
    assert double.dtype == torch.float64 and single.item() == pytest.approx(double.item(), abs=2e-6)


def test_where_the_weight_is_zero_nothing_is_asked() -> None:
    rng = torch.Generator().manual_seed(2)
    image = torch.rand(20, 20, 3, generator=rng).requires_grad_()
    loss, difference = exposed_loss(image, torch.eye(3, 4), torch.rand(20, 20, 3, generator=rng), weight=torch.zeros(20, 20))
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6) and float(difference.abs().max()) == 0.0
    assert image.grad is not None and float(image.grad.abs().max()) < 1e-6
