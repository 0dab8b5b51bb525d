"""Helpers for tests on a CUDA device: when to run, and how to detect synchronizations."""

import contextlib
import warnings

import pytest
import torch

NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def needs_cuda(test):
    return pytest.mark.gpu(NO_CUDA(test))


@contextlib.contextmanager
def no_waiting():
    """Raise RuntimeError on any wait for the device until the block ends; may be nested."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():  # it warns once that it is a prototype
        warnings.simplefilter("ignore", UserWarning)
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
