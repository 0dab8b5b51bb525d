"""Turns windows into findings, messages and a report, without files, clocks or callbacks."""
