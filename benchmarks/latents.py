"""What a step of training in latent space reads: stored latents (`--train.latents`) against encoding the images.

Both ways do all that stands between the disk and the latents that are noised: images are read and encoded and the
posterior is drawn, or stored moments are read and the posterior is drawn. Two autoencoders: the one of the digits that
ships with the package, and one of the size of Stable Diffusion's with random weights, on synthetic photographs.

    python benchmarks/latents.py [--turns 9] [--json FILE] [--small]

The memory is that of the codec on the device: its weights, which sampling needs in both ways, and the most that
encoding a batch takes beside them, counted over all tensors that are alive at the same time.
"""

import argparse
import contextlib
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, Final

import attrs
import torch
from data import make_folder
from memory import Live
from safetensors.torch import save_file
from torch import Tensor
from turns import Row, in_turns, surroundings, table

from vco.api import MOMENTS
from vco.cli import main_vco
from vco.config.command_line import parse
from vco.config.resolve import resolve
from vco.distributed import connect_processes
from vco.plugins.discovery import load_catalog
from vco.run import Run, assemble
from vco.storage.files import write_atomic
from vco.training.batches import Batches
from vco.training.stored_latents import training_images
from vco_plugins.autoencoder import Autoencoder, AutoencoderConfig
from vco_plugins.codecs.vae import CONFIG, SD_VAE, WEIGHTS

PLAIN: Final = ("--preset", "digits-latent", "--metric", "none")
"""SiT on latents, with no encoder that would need the images too."""
TINY: Final = AutoencoderConfig(block_out_channels=(8, 8, 16), norm_num_groups=4)


@attrs.frozen(kw_only=True)
class Setting:
    """An autoencoder, images, and how many of them."""

    title: str
    options: tuple[str, ...]
    """Options of `vco-run` beside `PLAIN`."""
    batch: int
    """Images of a step."""
    repeat: int
    """Steps of a turn."""


class Input:
    """Makes the latents of one batch after another, as a training step does."""

    def __init__(self, setting: Setting, folder: Path, *more: str) -> None:
        sizes = ["--train.batch-size", str(setting.batch), "--output-dir", str(folder / "run")]
        asked = resolve(parse([*PLAIN, *setting.options, *sizes, *more]), load_catalog())
        self.run: Run = assemble(asked.config, asked.catalog)
        self.run.load()
        accelerator = connect_processes(asked.config)
        self.run.to(accelerator.device)
        self.codec = self.run.objective.codec
        images = training_images(self.run, self.run.data.train())
        self.batches = Batches(self.run, images, accelerator, folder / "bad-images.txt")
        self.latents = self._made()

    def __call__(self) -> Tensor:
        """The latents of the next batch."""
        return next(self.latents)

    @torch.no_grad()
    def encoded(self, images: Tensor, extras: Any, noise: Tensor | None) -> Tensor:
        """The image stream, as `Objective.forward` makes it."""
        return self.codec.draw(extras[MOMENTS], noise) if MOMENTS in extras else self.codec.encode(images, noise)

    def _made(self) -> Iterator[Tensor]:
        for place, batch in enumerate(self.batches.read(0, 1_000_000)):
            given = self.batches.inputs(batch, 0, place)
            yield self.encoded(given.images, given.extras, given.encoding_noise)


def store(setting: Setting, folder: Path) -> Path:
    """Writes the latents of a setting's images, as `vco latents` does."""
    with contextlib.redirect_stdout(io.StringIO()):
        assert main_vco(["latents", *PLAIN, *setting.options, "--out", str(folder)]) == 0
    return folder


def write_autoencoder(folder: Path, sizes: AutoencoderConfig) -> Path:
    """Writes one with random weights, in the format that codec `vae` reads."""
    folder.mkdir(parents=True)
    said = {name: value for name, value in attrs.asdict(sizes).items() if value is not None}
    content = {"_class_name": "AutoencoderKL", **said}
    (folder / CONFIG).write_text(json.dumps(content))
    torch.manual_seed(0)
    save_file(Autoencoder(sizes).state_dict(), folder / WEIGHTS)
    return folder


def memory_of(encode: Input) -> dict[str, float]:
    """Bytes of the codec's weights, and of what encoding a batch takes beside them at most, on whatever device."""
    batch = next(iter(encode.batches.read(0, 1)))
    given = encode.batches.inputs(batch, 0, 0)
    weights = sum(tensor.nbytes for tensor in encode.codec.state_dict().values())
    with Live() as live:
        encode.encoded(given.images, given.extras, given.encoding_noise)
    return {"weights_bytes": weights, "encoding_bytes": live.most}


def settings(root: Path, small: bool) -> list[Setting]:
    """The digits, and photographs with an autoencoder of Stable Diffusion's size; smaller ones on a CPU."""
    on_gpu = torch.cuda.is_available()
    size, batch, count = (256, 64, 512) if on_gpu else (64, 8, 40)
    if small:
        size, batch, count = 16, 4, 20
    sizes = TINY if small else SD_VAE
    make_folder(root / "photographs", count)
    folder = write_autoencoder(root / "vae", sizes)
    photographs = ("--data", "image-folder", "--data.root", str(root / "photographs"))
    photographs = (*photographs, "--data.size", str(size), "--data.flip", "false")
    unread = ("--features", "dinov2", "--features.weights", "random")  # the preset's encoder reads digits alone
    what = "a tiny autoencoder" if small else "Stable Diffusion's sizes"
    return [
        Setting(title="digits, 8x8 pixels", options=(), batch=80, repeat=2 if small else 10),
        Setting(
            title=f"{what}, {size}x{size} pixels",
            options=(*photographs, *unread, "--codec.weights", str(folder)),
            batch=batch,
            repeat=4 if on_gpu else 1,
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, help="how often each way is timed [9; with --small 2]")
    parser.add_argument("--json", type=Path, help="also write the figures, with commit and hardware")
    parser.add_argument("--small", action="store_true", help="rehearse with tiny sizes")
    args = parser.parse_args()
    turns = args.turns or (2 if args.small else 9)
    rows: list[Row] = []
    lines = ["| codec | batch | stored, images/s | encoded, images/s | weights | encoding takes |", "|---" * 6 + "|"]
    content: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for number, setting in enumerate(settings(root, args.small)):
            place = root / str(number)
            place.mkdir()
            encode = Input(setting, place)
            latents = store(setting, place / "latents")
            stored = Input(setting, place, "--train.latents", str(latents))
            torch.testing.assert_close(stored(), encode(), rtol=1e-4, atol=1e-4)
            row = in_turns(setting.title, stored, encode, turns=turns, repeat=setting.repeat)
            rows.append(row)
            taken = memory_of(encode)
            rates = [setting.batch / median(times) for times in (row.ours, row.theirs)]
            content.append({**row.plain(), "batch": setting.batch, "images_per_second": rates, **taken})
            lines.append(
                f"| {setting.title} | {setting.batch} | {rates[0]:,.0f} | {rates[1]:,.1f} "
                f"| {taken['weights_bytes'] / 1e6:,.1f} MB | {taken['encoding_bytes'] / 1e6:,.1f} MB |"
            )
    print(table(rows, "encoding"))
    print("\n".join(["", *lines]))
    if args.json is not None:
        write_atomic(args.json, json.dumps({**surroundings(), "rows": content}, indent=1) + "\n")


if __name__ == "__main__":
    main()
