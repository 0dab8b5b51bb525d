"""The rules by family: judges, and the words of their findings."""
