"""Recovery points, written and read."""
