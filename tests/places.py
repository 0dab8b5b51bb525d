"""Paths in the repository."""

from pathlib import Path

TESTS = Path(__file__).parent
REPOSITORY = TESTS.parent
DATA = TESTS / "data"
SHARED = REPOSITORY.parent / "shared"
"""Recordings and data sets next to the repository; tests that need them skip without them."""
