"""The figures of a profile as one reads them, and in words what keeps a training from the machine's peak."""

from collections.abc import Iterator
from textwrap import fill
from typing import Final

from vco.training.profiling import Profile
from vco.training.split import DATA, shares

NOTABLE: Final = 0.05
"""Share of a step from which something is worth a sentence."""


def described(found: Profile) -> str:
    """A table, the split of a step, and a paragraph."""
    memory = "given to tensors at most" if found.device != "cpu" else "in memory at most (resident set)"
    several = f" in {found.processes} processes" if found.processes > 1 else ""
    rows = [
        ("device", f"{found.device}, {found.precision}{several}"),
        ("pace", f"{found.images_per_second:,.4g} images/s, {_time(found.seconds)} a step of {found.images:,} images"),
        ("peak memory", f"{found.peak_memory / 2**30:,.2f} GiB {memory}"),
        ("arithmetic", _flops(found)),
        ("matrix peak", f"{_rate(found.peak_flops)}, measured here"),
        ("MFU", "unknown" if found.mfu is None else f"{found.mfu:.1%} of that peak"),
    ]
    lines = [f"{title:>16}  {value}" for title, value in rows]
    for name, share in shares(found.parts).items():
        lines.append(f"{name:>16}  {share:6.1%}  {_time(found.parts[name])}")
    lines.append(f"{'host waits':>16}  {found.host_waits / found.seconds:6.1%}  {_time(found.host_waits)} of these")
    return "\n".join(lines) + "\n\n" + fill(" ".join(_sentences(found)), 100)


def _sentences(found: Profile) -> Iterator[str]:
    """What the share of the peak that is missing is."""
    kinds, on_gpu = found.kinds, found.device != "cpu"
    if found.mfu is None:
        yield "The arithmetic of this run cannot be counted, so that its share of the peak is not known."
    else:
        yield (
            f"At the peak of large matrix products, the arithmetic of a step would take {found.mfu:.0%} of its time; "
            f"{max(0.0, 1 - found.mfu):.0%} are missing."
        )
        slower = kinds.matrices - found.mfu
        if slower >= NOTABLE:
            yield (
                f"{slower:.0%} are lost within products of matrices, convolutions and attention, whose matrices are "
                "smaller or of other shapes than those that show the peak."
            )
    slowest = ", ".join(f"{name[:60]} {share:.0%}" for name, share in kinds.slowest if share >= 0.01)
    yield (
        f"{kinds.others:.0%} go to all other operations, which mostly move memory"
        + (f"; the longest of them are {slowest}." if slowest else ".")
    )
    if kinds.between >= NOTABLE:
        what = (
            "the GPU has nothing to do: it waits for the host, which starts kernels and reads images"
            if on_gpu
            else "no operation runs: that is Python, and the profiler's own work"
        )
        yield f"In {kinds.between:.0%} of the time {what}."
    if (data := shares(found.parts)[DATA]) >= NOTABLE:
        yield f"{data:.0%} of a step goes by before images and noise are there; --train.workers reads images ahead."
    if found.host_waits >= NOTABLE * found.seconds:
        waits = f"{found.host_waits / found.seconds:.0%} of a step"
        whom = (
            "the host waits for the GPU" if on_gpu else "it waits for disk, readers or other programs of this machine"
        )
        yield f"For {waits} {whom}."


def _flops(found: Profile) -> str:
    if found.flops_per_image is None:
        return "could not be counted"
    return f"{_amount(found.flops_per_image)}FLOP an image (forward, backward, encoders)"


def _rate(flops: float) -> str:
    return f"{_amount(flops)}FLOP/s"


def _amount(number: float) -> str:
    """A number with a prefix, as in "527 G"."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= size:
            return f"{number / size:,.3g} {prefix}"
    return f"{number:,.3g} "


def _time(seconds: float) -> str:
    return f"{seconds:,.3g} s" if seconds >= 1 else f"{1e3 * seconds:,.3g} ms"
