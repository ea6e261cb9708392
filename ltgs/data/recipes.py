"""The catalogue of collections: one folder per collection with a strict `recipe.toml` and a `card.md` for people."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from ltgs.errors import FormatError, InputError
from ltgs.io.atomic import explained, read_capped

MAX_RECIPE_BYTES = 1 << 20
KINDS = ("shipped", "generated", "by_hand")
"""In the package; made by a command of this project; fetched by the user from its authors."""
READERS = ("photo_folder", "rooms", "ltgs_release")
"""Module of `ltgs.data` that opens the collection."""


@dataclass(frozen=True)
class Recipe:
    """What a collection is, where it comes from and how it is read."""

    name: str
    """Equal to the folder's name."""
    title: str
    kind: str
    """One of KINDS."""
    reader: str
    """One of READERS."""
    licence: str
    expected_layout: str
    """The files the reader expects, as a tree."""
    url: str = ""
    citation: str = ""
    notes: str = ""
    folder: Path = field(default=Path(), metadata={"in_file": False})
    """Where the recipe was found; holds the data too if `kind` is "shipped"."""

    @property
    def card(self) -> Path:
        """The description for people."""
        return self.folder / "card.md"


def find_catalogue() -> Path:
    """The folder `datasets`: beside the package in a checkout, `_share/datasets` inside an installed one.

    Raises:
        InputError: neither place has it, so the installation is incomplete.
    """
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "_share" / "datasets", package.parent / "datasets"):
        if candidate.is_dir() and any(candidate.glob("*/recipe.toml")):
            return candidate
    raise InputError("The catalogue of datasets that ships with ltgs is missing. Install the package again.")


def load_catalogue(root: Path | None = None) -> dict[str, Recipe]:
    """Read every recipe, sorted by name.

    Args:
        root: folder of collection folders; None = the one that ships with the package.

    Raises:
        InputError: no such folder or file unreadable.
        FormatError: a recipe has an unknown, missing or wrong entry.
    """
    root = find_catalogue() if root is None else Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: is not a folder. Pass the folder that holds one folder per collection.")
    return {p.parent.name: read_recipe(p) for p in sorted(root.glob("*/recipe.toml"))}


def read_recipe(path: Path) -> Recipe:
    """Read one `recipe.toml`.

    Raises:
        InputError: the file cannot be read.
        FormatError: not TOML, an unknown, missing or empty entry, or a name other than the folder's.
    """
    path = Path(path)
    with explained("read", path):
        data = read_capped(path, MAX_RECIPE_BYTES)
    try:
        content = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: not valid TOML ({error}). Correct the file.") from error
    fields = [f for f in dataclasses.fields(Recipe) if f.metadata.get("in_file", True)]
    allowed = ", ".join(f.name for f in fields)
    unknown = sorted(content.keys() - {f.name for f in fields})
    if unknown:
        raise FormatError(f"{path}: unknown entry {unknown[0]!r}. Allowed are {allowed}.")
    for f in fields:
        value = content.get(f.name, "" if f.default == "" else None)
        if not isinstance(value, str) or (f.default != "" and not value.strip()):
            raise FormatError(f"{path}: {f.name!r} must be a text{'' if f.default == '' else ' that is not empty'}.")
    for key, choices in (("kind", KINDS), ("reader", READERS)):
        if content[key] not in choices:
            raise FormatError(f"{path}: {key} = {content[key]!r} is not one of {', '.join(choices)}.")
    if content["name"] != path.parent.name:
        raise FormatError(
            f"{path}: name = {content['name']!r}, but the folder is called {path.parent.name!r}. Make them equal."
        )
    return Recipe(**content, folder=path.parent)
