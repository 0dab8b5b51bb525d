"""Terminal output: live panel, tables, reports."""
