"""Measurements: what is read in each optimizer step, and how steps become windows."""
