"""Every kind of conditioner is a stock pair that StableDiffusionPipeline saves, loads and calls."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from open_clip.tokenizer import SimpleTokenizer
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from ldm.conditions.conditioner import CONDITIONERS, build_conditioner
from ldm.conditions.tokenizers import clip_bpe_tokenizer
from ldm.config import ConditioningConfig
from ldm.core.errors import UserError
from ldm.models.unet import build_unet

NAMES = ("daisy", "Oxeye Daisy", "rose")
TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = clip_bpe_tokenizer(16)
    tokenizer.save_pretrained(folder)
    config = CLIPTextConfig(
        **TINY,
        intermediate_size=32,
        max_position_embeddings=16,
        vocab_size=len(tokenizer),
        pad_token_id=49407,
        eos_token_id=49407,
    )
    CLIPTextModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    clip_bpe_tokenizer(10**30).save_pretrained(folder)  # T5's own tokenizers know no length either
    config = T5Config(d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2, vocab_size=49408)
    T5EncoderModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def conditioner(request, clip_folder, t5_folder):
    torch.manual_seed(0)
    config = {
        "joint": ConditioningConfig("joint", model=TINY),
        "clip": ConditioningConfig("clip", path=str(clip_folder)),
        "t5": ConditioningConfig("t5", path=str(t5_folder), model={"model_max_length": 12}),
        "class": ConditioningConfig("class", model={"hidden_size": 32}),
        "none": ConditioningConfig("none", model={"hidden_size": 32}),
    }[request.param]
    return build_conditioner(config, NAMES)


every_kind = pytest.mark.parametrize("conditioner", list(CONDITIONERS), indirect=True)


def stock_pipeline(conditioner):
    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=8, latent_channels=4)
    unet = build_unet(
        {"block_out_channels": (32, 32), "layers_per_block": 1},
        sample_size=8,
        in_channels=4,
        out_channels=4,
        cross_attention_dim=conditioner.context_dim,
    )
    return StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        tokenizer=conditioner.tokenizer,
        text_encoder=conditioner.encoder,
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_frozen_encoder_saved_in_half_precision_encodes_in_float32(clip_folder, tmp_path, dtype):
    whole = CLIPTextModel.from_pretrained(clip_folder)
    whole.to(dtype).save_pretrained(tmp_path)
    clip_bpe_tokenizer(16).save_pretrained(tmp_path)
    conditioner = build_conditioner(ConditioningConfig("clip", path=str(tmp_path)), None)
    ours = conditioner.encode(conditioner.tokens(["a red rose"]))
    theirs = build_conditioner(ConditioningConfig("clip", path=str(clip_folder)), None)
    theirs.encoder.load_state_dict(whole.state_dict())  # the rounded weights, in float32
    assert ours.dtype == torch.float32
    assert torch.equal(ours, theirs.encode(theirs.tokens(["a red rose"])))


@every_kind
def test_stock_pipeline_saves_loads_and_encodes_alike(conditioner, tmp_path):
    stock_pipeline(conditioner).save_pretrained(tmp_path)
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    prompts = ["", ""] if conditioner.words == () else ["daisy", "oxeye daisy"]
    theirs, empty = loaded.encode_prompt(prompts, "cpu", 1, True)
    ours = conditioner.encode(conditioner.tokens([*prompts, None]))
    torch.testing.assert_close(ours[:2], theirs, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours[2], empty[0], rtol=0, atol=1e-6)
    assert ours.shape == (3, conditioner.length, conditioner.context_dim)
    image = loaded(prompts[0], num_inference_steps=1, output_type="latent").images
    assert image.shape == (1, 4, 8, 8)


@every_kind
def test_gradients_reach_the_encoder_exactly_when_it_is_trained_along(conditioner):
    prompt = "" if conditioner.words == () else "daisy"
    context = conditioner.encode(conditioner.tokens([prompt]))
    kind = conditioner.trainable
    assert context.requires_grad == kind
    assert any(p.requires_grad for p in conditioner.encoder.parameters()) == kind


@pytest.mark.parametrize("conditioner", ["joint", "clip", "t5"], indirect=True)
def test_a_caption_that_is_too_long_is_truncated_and_said_to_be(conditioner):
    long = "flower " * 100
    assert conditioner.tokens([long]).shape == (1, conditioner.length)
    assert conditioner.truncated(long) and not conditioner.truncated("a red flower")


def test_the_byte_pairs_are_open_clips():
    ours, theirs = clip_bpe_tokenizer(), SimpleTokenizer()
    for caption in ["A red flower, 5 petals!", "naïve café 東京 🌼", "it's <|endoftext|> he'd"]:
        ids = ours(caption).input_ids
        assert ids == [49406, *theirs.encode(caption), 49407]


@pytest.mark.parametrize("conditioner", ["t5"], indirect=True)
def test_t5_embeddings_do_not_depend_on_the_padding(conditioner):
    ids = conditioner.tokens(["a red flower"])
    own = len(conditioner.tokenizer("a red flower").input_ids)
    short = conditioner.encoder(ids[:, :own])[0]
    torch.testing.assert_close(conditioner.encode(ids)[:, :own], short, rtol=0, atol=1e-6)


@pytest.mark.parametrize("conditioner", ["class"], indirect=True)
def test_class_names_are_whole_words_and_case_is_folded(conditioner):
    assert conditioner.words == ("daisy", "oxeye daisy", "rose")
    assert conditioner.tokens(["Rose", " oxeye daisy", None, ""]).flatten().tolist() == [3, 2, 0, 0]
    with pytest.raises(UserError, match=r"no class 'dasy' .* nearest of its 3 is 'daisy'"):
        conditioner.tokens(["dasy"])


def test_case_is_kept_where_names_differ_by_nothing_else():
    conditioner = build_conditioner(ConditioningConfig("class"), ["a", "A"])
    assert conditioner.tokens(["A", "a"]).flatten().tolist() == [2, 1]


@pytest.mark.parametrize("conditioner", ["none"], indirect=True)
def test_unconditional_context_is_zero_and_takes_no_prompt(conditioner):
    assert conditioner.encode(conditioner.tokens([None])).abs().max() == 0
    with pytest.raises(UserError, match="unconditional"):
        conditioner.tokens(["daisy"])


@pytest.mark.parametrize(
    ("config", "names", "sentence"),
    [
        (ConditioningConfig("jiont"), NAMES, "'jiont' is not one of joint, clip, t5, class, none"),
        (ConditioningConfig("joint", model={"hiden_size": 8}), NAMES, "nearest is 'hidden_size'"),
        (ConditioningConfig("joint", model={"vocab_size": 8}), NAMES, "no argument 'vocab_size'"),
        (ConditioningConfig("joint", model={"hidden_size": 30}), NAMES, "multiple of the number"),
        (ConditioningConfig("clip"), NAMES, "needs conditioning.path"),
        (ConditioningConfig("clip", path="/no/such/folder"), NAMES, "'/no/such/folder' cannot be"),
        (ConditioningConfig("class"), None, "name the class column with data.label"),
        (ConditioningConfig("class"), ["a", "a"], "must be distinct"),
    ],
)
def test_a_wrong_config_gets_a_sentence(config, names, sentence):
    with pytest.raises(UserError, match=sentence):
        build_conditioner(config, names)


def test_a_config_for_joint_serves_other_kinds_too(clip_folder):
    """From the command line, where a key can be changed and not removed."""
    for config in (
        ConditioningConfig("none", model=TINY),
        ConditioningConfig("class", model=TINY),
        ConditioningConfig("clip", path=str(clip_folder), model=TINY),
    ):
        assert build_conditioner(config, NAMES).context_dim == TINY["hidden_size"]
    with pytest.raises(UserError, match="no argument 'hiden_size'"):
        build_conditioner(ConditioningConfig("none", model={"hiden_size": 8}))


def test_a_folder_of_the_other_kind_is_refused(t5_folder):
    with pytest.raises(UserError, match="holds a t5 model, and kind=clip reads clip_text_model"):
        build_conditioner(ConditioningConfig("clip", path=str(t5_folder)))


def test_a_pipeline_folder_serves_as_conditioning_path(tmp_path, clip_folder):
    clip = build_conditioner(ConditioningConfig("clip", path=str(clip_folder)))
    stock_pipeline(clip).save_pretrained(tmp_path)
    again = build_conditioner(ConditioningConfig("clip", path=str(tmp_path)))
    ids = clip.tokens(["a red flower"])
    assert torch.equal(again.tokens(["a red flower"]), ids)
    assert torch.equal(again.encode(ids), clip.encode(ids))
    assert json.loads((tmp_path / "model_index.json").read_text())["text_encoder"]
