"""ReDi's feature stream against the published code: standardised, projected, brought to the latents' grid."""

import torch
from parity.given import ENCODER
from parity.goldens import assert_close
from parity.latent_goldens import LatentGolden, load_latent
from parity.sit_goldens import tokens_of

from vco.api import AdapterSetting, Features, FeatureSpec, StreamSpec
from vco_plugins.adapters.pca import PCA
from vco_plugins.moments import Covariance, principal

LATENT = StreamSpec(shape=(4, 32, 32))


def _features(tokens: torch.Tensor) -> dict[str, Features]:
    side = round(tokens.shape[1] ** 0.5)
    return {ENCODER: Features(tokens=tokens, grid=(side, side), pooled=tokens[:, 0])}


def _adapter(golden: LatentGolden) -> PCA:
    width, rank = golden.inputs["tokens"].shape[2], golden.config["rank"]
    spec = FeatureSpec(tokens=(256, width), grid=(16, 16))
    return PCA(PCA.Config(channels=rank, grid="image"), AdapterSetting(features={ENCODER: spec}, image=LATENT))


def test_tokens_become_the_published_stream() -> None:
    golden = load_latent("redi_features")
    adapter, std = _adapter(golden), golden.inputs["std"]
    adapter.mean.copy_(golden.inputs["mean"] + std * golden.inputs["pca_mean"])
    adapter.projection.copy_(golden.inputs["components"].T / std[:, None])
    stream = adapter(_features(golden.inputs["tokens"])).value["features"]
    assert adapter.specs()["features"].grid == (32, 32)
    assert_close(stream, tokens_of(golden.outputs["feature"]))


def test_a_fit_finds_the_published_components_but_for_signs_and_their_variances() -> None:
    golden = load_latent("redi_features")
    tokens = golden.inputs["fit_tokens"]
    adapter = _adapter(golden)
    adapter.fit([(torch.zeros(1), _features(tokens[None]))])
    std = tokens.double().std(0, correction=0)
    components = adapter.projection.double() * std[:, None]
    signs = (components * golden.inputs["components"].T).sum(0).sign()
    assert_close((components * signs).T.float(), golden.inputs["components"])
    standardised = Covariance(tokens.shape[1], tokens.device)
    standardised.add((tokens.double() - tokens.double().mean(0)) / std)
    variances, _ = principal(standardised.covariance, golden.config["rank"])
    rows = len(tokens)
    assert_close((variances * rows / (rows - 1)).float(), golden.outputs["explained_variance"])
