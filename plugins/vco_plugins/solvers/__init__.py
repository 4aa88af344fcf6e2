"""Integrators of the sampling ODE."""
