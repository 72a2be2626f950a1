"""``python -m bfn_toolkit`` is the ``bfn`` command."""

import sys

from bfn_toolkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
