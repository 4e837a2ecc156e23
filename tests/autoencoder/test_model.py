"""Building, loading and standardising AutoencoderKL."""

import copy

import pytest
import torch
from diffusers import AutoencoderKL

from autoencoder.latents import downsampling, latent_shape, standardize
from autoencoder.model import (
    build_autoencoder,
    configured_codec,
    initial_autoencoder,
    load_autoencoder,
)
from ldm.config import load_config
from ldm.core.errors import UserError
from ldm.core.files import write_json
from ldm.core.sums import manifest_of
from tests.damage import DAMAGES


def test_an_unknown_key_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"autoencoder\.model\.latent_chanels.*'latent_channels'"):
        build_autoencoder({"latent_chanels": 4})


def test_widths_that_groupnorm_cannot_divide_are_refused():
    with pytest.raises(UserError, match=r"\[24\].*norm_num_groups \(32\)"):
        build_autoencoder({"block_out_channels": [32, 24]})


def test_block_types_must_match_the_widths():
    with pytest.raises(
        UserError, match="up_block_types has 1 entries and block_out_channels has 2"
    ):
        build_autoencoder({"block_out_channels": [32, 32], "up_block_types": ["UpDecoderBlock2D"]})


@pytest.mark.parametrize(("widths", "factor"), [([8], 1), ([8, 8, 8], 4), ([8, 8, 8, 8], 8)])
def test_the_number_of_widths_is_the_depth(widths, factor):
    vae = build_autoencoder({"block_out_channels": widths, "norm_num_groups": 4})
    assert downsampling(vae) == factor
    assert latent_shape(vae, 32) == (4, 32 // factor, 32 // factor)
    assert vae.encode(torch.zeros(1, 3, 32, 32)).latent_dist.mean.shape[1:] == latent_shape(vae, 32)


def test_a_resolution_that_does_not_divide_is_refused(vae):
    with pytest.raises(UserError, match=r"data\.resolution=30 is not a multiple of 4"):
        latent_shape(vae, 30)


def test_loading_finds_the_vae_of_a_pipeline_and_gives_float32(vae, tmp_path):
    vae.half().save_pretrained(tmp_path / "pipeline" / "vae")
    for path in (tmp_path / "pipeline", tmp_path / "pipeline" / "vae"):
        loaded = load_autoencoder(path)
        assert loaded.dtype == torch.float32
        for name, weight in loaded.state_dict().items():
            assert torch.equal(weight, vae.state_dict()[name].float())


def test_the_shipped_autoencoder_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_autoencoder("autoencoder/pretrained/drawn64").config["block_out_channels"][0] == 32


def test_what_is_no_autoencoder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds neither config\.json nor vae/config\.json"):
        load_autoencoder(tmp_path)
    with pytest.raises(UserError, match="cannot load AutoencoderKL from 'no/such-model'"):
        load_autoencoder("no/such-model")


@pytest.mark.parametrize("one_by_one", [True, False])
def test_standardising_is_exact_in_stock_diffusers(vae, flowers, tmp_path, one_by_one):
    if not one_by_one:
        vae.quant_conv = vae.post_quant_conv = None
        vae.register_to_config(use_quant_conv=False, use_post_quant_conv=False)
    mean, std = torch.tensor([1.0, -2, 0, 0.5]), torch.tensor([0.2, 3.0, 1, 8])
    before = vae.encode(flowers).latent_dist
    standardize(copy.deepcopy(vae), mean, std).save_pretrained(tmp_path)

    stock = AutoencoderKL.from_pretrained(tmp_path)
    after = stock.encode(flowers).latent_dist
    m, s = mean[:, None, None], std[:, None, None]
    torch.testing.assert_close(after.mean, (before.mean - m) / s, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after.std, before.std / s, atol=1e-5, rtol=1e-5)
    decoded = vae.decode(before.mean).sample
    torch.testing.assert_close(stock.decode(after.mean).sample, decoded, atol=1e-5, rtol=0)
    assert stock.config.scaling_factor == 1 and stock.config.shift_factor is None


def test_a_dead_channel_cannot_be_standardised(vae):
    with pytest.raises(UserError, match="a channel is dead"):
        standardize(vae, torch.zeros(4), torch.tensor([1.0, 1, 0, 1]))


def test_stage_two_uses_the_path_or_what_stage_one_exported(vae, tmp_path):
    here = [f"output={tmp_path}", "name=x"]
    with pytest.raises(UserError, match=r"train it with train_autoencoder\.py"):
        configured_codec(load_config(None, here))
    vae.save_pretrained(tmp_path / "x" / "autoencoder" / "export")
    found = configured_codec(load_config(None, here)).module
    assert torch.equal(found.quant_conv.bias, vae.quant_conv.bias)
    vae.save_pretrained(tmp_path / "vae")
    named = load_config(None, [f"autoencoder.path={tmp_path / 'vae'}"])
    found = configured_codec(named).module
    assert torch.equal(found.quant_conv.bias, vae.quant_conv.bias)


def test_stage_one_starts_from_init_and_refuses_path(vae, tmp_path):
    vae.save_pretrained(tmp_path)
    started = initial_autoencoder(load_config(None, [f"autoencoder.init={tmp_path}"]))
    assert torch.equal(started.quant_conv.bias, vae.quant_conv.bias)
    with pytest.raises(UserError, match=r"autoencoder\.init"):
        initial_autoencoder(load_config(None, [f"autoencoder.path={tmp_path}"]))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "file", ["config.json", "diffusion_pytorch_model.safetensors", "manifest.json"]
)
def test_an_export_that_is_damaged_is_refused(vae, tmp_path, damage, file):
    config = load_config(None, [f"output={tmp_path}", "name=it"])
    export = tmp_path / "it" / "autoencoder" / "export"
    vae.save_pretrained(export)
    write_json(export / "manifest.json", manifest_of(export))
    configured_codec(config)
    DAMAGES[damage](export / file)
    if (damage, file) == ("deleted", "manifest.json"):  # older versions wrote none
        configured_codec(config)
    else:
        with pytest.raises(UserError, match=r"is not what was exported.*exports it anew"):
            configured_codec(config)
