"""Stage 2: train a conditional U-Net on cached latents.

accelerate launch train_ldm.py --config configs/flowers64.yaml [key=value ...]

Running the same command again resumes it exactly.
"""

import ldm.core.interrupts  # noqa: F401 - what comes after takes its time

# isort: split

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import torch
from diffusers.models.attention_processor import AttnProcessor

from autoencoder.cache import LatentCache, cached_latents
from autoencoder.model import configured_autoencoder, latent_shape
from ldm.conditions.cache import TextCache
from ldm.conditions.conditioner import Conditioner, build_conditioner
from ldm.config import Config, SampleConfig, config_from_arguments
from ldm.core.errors import UserError, exits_with_a_sentence
from ldm.core.inference import leaving_nothing
from ldm.data.example import Source
from ldm.data.repeats import repeated
from ldm.evaluation.measurements import FEWEST
from ldm.models.unet import build_unet, refuse_a_lone_unet
from ldm.schedulers.spec import Spec
from ldm.schedulers.stock import export_refusal
from ldm.training.checkpoint import resumable
from ldm.training.ema import EMA
from ldm.training.facts import latent_diffusion_facts, training_data
from ldm.training.latent_diffusion import (
    Examples,
    LatentDiffusion,
    TokenTable,
    bound,
)
from ldm.training.objective import Times, objective
from ldm.training.optim import GuardedStep, learning_rate, optimizer_of
from ldm.training.post_hoc_ema import LENGTHS, PowerEMA, forget_after
from ldm.training.prefetch import prefetched
from ldm.training.preflight import budget, cut_captions, table
from ldm.training.run import Run
from ldm.training.state import TrainingState
from ldm.training.validation import Validation
from pipelines.calls.defaults import refuse_interval
from pipelines.evaluation.preview import Preview
from pipelines.evaluation.quality import Quality
from pipelines.text_to_image import TextToImagePipeline

STATISTICS = "statistics of the latents"  # among the facts of a checkpoint


def train(config: Config) -> int:
    """Train to the end, or until a signal; returns the command's exit status."""
    options = config.train
    sample = config.sample
    spec = Spec.from_diffusion_config(
        config.diffusion, sample.grid, sample.sampler, sample.sampler_args
    )
    times = Times(config.diffusion, spec.schedule, config.seed, options.batch_size)
    losses = objective(config.diffusion, spec, times)

    run = Run(config, "ldm", options)
    accelerator, device = run.accelerator, run.device
    sources = run.sources()
    repeated(all_captions(sources["train"]), config.data.repeats)  # or be refused
    vae = configured_autoencoder(config).eval().requires_grad_(False)
    vae.to(device)  # type: ignore[arg-type]  # diffusers wraps it without its types
    conditioner = build_conditioner(config.conditioning, sources["train"].label_names)
    conditioner.encoder.to(device)
    refuse_bad_samples(sample, spec, conditioner)
    if config.unet.get("init"):
        refuse_a_lone_unet(config)
    channels, height, width = latent_shape(vae, config.data.resolution)
    unet = build_unet(
        config.unet,
        sample_size=(height, width),
        in_channels=channels,
        out_channels=channels * (2 if config.diffusion.learned_variance else 1),
        cross_attention_dim=conditioner.context_dim,
    )
    if device.type == "cpu":
        unet.set_attn_processor(AttnProcessor())  # bf16 steps take half the time of fused ones
    model = LatentDiffusion(unet, conditioner, options, spec.schedule).to(device)
    facts = latent_diffusion_facts(config, vae, unet, conditioner)
    known = run.earlier_facts(facts).get(STATISTICS)
    latents = cached_latents(config, vae, sources, known)
    facts[STATISTICS] = latents["train"].statistics.figures()
    examples = keyed_examples(config, times, latents, conditioner)

    optimizer = optimizer_of(model, options, model.curve)
    ema = EMA(model, options.ema_decay)
    averages = PowerEMA(model, LENGTHS if options.ema_snapshots else ())
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    guarded_step = GuardedStep(accelerator, optimizer, model.weights, options.clip)
    modules = {"ldm": model, **times.memory}
    state = TrainingState(
        accelerator,
        run.folder / "checkpoints",
        modules,
        {"ldm": optimizer},
        {"ema": ema, "averages": averages},
        facts,
        training_data(sources["train"]),
    )
    validate = Validation(run, model, spec, examples)
    pipeline = TextToImagePipeline.from_parts(vae, unet, conditioner, spec, config.sample)
    prompts = config.sample.prompts or latents["validation"].captions(0)[:1]
    quality = Quality.of(config, pipeline, sources, run.folder / "quality")
    preview = Preview(pipeline, config.sample, prompts, run.folder / "samples")
    refusal = export_refusal(spec, config.sample.num_inference_steps)
    epoch = repeated(all_captions(latents["train"]), config.data.repeats)
    run.say(table(preflight(run, model, sources, latents, len(epoch), refusal)))

    start = run.resume(state)
    if run.main:
        forget_after(start, run.folder / "ema")
    batches = prefetched(examples["train"].batch(micro) for micro in run.slots(epoch, start))
    for step in run.steps(state, start):
        parts = []
        for part in range(1, options.accumulation + 1):
            batch = next(batches).to(device)
            synced = part == options.accumulation
            with nullcontext() if synced else accelerator.no_sync(wrapped):
                share = losses(bound(wrapped, spec, batch.condition), batch).mean()
                accelerator.backward(share / options.accumulation)
            parts.append(share.detach())
        rate = learning_rate(step, options)
        loss = accelerator.reduce(torch.stack(parts).mean(), "mean").item()
        norm = guarded_step(loss, rate)
        times.update(run.gather)
        ema.update(step + 1)
        averages.update(step + 1)
        run.log(step + 1, loss=loss, learning_rate=rate, gradient_norm=norm)
        if run.due(step + 1, options.evaluate_every):
            with leaving_nothing(), ema.applied():
                validate(step + 1)
                if run.main:
                    preview(step + 1)
                if config.sample.quality_samples:
                    run.metrics.log(step + 1, quality())
        if run.main and options.ema_snapshots and run.due(step + 1, options.ema_snapshots):
            averages.snapshot(run.folder / "ema", step + 1)

    if run.finished and run.main:
        with ema.applied():
            pipeline.save_pretrained(config.folder / "pipeline", stock=refusal is None)
        only = f", for this package alone: {refusal}" if refusal else ""
        run.say(f"the pipeline is in {config.folder / 'pipeline'}{only}")
    return run.status


def all_captions(data: Source | LatentCache) -> Iterator[tuple[str, ...]]:
    """The captions of each image, in order."""
    return (data.captions(i) for i in range(len(data)))


def refuse_bad_samples(sample: SampleConfig, spec: Spec, conditioner: Conditioner) -> None:
    """Raise, before anything is encoded, what the first preview would."""
    spec.levels(sample.num_inference_steps)
    refuse_interval(sample.guidance_interval)
    if 0 < sample.quality_samples < FEWEST:
        raise UserError(
            f"sample.quality_samples={sample.quality_samples} are too few to tell a distribution "
            f"from: at least {FEWEST}, or 0 for no such figures"
        )
    try:
        conditioner.tokens(sample.prompts or [""])
    except UserError as error:
        raise UserError(
            f"sample.prompts: {error}; with sample.prompts=[] the data's first caption serves"
        ) from None


def keyed_examples(
    config: Config, times: Times, latents: dict[str, LatentCache], conditioner: Conditioner
) -> dict[str, Examples]:
    """What each set is trained or validated with; every caption tokenised or encoded once."""
    captions = (text for c in latents.values() for choices in all_captions(c) for text in choices)
    condition: Callable[[Sequence[str | None]], torch.Tensor]
    if conditioner.trainable:
        condition = TokenTable(conditioner, captions)
    else:
        condition = TextCache.build(
            conditioner, captions, config.folder / "cache" / "text", config.conditioning.cache_dtype
        )
    return {
        name: Examples(
            latents=cache,
            condition=condition,
            quantiles=times.quantiles,
            seed=config.seed,
            flip=config.data.flip,
            views=cache.views,
            dropout=config.conditioning.dropout,
        )
        for name, cache in latents.items()
    }


def preflight(
    run: Run,
    model: LatentDiffusion,
    sources: dict[str, Source],
    latents: dict[str, LatentCache],
    epoch: int,
    refusal: str | None,
) -> dict[str, str]:
    """What to look at before the first step; `epoch` is the number of images that one shows."""
    train = latents["train"]
    mean, std = (", ".join(f"{x:.2f}" for x in figure.tolist()) for figure in train.statistics)
    modules = dict(model.named_children())
    captions = (" | ".join(choices) for choices in all_captions(train) if choices)
    return {
        **{
            f"{name} images": f"{len(cache)}, {run.rejected[name] + len(cache.quarantine)} rejected"
            for name, cache in latents.items()
        },
        "caption": next(captions, "none: training is unconditional"),
        **cut_captions(model.conditioner, all_captions(train)),
        **({"repeats": f"an epoch shows {epoch} of them"} if epoch > len(train) else {}),
        "latents": f"{tuple(train.shape)} a picture; per channel mean {mean}, std {std}",
        **budget(modules, run.train, epoch, run.accelerator.num_processes),
        "U-Net": starting_point(run.config),
        "export": f"for this package alone: {refusal}" if refusal else "stock diffusers",
    }


def starting_point(config: Config) -> str:
    diffusion = config.diffusion
    told = f"predicts {diffusion.prediction} under {diffusion.schedule}"
    if not (trained := config.unet.get("init")):
        return f"{told}; starts from random weights"
    layers = config.unet.get("layers_per_block")
    return f"{told}; starts from {trained}" + (f", grown to layers {layers}" if layers else "")


@exits_with_a_sentence
def main() -> int:
    config = config_from_arguments(__doc__)
    with resumable(config.folder / "ldm" / "checkpoints"):
        return train(config)


if __name__ == "__main__":
    sys.exit(main())
