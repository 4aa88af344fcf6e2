"""A solver that no one should write."""

from vco.api import Noise, Solver, SolverSetting, Streams, Times, Velocity


class Wordy(Solver):
    """Refuses, in two lines, to be built."""

    def __init__(self, config: Solver.Config, setting: SolverSetting) -> None:
        raise ValueError("one line\nand another")

    def integrate(self, velocity: Velocity, state: Streams, path: Times, noise: Noise) -> Streams:
        raise AssertionError
