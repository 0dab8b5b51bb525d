"""Where things lie in the repository."""

from pathlib import Path

TESTS = Path(__file__).parent
REPOSITORY = TESTS.parent
DATA = TESTS / "data"
SHARED = REPOSITORY.parent / "shared"
"""Recordings and data sets beside the repository; tests skip what needs them where they are not."""
