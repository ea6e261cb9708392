"""The `ltgs` command: parsing and exit codes. `ltgs.commands` has the commands, `cli_text` the words."""

from __future__ import annotations

import functools
import logging
import operator
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff, subcommand

from ltgs import __version__, cli_text
from ltgs.commands.base import Command
from ltgs.commands.build import Reconstruct, Update
from ltgs.commands.depth import Depth
from ltgs.commands.edit import Edit
from ltgs.commands.explain import Explain
from ltgs.commands.machine import Data, Doctor
from ltgs.commands.measure import Eval, Info, Verify
from ltgs.commands.show import Export, Render, View
from ltgs.errors import LtgsError, UsageError

EXIT_INTERRUPTED = 130

COMMANDS: dict[str, type[Command]] = {
    "reconstruct": Reconstruct, "update": Update, "edit": Edit, "view": View, "render": Render, "eval": Eval, "export": Export,
    "info": Info, "explain": Explain, "verify": Verify, "depth": Depth, "doctor": Doctor, "data": Data,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 ok, 1 internal error, 2 usage, 3 input unusable, 130 interrupted."""
    # Waiting threads sleep: beside another process, spinning made a run two to four times longer. Read when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    if arguments[:1] == ["--version"]:
        print(f"ltgs {__version__}")
        return 0
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        return int(_parse(arguments).run())
    except SystemExit as error:
        # tyro has printed the help or what was wrong with the arguments.
        return int(error.code) if isinstance(error.code, int) else UsageError.exit_code if error.code else 0
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        cli_text.sanitise_stream_errors()
        return 0
    except LtgsError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        return cli_text.internal_error(error, debug=debug)


def _parse(arguments: list[str]) -> Any:
    kinds = [Annotated[kind, subcommand(name, prefix_name=False)] for name, kind in COMMANDS.items()]
    union = functools.reduce(operator.or_, kinds)
    return tyro.cli(  # type: ignore[call-overload]
        union,
        prog="ltgs", args=arguments or ["--help"], config=(FlagCreatePairsOff,),
        description="Living 3-D Gaussian scenes with a timeline, from folders of photos.",
    )
