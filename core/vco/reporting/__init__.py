"""Pages that one looks at: the report of a run, and the comparison of several."""
