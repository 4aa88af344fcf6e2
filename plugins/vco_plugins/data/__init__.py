"""Data sets: a training set and a held-out set each."""
