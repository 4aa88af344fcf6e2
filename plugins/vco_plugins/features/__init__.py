"""Feature sources: frozen encoders, and the weights of the two that ship with the package."""
