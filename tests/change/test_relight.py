"""The light field of a visit is found from its photos, in spite of changed pixels, and helps views it was not fitted on."""

from dataclasses import replace

import numpy as np
import torch

from ltgs.change.compare import Shot, compare
from ltgs.change.relight import RelightConfig, fit_light_field
from ltgs.core.cameras import stack_cameras
from ltgs.core.chronology import Appearance, SceneState
from ltgs.core.gaussians import Gaussians
from ltgs.core.light_field import FACES, LightField
from ltgs.core.sh import dc_to_rgb, rgb_to_dc
from ltgs.render import render
from tests.helpers import _camera, _place

VIEWPOINT = torch.tensor([0.0, -2.8, 1.2])
EXPECTED = torch.tensor([[0.02, 0.1, 0.02**2, 0.1**2]])


def scene() -> SceneState:
    gaussians = _place(np.random.default_rng(5))
    return SceneState(gaussians, torch.zeros(len(gaussians), dtype=torch.long), Appearance())


def window_light() -> LightField:
    """Bright on the right, dark on the left."""
    ramp = torch.linspace(-0.6, 0.3, 4)[:, None, None, None, None].expand(4, 4, 4, FACES, 3)
    return LightField(torch.tensor([-2.0, -2.0, -0.5]), 4 / 3, ramp.contiguous(), VIEWPOINT)


def photograph(gaussians: Gaussians, angle: float) -> Shot:
    camera = _camera(f"v/{angle}.png", 1, angle)
    with torch.no_grad():
        return Shot(camera, render(gaussians, stack_cameras([camera]), with_depth=False).rgb[0].clamp(0, 1).numpy())


def psnr(gaussians: Gaussians, affine: np.ndarray, shot: Shot) -> float:
    with torch.no_grad():
        rgb = render(gaussians, stack_cameras([shot.camera]), with_depth=False).rgb[0].numpy()
    shown = np.clip(rgb @ affine[:, :3].T + affine[:, 3], 0, 1)
    return float(-10 * np.log10(((shown - shot.photo) ** 2).mean()))


def test_a_window_from_the_side_is_found_and_holds_for_another_view():
    state = scene()
    true = replace(state, appearance=Appearance(field=window_light())).lit()
    shots = [photograph(true, a) for a in (-0.4, 0.0, 0.4)]
    views, grounds = compare(state.gaussians, EXPECTED.repeat(len(state.gaussians), 1), shots)
    found = fit_light_field(state, views, VIEWPOINT)
    assert found is not None
    affine = np.mean([g.fit.affine for g in grounds], 0)
    other = photograph(true, 0.2)
    without, with_field = psnr(state.gaussians, affine, other), psnr(found.lit(state.gaussians, state.normals(VIEWPOINT)), affine, other)
    assert with_field > without + 3, (without, with_field)


def test_the_same_light_gives_no_field_to_speak_of():
    state = scene()
    views, _ = compare(state.gaussians, EXPECTED.repeat(len(state.gaussians), 1), [photograph(state.gaussians, 0.1)])
    found = fit_light_field(state, views, VIEWPOINT)
    assert found is not None and float(found.log_gain.abs().max()) < 0.05


def test_changed_pixels_are_not_light():
    state = scene()
    shot = photograph(state.gaussians, 0.0)
    views, _ = compare(state.gaussians, EXPECTED.repeat(len(state.gaussians), 1), [shot])
    photo, mask = shot.photo.copy(), np.zeros(shot.photo.shape[:2], bool)
    photo[30:70, 40:90] *= 0.3
    mask[28:72, 38:92] = True
    found = fit_light_field(state, [replace(views[0], photo=photo, mask=mask)], VIEWPOINT)
    assert found is not None and float(found.log_gain.abs().max()) < 0.1


def test_a_photo_that_sees_nothing_gives_none():
    state = scene()
    views, _ = compare(state.gaussians, EXPECTED.repeat(len(state.gaussians), 1), [photograph(state.gaussians, 0.0)])
    nothing = replace(views[0], mask=np.ones_like(views[0].mask))
    assert fit_light_field(state, [nothing], VIEWPOINT) is None


def test_a_shadow_with_an_edge_is_found_and_holds_for_another_view():
    state = scene()
    ground = (state.gaussians.means[:, 0].abs() < 0.25) & (state.gaussians.means[:, 1].abs() < 0.5)
    sh = state.gaussians.sh.clone()
    sh[ground, 0] = rgb_to_dc(dc_to_rgb(sh[ground, 0]) * 0.5)
    shaded = replace(state.gaussians, sh=sh)
    views, grounds = compare(state.gaussians, EXPECTED.repeat(len(state.gaussians), 1), [photograph(shaded, a) for a in (-0.4, 0.0, 0.4)])
    # A shadow is no change: whoever decides about objects has explained it before the light is fitted.
    views = [replace(v, mask=np.zeros_like(v.mask)) for v in views]
    affine, other = np.mean([g.fit.affine for g in grounds], 0), photograph(shaded, 0.2)
    errors = {}
    for fine in (0, 8):
        found = fit_light_field(state, views, VIEWPOINT, config=RelightConfig(fine=fine))
        assert found is not None and (found.detail is not None) == (fine > 0)
        errors[fine] = psnr(found.lit(state.gaussians, state.normals(VIEWPOINT)), affine, other)
    assert errors[8] > errors[0] + 1, errors
