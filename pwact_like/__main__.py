"""``python -m pwact_like`` is the same launcher as ``pwact-like``."""

import sys

from pwact_like.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
