"""Finished tiny runs whose averages differ from their last weights, and whose images differ from each other."""

from pathlib import Path

import tiny

from vco.folder import RunFolder

FEW_STEPS = ("--train.steps", "2", "--sample.steps", "3", "--sample.batch-size", "8")


def finish(folder: Path, *options: str, seed: int = 1) -> tiny.Training:
    """Trains a tiny run from random weights: those that it begins with predict the same for every class."""
    options = (*FEW_STEPS, *options)
    training = tiny.prepare(folder, *options)
    tiny.scramble(training, seed)
    for average in training.ema.averages[:1]:
        average.update({name: value.clone() for name, value in training.objective.state_dict().items()})
    training.train()
    RunFolder(folder).record(tiny.invocation(folder, *options), training.run.facts)
    return training
