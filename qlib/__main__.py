"""``python -m qlib``, which is the command ``qlib``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
