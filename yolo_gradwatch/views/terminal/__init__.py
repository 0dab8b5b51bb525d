"""What is printed: panel, tables, reports."""
