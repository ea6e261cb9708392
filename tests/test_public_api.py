"""The names at the top of the package, and that importing it costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ltgs

HEAVY = ("torch", "cv2", "pycolmap", "viser", "open3d", "gsplat", "scipy", "tyro", "rich", "PIL")


def test_public_names() -> None:
    assert sorted(ltgs.__all__) == [
        "Camera", "Cameras", "Chronology", "Event", "Gaussians", "InputError", "Job", "LtgsError", "RunConfig", "Scene",
        "SceneStore", "__version__", "add_visit", "load_config", "read_cameras", "reconstruct", "write_ply",
    ]


@pytest.mark.parametrize("name", ltgs.__all__)
def test_every_public_name_resolves_and_is_documented(name: str) -> None:
    value = getattr(ltgs, name)
    assert name in dir(ltgs)
    assert name == "__version__" or (value.__doc__ and len(value.__doc__) > 10)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="Gausians"):
        ltgs.Gausians  # noqa: B018


def test_import_is_lazy() -> None:
    """`import ltgs` in a fresh process loads no heavy package."""
    code = f"import ltgs, sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_errors_carry_exit_codes() -> None:
    from ltgs import errors

    codes = {e.__name__: e.exit_code for e in (errors.LtgsError, errors.UsageError, errors.InputError, errors.FormatError)}
    assert codes == {"LtgsError": 1, "UsageError": 2, "InputError": 3, "FormatError": 3}
