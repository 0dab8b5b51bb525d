"""A data set that is drawn here, and faults to plant."""
