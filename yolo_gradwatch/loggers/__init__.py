"""Everything that another program is sent."""
