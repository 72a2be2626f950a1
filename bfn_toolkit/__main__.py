"""``python -m bfn_toolkit`` is the ``bfn`` command."""

from bfn_toolkit.cli import main

if __name__ == "__main__":
    main()
