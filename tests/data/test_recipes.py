"""The catalogue of collections: what ships reads, and wrong recipes are refused with the entry's name."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from ltgs.data.recipes import READERS, find_catalogue, load_catalogue, read_recipe
from ltgs.errors import FormatError, InputError

GOOD = {
    "name": "mine", "title": "T", "kind": "by_hand", "reader": "rooms", "licence": "MIT", "expected_layout": "photos/",
}


def write(folder: Path, entries: dict[str, object]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.toml"
    path.write_text("".join(f"{k} = {v if not isinstance(v, str) else chr(39) + v + chr(39)}\n" for k, v in entries.items()))
    return path


def test_the_shipped_catalogue_is_complete() -> None:
    catalogue = load_catalogue()
    assert {"sample_room", "rooms", "ltgs"} <= set(catalogue)
    assert list(catalogue) == sorted(catalogue)
    for name, recipe in catalogue.items():
        assert recipe.name == name and recipe.folder == find_catalogue() / name
        text = recipe.card.read_text(encoding="utf-8")
        assert text.startswith(f"# {name}") and len(text) > 400
    assert catalogue["sample_room"].kind == "shipped" and catalogue["sample_room"].licence == "Apache-2.0"
    assert (catalogue["sample_room"].folder / "photos").is_dir()
    assert "2510.09881" in catalogue["ltgs"].citation


def test_every_reader_is_a_module() -> None:
    for reader in READERS:
        assert importlib.import_module(f"ltgs.data.{reader}")


def test_the_catalogue_is_no_python_package() -> None:
    """A package called datasets would shadow another well-known one for everything run from the checkout."""
    assert not list(find_catalogue().rglob("*.py"))


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    write(tmp_path / "mine", GOOD)
    recipe = load_catalogue(tmp_path)["mine"]
    assert (recipe.title, recipe.url, recipe.notes) == ("T", "", "")
    assert recipe.card == tmp_path / "mine" / "card.md"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "unknown entry 'colour'. Allowed are name, title"),
        ({"folder": "x"}, "unknown entry 'folder'"),
        ({"kind": "magic"}, "kind = 'magic' is not one of shipped"),
        ({"reader": "os.system"}, "not one of photo_folder"),
        ({"title": ""}, "'title' must be a text that is not empty"),
        ({"licence": 3}, "'licence' must be a text"),
        ({"notes": 3}, "'notes' must be a text"),
        ({"name": "yours"}, "but the folder is called 'mine'"),
    ],
)
def test_wrong_entries_are_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read_recipe(write(tmp_path / "mine", GOOD | change))


def test_missing_entries_and_foreign_files(tmp_path: Path) -> None:
    path = write(tmp_path / "mine", {k: v for k, v in GOOD.items() if k != "reader"})
    with pytest.raises(FormatError, match="'reader' must be"):
        read_recipe(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(FormatError, match="not valid TOML"):
        read_recipe(path)
    with pytest.raises(InputError, match="is not a folder"):
        load_catalogue(tmp_path / "absent")
    with pytest.raises(InputError, match=r"recipe\.toml"):
        read_recipe(tmp_path / "absent" / "recipe.toml")
