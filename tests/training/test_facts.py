"""A run goes on with the networks it began with, whatever else fits the same weights."""

import json
from dataclasses import asdict
from functools import lru_cache

import pytest
import torch

from autoencoder.codec import KLCodec
from autoencoder.model import build_autoencoder
from ldm.conditions.conditioner import build_conditioner
from ldm.config import ConditioningConfig, load_config
from ldm.core.errors import UserError
from ldm.models.network import CAPTION
from ldm.models.unet import build_unet
from ldm.ports.model import Model
from ldm.schedulers.spec import Spec
from ldm.training.facts import autoencoder_facts, latent_diffusion_facts, refuse_other_facts

SMALL = [
    "conditioning.model={hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2}",
    "unet={block_out_channels: [16, 16], norm_num_groups: 4}",
    "autoencoder.model={block_out_channels: [8, 8], norm_num_groups: 4}",
    "data.resolution=16",
]


def facts_of(*overrides: str, **autoencoder) -> dict:
    """Those of stage 2, as a checkpoint of such a config gives them back."""
    config = load_config(None, [*SMALL, *overrides])
    vae = autoencoder_of(**config.autoencoder.model | autoencoder)
    conditioner = cached_conditioner(json.dumps(asdict(config.conditioning)))
    unet = cached_unet(json.dumps(config.unet), conditioner.context_dim)
    spec = Spec.from_diffusion_config(config.diffusion)
    model = Model(KLCodec(vae), {CAPTION: conditioner}, unet, spec)
    return json.loads(json.dumps(latent_diffusion_facts(config, model)))


def autoencoder_of(**model):
    torch.manual_seed(0)
    return build_autoencoder(model)


@lru_cache  # one change leaves most as it is
def cached_conditioner(settings: str):
    return build_conditioner(ConditioningConfig(**json.loads(settings)), ["daisy", "rose"])


@lru_cache
def cached_unet(settings: str, width: int):
    shape = {"in_channels": 4, "out_channels": 4, "cross_attention_dim": width}
    return build_unet(json.loads(settings), sample_size=(8, 8), **shape)


@pytest.fixture(scope="module")
def made() -> dict:
    return facts_of()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("unet.act_fn=gelu", "the U-Net's act_fn silu, and this is gelu"),
        ("unet.norm_num_groups=8", "the U-Net's norm_num_groups 4, and this is 8"),
        ("unet.attention_head_dim=4", r"the U-Net's attention_head_dim \[1, 1\], and this is 4"),
        ("unet.norm_eps=1e-3", "the U-Net's norm_eps 1e-05, and this is 0.001"),
        ("unet.resnet_time_scale_shift=scale_shift", "the U-Net's resnet_time_scale_shift default"),
        ("unet.flip_sin_to_cos=false", "the U-Net's flip_sin_to_cos true, and this is false"),
        ("conditioning.model.num_attention_heads=4", "the text encoder's num_attention_heads 2"),
        ("conditioning.model.layer_norm_eps=1e-3", "the text encoder's layer_norm_eps 1e-05"),
        ("conditioning.model.hidden_act=gelu", "the text encoder's hidden_act quick_gelu"),
        ("conditioning.model.max_position_embeddings=16", "the tokens of a caption 32"),
        ("conditioning.kind=class", "conditioning.kind joint, and this is class"),
        ("data.resolution=32", "data.resolution 16, and this is 32"),
        ("autoencoder.standardize=false", "autoencoder.standardize true, and this is false"),
        ("diffusion.prediction=edm", r"diffusion.prediction \[\"v\", {}\], and this is"),
    ],
)
def test_another_network_under_the_same_weights_is_refused(made, tmp_path, change, said):
    with pytest.raises(UserError, match=rf"were made with {said}.*(restore it|and this is)"):
        refuse_other_facts(tmp_path, made, facts_of(change))


@pytest.mark.parametrize(
    ("change", "said"),
    [({"act_fn": "gelu"}, "act_fn silu"), ({"norm_num_groups": 8}, "norm_num_groups 4")],
)
def test_another_autoencoder_of_the_same_weights_is_refused(made, tmp_path, change, said):
    with pytest.raises(UserError, match=f"the autoencoder's {said}"):
        refuse_other_facts(tmp_path, made, facts_of(**change))


def test_an_autoencoders_scale_matters_where_latents_keep_it(made, tmp_path):
    refuse_other_facts(tmp_path, made, facts_of(scaling_factor=0.5))  # measured and folded in
    kept = "autoencoder.standardize=false"
    with pytest.raises(UserError, match=r"scaling_factor 1\.0, and this is 0\.5"):
        refuse_other_facts(tmp_path, facts_of(kept), facts_of(kept, scaling_factor=0.5))


@pytest.mark.parametrize(
    "change",
    ["train.steps=9", "train.learning_rate=1", "unet.dropout=0.1", "sample.sampler=heun",
     "conditioning.model.attention_dropout=0.1", "data.flip=false", "train.batch_size=8"],
)  # fmt: skip
def test_what_may_be_changed_on_the_way_is_no_fact(made, tmp_path, change):
    refuse_other_facts(tmp_path, made, facts_of(change))


def test_facts_that_an_older_version_did_not_know_are_not_compared(made, tmp_path):
    older = {"autoencoder.standardize": True, "the U-Net's": {"act_fn": "silu", "gone_since": 1}}
    refuse_other_facts(tmp_path, older, made)
    with pytest.raises(UserError, match="act_fn"):
        refuse_other_facts(tmp_path, older, facts_of("unet.act_fn=gelu"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("autoencoder.model.act_fn=gelu", "the autoencoder's act_fn silu"),
        ("autoencoder.loss.adversarial_kind=non_saturating", "the adversary hinge"),
        ("autoencoder.loss.adversarial=0", "the adversary hinge, and this is null"),
        ("autoencoder.loss.perceptual_network=lpips", "the loss's perceptual_network gradients"),
        ("autoencoder.loss.reconstruction=l2", "the loss's reconstruction l1, and this is l2"),
        ("autoencoder.loss.kl=0", "the posterior a sample, and this is its mean"),
        ("data.resolution=32", "data.resolution 16"),
        ("autoencoder.loss.perceptual=0", None),
        ("autoencoder.loss.kl=1e-3", None),
        ("autoencoder.loss.adversarial=0.1", None),
    ],
)
def test_stage_1_goes_on_with_its_adversary_and_its_loss(tmp_path, change, said):
    def of(*more):
        begun = ["autoencoder.loss.adversarial=0.5", "autoencoder.loss.perceptual=0.3"]
        config = load_config(None, [*SMALL, *begun, *more])
        return autoencoder_facts(config, build_autoencoder(config.autoencoder.model))

    before = json.loads(json.dumps(of()))
    if said is None:
        refuse_other_facts(tmp_path, before, of(change))
    else:
        with pytest.raises(UserError, match=said):
            refuse_other_facts(tmp_path, before, of(change))
