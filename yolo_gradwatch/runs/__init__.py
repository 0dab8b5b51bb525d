"""The files of a watched run, reading and writing."""
