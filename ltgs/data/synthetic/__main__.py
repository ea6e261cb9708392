"""Render a synthetic room with its truth.

`python -m ltgs.data.synthetic --out DIR [--seed 7] [--size 400x300]` writes the sample room,
`python -m ltgs.data.synthetic --out DIR --random SEED` a room with five visits drawn from the seed.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ltgs.data.synthetic import DRAFT, SWIFT, RenderConfig, RoomModel, WriteConfig, random_room, sample_room, write_room
from ltgs.errors import LtgsError, UsageError


def parse_size(text: str) -> tuple[int, int]:
    """ "400x300" -> (400, 300).

    Raises:
        UsageError: not two whole numbers between 16 and 4096.
    """
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    size = tuple(int(v) for v in match.groups()) if match else ()
    if len(size) != 2 or not all(16 <= v <= 4096 for v in size):
        raise UsageError(f"--size {text}: expected WIDTHxHEIGHT between 16 and 4096 pixels, for example 400x300.")
    return size[0], size[1]


def _random_model(seed: int) -> RoomModel:
    if seed < 0:
        raise UsageError(f"--random {seed}: expected a whole number from 0 on.")
    try:
        return random_room(seed)
    except ValueError as error:
        raise UsageError(f"--random {seed}: {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Render the room; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ltgs.data.synthetic", description="Render a synthetic room.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into; must be empty or absent")
    parser.add_argument("--seed", type=int, default=7, help="seed of the sample room's textures and cameras")
    parser.add_argument("--random", type=int, metavar="SEED", help="draw another room with five visits from this seed")
    parser.add_argument("--size", help="WIDTHxHEIGHT in pixels (400x300; 640x480 with --random)")
    parser.add_argument("--draft", action="store_true", help="coarse light and textures, for quick trials")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    drawn = options.random is not None
    try:
        width, height = parse_size(options.size or ("640x480" if drawn else "400x300"))
        if options.out.is_dir() and any(options.out.iterdir()):
            raise UsageError(f"{options.out} is not empty: give an empty or a new folder, so that no old photo stays behind.")
        config = WriteConfig(
            width,
            height,
            options.random if drawn else options.seed,
            texture_scale=0.4 if options.draft else 1.0,
            render=DRAFT if options.draft else SWIFT if drawn else RenderConfig(),
        )
        write_room(_random_model(options.random) if drawn else sample_room(options.seed), options.out, config)
    except LtgsError as error:
        logging.getLogger("ltgs.data").error("%s", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
