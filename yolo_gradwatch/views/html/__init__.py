"""A run as a page for the browser."""
