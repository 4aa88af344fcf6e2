"""Scores of a model, and the page that reports them."""
