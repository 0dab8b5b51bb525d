"""What is read in a step, and how steps become windows."""
