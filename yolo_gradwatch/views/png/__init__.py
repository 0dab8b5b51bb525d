"""PNG pictures of runs."""
