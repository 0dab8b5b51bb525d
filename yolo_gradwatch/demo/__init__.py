"""A drawn data set, and faults to plant."""
