"""``python -m bfn_toolkit`` is the ``bfn`` command."""

import os
import sys

if __name__ == "__main__":
    if not sys.flags.safe_path and sys.path[0] == os.getcwd():
        del sys.path[0]  # python -m put it first, and modules that lie there belong to nobody knows whom

    from bfn_toolkit.cli import main

    sys.exit(main())
