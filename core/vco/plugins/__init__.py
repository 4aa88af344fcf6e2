"""What is on offer: finding plugins, and the names of their components."""
