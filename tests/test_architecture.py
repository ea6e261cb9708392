"""Import levels, owners of third-party packages, and house rules that a parser can check."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import REPOSITORY

LEVELS = {
    "errors": 0,
    "core": 1, "native": 1,
    "imaging": 2, "io": 2, "render": 2,
    "data": 3, "poses": 3, "depth": 3, "change": 3, "objects": 3, "optim": 3,
    "pipeline": 4, "eval": 4,
    "cli": 5, "cli_text": 5, "cli_depth": 5, "commands": 5, "__main__": 5, "viewer": 5,
}
SAME_LEVEL = {
    ("cli", "cli_text"), ("cli", "commands"), ("commands", "cli_text"), ("cli", "cli_depth"), ("commands", "cli_depth"),
    ("__main__", "cli"), ("commands", "viewer"), ("__main__", "viewer"),
}
"""The command line is one unit in several files, and `ltgs view` opens the viewer."""
VIEWER_MAY_USE = {"core", "io", "render", "errors"}
OWNERS = {
    "gsplat": ("ltgs/render/gsplat_cuda.py",),
    "pycolmap": ("ltgs/io/colmap.py", "ltgs/poses/"),
    "open3d": ("ltgs/objects/register.py", "ltgs/io/"),
    "viser": ("viewer/",),
    "tyro": ("ltgs/cli.py", "ltgs/commands/"),
    "rich": ("ltgs/pipeline/progress.py", "ltgs/cli_text.py"),
    "transformers": ("ltgs/change/learned_models.py", "ltgs/depth/priors.py"),
    "plyfile": ("ltgs/io/",),
    "pillow_heif": ("ltgs/io/",),
    "PIL": ("ltgs/io/", "ltgs/data/synthetic/", "viewer/"),
    "safetensors": ("ltgs/io/",),
}
MAX_LINES = 400
FILES = sorted(p for top in ("ltgs", "viewer") for p in (REPOSITORY / top).rglob("*.py") if "__pycache__" not in p.parts)


def relative(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """(dotted module, line) of every import, also those inside functions."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}:{node.lineno}: relative imports hide the level of what is imported"
            assert node.module is not None
            if node.module == "ltgs":
                yield from ((f"ltgs.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield node.module, node.lineno


def unit(dotted_or_path: str) -> str | None:
    """The folder or top-level module of this project that a module belongs to; None for `ltgs` itself and others."""
    parts = dotted_or_path.removesuffix(".py").replace("/", ".").split(".")
    if parts[0] == "viewer":
        return "viewer"
    if parts[0] != "ltgs" or len(parts) < 2 or parts[1] in ("__init__", "__version__"):
        return None
    return parts[1]


def test_every_unit_has_a_level() -> None:
    assert {u for p in FILES if (u := unit(relative(p)))} <= LEVELS.keys()


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_go_down(path: Path) -> None:
    here = unit(relative(path))
    if here is None:
        pytest.skip("the package's own file lists lazy names only")
    for module, line in imports(path):
        there = unit(module)
        if there is None or there == here or (here, there) in SAME_LEVEL:
            continue
        where = f"{relative(path)}:{line}"
        assert LEVELS[there] < LEVELS[here], f"{where}: {here} (level {LEVELS[here]}) imports {there} (level {LEVELS[there]})"
        if here == "viewer":
            assert there in VIEWER_MAY_USE, f"{where}: the viewer opens stored scenes and needs no {there}"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_third_party_packages_have_one_owner(path: Path) -> None:
    for module, line in imports(path):
        owners = OWNERS.get(module.split(".")[0])
        assert owners is None or relative(path).startswith(owners), f"{relative(path)}:{line}: {module} belongs to {owners}"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_nothing_that_executes_data(path: Path) -> None:
    for module, line in imports(path):
        assert module.split(".")[0] not in ("pickle", "cPickle", "dill", "joblib", "marshal", "shelve"), f"{relative(path)}:{line}"
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        where = f"{relative(path)}:{node.lineno}"
        assert name not in ("eval", "exec", "torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system"), where
        assert not any(k.arg == "shell" for k in node.keywords), f"{where}: no shell"
        if name.endswith("np.load"):
            assert any(k.arg == "allow_pickle" and ast.unparse(k.value) == "False" for k in node.keywords), where


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_house_rules(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    module = tree(path)
    if source.strip():
        assert ast.get_docstring(module), f"{relative(path)}: needs a docstring"
    assert source.count("\n") <= MAX_LINES, f"{relative(path)}: {source.count(chr(10))} lines, at most {MAX_LINES}"
    for word in ("TODO", "FIXME", "XXX", "NotImplementedError"):
        assert word not in source, f"{relative(path)}: {word}"
    for node in ast.walk(module):
        if isinstance(node, ast.ExceptHandler):
            where = f"{relative(path)}:{node.lineno}"
            assert node.type is not None, f"{where}: a bare except also catches Ctrl-C"
            # A handler that does nothing must at least say why.
            explained = any("#" in line for line in source.splitlines()[node.lineno - 1 : node.end_lineno])
            assert [type(s) for s in node.body] != [ast.Pass] or explained, f"{where}: a silent except hides errors"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
            allowed = relative(path) in ("ltgs/cli.py", "ltgs/cli_text.py", "ltgs/data/synthetic/__main__.py")
            allowed = allowed or relative(path).startswith(("viewer/", "ltgs/commands/"))
            assert allowed, f"{relative(path)}:{node.lineno}: print belongs to the command line"


def test_core_is_pure() -> None:
    """No file access and no logging in the data types."""
    for path in (REPOSITORY / "ltgs" / "core").glob("*.py"):
        for module, line in imports(path):
            assert module.split(".")[0] not in ("logging", "os", "io", "json", "yaml", "cv2"), f"{relative(path)}:{line}: {module}"
            allowed = ("__future__", "collections", "concurrent", "dataclasses", "datetime", "enum", "functools", "math", "pathlib",
                       "typing", "numpy", "torch", "ltgs")
            assert module.split(".")[0] in allowed, f"{relative(path)}:{line}: {module}"
