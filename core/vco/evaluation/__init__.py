"""Scores of images, by the metrics of a run."""
