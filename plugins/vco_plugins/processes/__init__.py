"""Joint laws of the streams' times."""
