"""The study: its commands fit together, it stops in time and goes on, and its page says what its lines say."""

import importlib
import json
import shlex
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vco.cli import main_vco
from vco.config.command_line import parse
from vco.config.resolve import resolve
from vco.plugins.discovery import load_catalog
from vco.run import assemble

ROOT = Path(__file__).resolve().parents[1]
PATH = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def modules() -> Any:
    """The modules of the study: plan, study, report."""
    sys.path.insert(0, str(PATH))
    try:
        yield [importlib.import_module(name) for name in ("study_plan", "study", "study_report")]
    finally:
        sys.path.remove(str(PATH))


@pytest.fixture
def plan(modules: list[ModuleType]) -> ModuleType:
    return modules[0]


@pytest.fixture
def study(modules: list[ModuleType]) -> ModuleType:
    return modules[1]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images with as many classes as a batch of the study has."""
    folder = tmp_path_factory.mktemp("images")
    draws = np.random.default_rng(0)
    for name, count in product(range(16), range(3)):
        (folder / str(name)).mkdir(exist_ok=True)
        Image.fromarray(draws.integers(0, 255, (64, 64, 3), np.uint8)).save(folder / str(name) / f"{count}.png")
    return folder


@pytest.fixture(scope="module")
def encoded(images: Path, modules: list[ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of work with the encoder that methods align to on these images, trained for an epoch."""
    work = tmp_path_factory.mktemp("work")
    plan = modules[0]
    run = plan.run_of(plan.datasets(["images64"], small=False, images=str(images))[0], "JiT", 0, work)
    options = next(options for folder, options in run.networks.items() if "encoder-" in folder.name)
    assert main_vco(["train-encoder", *options, "--epochs", "1"]) == 0
    return work


def names(config: str) -> list[str]:
    import yaml

    return list(yaml.safe_load((PATH / "study.yaml").read_text())[config])


@pytest.mark.parametrize("data", names("datasets"))
@pytest.mark.parametrize("method", names("methods"))
def test_every_method_fits_together_on_every_data_set(
    data: str, method: str, plan: ModuleType, images: Path, encoded: Path
) -> None:
    run = plan.run_of(plan.datasets([data], small=False, images=str(images))[0], method, 0, encoded)
    invocation = resolve(parse(run.training), load_catalog())
    assembled = assemble(invocation.config, invocation.catalog, device="meta")
    aligned = {*assembled.facts.features, *invocation.config.all_of("features")}
    if run.data.encoder:  # all three are trained here, and are three networks
        assert len(run.networks) == len(run.data.spaces) + 1
    else:
        assert not aligned & set(run.data.spaces)  # no space in which it is scored is one that it is aligned to
    assert ("random" in method) == any(spec.remark for spec in assembled.facts.features.values())
    assert run.data.steps % run.data.point == 0
    # the average that is scored forgets initial weights in the time of training
    assert invocation.config.train.ema_decays[0] ** run.data.steps < 0.01


@pytest.mark.parametrize("data", names("datasets"))
def test_the_wide_jit_is_as_large_as_v_co(data: str, plan: ModuleType, images: Path, encoded: Path) -> None:
    sizes: list[int] = []
    for method in ("JiT, as large as V-Co", "+ RMS, V-Co"):
        run = plan.run_of(plan.datasets([data], small=False, images=str(images))[0], method, 0, encoded)
        invocation = resolve(parse(run.training), load_catalog())
        backbone = assemble(invocation.config, invocation.catalog, device="meta").objective.backbone
        sizes.append(sum(parameter.numel() for parameter in backbone.parameters() if parameter.requires_grad))
    assert sizes[0] / sizes[1] == pytest.approx(1.0, abs=0.13)  # widths come in steps


def test_a_control_has_the_initial_weights_of_the_encoder_that_was_trained(plan: ModuleType, tmp_path: Path) -> None:
    (data,) = plan.datasets(["images64"], small=False, images="FOLDER")
    taught, control = (plan.run_of(data, method, 0, tmp_path) for method in ("REPA", "REPA, random encoder"))
    encoder = next(iter(taught.networks))
    assert encoder.name.startswith("encoder-")
    assert str(encoder) in taught.training
    assert f"random:{encoder}" in control.training
    assert "FOLDER" in taught.training
    assert not [word for word in (*control.training, *control.metrics) if "{" in word]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--datasets images64", "is a folder of images with classes: name it with --images FOLDER"),
        ("--datasets images64 --images nowhere", "--images nowhere: there is no such folder"),
        ("--report --results RUN/none.jsonl", "none.jsonl has no results of digits, clothing32; run the study without"),
        ("--report --page RUN/none/page.md", "make the folder RUN/none first"),
        ("--results RUN/none/found.jsonl", "make the folder RUN/none first"),
        ("--seeds 0", "'0' is no whole number above 0"),
        ("--jobs -1", "'-1' is no whole number above 0"),
        ("--budget 5x", "'5x' is no time, as in 90s, 60m or 8h"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(
    given: str, said: str, study: ModuleType, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    arguments = [part.replace("RUN", str(tmp_path)) for part in given.split()]
    monkeypatch.setattr(sys, "argv", ["study.py", "--work", str(tmp_path / "work"), *arguments])
    with pytest.raises(SystemExit) as ended:
        study.main()
    assert ended.value.code == 2
    assert said.replace("RUN", str(tmp_path)) in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_budget_of_nothing_begins_nothing(
    study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["study.py", "--work", str(tmp_path), "--small", "--budget", "0s"])
    assert study.main() == 0
    assert capsys.readouterr().out == "the time is up; the same command goes on\n"


def test_a_network_that_cannot_be_trained_ends_it_with_what_was_said(
    study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    given = f"--datasets images64 --images {tmp_path / 'empty'} --work {tmp_path / 'work'} --small"
    monkeypatch.setattr(sys, "argv", ["study.py", *given.split()])
    assert study.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("study.py: vco train-encoder: ")
    assert "(status 2; all it said is in " in line


def test_a_run_that_fails_is_said_once_and_the_others_are_done(
    study: ModuleType, plan: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    data = plan.datasets(["digits"], small=True)[0]
    todo = [plan.run_of(data, method, 0, tmp_path) for method in ("JiT", "REPA")]
    for folder in todo[0].networks:  # they are trained
        folder.mkdir(parents=True)
        (folder / "training.json").touch()
    done: list[str] = []

    def act(work: Any, run: Any) -> Any:
        return [("train", lambda: done.append(run.method) or work.add(run, "train", {}))]

    def failing(work: Any, run: Any) -> Any:
        def fail() -> None:
            raise RuntimeError("it burns (status 2)")

        return [("train", fail)] if run.method == "JiT" else act(work, run)

    monkeypatch.setattr(study, "pieces", failing)
    assert not study.work_on_all(study.Study(tmp_path / "results.jsonl", float("inf")), todo, 1)
    assert done == ["REPA"]
    assert capsys.readouterr().out.count("digits, JiT, seed 0: it burns (status 2)") == 1


def test_other_settings_are_another_result(plan: ModuleType, tmp_path: Path) -> None:
    data = plan.datasets(["digits"], small=False)[0]
    small = plan.datasets(["digits"], small=True)[0]
    runs = [plan.run_of(one, method, 0, tmp_path) for one in (data, small) for method in ("JiT", "REPA")]
    assert len({run.config for run in runs}) == len({run.folder for run in runs}) == 4
    assert plan.run_of(data, "JiT", 1, tmp_path).config == runs[0].config


def test_at_the_end_of_its_time_a_command_is_asked_to_stop(study: ModuleType, tmp_path: Path) -> None:
    work = study.Study(tmp_path / "results.jsonl", time.monotonic() + 1.5)
    code = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(0)))\n"
    program = [sys.executable, "-c", f"{code}print('ready', flush=True)\ntime.sleep(60)"]
    with pytest.raises(study.OutOfTimeError):
        work.command(program, tmp_path / "log")
    assert (tmp_path / "log").read_text() == "ready\nsaved\n"
    with pytest.raises(study.OutOfTimeError):
        work.command(program, tmp_path / "never")
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_command_too(number: signal.Signals, tmp_path: Path) -> None:
    log = tmp_path / "log"
    inner = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(0)))"
    inner += "; print('ready', flush=True); time.sleep(60)"
    outer = (
        f"import math, sys; from pathlib import Path; from study_work import OutOfTimeError, Study\n"
        f"work = Study(Path({str(tmp_path / 'results.jsonl')!r}), math.inf)\n"
        f"try:\n    with work.heeding_signals(): work.command([sys.executable, '-c', {inner!r}], Path({str(log)!r}))\n"
        f"except OutOfTimeError: sys.exit(work.stopped)"
    )
    process = subprocess.Popen([sys.executable, "-c", outer], cwd=PATH)
    while not (log.exists() and log.read_text()):
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(number)
    assert process.wait(30) == number
    assert log.read_text() == "ready\nsaved\n"


def test_what_was_found_is_found_again_and_a_line_that_was_cut_is_not(
    study: ModuleType, plan: ModuleType, tmp_path: Path
) -> None:
    run = plan.run_of(plan.datasets(["digits"], small=True)[0], "JiT", 0, tmp_path)
    study.Study(tmp_path / "results.jsonl", 0).add(run, "sweep", {"scale": 2.0})
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"data": "digits", "met')
    again = study.Study(tmp_path / "results.jsonl", 0)
    assert again.of(run, "sweep")["scale"] == 2.0
    assert again.of(run, "train") is None
    assert again.of(plan.run_of(run.data, "REPA", 0, tmp_path), "sweep") is None


def test_the_budget_of_a_method_is_the_cost_of_plain_jit(
    study: ModuleType, plan: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = plan.datasets(["digits"], small=False)[0]
    jit, vco = (plan.run_of(data, method, 0, tmp_path) for method in ("JiT", "+ RMS, V-Co"))
    work = study.Study(tmp_path / "results.jsonl", 0)
    assert [kind for kind, _ in study.pieces(work, vco)] == ["train", "sweep", "unguided"]
    work.add(vco, "sweep", {"scale": 1.5})
    work.add(vco, "train", {"flops_per_image": 300.0})
    assert [kind for kind, _ in study.pieces(work, vco)][-2:] == ["best", "neighbours"]
    work.add(jit, "train", {"flops_per_image": 100.0})
    jit.folder.mkdir(parents=True)
    assert "pace" in [kind for kind, _ in study.pieces(work, vco)]
    work.add(vco, "pace", {"over_reference": 1.25})
    seen: list[tuple[str, float, int]] = []

    def seen_only(work: Any, run: Any, kind: str, scale: float, steps: int) -> None:
        seen.append((kind, scale, steps))

    monkeypatch.setattr(study, "score", seen_only)
    for kind, act in study.pieces(work, vco):
        if kind in ("flops", "time"):
            act()
    assert seen == [("flops", 1.5, 260), ("time", 1.5, 640)]  # 800 / 3 and 800 * 0.8, down to a kept checkpoint


@pytest.mark.parametrize(("lowest", "chosen", "asked"), [(2.0, 2.0, 1), (3.0, 3.0, 2), (4.0, 4.0, 3), (9.0, 8.0, 4)])
def test_a_larger_scale_is_tried_while_the_largest_is_the_best(
    lowest: float, chosen: float, asked: int, study: ModuleType, plan: ModuleType, tmp_path: Path
) -> None:
    run = plan.run_of(plan.datasets(["clothing32"], small=False)[0], "JiT", 0, tmp_path)
    assert (list(run.data.scales)[-1], list(run.data.beyond)) == (3, [4, 6, 8])
    run.folder.mkdir(parents=True)
    calls: list[list[float]] = []

    class Pretended(study.Study):  # type: ignore[name-defined,misc]
        """Writes what `vco eval sweep` would."""

        def vco(self, run: Any, *arguments: str) -> str:
            scales = [float(scale) for scale in arguments[arguments.index("--scales") + 1].split(",")]
            new = [scale for scale in scales if not calls or scale not in calls[-1]]
            calls.append(scales)
            rows = [{"sweep": {"scale": scale}, "seed": 1000, "value": abs(scale - lowest)} for scale in new]
            rows += [{"guidance": {"scale": min(scales, key=lambda scale: abs(scale - lowest))}}]
            with (run.folder / "study-sweep.jsonl").open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
            return ""

    work = Pretended(tmp_path / "results.jsonl", 0)
    study.sweep(work, run)
    assert len(calls) == asked
    found = work.of(run, "sweep")
    assert found["scale"] == chosen
    assert [scale for scale, _, _ in found["tried"]] == calls[-1]


def test_a_sweep_that_was_stopped_tries_the_larger_scales_that_are_left(
    study: ModuleType, plan: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = plan.run_of(plan.datasets(["clothing32"], small=False)[0], "JiT", 0, tmp_path)
    run.folder.mkdir(parents=True)
    path, work = run.folder / "study-sweep.jsonl", study.Study(tmp_path / "results.jsonl", 0)

    def swept(run: Any, *arguments: str) -> str:
        scales = [float(scale) for scale in arguments[arguments.index("--scales") + 1].split(",")]
        rows = [json.loads(row) for row in path.read_text().splitlines()] if path.exists() else []
        there = [row["sweep"]["scale"] for row in rows if "sweep" in row]
        rows += [{"sweep": {"scale": one}, "seed": 1000, "value": 9 - one} for one in scales if one not in there]
        if not any(row.get("guidance") == {"scale": scales[-1]} for row in rows):  # what is there is not added again
            rows.append({"guidance": {"scale": scales[-1]}})
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        if there and scales[-1] == 6 and stops.pop():
            raise study.OutOfTimeError
        return ""

    stops = [False, True]
    monkeypatch.setattr(work, "vco", swept)
    with pytest.raises(study.OutOfTimeError):
        study.sweep(work, run)
    study.sweep(work, run)
    assert work.of(run, "sweep")["scale"] == 8


def line(method: str, seed: int, kind: str, **more: Any) -> dict[str, Any]:
    return {"data": "digits", "method": method, "config": "c", "seed": seed, "kind": kind, "more": "", **more}


def made_up() -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    scores = {"JiT": (1.0, 1.1), "REPA": (1.02, 1.12), "iREPA": (9.0, 9.1)}
    for method, values in scores.items():
        for seed, value in enumerate(values):
            for kind in ("unguided", "best", "flops", "time"):
                found = {"FD (a)": [value, value + 0.02], "FD (b)": [2 * value]}
                lines.append(
                    line(method, seed, kind, steps=100, scale=2.0, values=found, real={"FD (a)": 0.3, "FD (b)": 0.4})
                )
            cost: dict[str, Any] = {"flops_per_image": 1e6, "parameters": {"backbone": 1e6}, "folder": "x"}
            cost["loss"] = [[10, 1.0], [20, 0.5]]
            lines.append(line(method, seed, "train", **cost))
        lines.append(line(method, 0, "pace", over_reference=1.5))
        lines.append(line(method, 0, "sweep", scale=2.0, tried=[[1.0, 1000, 3.0], [2.0, 1000, 2.0]]))
        lines.append(line(method, 0, "neighbours", near=1, of=100))
    return lines


def test_the_page_says_means_intervals_and_ties(modules: list[ModuleType], tmp_path: Path) -> None:
    page = tmp_path / "study.md"
    page.write_text("# Study\n\nWords before.\n")
    for _ in range(2):  # written again, it is the same
        modules[2].write_report(made_up(), ["digits"], tmp_path, page)
    text = page.read_text()
    assert text.startswith("# Study\n\nWords before.\n")
    assert text.count("### FD (a)") == text.count("### FD (b)") == 1
    rows = [row for row in text.partition("### FD (b)")[0].splitlines() if row.startswith("| ")][2:]
    assert [row.split(" | ")[0] for row in rows] == ["| JiT", "| REPA", "| iREPA"]
    assert "**1.060 (" in rows[0]
    assert " tie" in rows[1]
    assert " tie" not in rows[2]
    assert "| 2 (the largest tried) | 2 |" in rows[0]
    assert "| 1 of 100 |" in text
    for picture in ("scales", "losses"):
        assert f"(study_digits_{picture}.png)" in text
        assert (tmp_path / f"study_digits_{picture}.png").stat().st_size > 5000


def test_results_of_former_settings_are_not_mixed_with_those_of_today(
    modules: list[ModuleType], plan: ModuleType, tmp_path: Path
) -> None:
    now = plan.run_of(plan.datasets(["digits"], small=False)[0], "JiT", 0, tmp_path).config
    old = line("JiT", 0, "unguided", steps=1, scale=1, values={"FD (a)": [77.0]}, real={"FD (a)": 0.3})
    new = {**old, "config": now, "values": {"FD (a)": [5.0]}}
    modules[2].write_report([old, new], ["digits"], tmp_path, tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "5.000" in text
    assert "77" not in text


@pytest.mark.slow  # some minutes: a rehearsal of everything, from training to the page
def test_a_rehearsal_stops_goes_on_and_writes_the_page(tmp_path: Path) -> None:
    command = (
        f"{sys.executable} {PATH / 'study.py'} --small --datasets digits --methods JiT --seeds 1 --work {tmp_path}"
    )
    first = subprocess.run([*shlex.split(command), "--budget", "8s"], capture_output=True, text=True, check=True)
    assert "the time is up; the same command goes on" in first.stdout
    subprocess.run(shlex.split(command), capture_output=True, text=True, check=True)
    lines = [json.loads(text) for text in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {found["kind"] for found in lines} == {
        "train", "pace", "sweep", "unguided", "best", "flops", "time", "neighbours",
    }  # fmt: skip
    assert all(len(values) == 2 for found in lines if "values" in found for values in found["values"].values())
    assert {name for found in lines if "values" in found for name in found["values"]} == {
        "FD (digits-cnn)",
        "FD (timm)",
    }
    before = (tmp_path / "results.jsonl").read_text()
    again = subprocess.run(shlex.split(command), capture_output=True, text=True, check=True)
    assert (tmp_path / "results.jsonl").read_text() == before, again.stderr
    page = tmp_path / "study.md"
    subprocess.run([*shlex.split(command), "--report", "--page", str(page)], check=True)
    assert "### FD (timm)" in page.read_text()
    assert (tmp_path / "study_digits_rehearsed_samples.png").exists()


@pytest.mark.slow  # a minute or two
def test_the_gpu_script_rehearses_on_a_cpu_and_does_nothing_twice(tmp_path: Path) -> None:
    import os

    environment = os.environ | {"OUT": str(tmp_path), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    script = [str(PATH / "on_gpu.sh"), "checks", "speed", "study", "--small"]
    done = subprocess.run(script, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in (tmp_path / "done").iterdir()} >= {"tests", "parity", "speed-loss", "study"}
    rows = json.loads((tmp_path / "parity.json").read_text())["rows"]
    assert rows[0]["fp32_difference"] == 0.0
    again = subprocess.run(script, env=environment, capture_output=True, text=True)
    assert (again.returncode, again.stdout) == (0, "")


def test_the_gpu_script_refuses_a_stage_that_is_none(tmp_path: Path) -> None:
    done = subprocess.run([str(PATH / "on_gpu.sh"), "spead"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "spead is none of checks, speed, study and --small" in done.stderr
