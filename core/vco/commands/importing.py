"""The command `vco import FILE --as PRESET --out RUN`: a run folder made of weights that others have published."""

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, Final

from vco.commands.arguments import Parser, split
from vco.errors import UserError

if TYPE_CHECKING:
    from vco.config.resolve import Invocation
    from vco.run import Run
    from vco.storage.checkpoint import Checkpoint
    from vco.storage.weights import WeightsFile

FLAGS: Final = ("preset", "config", "plugin", "no_plugin")
"""Flags of `vco-run` that make sense here; all others act in training."""


def main(argv: Sequence[str]) -> int:
    """The verb with its options.

    Raises:
        UserError: if the file is none of weights, does not fit the preset, or the folder cannot be written.
    """
    parser = Parser(
        prog="vco import",
        usage="%(prog)s FILE --as PRESET --out RUN [--SECTION.OPTION VALUE] ...",
        description="Make a run folder of published weights (V-Co, JiT, SiT, REPA, REG, ReDi, Latent Forcing), to "
        "sample from, to score and to start training from. Neither data set nor encoders need be there. The options of "
        "vco-run say where the network differs from the preset's, as in --backbone.size L.",
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="a .pth or .pt of theirs; nothing in it is executed")
    parser.add_argument(
        "--as", dest="preset", required=True, metavar="PRESET", help="settings that it was trained with"
    )
    parser.add_argument("--out", required=True, metavar="RUN", type=Path, help="run folder to write")
    ours, options = split(argv, ("--as", "--out"))
    args = parser.parse_args(ours)
    for sentence in import_weights(args.file, args.preset, args.out, options):
        print(sentence, flush=True)
    return 0


def import_weights(path: Path, preset: str, out: Path, options: Sequence[str] = ()) -> list[str]:
    """Writes a run folder; returns what there is to say about it.

    Args:
        path: the file.
        preset: name of the preset whose settings it was trained with.
        out: the folder, which must not be there yet.
        options: arguments of `vco-run` on top of the preset.

    Raises:
        UserError: as `main` does.
    """
    import attrs

    from vco.folder import RunFolder
    from vco.run import assemble, known_facts
    from vco.storage import checkpoint
    from vco.storage.files import new_folder, sha256_of
    from vco.storage.weights import read_weights

    if (path / "config.yaml").is_file():
        raise UserError(f"{path} is the folder of a run already; sample from it, score it or start from it as it is")
    file = read_weights(path)
    invocation = _settings(preset, out, options)
    with new_folder(out) as aside:
        given = (invocation.config, invocation.catalog, invocation.origin)
        try:  # shapes are compared before a large network is made
            facts = known_facts(*given)
            _checkpoint(file, assemble(*given, device="meta", facts=facts))
            run = assemble(*given, facts=facts)
            saved, left_out = _checkpoint(file, run)
        except UserError as error:
            raise UserError(f"{path} cannot be imported as {preset}: {error}") from error
        folder = RunFolder(aside)
        folder.record(invocation, run.facts)
        published = saved.state["published"] | {"sha256": sha256_of(path)}
        saved = attrs.evolve(saved, state={**saved.state, "published": published})
        checkpoint.write(folder.checkpoints, saved)
    return _report(file, run, out, saved, left_out)


def _settings(preset: str, out: Path, options: Sequence[str]) -> "Invocation":
    from vco.config.command_line import parse
    from vco.config.resolve import resolve
    from vco.plugins.discovery import load_catalog

    line = parse(["--preset", preset, "--output-dir", str(out), *options])
    if odd := [flag for flag, given in line.flags.items() if given and flag not in FLAGS]:
        raise UserError(f"--{odd[0].replace('_', '-')} does nothing here; it is an option of training")
    return resolve(line, load_catalog(without=line.flags["no_plugin"]))


def _checkpoint(file: "WeightsFile", run: "Run") -> "tuple[Checkpoint, list[str]]":
    """The checkpoint of the folder, and what of the file is left out; the run may be on the meta device."""
    from vco.storage.checkpoint import Checkpoint
    from vco.training.matching import match, own_names

    state = run.objective.state_dict()
    backbone = {name: tensor for name, tensor in state.items() if name.startswith("backbone.")}
    sets: dict[str, Any] = {}
    left_out: list[str] = []
    for name in file.sets:
        try:
            tensors, left_out = own_names(file, name, run.objective, run.facts.num_classes)
            found = match(backbone, tensors)
        except UserError as error:
            raise UserError(f"{run.config.part('backbone').title}: {error}") from error
        if odd := [*found.initial, *found.left_out]:
            raise UserError(f"{odd[0]} is in {'the preset' if found.initial else 'the file'} alone")
        sets[name] = {**state, **found.taken}
    decays = run.config.train.ema_decays
    if file.averages not in (0, len(decays)):
        raise UserError(
            f"it has {file.averages} running averages and the preset {len(decays)}; say how fast those of the file "
            "decay, as in --train.ema-decays 0.9999,0.9996"
        )
    published = {"file": file.path.name, "epoch": file.epoch, "settings": dict(file.settings)}
    saved = Checkpoint(
        step=file.steps or 0,
        tensors=sets,
        state={"ema_decays": list(decays[: file.averages]), "seed": run.config.seed, "published": published},
    )
    return saved, left_out


def _report(file: "WeightsFile", run: "Run", out: Path, saved: "Checkpoint", left_out: Sequence[str]) -> list[str]:
    from vco.config.plain import locations
    from vco.training.starting import components_of

    count = sum(parameter.numel() for parameter in run.objective.backbone.parameters())
    kept = {0: "no running average", 1: "one running average"}.get(file.averages, f"{file.averages} running averages")
    known = [f"epoch {file.epoch}"] if file.epoch is not None else []
    known += [f"step {file.steps}"] if file.steps else ["an unknown number of steps, written as step 0"]
    sentences = [f"wrote {out}: {count:,} parameters, {kept}, {', '.join(known)}"]
    if left_out:
        sentences.append(f"left out of the file: {', '.join(left_out)}")
    state = saved.tensors[file.first]
    others = {place: title for place, title in components_of(run.config).items() if place != "backbone"}
    if initial := [title for place, title in others.items() if any(name.startswith(f"{place}.") for name in state)]:
        sentences.append(f"not in the file, so with initial weights: {', '.join(initial)}")
    data = run.config.part("data")
    places = [name for name in sorted(locations(type(data.config))) if not getattr(data.config, name)]
    more = "".join(f" --data.{name} {name.upper()}" for name in places)
    train = f"vco-run --config {quote(f'{out}/config.yaml')} --name tuned --from {quote(str(out))}{more}"
    sentences.append(f"next: `vco sample {quote(str(out))} --num 8 --out images`, or `{train}`")
    return sentences
