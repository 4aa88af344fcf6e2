"""The command `vco train-encoder`: trains a small encoder on one's own images, for --features and --metric."""

import argparse
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vco.commands.arguments import Parser, count, split
from vco.config.plain import Given, build, field_docs, form, to_plain
from vco.errors import UserError

if TYPE_CHECKING:
    from vco.api import Data, FeatureSource, Recipe
    from vco.commands.encoder_training import EncoderTraining, Plan

ABOUT: Final = "Train a small encoder on the images of a data set, to align a run to (--features) or to score with."
EPILOG: Final = (
    "Options of the data set are given as to vco-run, as in --data.size 64; those of the recipe as --recipe.OPTION, "
    "which `vco train-encoder --features NAME --help` lists. A training that was stopped goes on with the same command."
)
OWN: Final = ("--features", "--output", "--epochs", "--batch-size", "--seed", "--workers")
RECORD: Final = "training.json"


def main(argv: Sequence[str]) -> int:
    """Trains, writes and scores an encoder; exits with 128 + n on signal n, after saving.

    Raises:
        UserError: if something cannot be as it is asked for.
    """
    parser = Parser(prog="vco train-encoder", description=ABOUT, epilog=EPILOG, allow_abbrev=False)
    parser.add_argument("--data", metavar="NAME", help="the data set, required; with its options, as --data.root ROOT")
    parser.add_argument("--output", metavar="FOLDER", type=Path, help="what to write, required; it must not exist yet")
    parser.add_argument("--features", default="timm", metavar="NAME", help="what kind of encoder [timm]")
    parser.add_argument("--epochs", type=count, metavar="N", help="how often each image is seen [the recipe's]")
    parser.add_argument("--batch-size", type=count, metavar="N", help="images of a step [the recipe's]")
    parser.add_argument("--seed", type=_natural, default=0, metavar="N", help="seed of everything random [0]")
    parser.add_argument("--workers", type=_natural, default=0, metavar="N", help="processes that read images [0]")
    of_recipe, rest = _of_recipe(argv)
    ours, others = split(rest, OWN)
    if "--help" in ours or "-h" in ours:
        _add_recipe_options(parser, ours)
    args = parser.parse_args(ours)
    chosen = [part for part in others if part == "--data" or part.startswith("--data=")]
    if args.output is None or not chosen:
        raise UserError(
            "say on which images, and where to: vco train-encoder --data NAME --data.root ROOT --output FOLDER"
        )
    return _train(args, others, of_recipe)


def _natural(text: str) -> int:
    """A whole number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)


def _train(args: argparse.Namespace, options: Sequence[str], of_recipe: dict[str, Given]) -> int:
    import torch

    from vco.commands.encoder_training import EncoderTraining, seed_everything

    recipe_class = _recipe(args.features)
    config = _config(recipe_class, of_recipe)
    data = _data(options)
    plan = _plan(args, data, recipe_class, config)
    if (args.output / RECORD).exists():
        return _tell_finished(args, plan, recipe_class)
    if args.output.exists() and any(args.output.iterdir() if args.output.is_dir() else [args.output]):
        raise UserError(f"{args.output} holds something else than an encoder of this command; choose another --output")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    seed_everything(args.seed, "initial weights")
    recipe = _build(recipe_class, config, data, plan)
    training = EncoderTraining(recipe, plan, args.output.with_name(f".{args.output.name}.training"), device)
    try:
        print(_describe(args, recipe, plan, device), flush=True)
        if training.step:
            print(f"going on after step {training.step} of {plan.steps}", flush=True)
        if stopped := training.run():
            print(f"stopped by a signal after step {training.step}; the same command goes on from there")
            return 128 + stopped
        _write(args, training, data)
    finally:
        training.close()
    return 0


def _of_recipe(argv: Sequence[str]) -> tuple[dict[str, Given], list[str]]:
    """The options of the recipe, as in --recipe.depth 4, and all other arguments."""
    found: dict[str, Given] = {}
    others, rest = list[str](), list(argv)
    while rest:
        argument = rest.pop(0)
        option, equals, value = argument.partition("=")
        if not option.startswith("--recipe."):
            others.append(argument)
            continue
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"{option} needs a value")
            value = rest.pop(0)
        found[option.removeprefix("--recipe.").replace("-", "_")] = Given(value, option)
    return found, others


def _recipe(name: str) -> "type[Recipe]":
    """The recipe of a kind of encoder."""
    from vco.plugins.discovery import load_catalog

    catalog = load_catalog()
    source: type[FeatureSource] = catalog.get("features", name).load()
    if not source.recipe:
        trained: list[str] = []
        for other in catalog.names("features"):
            known = catalog.get("features", other)
            try:
                trained += [other] if known.load().recipe else []
            except (UserError, AttributeError):  # a broken plugin offers nothing
                continue
        raise UserError(f"--features {name} is only read, and not trained; choose one of {', '.join(trained)}")
    module, _, attribute = source.recipe.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _config(recipe: "type[Recipe]", given: dict[str, Given]) -> Any:
    errors: list[str] = []
    config = build(recipe.Config, given, "recipe", errors)
    if errors:
        raise UserError("\n".join(errors))
    return config


def _data(options: Sequence[str]) -> "Data":
    """The data set, whose files are there."""
    from vco.api import DataSetting
    from vco.config.command_line import parse
    from vco.config.resolve import resolve
    from vco.plugins.discovery import load_catalog

    part = resolve(parse(options), load_catalog()).config.part("data")
    try:
        data: Data = part.component(part.config, DataSetting())
        data.check()
    except UserError as error:
        raise UserError(error.of(part.title, "data")) from error
    return data


def _plan(args: argparse.Namespace, data: "Data", recipe: "type[Recipe]", config: Any) -> "Plan":
    from vco.commands.encoder_training import Plan
    from vco.content import of_data

    images = data.train()
    size = min(args.batch_size or recipe.batch_size, len(images))
    epochs = args.epochs or recipe.epochs
    job = {
        "features": args.features,
        "data": of_data(data),
        "epochs": epochs,
        "batch_size": size,
        "seed": args.seed,
        "recipe": to_plain(config),
    }
    steps = epochs * (len(images) // size)
    return Plan(images=images, steps=steps, batch_size=size, seed=args.seed, workers=args.workers, job=job)


def _build(recipe: "type[Recipe]", config: Any, data: "Data", plan: "Plan") -> "Recipe":
    from vco.api import RecipeSetting

    setting = RecipeSetting(
        image_shape=data.image_shape,
        num_classes=data.num_classes,
        class_names=tuple(data.class_names()),
        steps=plan.steps,
        steps_per_epoch=len(plan.images) // plan.batch_size,
    )
    build: Any = recipe
    return build(config, setting)


def _describe(args: argparse.Namespace, recipe: "Recipe", plan: "Plan", device: Any) -> str:
    size = sum(parameter.numel() for parameter in recipe.network.parameters() if parameter.requires_grad)
    return (
        f"training an encoder {args.features} ({size:,} parameters) on {len(plan.images):,} images: "
        f"{plan.job['epochs']} epochs, {plan.steps} steps of {plan.batch_size} images, on {device}"
    )


def _write(args: argparse.Namespace, training: "EncoderTraining", data: "Data") -> None:
    """Writes the encoder, scores what was written, and removes what was saved."""
    from vco import __version__
    from vco.commands.encoder_training import score
    from vco.content import of_weights
    from vco.storage.files import new_folder, write_atomic

    plan = training.plan
    with new_folder(args.output) as folder:
        source = training.recipe.write(folder)
        for path in folder.iterdir():
            path.chmod(0o644)  # safetensors makes files that only their owner reads
        known = score(source, plan, data.test(), training.device)
        record = {"held_out": known.plain(), "weights": of_weights(source), "vco": __version__, "job": dict(plan.job)}
        write_atomic(folder / RECORD, json.dumps(record, indent=1) + "\n")
        write_atomic(folder / "log.jsonl", training.log)
    training.remove()
    print(known.sentence)
    _tell(args, type(training.recipe))


def _tell(args: argparse.Namespace, recipe: "type[Recipe]") -> None:
    how = f"--features {args.features} --features.{recipe.option} {args.output}"
    print(f"written to {args.output}" + (f"; to align a run to it, add {how}" if recipe.option else ""))


def _tell_finished(args: argparse.Namespace, plan: "Plan", recipe: "type[Recipe]") -> int:
    from vco.commands.encoder_training import require_same
    from vco.evaluation.classes import Known

    record = json.loads((args.output / RECORD).read_text())
    require_same(record["job"], plan.job, args.output)
    print(f"trained before: {Known(**record['held_out']).sentence}")
    _tell(args, recipe)
    return 0


def _add_recipe_options(parser: argparse.ArgumentParser, ours: Sequence[str]) -> None:
    """Adds the recipe's options to the help, if a kind of encoder is named: finding them out takes a second."""
    import typing

    import attrs

    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("--features")
    name = named.parse_known_args(ours)[0].features
    if name is None:
        return
    config = _recipe(name).Config
    hints, docs, usual = typing.get_type_hints(config), field_docs(config), config()
    group = parser.add_argument_group(f"recipe of {name}")
    for field in attrs.fields(config):
        text = f"{docs.get(field.name, '')} [{getattr(usual, field.name)}]".replace("%", "%%")
        group.add_argument(f"--recipe.{field.name.replace('_', '-')}", metavar=form(hints[field.name]), help=text)
