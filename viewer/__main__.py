"""python -m viewer SCENE: open a scene folder in the browser, or write it as one offline page."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from ltgs.errors import LtgsError


def build_parser() -> argparse.ArgumentParser:
    """The command line of `python -m viewer`."""
    parser = argparse.ArgumentParser(prog="viewer", description="Show the timeline of a scene folder in the browser.")
    parser.add_argument("scene", help="scene folder, as made by ltgs reconstruct")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this computer only); any "
                        "other address is protected by a random token in the printed address")
    parser.add_argument("--port", type=int, default=8080, help="first port tried (default: 8080)")
    parser.add_argument("--no-open", action="store_true", help="do not open the browser")
    parser.add_argument("--token", action="store_true", help="ask for a token on this computer too (shared machines)")
    parser.add_argument("--light", action="store_true", help="light page instead of a dark one")
    parser.add_argument("--max-splats", type=int, default=500_000, help="most Gaussians sent to the browser")
    parser.add_argument("--html", metavar="FILE", help="write one offline page instead of serving")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        if options.html:
            from ltgs.io.scene_store import SceneStore
            from viewer.scene_nodes import SplatBudget
            from viewer.static_export import export_html

            report = export_html(
                SceneStore.open(options.scene).load(), options.html, dark=not options.light,
                budget=SplatBudget(options.max_splats),
            )
            sys.stdout.write(f"Wrote {options.html}: {report.text()}\n")
            return 0
        from viewer.app import view_scene

        view_scene(
            options.scene, host=options.host, port=options.port, open_browser=not options.no_open,
            require_token=options.token, dark=not options.light, max_splats=options.max_splats,
        )
    except LtgsError as error:
        sys.stderr.write(f"Error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
