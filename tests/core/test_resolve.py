import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml
from fake_plugin.parts import Net
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vco.config.command_line import parse
from vco.config.resolve import Invocation, resolve, to_plain_run
from vco.config.settings import RunConfig
from vco.errors import UserError
from vco.plugins.discovery import with_modules
from vco.plugins.registry import Catalog

CATALOG = with_modules(Catalog(), ["fake_plugin"])
Write = Callable[[str], str]


def run(*argv: str) -> Invocation:
    return resolve(parse(argv), CATALOG)


def backbone(config: RunConfig) -> Any:
    """What is set about the backbone."""
    return config.part("backbone").config


def errors(*argv: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        run(*argv)
    return str(caught.value).splitlines()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a configuration and returns its path."""

    def write(text: str) -> str:
        (tmp_path / "a.yaml").write_text(text)
        return str(tmp_path / "a.yaml")

    return write


# -------------------------------------------------------------------------------------------------------------- layers


def test_without_arguments_the_default_preset_is_the_run() -> None:
    invocation = run()
    assert invocation.preset == "digits"
    assert backbone(invocation.config) == Net.Config(depth=4)
    assert invocation.config.train.learning_rate == 1e-3
    assert invocation.config.part("loss.near").config.tau == 3.0


def test_the_command_line_wins_over_the_file_and_the_file_over_the_preset(write: Write) -> None:
    file = write("backbone: {depth: 5, width: 20}\ntrain: {steps: 7}")
    config = run("--backbone.depth", "6", "--config", file, "--preset", "digits").config
    assert backbone(config) == Net.Config(depth=6, width=20)
    assert (config.train.steps, config.train.learning_rate) == (7, 1e-3)


def test_of_several_files_the_later_one_wins(write: Write, tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("backbone: {depth: 5}")
    one = write("backbone: {name: net, depth: 7, width: 8}\ntrain: {steps: 3}")
    config = run("--preset", "digits", "--config", one, "--config", str(tmp_path / "b.yaml")).config
    assert backbone(config) == Net.Config(depth=5, width=8)
    assert config.train.steps == 3


def test_a_file_is_used_without_the_default_preset(write: Write) -> None:
    config = to_plain_run(run().config)
    del config["backbone"]["depth"]
    invocation = run("--config", write(yaml.safe_dump(config)))
    assert invocation.preset == ""
    assert backbone(invocation.config).depth == 2


def test_of_several_presets_the_last_wins_and_the_others_stay_below_it() -> None:
    both = run("--preset", "digits", "--preset", "bare")
    assert (both.preset, both.config.train.steps, backbone(both.config).depth) == ("digits+bare", 20, 4)
    assert run("--preset", "bare", "--preset", "digits").config.train.steps == 10


def test_naming_another_plugin_drops_the_options_of_the_former() -> None:
    assert backbone(run("--backbone", "other-net").config).layers == 3


def test_naming_the_same_plugin_keeps_its_options() -> None:
    assert backbone(run("--backbone", "net").config).depth == 4


def test_going_back_to_a_dropped_plugin_starts_from_its_defaults(write: Write) -> None:
    file = write("backbone: other-net")
    assert backbone(run("--preset", "digits", "--config", file, "--backbone", "net").config).depth == 2


@pytest.mark.parametrize(
    "argv",
    [("--backbone.drop-rate", "0.5"), ("--backbone.drop_rate", "0.5"), ("--backbone.drop-rate=0.5",),
     ("--backbone.drop-rate", "0.1", "--backbone.drop-rate", "5e-1")],
)  # fmt: skip
def test_hyphen_underscore_and_equals_sign_say_the_same_and_the_last_one_counts(argv: tuple[str, ...]) -> None:
    assert backbone(run(*argv).config).drop_rate == 0.5


def test_negative_and_scientific_numbers_are_values_not_options() -> None:
    assert errors("--optimizer.weight-decay", "-1e-4") == [
        "optimizer.weight_decay: 'weight_decay' must be >= 0.0: -0.0001 (from --optimizer.weight-decay)"
    ]


def test_top_level_options_and_flags() -> None:
    invocation = run("--seed", "7", "--output-dir=x y", "--mixed-precision", "bf16", "--dry-run", "--refresh")
    config = invocation.config
    assert (config.seed, config.output_dir, config.mixed_precision) == (7, "x y", "bf16")
    assert (invocation.dry_run, invocation.refresh) == (True, True)


def test_origins_say_where_each_choice_and_option_was_set(write: Write) -> None:
    file = write("solver: steps")
    origin = run("--preset", "digits", "--config", file, "--backbone.depth", "3", "--seed=1").origin
    wanted = {"backbone": "preset digits", "backbone.depth": "--backbone.depth", "solver": file, "seed": "--seed"}
    assert {key: origin.get(key) for key in (*wanted, "backbone.width")} == {**wanted, "backbone.width": None}


@pytest.mark.parametrize(
    ("argv", "folder"),
    [((), "runs/digits-net-none-near"), (("--loss", "near,far-off"), "runs/digits-net-none-near+far-off"),
     (("--loss", "none"), "runs/digits-net-none"), (("--backbone", "other-net"), "runs/digits-other-net-none-near")],
)  # fmt: skip
def test_the_run_folder_is_named_after_the_preset_and_the_components(argv: tuple[str, ...], folder: str) -> None:
    assert run(*argv).config.output_dir == folder


def test_an_empty_output_folder_means_the_usual_one() -> None:
    assert run("--output-dir", "").config.output_dir == "runs/digits-net-none-near"


def test_without_a_preset_the_run_folder_is_named_after_the_data(write: Write) -> None:
    file = write(yaml.safe_dump(to_plain_run(attrs.evolve(run().config, output_dir=""))))
    assert run("--config", file).config.output_dir == f"runs/dots-net-none-near-{Path(file).stem}"


@pytest.mark.parametrize(
    ("argv", "more"),
    [(("--seed", "3"), "-seed3"), (("--loss", "near=2", "--train.batch-size", "8"), "-weight2-batch-size8"),
     (("--train.steps", "9", "--sample.steps", "3", "--mixed-precision", "fp32"), ""),
     (("--from", "runs/other@20"), "-from-runs_other_20"), (("--backbone", "net"), ""), (("--from", ""), ""),
     (("--train.schedule", "cosine"), "-schedule-cosine")],
)  # fmt: skip
def test_options_that_make_another_run_stand_in_the_name_of_its_folder(argv: tuple[str, ...], more: str) -> None:
    assert run(*argv).config.output_dir == f"runs/digits-net-none-near{more}"


def test_many_options_stand_as_a_hash_in_the_name() -> None:
    argv = (
        "--train.ema-decays",
        "0.9,0.99,0.999",
        "--train.batch-size",
        "60",
        "--train.fit-samples",
        "12345",
        "--train.warmup-steps",
        "3",
    )
    first, again, other = (run(*argv, *more).config.output_dir for more in ((), (), ("--seed", "1")))
    assert first == again != other
    assert re.fullmatch(r"runs/digits-net-none-near-[0-9a-f]{8}", first)


def test_a_name_is_a_folder_among_the_runs() -> None:
    assert run("--name", "first-try", "--seed", "4").config.output_dir == "runs/first-try"


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [(("--name", "a", "--output-dir", "b"), "a run has one folder"), (("--name", ".."), "--name needs a name"),
     (("--name", "a", "--name", "b"), "a run has one folder")],
)  # fmt: skip
def test_a_name_that_cannot_be_is_refused(argv: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        run(*argv)


# -------------------------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize(
    ("argv", "weights"),
    [
        ((), {"near": 0.5}),
        (("--loss", "near"), {"near": 0.5}),
        (("--loss", "near=2"), {"near": 2.0}),
        (("--loss", "far-off"), {"far-off": 1.0}),
        (("--loss", "near=10,far-off=0.25"), {"near": 10.0, "far-off": 0.25}),
        (("--loss", "far-off=3", "--loss", "near"), {"far-off": 3.0, "near": 0.5}),
        (("--loss", "none"), {}),
        (("--loss.weight", "4"), {"near": 4.0}),
        (("--loss.weight", "4", "--loss", "far-off"), {"far-off": 4.0}),
        (("--loss", "near,far-off", "--loss.far-off.weight", "4"), {"near": 0.5, "far-off": 4.0}),
    ],
)
def test_losses_and_their_weights(argv: tuple[str, ...], weights: dict[str, float]) -> None:
    assert {name: part.config.weight for name, part in run(*argv).config.all_of("loss").items()} == weights


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("loss: near", {"near": 0.5}), ("loss: near=2,far-off", {"near": 2.0, "far-off": 1.0}), ("loss: []", {}),
        ("loss: none", {}), ("loss: [far-off, near]", {"far-off": 1.0, "near": 0.5}),
        ("loss: {name: far-off, weight: 2}", {"far-off": 2.0}),
        ("loss: [{name: far-off, weight: 2}, near]", {"far-off": 2.0, "near": 0.5}),
    ],
)  # fmt: skip
def test_losses_in_a_file(write: Write, text: str, weights: dict[str, float]) -> None:
    config = run("--preset", "digits", "--config", write(text)).config
    assert {name: part.config.weight for name, part in config.all_of("loss").items()} == weights


def test_a_loss_is_chosen_again_with_a_word_and_options_of_its_own(write: Write) -> None:
    config = run("--loss", "near,near:deep=2", "--loss.near.tau", "5", "--loss.near:deep.tau", "7").config
    assert [(part.name, part.registered, part.title) for part in config.all_of("loss").values()] == [
        ("near", "near", "loss near"),
        ("near:deep", "near", "loss near:deep"),
    ]
    near, deep = (part.config for part in config.all_of("loss").values())
    assert (near.tau, near.weight, deep.tau, deep.weight) == (5.0, 0.5, 7.0, 2.0)
    again = run("--config", write(yaml.safe_dump(to_plain_run(config)))).config
    assert again.all_of("loss") == config.all_of("loss")


def test_of_a_metric_or_a_backbone_no_second_one_is_made_with_a_word() -> None:
    assert errors("--backbone", "small:two")[0].startswith("backbone: no backbone named 'small:two'")


def test_a_dropped_loss_takes_its_options_along_and_a_kept_one_keeps_them() -> None:
    assert run("--loss", "far-off,near").config.part("loss.near").config.tau == 3.0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--loss", "near,near"),
         "loss: 'near' is chosen twice (from --loss); a second one has a word of its own, as in near,near:two"),
        *((("--loss", f"near,near:{word}"),
           f"loss: 'near:{word}' is no name; one that is chosen again is written NAME:WORD, as in near:two "
           "(from --loss)")
          for word in ("", "T", "a.b", "a:b", "-")),
        (("--loss", "nera"),
         "loss.nera: no loss named 'nera'; did you mean 'near'? available: far-off, near (from --loss)"),
        (("--loss", "near,none"), "loss: 'none' means no loss at all, but near, none are chosen (from --loss)"),
        (("--loss", "none", "--loss", "near"),
         "loss: 'none' means no loss at all, but none, near are chosen (from --loss)"),
        *((("--loss", text), f"loss: {text!r} lacks a name or a weight; write NAME or NAME=WEIGHT (from --loss)")
          for text in (",", "", "near,", "near=", "=3")),
        (("--loss", "near=-1"), "loss.near.weight: 'weight' must be >= 0.0: -1.0 (from --loss)"),
        (("--loss", "near=x"), "loss.near.weight: expected float, got 'x' (from --loss)"),
        (("--loss", "near,far-off", "--loss.tau", "1"),
         "loss.tau: several are chosen; say which one is meant, as in --loss.near.tau or --loss.far-off.tau "
         "(from --loss.tau)"),
        (("--loss.far-off.weight", "1"),
         "loss.far-off.weight: unknown option (from --loss.far-off.weight); did you mean 'loss.near.weight'?"),
    ],
)  # fmt: skip
def test_mistakes_about_losses(argv: tuple[str, ...], message: str) -> None:
    assert errors(*argv) == [message]


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--backbone", "nte"),
         "backbone: no backbone named 'nte'; did you mean 'net'? available: net, other-net (from --backbone)"),
        (("--preset", "digit"),
         "no preset named 'digit'; did you mean 'digits'? available: astray, bare, digits, lost"),
        (("--preset", "astray"), "preset astray: ModuleNotFoundError: No module named 'fake_nowhere'"),
        (("--backbon", "net"), "backbon: unknown option (from --backbon); did you mean 'backbone'?"),
        (("--backbon.depth", "1"),
         "backbon.depth: unknown option (from --backbon.depth); did you mean 'backbone.depth'?"),
        (("--backbone.detph", "1"),
         "backbone.detph: unknown option; did you mean 'backbone.depth'? (from --backbone.detph)"),
        (("--steps", "1"), "steps: unknown option (from --steps); did you mean 'train.steps'?"),
        (("--back", "net"), "back: unknown option (from --back); did you mean 'backbone'?"),
        (("--train", "5"), "train: unknown option (from --train); did you mean 'train.steps'?"),
        (("--seed",), "--seed needs a value"),
        (("--seed", "--dry-run"), "--seed needs a value"),
        (("--dry-rum",), "--dry-rum needs a value; did you mean 'dry_run'?"),
        (("--dry-run=false",), "--dry-run takes no value"),
        (("digits",), "'digits' is not the folder of a run (it has no config.yaml); name one to go on with it, or "
         "begin a new run with options alone, which are written --option value"),
        (("-x",), "unexpected argument '-x': options are written --option value"),
        (("--",), "unexpected argument '--': options are written --option value"),
        (("--plugin", "fake_nowhere"),
         "--plugin fake_nowhere cannot be used: ModuleNotFoundError: No module named 'fake_nowhere'"),
        (("--mixed-precision", "bf"), "mixed_precision: expected auto|fp32|bf16, got 'bf' (from --mixed-precision)"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_line_with_its_source(argv: tuple[str, ...], message: str) -> None:
    assert errors(*argv) == [message]


def test_the_mistakes_of_all_sections_and_layers_are_reported_at_once(write: Write) -> None:
    file = write("trian: {}\neval: {samples: 1}\nsample: 3\nguidance: fre\nloss: [{weight: 1}]")
    lines = errors("--preset", "digits", "--config", file, "--backbone.depth", "0", "--seed", "-1", "stray", "--x", "1")
    assert len(lines) == 9
    for fragment in (
        "'stray' is not the folder of a run",
        f"sample: expected a mapping of options, got 3 (from {file})",
        f"loss: expected names, or mappings with a name, got {{'weight': 1}} (from {file})",
        f"trian: unknown option (from {file})",
        "x: unknown option (from --x)",
        f"guidance: no guidance named 'fre'; did you mean 'free'? available: free (from {file})",
        f"eval.samples: 'samples' must be >= 2: 1 (from {file})",
        "backbone.depth: 'depth' must be >= 1: 0 (from --backbone.depth)",
        "seed: 'seed' must be >= 0: -1 (from --seed)",
    ):
        assert any(line.startswith(fragment) for line in lines), fragment


def test_a_file_that_leaves_a_section_open_says_what_could_be_chosen(write: Write) -> None:
    lines = errors("--config", write("backbone: net"))
    assert [line.partition(":")[0] for line in lines] == [
        "data", "features", "adapter", "guidance", "process", "solver",
    ]  # fmt: skip
    assert "solver: nothing is chosen; use --solver with one of steps, or start from a --preset" in lines


def test_a_preset_that_leaves_sections_open_is_one_line_that_names_it_and_the_way_out() -> None:
    open_sections = "data, backbone, features, adapter, guidance, process"
    expected = f"preset bare chooses no {open_sections}; add `base: digits` or another to it"
    assert errors("--preset", "bare") == [expected]


def test_a_missing_file_is_reported_with_the_other_mistakes() -> None:
    first, second = errors("stray", "--config", "nowhere.yaml")
    assert "stray" in first
    assert second == "cannot read the configuration nowhere.yaml: there is no such file"


def test_a_plugin_module_named_on_the_command_line_is_in_the_catalog() -> None:
    assert resolve(parse(["--plugin", "fake_plugin"]), Catalog()).catalog.names("solvers") == ["steps"]


# ---------------------------------------------------------------------------------------------------------------- help


def test_help_shows_the_chosen_plugins_options_with_docs_values_and_sources(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit) as caught:
        run("--help", "--backbone.width", "24", "--loss.near.weight", "x")
    text = " ".join(capsys.readouterr().out.split())
    assert caught.value.code == 0
    assert "--backbone.depth int Number of blocks, at least 1 (100% of them). [4, preset digits]" in text
    assert "--backbone.width int Token width. [24, --backbone.width]" in text
    assert "--backbone.drop-rate float Probability, in [0, 1]. [0.0, default]" in text
    assert "--backbone NAME network that denoises the streams: net, other-net [net, preset digits]" in text
    assert "--loss.near.tau float Temperature, above 0. [3.0, preset digits]" in text
    assert "--optimizer.betas float,float Decay rates. [0.9,0.95, default]" in text
    assert "--backbone.layers" not in text


def test_help_follows_the_choice(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("-h", "--backbone", "other-net")
    assert "--backbone.layers" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------- properties

TEXT = st.text(alphabet=st.characters(exclude_categories=["C", "Z"]), max_size=6)
SETTINGS: dict[str, st.SearchStrategy[Any]] = {
    "--backbone.depth": st.integers(1, 99),
    "--backbone.width": st.integers(1, 9).map(lambda n: 4 * n),
    "--backbone.drop-rate": st.floats(0, 1e18),
    "--backbone.mode": st.sampled_from(["soft", "hard"]),
    "--backbone.gate": st.none() | st.floats(-1e18, 1e18),
    "--backbone.stages": st.lists(st.integers(-9, 9), max_size=3).map(lambda items: ",".join(map(str, items))),
    "--backbone.label": TEXT.filter(lambda text: not text.startswith("--")),
    "--backbone.shares": st.sampled_from(["", "a=1", "a=1e-9,no=2"]),
    "--backbone.mixed": st.booleans(),
    "--train.learning-rate": st.floats(1e-300, 1e18),
    "--train.stream-weights": st.sampled_from(["image=1", "1=2,3=4e5"]),
    "--seed": st.integers(0, 2**63 - 1),
    "--output-dir": TEXT.filter(lambda text: not text.startswith("--")),
    "--loss": st.sampled_from(["none", "near", "far-off=0.1", "far-off,near=2"]),
}
FAST = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FAST
@given(values=st.fixed_dictionaries({}, optional=SETTINGS))
def test_a_resolved_run_written_as_yaml_resolves_to_itself(tmp_path: Path, values: dict[str, Any]) -> None:
    config = run(*(f"{option}={value}" for option, value in values.items())).config
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(to_plain_run(config), sort_keys=False))
    again = run("--config", str(file)).config
    assert again == config
    assert to_plain_run(again) == to_plain_run(config)


WORDS = st.sampled_from(
    [*SETTINGS, "--preset", "--config", "--dry-run", "--help", "-h", "--", "--=", "--.", "--loss.", "--loss.near.tau",
     "--loss.weight", "--loss..", "--a.b.c.d", "--backbone", "--backbone.name", "--train", "--eval.samples", "net",
     "other-net", "near=1,", "=", "1e999", "nan", "none", "\udc80", "\0", "digits", "lost", "astray", "/", "%(prog)s"]
)  # fmt: skip


@settings(FAST, max_examples=300)
@given(argv=st.lists(WORDS | st.builds("{}={}".format, WORDS, WORDS) | TEXT, max_size=6))
def test_any_command_line_gives_a_run_a_user_error_or_help(argv: list[str]) -> None:
    with contextlib.suppress(UserError, SystemExit), contextlib.redirect_stdout(None):
        assert isinstance(run(*argv), Invocation)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.dates() | st.binary(max_size=3)
KEYS = TEXT | st.sampled_from(["name", "weight", "depth", "steps", "shares", "stages", "a.b", "no"])
TREES = st.recursive(
    SCALARS | st.sampled_from(["net", "near", "digits", "1e-4"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
TOP = TEXT | st.sampled_from(
    ["loss", "backbone", "train", "seed", "output-dir", "data", "eval", "loss.near", "loss.weight"]
)


@settings(FAST, max_examples=300)
@given(content=st.dictionaries(TOP, TREES, max_size=4), preset=st.booleans())
def test_any_configuration_file_gives_a_run_or_a_user_error(
    tmp_path: Path, content: dict[str, Any], preset: bool
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(content))
    with contextlib.suppress(UserError):
        assert isinstance(run("--config", str(file), *(["--preset", "digits"] if preset else [])), Invocation)


@FAST
@given(data=st.data())
def test_a_misspelt_key_is_refused_naming_it(tmp_path: Path, data: st.DataObject) -> None:
    content = to_plain_run(run().config)
    section = data.draw(
        st.sampled_from([key for key, value in content.items() if isinstance(value, dict) and len(value) > 1])
    )
    key = data.draw(st.sampled_from([key for key in content[section] if key != "name"]))
    place = data.draw(st.integers(0, len(key)))
    misspelt = key[:place] + "q" + key[place:]
    content[section][misspelt] = content[section].pop(key)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=rf"^{section}\.{misspelt}: unknown option; did you mean '{section}\.\w+'\? "):
        run("--config", str(file))
