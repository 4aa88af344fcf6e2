"""Sections that hold several components, encoders of metrics, sections that a file leaves out, and files of API 1."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
import yaml
from test_resolve import errors, run

from vco.config.plain import parse, to_plain, unsupported
from vco.config.resolve import Invocation, to_plain_run

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a configuration and returns its path."""

    def write(text: str) -> str:
        (tmp_path / "a.yaml").write_text(text)
        return str(tmp_path / "a.yaml")

    return write


def options(invocation: Invocation) -> dict[str, Any]:
    """What is set, but for the settings of the core."""
    return {part.path: to_plain(part.config) for part in invocation.config.parts}


def again(invocation: Invocation, write: Write) -> Invocation:
    """The run that the configuration file of a run describes."""
    return run("--config", write(yaml.safe_dump(to_plain_run(invocation.config), sort_keys=False)))


# ----------------------------------------------------------------------------------------------------- several encoders


def test_several_encoders_keep_their_order_and_each_has_options_of_its_own(write: Write) -> None:
    found = run("--features", "ears,eyes", "--features.eyes.weights", "e", "--features.ears.loudness", "2")
    assert list(found.config.all_of("features")) == ["ears", "eyes"]
    given = options(found)
    assert given["features.eyes"] == {"weights": "e"}
    assert given["features.ears"] == {"weights": "", "loudness": 2.0}
    assert again(found, write).config == found.config
    assert list(again(found, write).config.all_of("features")) == ["ears", "eyes"]


def test_options_of_the_only_encoder_need_not_name_it() -> None:
    assert options(run("--features.weights", "here"))["features.eyes"] == {"weights": "here"}
    assert options(run("--features.eyes.weights", "here"))["features.eyes"] == {"weights": "here"}


def test_of_several_encoders_an_option_says_which_one_it_means() -> None:
    assert errors("--features", "ears,eyes", "--features.weights", "x") == [
        "features.weights: several are chosen; say which one is meant, as in --features.ears.weights or "
        "--features.eyes.weights (from --features.weights)"
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--features", "eyes,eyes"),
         "features: 'eyes' is chosen twice (from --features); a second one has a word of its own, as in eyes,eyes:two"),
        (("--features", "eyes="), "features: 'eyes=' lacks a name; write NAME (from --features)"),
        (("--features", "eyes=2"),
         "features: 'eyes=2' sets a value; write names alone, as in a,b (from --features)"),
        (("--features", "eye"),
         "features: no feature source named 'eye'; did you mean 'eyes'? available: ears, eyes (from --features)"),
        (("--features.eyes.weigths", "x"),
         "features.eyes.weigths: unknown option; did you mean 'features.eyes.weights'? (from --features.eyes.weigths)"),
    ],
)  # fmt: skip
def test_mistakes_about_encoders(argv: tuple[str, ...], message: str) -> None:
    assert errors(*argv) == [message]


def test_encoders_in_a_file(write: Write) -> None:
    file = write("features: [ears, {name: eyes, weights: here}]")
    found = run("--preset", "digits", "--config", file)
    assert list(found.config.all_of("features")) == ["ears", "eyes"]
    assert options(found)["features.eyes"] == {"weights": "here"}


# -------------------------------------------------------------------------------------------------- encoders of metrics


def test_a_metric_holds_the_options_of_the_encoders_that_it_looks_through() -> None:
    given = options(run())
    assert given["metric.apart"] == {"encoder": ["eyes"], "power": 2.0}
    assert given["metric.apart.eyes"] == {"weights": "seen"}


def test_one_metric_may_look_through_several_encoders(write: Write) -> None:
    argv = ("--metric", "apart=eyes,apart=ears", "--metric.apart.ears.loudness", "3")
    found = run(*argv, "--metric.apart.ears.weights", "w")
    assert list(found.config.all_of("metric")) == ["apart"]
    assert list(found.config.encoders_of("apart")) == ["eyes", "ears"]
    assert found.config.part("metric.apart").config.encoder == ("eyes", "ears")
    given = options(found)
    assert given["metric.apart.ears"] == {"weights": "w", "loudness": 3.0}
    assert given["metric.apart.eyes"] == {"weights": "seen"}
    assert found.config.part("metric.apart.ears").title == "metric apart's encoder ears"
    assert again(found, write).config == found.config


def test_an_encoder_of_a_metric_is_not_the_one_that_the_run_is_aligned_to() -> None:
    given = options(run("--features.weights", "one", "--metric.apart.eyes.weights", "other"))
    assert given["features.eyes"] == {"weights": "one"}
    assert given["metric.apart.eyes"] == {"weights": "other"}


def test_the_only_metric_need_not_be_named() -> None:
    given = options(run("--metric.power", "5", "--metric.eyes.weights", "w"))
    assert given["metric.apart"] == {"encoder": ["eyes"], "power": 5.0}
    assert given["metric.apart.eyes"] == {"weights": "w"}


def test_naming_another_encoder_drops_the_options_of_the_former_and_keeps_those_of_the_metric() -> None:
    given = options(run("--metric", "apart=ears"))
    assert given["metric.apart"] == {"encoder": ["ears"], "power": 2.0}
    assert given["metric.apart.ears"] == {"weights": "", "loudness": 1.0}
    assert "metric.apart.eyes" not in given
    assert errors("--metric", "apart=ears", "--metric.apart.eyes.weights", "x")


def test_naming_another_metric_drops_the_options_of_the_former_and_of_its_encoders(write: Write) -> None:
    assert {path for path in options(run("--metric", "count")) if path.startswith("metric")} == {"metric.count"}
    back = run("--preset", "digits", "--config", write("metric: count"), "--metric", "apart=eyes")
    assert options(back)["metric.apart"] == {"encoder": ["eyes"], "power": 1.0}
    assert options(back)["metric.apart.eyes"] == {"weights": ""}


def test_several_metrics_stand_side_by_side(write: Write) -> None:
    found = run("--metric", "count,apart=eyes")
    assert list(found.config.all_of("metric")) == ["count", "apart"]
    assert again(found, write).config == found.config


def test_no_metric_is_a_choice_too(write: Write) -> None:
    found = run("--metric", "none")
    assert found.config.all_of("metric") == {}
    assert again(found, write).config == found.config


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--metric", "count,count"), "metric: 'count' is chosen twice (from --metric)"),
        (("--metric", "apart=eyes,apart=eyes"),
         "metric: 'apart' looks through the encoder 'eyes' twice (from --metric)"),
        (("--metric", "apart="), "metric: 'apart=' lacks a name or an encoder; write NAME or NAME=ENCODER "
         "(from --metric)"),
        (("--metric", "apart=eye"),
         "metric: no feature source named 'eye'; did you mean 'eyes'? available: ears, eyes (from --metric)"),
        (("--metric.apart.eyes.wights", "x"),
         "metric.apart.eyes.wights: unknown option; did you mean 'metric.apart.eyes.weights'? "
         "(from --metric.apart.eyes.wights)"),
    ],
)  # fmt: skip
def test_mistakes_about_metrics(argv: tuple[str, ...], message: str) -> None:
    assert errors(*argv) == [message]


# ------------------------------------------------------------------------------------------------- sections left out


@pytest.mark.parametrize(
    ("section", "meaning"), [("codec", ["codec"]), ("optimizer", ["optimizer"]), ("loss", []), ("metric", [])]
)
def test_a_section_that_a_file_leaves_out_takes_its_default(section: str, meaning: list[str], write: Write) -> None:
    """So that a kind of component that is new breaks no older file."""
    plain = to_plain_run(run().config)
    del plain[section]
    parts = run("--config", write(yaml.safe_dump(plain))).config.parts
    assert [part.path for part in parts if part.section == section] == meaning
    assert {part.path: part.name for part in parts}.get(section) == {"codec": "pixels", "optimizer": "adamw"}.get(
        section
    )


@pytest.mark.parametrize("section", ["data", "backbone", "features", "adapter", "guidance", "process", "solver"])
def test_what_has_no_default_has_to_be_chosen(section: str, write: Write) -> None:
    plain = to_plain_run(run().config)
    del plain[section]
    (line,) = errors("--config", write(yaml.safe_dump(plain)))
    assert line.startswith(f"{section}: nothing is chosen; use --{section} with one of ")


def test_options_of_a_default_that_was_not_chosen_are_its_options(write: Write) -> None:
    plain = to_plain_run(run().config)
    del plain["codec"]
    found = run("--config", write(yaml.safe_dump(plain)), "--codec.noise-scale", "2")
    assert options(found)["codec"] == {"noise_scale": 2.0}


# --------------------------------------------------------------------------------------------------- files of API 1

API_1 = """
seed: 0
output_dir: runs/digits
backbone: {name: net, depth: 4}
features: {name: eyes}
evaluator: {name: eyes}
train: {steps: 10, betas: [0.9, 0.95], stream_weights: {pixels: 1.0}}
"""


def test_a_file_of_api_1_is_one_sentence_that_says_what_to_do(write: Write) -> None:
    file = write(API_1)
    assert errors("--config", file) == [
        f"{file} was written for version 1 of vco's settings, and this vco reads version 2: use the vco that wrote it, "
        'or write its settings anew (docs/changelog.md, "From API 1 to API 2")'
    ]


@pytest.mark.parametrize("version", ["3", "two", "[2]", "null"])
def test_a_file_of_another_version_is_named_with_it(version: str, write: Write) -> None:
    (line,) = errors("--config", write(f"api: {version}\nseed: 1"))
    assert f"was written for version {yaml.safe_load(version)!r} of vco's settings" in line


def test_a_file_says_which_version_wrote_it(write: Write) -> None:
    assert to_plain_run(run().config)["api"] == 2
    assert run("--preset", "digits", "--config", write("api: 2\nseed: 5")).config.seed == 5


# -------------------------------------------------------------------------------------------- types of options


@attrs.frozen(kw_only=True)
class Impossible:
    """Options that no file can hold."""

    place: Path = Path()
    anything: Any = None
    union: int | str = 0
    three: int | str | None = None
    nested: tuple[Path, ...] = ()
    by_number: dict[int, str] = attrs.field(factory=dict[int, str])
    raw: Literal[b"a", "b"] = "b"
    switch: Literal[True, "maybe"] = "maybe"
    listed: list[int] = attrs.field(factory=list[int])


@attrs.frozen(kw_only=True)
class Possible:
    """Options of every type that a file can hold."""

    flag: bool = True
    choice: Literal["a", 2] = "a"
    maybe: tuple[int, ...] | None = None
    pair: tuple[str, tuple[float, int]] = ("a", (1.0, 2))


def test_types_that_no_file_can_hold_are_found() -> None:
    names = [field.name for field in attrs.fields(Impossible)]
    assert list(unsupported(Impossible)) == names
    assert unsupported(Possible) == {}


def test_types_that_files_can_hold_come_back_from_them() -> None:
    for field in attrs.fields(Possible):
        value = getattr(Possible(), field.name)
        assert parse(Possible.__annotations__[field.name], yaml.safe_load(yaml.safe_dump(to_plain(value)))) == value
