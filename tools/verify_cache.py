"""Verify the cached weights: `python -m tools.verify_cache` is `fcos-zoo verify-cache`."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from tools.cli import main

    sys.exit(main(["verify-cache", *sys.argv[1:]]))
