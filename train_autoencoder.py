"""Stage 1: train, or fine-tune, the autoencoder in whose latents stage 2 works.

accelerate launch train_autoencoder.py --config configs/flowers64.yaml [key=value ...]

Running the same command again resumes it exactly.
"""

import ldm.core.interrupts  # noqa: F401 - what comes after takes its time

# isort: split

import sys

from torch import nn

from autoencoder.evaluation import Evaluation
from autoencoder.examples import examples
from autoencoder.export import export, settled
from autoencoder.latents import latent_shape
from autoencoder.loss.discriminator import Adversary, AdversaryTurn
from autoencoder.model import export_folder, initial_autoencoder
from autoencoder.objective import Objective
from autoencoder.reconstructor import Reconstructor
from ldm.config import Config, config_from_arguments
from ldm.core.errors import exits_with_a_sentence
from ldm.core.inference import evaluating
from ldm.data.example import Source
from ldm.training.checkpoint import resumable
from ldm.training.facts import autoencoder_facts, training_data
from ldm.training.fit import Fit, Means
from ldm.training.preflight import budget, table
from ldm.training.run import Run


def train(config: Config) -> int:
    """Train to the end, or until a signal; returns the command's exit status."""
    options = config.autoencoder.train
    run = Run(config, "autoencoder", options)
    vae = initial_autoencoder(config)
    shape = latent_shape(vae, config.data.resolution)
    photos = run.sources()

    model = Reconstructor(vae, config.autoencoder).to(run.device)
    model.configure(options)
    adversary = Adversary.of(config.autoencoder.loss, config.data.resolution, run.device)
    objective = Objective(config.autoencoder, vae, adversary).to(run.device)
    turn = AdversaryTurn(run.accelerator, adversary, options) if adversary else None
    memory = {"adversary": turn.adversary} if turn else {}
    optimizers = {"adversary": turn.optimizer} if turn else {}
    facts, data = autoencoder_facts(config, vae), training_data(photos["train"])
    fit = Fit(run, vae, facts, data, memory, optimizers=optimizers, wrapped=False)
    evaluate = Evaluation(run, photos["validation"], objective)
    run.say(table(preflight(run, fit.modules, photos, evaluate, shape)))
    if objective.notice:
        run.say(objective.notice)

    start = fit.resume()
    done = settled(run, start)
    if start == options.steps and not done:  # train.steps was lowered to it: not judged there yet
        with fit.averaged(), evaluating(vae):
            evaluate(start, vae)
    batches = examples(run, photos["train"], shape, start)
    for step in fit.steps():
        means, pairs = Means(), []
        for batch in fit.micro_batches(batches):
            with run.accelerator.autocast():
                output = model(batch.corrupted, batch.noise, batch.error)
                loss, parts = objective(output, batch.pixels, step)
            fit.backward(loss)
            means.add(parts)
            pairs.append((batch.pixels, output.image.detach()))
        figures = means.over(run.accelerator)
        pace = fit.update(step, figures["loss"])
        objective.balance(run.accelerator)
        if turn is not None:
            figures |= turn(step, pairs, figures["reconstruction"], pace["learning_rate"])
        run.log(step + 1, **figures, **pace)
        if run.due(step + 1, options.evaluate_every):
            with fit.averaged(), evaluating(vae):
                evaluate(step + 1, vae)

    if done:
        run.say(f"it was finished before: the autoencoder is in {export_folder(config)}")
    elif run.finished:
        with fit.averaged(), evaluating(vae):
            export(run, model, photos["train"])
    return run.end()


def preflight(
    run: Run,
    modules: dict[str, nn.Module],
    sources: dict[str, Source],
    evaluate: Evaluation,
    shape: tuple[int, int, int],
) -> dict[str, str]:
    """What to look at before the first step."""
    resolution, (channels, height, width) = run.config.data.resolution, shape
    fewer = 3 * resolution**2 / (channels * height * width)
    sizes = {name: len(source) for name, source in sources.items()}
    return {
        "images": ", ".join(f"{name} {size}" for name, size in sizes.items()),
        "latents": f"{resolution}×{resolution}×3 → {height}×{width}×{channels}, {fewer:g} times "
        "fewer elements",
        "loss": str(evaluate.objective),
        "Fréchet distance in": evaluate.features.label,
        **budget(modules, run.train, sizes["train"], run.share.world),
    }


@exits_with_a_sentence
def main() -> int:
    config = config_from_arguments(__doc__)
    with resumable(config.folder / "autoencoder" / "checkpoints"):
        return train(config)


if __name__ == "__main__":
    sys.exit(main())
