"""Captioned grids of images: what was asked for, legibly above what came out."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from pipelines.sheets.lettering import Lettering

BACKGROUND = (255, 255, 255)
GAP = 6  # pixels between images


def captioned_grid(
    rows: Sequence[tuple[str, Sequence[Image.Image]]],
    columns: int | None = None,
    cell: int | None = None,
) -> Image.Image:
    """One heading and its images per row, as one RGB picture.

    `columns` wraps long rows (default: the longest row, at most 8). Images are drawn `cell` pixels
    wide (default: their own size, enlarged by a whole factor to at least 128 pixels, so that small
    ones and their captions can be read).
    """
    assert rows and all(images for _, images in rows), "a row needs an image"
    columns = columns or min(8, max(len(images) for _, images in rows))
    first = rows[0][1][0]
    factor = -(-128 // first.width)  # rounded up
    width = cell or first.width * max(1, factor)
    height = round(first.height * width / first.width)
    size = max(13, min(28, round(width * 0.11)))
    lettering = Lettering(size)
    total = columns * (width + GAP) + GAP

    headings = [lettering.lines(text, total - 2 * GAP) for text, _ in rows]
    line = round(1.4 * size)
    heights = [
        len(heading) * line + -(-len(images) // columns) * (height + GAP) + GAP
        for heading, (_, images) in zip(headings, rows, strict=True)
    ]
    grid = Image.new("RGB", (total, sum(heights) + GAP), BACKGROUND)
    draw = ImageDraw.Draw(grid)
    top = GAP
    for heading, (_, images), row_height in zip(headings, rows, heights, strict=True):
        for number, text in enumerate(heading):
            lettering.draw(draw, (GAP, top + number * line), text)
        start = top + len(heading) * line
        for index, image in enumerate(images):
            row, column = divmod(index, columns)
            place = (GAP + column * (width + GAP), start + row * (height + GAP))
            grid.paste(_resized(image.convert("RGB"), (width, height)), place)
        top += row_height
    return grid


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Enlarged by a whole factor pixels stay squares, so that nothing is smoothed over."""
    whole = size[0] % image.width == 0 and size[1] % image.height == 0
    method = Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS
    return image if image.size == size else image.resize(size, method)


def tiled(tiles: Sequence[Image.Image], columns: int) -> Image.Image:
    """Pictures side by side, `columns` in a row, each row as high as its highest."""
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    width = max(tile.width for tile in tiles)
    heights = [max(tile.height for tile in row) for row in rows]
    grid = Image.new("RGB", (width * min(columns, len(tiles)), sum(heights)), BACKGROUND)
    for number, row in enumerate(rows):
        for column, tile in enumerate(row):
            grid.paste(tile, (column * width, sum(heights[:number])))
    return grid
