"""Tests on a CUDA device: when they run, and how they see that something waits for the device."""

import contextlib
import warnings

import pytest
import torch

NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def needs_cuda(test):
    return pytest.mark.gpu(NO_CUDA(test))


@contextlib.contextmanager
def no_waiting():
    """Raise RuntimeError at whatever waits for the device, until the block ends."""
    with warnings.catch_warnings():  # the mode is a prototype, as it says once
        warnings.simplefilter("ignore", UserWarning)
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
