"""Audit every process that starts with this folder on its path and AUDIT_FOLDER set."""

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from audit import Diary  # from the tests

sys.path.pop()
sys.addaudithook(Diary(Path(os.environ["AUDIT_FOLDER"]) / f"{os.getpid()}.jsonl"))
