"""Commands about this machine and the catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from ltgs import __version__, cli_text
from ltgs.commands.base import Command
from ltgs.errors import UsageError


@dataclass
class Doctor(Command):
    """Check whether this machine is fit, and say which rasteriser is used and why."""

    def run(self) -> int:
        from ltgs.pipeline.doctor import examine

        print(f"ltgs {__version__}")
        checks = examine(Path.cwd())
        for check in checks:
            print(f"[{check.verdict:^7}] {check.name}: {check.text}")
        problems = sum(c.verdict == "problem" for c in checks)
        print(f"{problems} found that must be solved." if problems else "All is well.")
        return int(problems > 0)


@dataclass
class Data(Command):
    """The catalogue of captures this program knows how to read."""

    action: Positional[Literal["list", "show"]] = "list"
    """list all entries, or show one."""
    name: Positional[str] = ""
    """Entry to show."""

    def run(self) -> int:
        from ltgs.data.recipes import load_catalogue

        catalogue = load_catalogue()
        if self.action == "list":
            for name, recipe in sorted(catalogue.items()):
                print(f"{name}: {recipe.title}")
        elif self.name not in catalogue:
            raise UsageError(f"There is no entry {self.name!r}. Choose one of {', '.join(sorted(catalogue))}.")
        else:
            print(cli_text.read_text(catalogue[self.name].card))
        return 0
