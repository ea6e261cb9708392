"""What a user installs: one version, the right packages, presets and cards inside, nothing that shadows other packages."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from helpers import REPOSITORY

import ltgs
from ltgs.data.recipes import load_catalogue
from ltgs.pipeline.config import share_folder

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
EXPECTED_TOP = {
    "ltgs", "viewer", "datasets", "configs", "tests", "docs", "build", "scenes", "demo_scene",
}


def test_one_version() -> None:
    assert PROJECT["project"]["version"] == ltgs.__version__
    changelog = (REPOSITORY / "CHANGELOG.md").read_text()
    assert f"## {ltgs.__version__}" in changelog


def test_the_installed_distribution_is_this_one() -> None:
    try:
        installed = importlib.metadata.version("ltgs")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("ltgs is not installed in this environment (run `make install`)")
    assert installed == ltgs.__version__


def test_no_stray_packages_beside_the_two() -> None:
    """A folder with an __init__.py at the top would shadow other people's packages for whoever works in the checkout."""
    packages = {p.parent.name for p in REPOSITORY.glob("*/__init__.py")}
    assert packages == {"ltgs", "viewer"}
    folders = {p.name for p in REPOSITORY.iterdir() if p.is_dir() and not p.name.startswith(".") and p.suffix != ".egg-info"}
    assert folders <= EXPECTED_TOP, f"new folders at the top: {folders - EXPECTED_TOP}"
    assert PROJECT["tool"]["scikit-build"]["wheel"]["packages"] == ["ltgs", "viewer"]


def test_datasets_holds_no_python() -> None:
    assert not list((REPOSITORY / "datasets").rglob("*.py"))
    spec = importlib.util.find_spec("datasets")
    assert spec is None or spec.origin is None or not Path(spec.origin).is_relative_to(REPOSITORY)


def test_every_folder_of_code_is_a_package() -> None:
    for top in ("ltgs", "viewer"):
        assert (REPOSITORY / top / "py.typed").is_file()
        for path in (REPOSITORY / top).rglob("*.py"):
            if "__pycache__" not in path.parts:
                assert (path.parent / "__init__.py").is_file(), f"{path.parent} would be left out of the wheel"


def test_licence_and_readme() -> None:
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache License" in (REPOSITORY / "LICENSE").read_text()[:300]
    readme = (REPOSITORY / "README.md").read_text()
    assert all(word in readme for word in ("make demo", "make test", "make install", "ltgs reconstruct", "Apache-2.0"))


def test_ci_runs_the_readmes_test_command() -> None:
    script = (REPOSITORY / ".ci" / "run").read_text()
    assert "make test" in script
    assert (REPOSITORY / ".ci" / "run").stat().st_mode & 0o111, ".ci/run must be executable"


def test_presets_and_catalogue_are_found() -> None:
    assert {p.stem for p in share_folder("configs").glob("*.yaml")} >= {"cpu_small", "cpu_full", "gpu_full", "paper"}
    assert {"sample_room", "rooms", "ltgs"} <= load_catalogue().keys()


def test_constraints_pin_every_direct_dependency() -> None:
    lines = (REPOSITORY / "constraints-ci.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line and not line.startswith("#")}
    for requirement in PROJECT["project"]["dependencies"]:
        if "sys_platform != 'linux'" in requirement:
            continue
        name = requirement.split(";")[0]
        for sign in ("<", ">", "=", "!", "~", "["):
            name = name.split(sign)[0]
        assert name.strip().lower().replace("_", "-") in pinned, f"{name} is not pinned"


def test_files_do_not_tell_about_a_machine() -> None:
    """Texts that ship name no absolute path of the machine they were written on."""
    for path in [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("configs/*.yaml"), *REPOSITORY.glob("datasets/*/*.md"),
                 *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("ltgs/**/*.py"), *REPOSITORY.glob("viewer/**/*.py")]:
        text = path.read_text(encoding="utf-8")
        assert str(REPOSITORY) not in text and "/home/" not in text and "/root/" not in text, path


@pytest.mark.slow
def test_wheel_contents(tmp_path: Path) -> None:
    if importlib.util.find_spec("scikit_build_core") is None or importlib.util.find_spec("nanobind") is None:
        pytest.skip("building without isolation needs scikit-build-core and nanobind in this environment")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(REPOSITORY)]
    subprocess.run(command, check=True, capture_output=True, timeout=900)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    tops = {n.split("/")[0] for n in names if ".dist-info" not in n}
    assert tops == {"ltgs", "viewer"}
    for needed in ("ltgs/_share/configs/cpu_small.yaml", "ltgs/_share/datasets/sample_room/recipe.toml", "ltgs/py.typed",
                   "ltgs/_share/datasets/rooms/card.md"):
        assert needed in names, needed
    assert any(n.startswith("ltgs/native/_kernels_baseline") for n in names)
    assert not any(n.endswith((".cpp", ".h", ".jpg")) and "/src/" not in n for n in names)
