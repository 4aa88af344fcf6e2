"""Which images make up which step, and how they are read."""
