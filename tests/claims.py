"""Processes that claim the same folder at the same time."""

import json
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from multiprocessing import get_context

from yolo_gradwatch.runs.claim import Taken, claimed
from yolo_gradwatch.runs.process import own
from yolo_gradwatch.runs.schema import CLAIM_FILE

LONGEST = 60
"""Most seconds that they wait for each other."""


def leave_claim(folder, pid, after=0):
    """Leave the claim of a process that has ended, after this many other claims."""
    claim = folder / (CLAIM_FILE + ".next" * after)
    claim.write_text(json.dumps(asdict(replace(own(), pid=pid))), encoding="utf-8")


def compete(folders, barrier, winners):
    """Claim each folder at the same time as the other processes; hold it until all have tried."""
    for i, folder in enumerate(folders):
        with ExitStack() as training:
            barrier.wait(LONGEST)
            with suppress(Taken):
                training.enter_context(claimed(folder, resumes=False, over=training))
                with winners:
                    winners[i] += 1
            barrier.wait(LONGEST)


def winners_of(folders, processes):
    """Return how many of several processes get each folder."""
    context = get_context("spawn")
    winners = context.Array("i", len(folders))
    arguments = (folders, context.Barrier(processes), winners)
    started = [context.Process(target=compete, args=arguments) for _ in range(processes)]
    for one in started:
        one.start()
    for one in started:
        one.join()
    assert [one.exitcode for one in started] == [0] * processes
    return winners[:]
