"""Stage 2: train a conditional U-Net on cached latents.

accelerate launch train_ldm.py --config configs/flowers64.yaml [key=value ...]

Running the same command again resumes it exactly.
"""

import ldm.core.interrupts  # noqa: F401 - what comes after takes its time

# isort: split

import sys

from autoencoder.cache import STATISTICS, cached_latents
from autoencoder.model import configured_codec
from ldm.conditions.conditioner import build_conditioner
from ldm.config import Config, config_from_arguments
from ldm.core.errors import exits_with_a_sentence
from ldm.data.repeats import repeated
from ldm.models.network import CAPTION
from ldm.models.networks import configured_network
from ldm.ports.model import Model
from ldm.schedulers.spec import Spec
from ldm.training.checkpoint import resumable
from ldm.training.examples import keyed_examples
from ldm.training.facts import latent_diffusion_facts, training_data
from ldm.training.fit import Fit
from ldm.training.latent_diffusion import LatentDiffusion
from ldm.training.prefetch import prefetched
from ldm.training.preflight import preflight, table
from ldm.training.run import Run
from ldm.training.tasks.denoising import Denoising
from ldm.training.validation import Validation
from pipelines.containers.writer import save, unfit
from pipelines.evaluation.preview import Preview, refuse_bad_samples
from pipelines.evaluation.quality import Quality


def train(config: Config) -> int:
    """Train to the end, or until a signal; returns the command's exit status."""
    options, sample = config.train, config.sample
    spec = Spec.from_diffusion_config(
        config.diffusion, sample.grid, sample.sampler, sample.sampler_args
    )
    task = Denoising(config.diffusion, spec, config.seed, options.batch_size)

    run = Run(config, "ldm", options)
    photos = run.sources()
    repeated(photos["train"], config.data.repeats)  # or be refused
    codec = configured_codec(config)
    text = build_conditioner(config.conditioning, photos["train"].label_names)
    refuse_bad_samples(sample, spec, text)
    shape = codec.shape(config.data.resolution)
    network = configured_network(config, shape, text.context_dim)
    model = Model(codec, {CAPTION: text}, network, spec).to(run.device)
    trained = LatentDiffusion(model, options, run.device)

    facts = latent_diffusion_facts(config, model)
    known = run.earlier_facts(facts).get(STATISTICS)
    latents = cached_latents(config, codec, photos, run.share, known)
    facts[STATISTICS] = latents["train"].statistics.figures()
    examples = keyed_examples(config, task.times.quantiles, latents, text, run.share)
    epoch = repeated(latents["train"], config.data.repeats)
    fit = Fit(run, trained, facts, training_data(photos["train"]), task.memory, curve=trained.curve)

    refusal = unfit(model, sample.num_inference_steps)
    prompts = sample.prompts or latents["validation"].captions(0)[:1]
    validate = Validation(run, trained, examples)
    preview = Preview(model, sample, prompts, run.folder / "samples")
    quality = Quality.of(config, model, photos, run.folder / "quality")
    run.say(table(preflight(run, trained, latents, len(epoch), refusal)))

    start = fit.resume()
    batches = prefetched(examples["train"].batch(micro) for micro in run.slots(epoch, start))
    for step in fit.steps():
        losses = []
        for batch in fit.micro_batches(batches):
            loss = task(fit.network, batch.to(run.device)).mean()
            fit.backward(loss)
            losses.append(loss.detach())
        mean = fit.mean(losses)
        pace = fit.update(step, mean)
        task.remember(run.gather)
        run.log(step + 1, loss=mean, **pace)
        if run.due(step + 1, options.evaluate_every):
            with fit.averaged():
                validate(step + 1)
                if run.main:
                    preview(step + 1)
                if sample.quality_samples:
                    run.metrics.log(step + 1, quality())
        fit.snapshot(step + 1)

    if run.finished and run.main:
        with fit.averaged():
            save(model, sample, config.folder / "pipeline", stock=refusal is None)
        only = f", for this package alone: {refusal}" if refusal else ""
        run.say(f"the pipeline is in {config.folder / 'pipeline'}{only}")
    return run.end()


@exits_with_a_sentence
def main() -> int:
    config = config_from_arguments(__doc__)
    with resumable(config.folder / "ldm" / "checkpoints"):
        return train(config)


if __name__ == "__main__":
    sys.exit(main())
