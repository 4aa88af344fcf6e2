"""Guidance rules: what is dropped in training and how branches are combined in sampling."""
