"""The command `vco latents`: encodes the training images of a data set once, to be trained on in their place."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vco.commands.arguments import Parser, count, split
from vco.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vco.api import Codec, ImageSet
    from vco.config.settings import TrainConfig
    from vco.storage.latents import Identity

OWN: Final = ("--out", "--flip", "--batch-size")


def main(argv: Sequence[str]) -> int:
    """Encodes; returns the exit status.

    Raises:
        UserError: if data or codec cannot be used, or the folder holds something else.
    """
    parser = Parser(
        prog="vco latents",
        usage="%(prog)s --data NAME --codec NAME --out FOLDER [--SECTION.OPTION VALUE] ...",
        description="Encode the training images of a data set once. Training then reads this store in place of them "
        "(vco-run --train.latents FOLDER), and still draws the posterior anew in every visit. A command that was "
        "stopped goes on where it was.",
        epilog="Options of vco-run say which data and codec, as in --preset latent256-sit-xl2 --data.root IMAGES, or "
        "--data image-folder --data.root IMAGES --data.size 256 --codec vae --codec.weights FOLDER. For several "
        "processes write torchrun --nproc-per-node 8 -m -- vco latents ...",
        allow_abbrev=False,
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", type=Path, help="what to write")
    parser.add_argument("--flip", action="store_true", help="encode the mirrored images too, for --data.flip true")
    parser.add_argument("--batch-size", type=count, default=32, metavar="N", help="images that are read at a time [32]")
    ours, options = split(argv, OWN)
    args = parser.parse_args(ours)
    _write(args.out, args.flip, args.batch_size, options)
    return 0


def _write(out: Path, flips: bool, batch: int, options: Sequence[str]) -> None:
    """Writes what is still missing of the store; every process takes its share of the shards."""
    from vco.config.command_line import parse
    from vco.config.resolve import resolve
    from vco.distributed import connect_processes, disconnect_processes, errors_shared
    from vco.plugins.discovery import load_catalog
    from vco.storage import latents

    line = parse(options)
    invocation = resolve(line, load_catalog(without=line.flags["no_plugin"]))
    accelerator = connect_processes(invocation.config)
    main = accelerator.is_main_process
    try:
        with errors_shared():
            codec, images, identity = _opened(invocation, flips)
            codec.to(accelerator.device)
        with errors_shared():
            if main:
                latents.begin(out, identity)
        todo = latents.missing(out, identity)
        accelerator.wait_for_everyone()  # all have looked before any writes
        mine = todo[accelerator.process_index :: accelerator.num_processes]
        with errors_shared():
            _encode(codec, images, identity, out, mine, batch, accelerator.device, invocation.config.train, main)
        if main:
            latents.finish(out, identity)
            _tell(out, identity, written=len(todo))
    finally:
        disconnect_processes(accelerator)


def _opened(invocation: Any, flips: bool) -> "tuple[Codec, ImageSet, Identity]":
    """The codec with its weights, the training images, and what the store will be."""
    from vco.api import CodecSetting, DataSetting
    from vco.compatibility import Compatibility
    from vco.run import load_frozen
    from vco.training.stored_latents import identity_of

    config = invocation.config
    fit = Compatibility(config, invocation.catalog, invocation.origin)
    data = invocation.data or fit.build("data", DataSetting())
    fit.raise_problems()
    try:
        data.check()
    except UserError as error:
        raise UserError(error.of(config.part("data").title, "data")) from error
    codec: Codec = fit.build("codec", CodecSetting(image_shape=data.image_shape))
    fit.raise_problems()
    load_frozen(config, {"codec": codec})
    images = data.train()
    name = config.part("codec").name
    return codec, images, identity_of(codec, name, images, data.image_shape, flips)


def _encode(
    codec: "Codec",
    images: "ImageSet",
    identity: "Identity",
    out: Path,
    shards: Sequence[int],
    batch: int,
    device: "torch.device",
    reading: "TrainConfig",
    shown: bool,
) -> None:
    """Writes some shards."""
    import torch
    from tqdm import tqdm

    from vco.data.reader import chunks, read, to_float
    from vco.storage import latents

    ranges = latents.shards_of(identity.images)
    total = sum(len(ranges[number]) for number in shards)
    bar = tqdm(total=total, desc="encoding", unit="image", disable=None if shown else True, leave=False)
    batches = [keys for number in shards for keys in chunks(ranges[number], batch)]
    with bar, torch.inference_mode():
        reader = read(images, batches, reading)
        for number in shards:
            parts: dict[str, list[Tensor]] = {latents.MOMENTS: []}
            parts |= {latents.FLIPPED: []} if identity.flips else {}
            for keys in chunks(ranges[number], batch):
                pixels = to_float(next(reader).images.to(device))
                for name, found in parts.items():
                    found.append(codec.posterior(pixels.flip(-1) if name == latents.FLIPPED else pixels))
                bar.update(len(keys))
            latents.write_shard(out, number, {name: latents.stacked(found) for name, found in parts.items()})


def _tell(out: Path, identity: "Identity", written: int) -> None:
    from tqdm import tqdm

    size = tqdm.format_sizeof(sum(path.stat().st_size for path in out.glob("*.safetensors")))
    both = ", as they are and mirrored" if identity.flips else ""
    new = "nothing was missing" if not written else f"{written:,} shard{'s' if written > 1 else ''} written"
    print(f"{out}: latents of {identity.images:,} images{both}, {size}B ({new})")
    print(f"to train on them: vco-run ... --train.latents {out} --data.flip {str(identity.flips).lower()}")
