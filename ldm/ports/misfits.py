"""Whether the parts of a latent diffusion model are of one model."""

from ldm.core.errors import UserError
from ldm.models.networks import kind_of
from ldm.ports.model import Model


def refuse_misfits(model: Model) -> None:
    """Raise UserError, in a sentence, where the parts cannot work together."""
    unet, text, network = model.network, model.text, kind_of(model.network)
    width, context = text.context_dim, network.context_dim(unet.config)
    if (projected := getattr(unet.config, "encoder_hid_dim_type", None)) not in (None, "text_proj"):
        raise UserError(
            f"this U-Net wants an input that is no prompt (encoder_hid_dim_type={projected}): not "
            "supported"
        )
    channels, latents = unet.config.in_channels, model.codec.channels
    if width != context:
        raise UserError(
            f"the text encoder is {width} wide and the {network.name} attends to {context}: "
            "they are not of the same model"
        )
    if channels != latents:
        hint = "; it is an inpainting U-Net" if channels == 2 * latents + 1 else ""
        raise UserError(
            f"the {network.name} takes {channels} channels and the autoencoder has {latents}{hint}"
        )
    if unet.config.out_channels not in (latents, 2 * latents):
        raise UserError(
            f"the {network.name} gives {unet.config.out_channels} channels, and {latents} latent "
            f"channels need {latents}, or {2 * latents} with a learned variance"
        )
    for key in (
        "class_embed_type",
        "addition_embed_type",
        "num_class_embeds",
        "time_cond_proj_dim",
    ):
        kind = getattr(unet.config, key, None)
        if kind not in (None, "text"):  # addition_embed_type=text pools what is attended to
            raise UserError(
                f"this U-Net wants an input that is no prompt ({key}={kind}): not supported"
            )
    if len(text.tokenizer) > text.encoder.config.vocab_size:
        raise UserError(
            f"the tokenizer has {len(text.tokenizer)} tokens and the text encoder knows "
            f"{text.encoder.config.vocab_size}: they are not of the same model"
        )
    positions = getattr(text.encoder.config, "max_position_embeddings", None)
    if positions is not None and text.length > positions:
        raise UserError(
            f"the tokenizer's prompts are {text.length} tokens long and the text "
            f"encoder reads {positions}: set model_max_length in tokenizer_config.json"
        )
