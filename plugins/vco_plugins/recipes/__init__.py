"""How built-in encoders are trained."""
