"""`ldm generate`: images from prompts."""

from argparse import ArgumentParser, Namespace

from ldm.core.files import refuse_unwritable, written
from ldm.core.text import clean, say
from ldm.settings.fields import place
from pipelines.commands.arguments import number, picture_or_folder, positive
from pipelines.commands.loading import MODEL, loaded

BATCH = 8  # images sampled at once: an image does not depend on it


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("prompts", nargs="*", metavar="PROMPT")
    parser.add_argument("--model", type=place, required=True, metavar="RUN_OR_NAME", help=MODEL)
    parser.add_argument(
        "--out", type=picture_or_folder, default="out.png", help="a picture, or a folder of them"
    )
    parser.add_argument("--n", type=positive, default=1, help="images for each prompt")
    parser.add_argument("--seed", type=int, help="of the first image; the next has seed + 1")
    parser.add_argument("--steps", type=positive, help="as in the model's folder unless given")
    parser.add_argument("--guidance-scale", type=number, help="1 or less turns guidance off")
    parser.add_argument(
        "--guidance-interval", type=number, nargs=2, metavar=("LOW", "HIGH"), help="of σ/α"
    )
    parser.add_argument("--sampler", help="ddim, ddpm, euler, dpmpp_2m, dpmpp_2m_sde ...")
    parser.add_argument(
        "--brownian", action="store_true", help="an SDE sampler's noise that minds no step count"
    )
    parser.add_argument("--negative-prompt", metavar="TEXT")
    parser.add_argument("--height", type=positive, metavar="PIXELS")
    parser.add_argument("--width", type=positive, metavar="PIXELS")
    parser.add_argument("--variant", help="of its weights, such as fp16")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")


def run(args: Namespace) -> None:
    """Sample images from prompts into a PNG, or into a folder of them."""
    import random

    from pipelines.many import many
    from pipelines.sheets.grid import captioned_grid

    out = args.out
    refuse_unwritable(out if out.suffix else out / "0000.png")
    pipe = loaded(args.model, args.dtype, args.variant)
    seed = random.randrange(2**31) if args.seed is None else args.seed
    prompts = [clean(prompt) for prompt in args.prompts or [""] for _ in range(args.n)]
    images = many(
        pipe,
        prompts,
        seed,
        BATCH,
        negative_prompt=args.negative_prompt,
        num_inference_steps=args.steps,
        guidance_scale=args.guidance_scale,
        guidance_interval=args.guidance_interval,
        sampler=args.sampler,
        brownian=args.brownian,
        height=args.height,
        width=args.width,
    )
    if not out.suffix:
        pictures = {out / f"{index:04d}.png": image for index, image in enumerate(images)}
    elif len(images) == 1:
        pictures = {out: images[0]}
    else:
        rows = [(prompts[i], images[i : i + args.n]) for i in range(0, len(images), args.n)]
        pictures = {out: captioned_grid(rows)}
    for path, image in pictures.items():
        with written(path) as file:
            image.save(file)
    say(f"{out}: {len(images)} image{'s' * (len(images) > 1)}, seed {seed}")
