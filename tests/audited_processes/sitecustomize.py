"""Audits every process that starts while this folder is on its path and AUDIT_FOLDER is set."""

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from audit import Diary  # of the tests

sys.path.pop()
sys.addaudithook(Diary(Path(os.environ["AUDIT_FOLDER"]) / f"{os.getpid()}.jsonl"))
