"""Stage 1: train, or fine-tune, the autoencoder in whose latents stage 2 works.

accelerate launch train_autoencoder.py --config configs/flowers64.yaml [key=value ...]

Running the same command again resumes it exactly.
"""

import ldm.core.interrupts  # noqa: F401 - what comes after takes its time

# isort: split

import sys

from torch import nn

from autoencoder.discriminator import Adversary
from autoencoder.evaluation import Evaluation
from autoencoder.export import export, settled
from autoencoder.model import export_folder, initial_autoencoder, latent_shape
from autoencoder.objective import AdversaryTurn, Means, Objective, Reconstructor, examples
from ldm.config import Config, config_from_arguments
from ldm.core.errors import exits_with_a_sentence
from ldm.core.inference import evaluating, leaving_nothing
from ldm.data.example import Source
from ldm.training.checkpoint import resumable
from ldm.training.ema import EMA
from ldm.training.facts import autoencoder_facts, training_data
from ldm.training.gradients import average_gradients
from ldm.training.optim import GuardedStep, learning_rate, optimizer_of
from ldm.training.preflight import budget, table
from ldm.training.run import Run
from ldm.training.state import TrainingState


def train(config: Config) -> int:
    """Train to the end, or until a signal; returns the command's exit status."""
    options, terms = config.autoencoder.train, config.autoencoder.loss
    run = Run(config, "autoencoder", options)
    accelerator = run.accelerator
    vae = initial_autoencoder(config)
    shape = latent_shape(vae, config.data.resolution)
    sources = run.sources()

    model = Reconstructor(vae, config.autoencoder).to(run.device)
    model.configure(options)
    adversary = Adversary.of(terms, config.data.resolution, run.device)
    objective = Objective(config.autoencoder, vae, adversary).to(run.device)
    optimizer = accelerator.prepare(optimizer_of(model, options))
    generator_step = GuardedStep(accelerator, optimizer, model.parameters(), options.clip)
    modules: dict[str, nn.Module] = {"autoencoder": vae}
    optimizers = {"autoencoder": optimizer}
    if adversary is not None:
        adversary_turn = AdversaryTurn(accelerator, adversary, options)
        modules["adversary"], optimizers["adversary"] = adversary, adversary_turn.optimizer
    ema = EMA(vae, options.ema_decay)
    state = TrainingState(
        accelerator,
        run.folder / "checkpoints",
        modules,
        optimizers,
        {"ema": ema},
        autoencoder_facts(config, vae),
        training_data(sources["train"]),
    )
    evaluate = Evaluation(run, sources["validation"], objective)
    run.say(table(preflight(run, modules, sources, evaluate, shape)))
    if objective.notice:
        run.say(objective.notice)

    start = run.resume(state)
    done = settled(run, start)
    if start == options.steps and not done:  # train.steps was lowered to it: not judged there yet
        with ema.applied(), evaluating(vae):
            evaluate(start, vae)
    batches = examples(run, sources["train"], shape, start)
    for step in run.steps(state, start):
        rate = learning_rate(step, options)
        means, pairs = Means(), []
        for _ in range(options.accumulation):
            batch = next(batches)
            with accelerator.autocast():
                output = model(batch.corrupted, batch.noise, batch.error)
                loss, parts = objective(output, batch.pixels, step)
            accelerator.backward(loss / options.accumulation)
            means.add(parts)
            pairs.append((batch.pixels, output.image.detach()))
        average_gradients(accelerator, model.parameters())
        figures = means.over(accelerator)
        norm = generator_step(figures["loss"], rate)
        ema.update(step + 1)
        objective.balance(accelerator)
        if adversary is not None:
            figures |= adversary_turn(step, pairs, figures["reconstruction"], rate)
        run.log(step + 1, **figures, learning_rate=rate, gradient_norm=norm)
        if run.due(step + 1, options.evaluate_every):
            with leaving_nothing(), ema.applied(), evaluating(vae):
                evaluate(step + 1, vae)

    if done:
        run.say(f"it was finished before: the autoencoder is in {export_folder(config)}")
    elif run.finished:
        with ema.applied(), evaluating(vae):
            export(run, model, sources["train"])
    return run.status


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
        **budget(modules, run.train, sizes["train"], run.accelerator.num_processes),
    }


@exits_with_a_sentence
def main() -> int:
    config = config_from_arguments(__doc__)
    with resumable(config.folder / "autoencoder" / "checkpoints"):
        return train(config)


if __name__ == "__main__":
    sys.exit(main())
