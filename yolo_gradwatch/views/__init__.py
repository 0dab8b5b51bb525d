"""Views: terminal output, HTML pages, pictures and notebook displays."""
