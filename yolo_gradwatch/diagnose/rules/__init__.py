"""The rules by family: judges, and messages on their findings."""
