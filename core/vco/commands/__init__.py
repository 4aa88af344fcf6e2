"""The verbs of `vco`: one module each, with its options and its `main`."""
