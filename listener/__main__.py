"""``python -m listener`` is ``cdn-listener``."""

from __future__ import annotations

import sys

from listener.cli import main

if __name__ == "__main__":
    sys.exit(main())
