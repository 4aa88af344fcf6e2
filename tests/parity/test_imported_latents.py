"""Published files of SiT's relatives and of Latent Forcing become runs that predict what their code predicts."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from parity.goldens import assert_close
from parity.latent_forcing_goldens import streams_of as forcing_streams
from parity.latent_goldens import load_latent
from parity.sit_goldens import streams_of, tokens_of

import vco
from vco.api import FEATURES, IMAGE, Condition
from vco.commands.importing import import_weights
from vco.errors import UserError
from vco_plugins.layers import CLASS_TOKEN

TINY = (
    "--backbone.width 32 --backbone.depth 3 --backbone.heads 2 --data.size 64 --data.classes 7 --features.resolution 56"
)
ALIGNED = f"{TINY} --loss.repa.block 2"


def _encoder(folder: Path, width: int = 24, patch: int = 14) -> list[str]:
    """The option for an encoder of this width, of which an import needs the sizes alone."""
    folder.mkdir()
    sizes = {"model_type": "dinov2", "hidden_size": width, "num_hidden_layers": 2, "patch_size": patch}
    (folder / "config.json").write_text(json.dumps({**sizes, "num_attention_heads": 2}))
    return ["--features.weights", str(folder)]


def _file(path: Path, name: str, **changes: Any) -> Path:
    """A file as REPA, ReDi and REG write it, whose average has the golden weights."""
    weights = load_latent(name).weights
    last = {key: tensor + 1 for key, tensor in weights.items()}
    args = argparse.Namespace(resolution=256, cfg_prob=0.1)
    content = {"model": last, "ema": dict(weights), "opt": {"state": {}}, "args": args, "steps": 400_000}
    torch.save({**content, **changes}, path)
    return path


def _denoised(folder: Path, noisy: Any, times: Any, labels: Any, ema: int | None = 0) -> Any:
    run = vco.open_run(folder, ema=ema)
    backbone = run.model.backbone
    with torch.no_grad():
        return backbone(noisy, times, Condition(labels=labels))


@pytest.fixture(autouse=True)
def _no_vae(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network alone is asked, so that the codec's weights need not be there."""
    monkeypatch.setattr("vco_plugins.codecs.vae.VAE.load", lambda self: None)


@pytest.mark.parametrize("bare", [False, True])
def test_repas_files_are_imported(bare: bool, tmp_path: Path) -> None:
    golden, file = load_latent("sit_forward"), tmp_path / "repa.pt"
    if bare:
        torch.save(dict(golden.weights), file)
    else:
        _file(file, "sit_forward")
    said = import_weights(file, "latent256-repa-xl2", tmp_path / "run", ALIGNED.split())
    assert any("left out of the file: projectors" in sentence for sentence in said)
    t = 1 - golden.inputs["t"]
    found = _denoised(
        tmp_path / "run", {IMAGE: golden.inputs["x"]}, {IMAGE: t}, golden.inputs["y"], ema=None if bare else 0
    )
    assert_close(-found.velocity[IMAGE], golden.outputs["v"])
    assert bare or "step 400000" in said[0]


def test_old_names_of_blocks_are_understood(tmp_path: Path) -> None:
    golden = load_latent("sit_forward")
    renamed = {n.replace("blocks.2.", "decoder_blocks.0."): w for n, w in golden.weights.items()}
    _file(tmp_path / "repa.pt", "sit_forward", ema=renamed, model=renamed)
    import_weights(tmp_path / "repa.pt", "latent256-repa-xl2", tmp_path / "run", ALIGNED.split())
    t = 1 - golden.inputs["t"]
    found = _denoised(tmp_path / "run", {IMAGE: golden.inputs["x"]}, {IMAGE: t}, golden.inputs["y"])
    assert_close(-found.velocity[IMAGE], golden.outputs["v"])


@pytest.mark.parametrize("name", ["redi_forward", "redi_forward_learn_sigma"])
def test_redis_files_are_imported(name: str, tmp_path: Path) -> None:
    golden = load_latent(name)
    spare = ["--backbone.spare-outputs", "true"] if golden.config["learn_sigma"] else []
    import_weights(_file(tmp_path / "redi.pt", name), "latent256-redi-xl2", tmp_path / "run", [*TINY.split(), *spare])
    t = golden.inputs["t"]
    found = _denoised(tmp_path / "run", streams_of(golden), {IMAGE: t, FEATURES: t}, golden.inputs["y"])
    assert_close(found.velocity[IMAGE], golden.outputs["v"])
    assert_close(found.velocity[FEATURES], tokens_of(golden.outputs["v_feature"]))


def test_regs_files_are_imported(tmp_path: Path) -> None:
    golden = load_latent("reg_forward")
    options = [*ALIGNED.split(), *_encoder(tmp_path / "encoder")]
    import_weights(_file(tmp_path / "reg.pt", "reg_forward"), "latent256-reg-xl2", tmp_path / "run", options)
    t = 1 - golden.inputs["t"]
    found = _denoised(tmp_path / "run", streams_of(golden), {IMAGE: t, CLASS_TOKEN: t}, golden.inputs["y"])
    assert_close(-found.velocity[IMAGE], golden.outputs["v"])
    assert_close(-found.velocity[CLASS_TOKEN][:, 0], golden.outputs["v_cls"])


def test_latent_forcings_files_are_imported(tmp_path: Path) -> None:
    golden = load_latent("latent_forcing_forward")
    config = golden.config
    weights = {f"net.{name}": w for name, w in golden.weights.items()} | {"dino.norm": torch.ones(3)}
    content = {"model": weights, "model_ema1": weights, "model_ema2": weights, "optimizer": {}, "epoch": 199}
    torch.save({**content, "args": argparse.Namespace(dh_depth=2)}, tmp_path / "checkpoint-last.pth")
    options = (
        f"--data.size 32 --data.classes 7 --features.resolution 224 --backbone.width {config['hidden_size']} "
        f"--backbone.depth 5 --backbone.heads 2 --backbone.bottleneck {config['bottleneck_dim']} "
        f"--backbone.feature-bottleneck {config['bottleneck_dim_dino']} --backbone.patch 2 "
        f"--backbone.context-tokens 3 --backbone.context-start 1 --backbone.own-width {config['dh_hidden_size']}"
    )
    given = [*options.split(), *_encoder(tmp_path / "encoder", width=12)]
    import_weights(tmp_path / "checkpoint-last.pth", "latent-forcing-l16", tmp_path / "run", given)
    times = {IMAGE: golden.inputs["t_pixel"], FEATURES: golden.inputs["t_feature"]}
    found = _denoised(tmp_path / "run", forcing_streams(golden), times, golden.inputs["y"])
    assert_close(found.clean[IMAGE], golden.outputs["pixel"])
    assert_close(found.clean[FEATURES], tokens_of(golden.outputs["feature"]))


def _refusal(file: Path, preset: str, folder: Path, *options: str) -> str:
    tiny = ALIGNED if "repa" in preset else TINY
    with pytest.raises(UserError) as caught:
        import_weights(file, preset, folder / "run", [*tiny.split(), *options])
    assert "\n" not in str(caught.value)
    assert not (folder / "run").exists()
    return str(caught.value)


def test_what_does_not_fit_is_said_in_one_sentence(tmp_path: Path) -> None:
    repa = _file(tmp_path / "repa.pt", "sit_forward")
    assert "7 classes instead of 9" in _refusal(repa, "latent256-repa-xl2", tmp_path, "--data.classes", "9")
    assert "--backbone.direction noise" in _refusal(repa, "latent256-sit-xl2", tmp_path)
    assert "--backbone.depth 3" in _refusal(repa, "latent256-repa-xl2", tmp_path, "--backbone.depth", "9")
    assert "latents of 8x8 instead of 16x16" in _refusal(
        _file(tmp_path / "pos.pt", "sit_forward", ema={**load_latent("sit_forward").weights, **_positions()}),
        "latent256-sit-xl2",
        tmp_path,
        *("--data.size", "128", "--backbone.direction", "noise"),
    )
    redi = _file(tmp_path / "redi.pt", "redi_forward")
    assert "12 channels of latents and features instead of 4" in _refusal(redi, "latent256-sit-xl2", tmp_path)
    sigma = _file(tmp_path / "sigma.pt", "redi_forward_learn_sigma")
    assert "--backbone.spare-outputs true" in _refusal(sigma, "latent256-redi-xl2", tmp_path)
    reg = _file(tmp_path / "reg.pt", "reg_forward")
    assert "a stream 'class_token' (--adapter class-token)" in _refusal(reg, "latent256-repa-xl2", tmp_path)
    odd = {"y_embedder.embedding_table.weight": torch.zeros(8, 32)}
    torch.save(odd, tmp_path / "odd.pt")
    assert "it holds no x_embedder.proj.weight" in _refusal(tmp_path / "odd.pt", "latent256-sit-xl2", tmp_path)


def _positions() -> dict[str, torch.Tensor]:
    return {"pos_embed": torch.zeros(1, 16, 32)}
