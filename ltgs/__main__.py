"""`python -m ltgs` is the `ltgs` command."""

import sys

from ltgs.cli import main

if __name__ == "__main__":
    sys.exit(main())
