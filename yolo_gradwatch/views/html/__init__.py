"""HTML pages and notebook displays."""
