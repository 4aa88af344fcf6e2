"""The command `vco export RUN --out FOLDER`: a run's weights with settings and model card, to give to others.

What it writes is a run folder with one checkpoint that holds one set of weights, so that whatever opens a run opens it.
"""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vco.commands.arguments import Parser, average
from vco.errors import UserError

if TYPE_CHECKING:
    from vco.config.settings import RunConfig
    from vco.opened_run import OpenedRun


def main(argv: Sequence[str]) -> int:
    """The verb with its options.

    Raises:
        UserError: if there is no such run or checkpoint, the folder cannot be written, or it cannot be uploaded.
    """
    parser = Parser(
        prog="vco export",
        description="Write one set of a run's weights as safetensors, with its settings and a model card. "
        "vco.open_run, the other verbs and vco-run --from take the folder as they take a run.",
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="folder to write")
    parser.add_argument("--step", metavar="N", type=int, help="which checkpoint [the newest]")
    parser.add_argument(
        "--ema",
        metavar="0|1|none",
        type=average,
        default=0,
        help="which average of the weights; none takes the last weights themselves [0]",
    )
    parser.add_argument("--licence", "--license", metavar="ID", default="", help="its licence, as in apache-2.0")
    parser.add_argument(
        "--push",
        metavar="OWNER/NAME",
        default="",
        help="also upload it to this repository of the Hugging Face Hub, which is made (public) if there is none",
    )
    args = parser.parse_args(argv)
    if args.push and not re.fullmatch(r"[\w.-]+/[\w.-]+", args.push):
        raise UserError(f"--push {args.push}: a repository is written OWNER/NAME")
    if args.licence and not re.fullmatch(r"[\w.+-]+", args.licence):
        raise UserError(f"--licence {args.licence}: give an identifier, as in apache-2.0, mit or cc-by-nc-4.0")
    from vco.opened_run import open_run

    opened = open_run(args.run, step=args.step, ema=args.ema)
    export(opened, args.out, licence=args.licence, address=f"hf://{args.push}" if args.push else args.out.name)
    print(f"wrote {args.out}: the weights of step {opened.step}, settings and README.md, the model card", flush=True)
    if args.push:
        from vco.storage.hub import push

        push(args.out, args.push)
        print(f'pushed to {args.push}: vco.open_run("hf://{args.push}") opens it', flush=True)
    return 0


def export(opened: "OpenedRun", out: Path, *, licence: str = "", address: str = "") -> None:
    """Writes the folder, whole or not at all.

    Args:
        opened: the run, with the checkpoint and the average that are wanted.
        out: the folder, which must not be there yet.
        licence: identifier of the licence; empty if nobody has said.
        address: what the model card tells people to open; by default the folder's name.

    Raises:
        UserError: if the folder is there already, or the run has no such weights.
    """
    import yaml

    from vco.config.resolve import to_plain_run
    from vco.folder import RunFolder
    from vco.storage import checkpoint
    from vco.storage.files import new_folder, write_atomic

    state, decay = checkpoint.state_of(opened.folder.checkpoints, opened.step), opened.ema_decay
    kept = {"ema_decays": [] if decay is None else [decay], "seed": opened.config.seed}
    kept |= {"published": state["published"]} if "published" in state else {}
    with new_folder(out) as aside:
        folder, config = RunFolder(aside), without_places(opened.config)
        saved = checkpoint.Checkpoint(
            step=opened.step, tensors={"model" if decay is None else "ema-0": opened.model.state_dict()}, state=kept
        )
        checkpoint.write(folder.checkpoints, saved)
        write_atomic(folder.config, yaml.safe_dump(to_plain_run(config), sort_keys=False))
        write_atomic(folder.facts, yaml.safe_dump(opened.folder.read_facts().plain(), sort_keys=False))
        write_atomic(folder.plugins, yaml.safe_dump(opened.catalog.origins()))
        grid = opened.folder.grid(opened.step)
        drawn = opened.ema == 0 and grid.is_file()  # grids are drawn from the first average, if there is one
        if drawn:
            shutil.copyfile(grid, aside / "samples.png")
        text = _card(opened, state, out.name, licence, address or out.name, "samples.png" if drawn else "")
        write_atomic(aside / "README.md", text)


def without_places(config: "RunConfig") -> "RunConfig":
    """Settings without the folders and files of this machine, which others do not have and need not know."""
    import attrs

    from vco.config.plain import locations

    def moved(part: Any) -> Any:
        default, places = type(part.config)(), dict[str, Any]()
        for name in locations(type(part.config)):
            value = str(getattr(part.config, name))
            if Path(value).is_absolute() or Path(value).exists():
                places[name] = getattr(default, name)
        return attrs.evolve(part, config=attrs.evolve(part.config, **places)) if places else part

    return attrs.evolve(config, output_dir="", start_from="", parts=tuple(moved(part) for part in config.parts))


def _card(opened: "OpenedRun", state: Any, title: str, licence: str, address: str, picture: str) -> str:
    from vco.reporting.model_card import Card
    from vco.reporting.scores import read_scores

    decay, published = opened.ema_decay, state.get("published")
    weights = "last weights" if decay is None else f"running average {decay}"
    training = f"{opened.step:,} steps"
    if published:
        epoch = "" if published["epoch"] is None else f" after epoch {published['epoch']}"
        training = f"by others: {published['file']}{epoch}, SHA-256 `{published['sha256']}`"
    scores = [
        reading
        for reading in read_scores(opened.folder)
        if reading.step == opened.step and reading.sampling["ema_decay"] == decay and not reading.swept
    ]
    return Card(
        title=title,
        address=address,
        licence=licence,
        picture=picture,
        config=opened.config,
        facts=opened.run.facts,
        parameters=sum(parameter.numel() for parameter in opened.model.backbone.parameters()),
        training=f"{training}; {weights}",
        published=published is not None,
        begun_with=Path(opened.config.start_from).name,
        scores=scores,
    ).text()
