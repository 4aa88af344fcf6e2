"""What CoReDi's learned feature space does without its safeguards: curves on digits, as docs/coredi_collapse.png.

    python benchmarks/coredi_collapse.py --work /tmp/collapse

Takes about three minutes on one CPU core. Every run is a `vco-run` of its own; finished ones are not repeated.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EASY = ("--adapter.stop-gradient", "false")
FREE = ("--adapter.normalize", "false")
ALONE = ("--adapter.ortho", "0", "--adapter.cov", "0")
VARIANTS: dict[str, tuple[str, ...]] = {
    "CoReDi": (),
    "no regularisers": ALONE,
    "no stop-gradient": EASY,
    "no stop-gradient, no regularisers": (*EASY, *ALONE),
    "no normalisation": FREE,
    "no stop-gradient, no normalisation": (*EASY, *FREE),
}
SMALL = (
    "--backbone.width", "32", "--backbone.depth", "2", "--backbone.context-start", "1", "--loss", "none",
    "--train.log-every", "10", "--eval.samples", "10", "--sample.steps", "1", "--adapter", "coredi",
)  # fmt: skip
COLOURS = ("black", "tab:gray", "tab:red", "tab:orange", "tab:blue", "tab:purple")


def run(variant: str, steps: int, work: Path) -> list[dict[str, float]]:
    """The lines that a run has logged."""
    folder = work / variant.replace(", ", "-").replace(" ", "-")
    every = ("--train.steps", str(steps), "--train.sample-every", str(steps), "--train.checkpoint-every", str(steps))
    command = [sys.executable, "-m", "vco.cli", *SMALL, *every, *VARIANTS[variant], "--output-dir", str(folder)]
    with (work / f"{folder.name}.log").open("w") as log:
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def stream_std(variant: str, line: dict[str, float]) -> float:
    """Standard deviation of the feature stream: batch norm makes it 1."""
    return line["adapter.projected_std"] if VARIANTS[variant][-2:] == FREE else 1.0


def draw(logs: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Four panels over the steps, a line for each variant."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = {
        "loss of the features (log)": lambda variant, line: line["features"],
        "effective rank of their 8 channels": lambda variant, line: line["adapter.effective_rank"],
        "their standard deviation (log)": stream_std,
        "loss of the image (log)": lambda variant, line: line["image"],
    }
    figure = Figure(figsize=(13, 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels))
    for axis, (title, value) in zip(axes, panels.items(), strict=True):
        for (variant, lines), colour in zip(logs.items(), COLOURS, strict=True):
            steps = [line["step"] for line in lines]
            values = [value(variant, line) for line in lines]
            axis.plot(steps, values, color=colour, linewidth=2.2 if variant == "CoReDi" else 1.2, label=variant)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step", fontsize=9)
        axis.tick_params(labelsize=8, which="both")
        if "log" in title:
            axis.set_yscale("log")
    axes[1].set_ylim(0, 8.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9, frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "coredi_collapse.png")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    logs = {variant: run(variant, args.steps, args.work) for variant in VARIANTS}
    draw(logs, args.output)
    for variant, lines in logs.items():
        last = lines[-1]
        print(
            f"{variant:36} features {last['features']:.3f}  effective rank {last['adapter.effective_rank']:.1f}  "
            f"std {stream_std(variant, last):.2f}  image {last['image']:.3f}"
        )


if __name__ == "__main__":
    main()
