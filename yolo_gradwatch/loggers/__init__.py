"""Experiment loggers: everything that is sent to other programs."""
