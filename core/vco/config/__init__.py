"""From files and the command line to the typed description of a run."""
