"""Every law catches a mistake, and no law troubles a sound component."""

import contextlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from broken import KINDS, MISTAKES, MORE, Mistake
from subjects import NUMBERS, law_named, subject, written

from vco.cli import main_vco
from vco.testing import contract_checks
from vco.testing.examine import examine, laws_of
from vco.testing.law import NotApplicableError, ViolationError
from vco.testing.laws import CASES, LAWS
from vco.testing.subject import Subject, discover

PLUGIN = """
from vco import hookimpl

@hookimpl
def vco_processes() -> dict[str, str]:
    return {"clock": "sound:Clock", "late-clock": "NAME:Clock"}
"""


def names(slow: bool) -> list[str]:
    return sorted({law.name for law in LAWS if law.slow == slow} - {"listing-is-light", "preset-resolves"})


def require_caught(name: str, mistake: Mistake, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = subject(mistake.component, written(mistake.source(), folder, monkeypatch))
    with pytest.raises(ViolationError):
        examine(law_named(name, broken), broken)


@pytest.mark.parametrize("component", KINDS)
def test_a_sound_component_breaks_no_law(component: str) -> None:
    sound = subject(component)
    for law in laws_of(sound):
        if not law.slow:
            with contextlib.suppress(NotApplicableError):
                examine(law, sound)


@pytest.mark.parametrize("name", names(slow=False))
def test_the_law_catches_its_mistake(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_caught(name, MISTAKES[name], tmp_path, monkeypatch)


@pytest.mark.parametrize(("name", "mistake"), MORE, ids=[f"{name}-{mistake.component}" for name, mistake in MORE])
def test_a_law_of_several_kinds_catches_the_mistake_of_each(
    name: str, mistake: Mistake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_caught(name, mistake, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("pooled=tokens.mean(1)", "pooled=tokens.mean(1)[:, 1:]"),
        ("12), grid=self.grid)", "12), grid=self.grid, pooled=11)"),
    ],
)
def test_a_pooled_vector_of_another_width_than_specified_is_caught(
    old: str, new: str, change: Callable[..., Subject]
) -> None:
    eyes = change("Eyes", old, new)
    with pytest.raises(ViolationError, match=r"forward: pooled \(3, 1\d\) instead of \(b, e\)"):
        examine(law_named("features-are-as-specified", eyes), eyes)


@pytest.mark.parametrize("section", ["--features.", "--metric."])
def test_a_feature_source_that_pretends_to_know_its_section_is_caught(
    section: str, change: Callable[..., Subject]
) -> None:
    old = "    def load(self) -> None:\n"
    new = "    def check(self) -> None:\n        raise UserError('no file here; get it there, then give --.file')\n\n"
    new += f"{old}        self.check()\n"
    eyes = change("Eyes", old, new)
    examine(law_named("missing-weights-are-named", eyes), eyes)
    eyes = change("Eyes", old, new.replace("--.", section))
    with pytest.raises(ViolationError, match=f"cannot know that it was chosen with {section[:-1]}"):
        examine(law_named("missing-weights-are-named", eyes), eyes)


def test_adapters_are_tried_with_pooled_vectors_of_another_width(change: Callable[..., Subject]) -> None:
    old = "tokens.float() - self.mean"
    lens = change("Lens", old, f"{old} + features[self.encoder].pooled[:, None]")
    with pytest.raises(ViolationError, match="size of tensor"):
        examine(law_named("spec-equals-output", lens), lens)


def check_slow_laws(folder: str) -> None:
    """Both claims above, for the slow laws."""
    for name in names(slow=True):
        require_caught(name, MISTAKES[name], Path(folder), pytest.MonkeyPatch())
    for sound in map(subject, KINDS):
        for law in laws_of(sound):
            if law.slow:
                with contextlib.suppress(NotApplicableError):
                    examine(law, sound)


@pytest.mark.slow
def test_slow_laws_catch_their_mistakes_and_trouble_no_sound_component(tmp_path: Path) -> None:
    # torch.compile cannot trace the runtime type checks of this process
    code = f"import test_kit; test_kit.check_slow_laws({str(tmp_path)!r})"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent).returncode == 0


def test_every_mistake_belongs_to_a_law_and_every_law_of_a_kind_has_one() -> None:
    assert MISTAKES.keys() == set(names(slow=False) + names(slow=True))
    shown = [(name, CASES[KINDS[mistake.component]]) for name, mistake in [*MISTAKES.items(), *MORE]]
    rest = [law for law in LAWS if not any(name == law.name and issubclass(case, law.case) for name, case in shown)]
    assert {law.name for law in rest} == {"listing-is-light", "preset-resolves"}


def test_every_law_says_what_it_claims_and_ids_are_unique() -> None:
    assert all(law.claim.endswith(".") and len(law.claim) > 20 for law in LAWS)
    for component in KINDS:
        found = [law.name for law in laws_of(subject(component))]
        assert len(found) == len(set(found))


def test_the_documentation_lists_every_law_with_its_claim() -> None:
    text = (Path(__file__).parents[2] / "docs" / "contract_kit.md").read_text()
    missing = [law.name for law in LAWS if f"| `{law.name}` | {law.claim} |" not in text]
    assert not missing


def test_hooks_that_import_torch_are_caught() -> None:
    heavy = subject("Clock", plugin="vco.flow")
    with pytest.raises(ViolationError, match=r"vco\.flow imports torch"):
        examine(law_named("listing-is-light", heavy), heavy)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "there is no such file"),
        ("train: {stpes: 5}\nbase: digits", r"train\.stpes: unknown option; did you mean 'train\.steps'\?"),
        ("base: digit", "no preset named 'digit'; did you mean 'digits'"),
        ("train: {steps: 5}", "preset mine chooses no data, backbone, "),
    ],
)
def test_a_preset_that_does_not_resolve_is_caught(
    text: str | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = written_preset(text, tmp_path, monkeypatch)
    (law,) = laws_of(preset)
    with pytest.raises(ViolationError, match=reason) as caught:
        examine(law, preset)
    assert "at batch" not in str(caught.value)  # it has no size


def test_a_preset_on_top_of_a_built_in_one_resolves_and_is_checked_by_pytest_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = written_preset("base: digits\ntrain: {steps: 5}", tmp_path, monkeypatch)
    assert main_vco(["check", preset.plugin]) == 0
    assert "preset/mine\n  ok       preset-resolves" in capsys.readouterr().out
    (case,) = contract_checks(preset.plugin).args[1]
    assert case.id == "preset/mine/preset-resolves"
    case.values[0]()


def written_preset(text: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    """The only subject of a plugin that offers the preset "mine" with this text, or without a file."""
    source = "from vco import hookimpl\n@hookimpl\ndef vco_presets():\n    return {'mine': '%s:mine.yaml'}\n"
    name = f"broken_{next(NUMBERS)}"
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(source % name)
    if text is not None:
        (folder / name / "mine.yaml").write_text(text)
    monkeypatch.syspath_prepend(folder)
    (found,) = discover(name)
    return found


def test_a_violation_names_settings_and_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = subject("Net", written(MISTAKES["rows-do-not-mix"].source(), tmp_path, monkeypatch))
    with pytest.raises(ViolationError, match=r"row 0 of 3 changes .*\n  at batch 3, .*\n  with Net.Config\(width=16"):
        examine(law_named("rows-do-not-mix", broken), broken)


def test_a_component_that_cannot_be_loaded_has_one_law() -> None:
    assert [law.name for law in laws_of(subject("Net", module="no_such_module"))] == ["loads"]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A plugin of two processes, the second with a path from data to noise."""
    late = written(MISTAKES["path-runs-from-noise-to-data"].source(), tmp_path, monkeypatch)
    name = written(PLUGIN.replace("NAME", late), tmp_path, monkeypatch)
    module = ModuleType(name)
    exec((tmp_path / f"{name}.py").read_text(), vars(module))
    monkeypatch.setitem(sys.modules, name, module)
    return module


def test_contract_checks_has_a_named_case_for_every_law(plugin: ModuleType) -> None:
    _, cases = contract_checks(plugin).args
    ids = [case.id for case in cases]
    assert "process/clock/path-runs-from-noise-to-data" in ids
    assert len(ids) == len(set(ids)) > 20


def test_an_unknown_xfail_is_an_error(plugin: ModuleType) -> None:
    with pytest.raises(ValueError, match="process/clock/no-such-law"):
        contract_checks(plugin, xfail={"process/clock/no-such-law": "reason"})


def test_xfail_is_strict(plugin: ModuleType) -> None:
    name = "process/late-clock/path-runs-from-noise-to-data"
    _, cases = contract_checks(plugin, xfail={name: "it runs backwards"}).args
    (mark,) = next(case.marks for case in cases if case.id == name)
    assert mark.name == "xfail"
    assert mark.kwargs == {"reason": "it runs backwards", "strict": True}


def test_settings_for_nobody_are_an_error(plugin: ModuleType) -> None:
    with pytest.raises(Exception, match="process/other"):
        discover(plugin, {"process/other": {}})


def test_the_command_prints_a_table_and_exits_with_1_on_a_broken_law(
    plugin: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main_vco(["check", plugin.__name__]) == 1
    out = capsys.readouterr().out
    assert "process/late-clock" in out
    assert "BROKEN   path-runs-from-noise-to-data" in out
    assert "law: A path is float64" in out


def test_the_command_exits_with_0_where_no_law_is_broken(
    plugin: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main_vco(["check", plugin.__name__, "--only", "process/clock"]) == 0
    assert "0 broken" in capsys.readouterr().out


def test_the_command_checks_one_law_alone(plugin: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert main_vco(["check", plugin.__name__, "--only", "process/clock/times-are-in-range"]) == 0
    assert "1 checks: 1 ok" in capsys.readouterr().out


@pytest.mark.parametrize(
    "args", [["no_such_module"], ["vco_plugins", "--only", "loss/none"], ["vco_plugins", "--set", "x"]]
)
def test_the_command_exits_with_2_on_a_mistake_of_its_user(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main_vco(["check", *args]) == 2
    assert capsys.readouterr().err.startswith("vco check: ")
