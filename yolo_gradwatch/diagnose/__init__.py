"""Windows to findings, words and a report: no file, no clock, no callback."""
