"""Which folders and which parts of a data set are for training, and which are held out."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ldm.core.errors import UserError

TRAINING_NAMES = ("train", "training")
VALIDATION_NAMES = (  # the best first
    *("validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation", "holdout"),
)
DEEPEST = 3  # folders deep that splits are looked for
_FILLER = r"(\d*|images?|imgs?|photos?|pictures?|sets?|data|splits?|s)"
_LONGER = re.compile(rf"([a-z]+?){_FILLER}")


def role(name: str, longer: bool = False) -> str | None:
    """Which of those names this is, of any case; with `longer` also as a part: see `stem`."""
    if longer:
        found = _parts(name)
        return found and found[0]
    name = name.lower()
    return name if name in (*TRAINING_NAMES, *VALIDATION_NAMES) else None


def stem(name: str) -> tuple[str, ...]:
    """What else a longer name says: nothing for train2017, testset or test_images.

    ("div2k", "*", "hr") for DIV2K_train_HR and for DIV2K_valid_HR; () for what is no split's.
    """
    found = _parts(name)
    return found[1] if found else ()


def _parts(name: str) -> tuple[str, tuple[str, ...]] | None:
    words = [word for word in re.split(r"[-_. ]+", name.lower()) if word]
    roles = [role(found[1]) if (found := _LONGER.fullmatch(word)) else None for word in words]
    if len(told := [what for what in roles if what]) != 1:
        return None
    others = ["*" if what else word for word, what in zip(words, roles, strict=True)]
    return told[0], tuple(word for word in others if not re.fullmatch(_FILLER, word))


def chosen(names: Iterable[str], split: str) -> list[str]:
    """Those of the names that are a split: of "validation", the best that there is.

    The plain names where there are any, else the longer ones.
    """
    names = list(names)
    return _chosen(names, split, longer=False) or _chosen(names, split, longer=True)


def _chosen(names: list[str], split: str, longer: bool) -> list[str]:
    roles = {name: role(name, longer) for name in names}
    if split == "train":
        return [name for name, what in roles.items() if what in TRAINING_NAMES]
    for best in VALIDATION_NAMES:
        if found := [name for name, what in roles.items() if what == best]:
            return found
    return []


class Layout(NamedTuple):
    """Where a folder keeps its splits: in folders of such names, all at one depth."""

    depth: int = 0
    folders: tuple[str, ...] = ()  # their names; none at all: there are no splits

    def own(self, split: str) -> list[str]:
        return chosen(self.folders, split)

    def holds(self, split: str, folders: Sequence[str]) -> bool:
        """Whether what lies in these nested folders belongs to a split.

        Where no folder is for training, everything is that is in no other split.
        """
        if not self.folders:
            return True
        name = folders[self.depth] if len(folders) > self.depth else None
        own = self.own(split)
        return name in own if own else split == "train" and name not in self.folders

    def covers(self, folders: Sequence[str]) -> bool:
        """Whether what lies in these nested folders belongs to any split."""
        name = folders[self.depth] if len(folders) > self.depth else None
        return name in self.folders or self.holds("train", folders)

    def without(self, folders: Sequence[str]) -> Sequence[str]:
        """The nested folders but for the split's."""
        if len(folders) > self.depth and folders[self.depth] in self.folders:
            return [*folders[: self.depth], *folders[self.depth + 1 :]]
        return folders


def shards(paths: Iterable[str]) -> dict[str, list[str]]:
    """Files of one data set by their splits; {} where their folders or names tell of none.

    Below what all share, Train/0.tar is told by its folder, testset-0.tar by its name.
    """
    paths = list(paths)
    root = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    groups: dict[str, list[str]] = {}
    for path in paths:
        folder, *inside = os.path.relpath(path, root or None).split(os.sep)
        plain = re.sub(r"([-_. ]|of|\d)+$", "", os.path.splitext(folder)[0].lower())
        groups.setdefault(folder if inside else plain, []).append(path)
    found = _consistent(groups)
    trained, held = chosen(found, "train"), chosen(found, "validation")
    if not trained or not held:
        return {}
    every = (("train", trained), ("validation", held))
    return {split: [path for name in names for path in groups[name]] for split, names in every}


def _consistent(names: Iterable[str]) -> tuple[str, ...]:
    """The longer names of splits that say the same besides, as those for training do.

    Where such a name is plain, as `train` is, whatever is held out beside it is.
    """
    split = [name for name in names if role(name, longer=True)]
    trained = {stem(name) for name in split if role(name, longer=True) in TRAINING_NAMES}
    return tuple(name for name in split if stem(name) in trained or ("*",) in trained)


def layout(images: Iterable[Sequence[str]], where: str) -> Layout:
    """The splits among the folders that images lie in, each given as its nested folders' names.

    A name such as `test` is a split's wherever it stands; `train` may be a class beside others,
    unless something is held out; longer ones (`train2017`, `DIV2K_train_HR`) are splits' where both
    are there. Deeper, as in images/train and images/val, too, and `test` is one level deeper also
    alone. Raises UserError where nothing would be left to train on.
    """
    counts = Counter(tuple(folders[:DEEPEST]) for folders in images)
    for depth in range(DEEPEST):
        names = sorted({folders[depth] for folders in counts if len(folders) > depth})
        for longer in (False, True):
            folders = _consistent(names) if longer else tuple(filter(role, names))
            trained, held = chosen(folders, "train"), chosen(folders, "validation")
            lone = trained and not held and depth == 0 and not longer and len(names) == 1
            if not (lone or (trained and held) or (held and depth < 2 and not longer)):
                continue
            found = Layout(depth, folders)
            if not any(found.holds("train", path) for path in counts):
                if depth:  # a lone folder of that name within others
                    continue
                raise UserError(
                    f"{where} has images in {', '.join(folders)} and none to train on; "
                    f"data.source={where}/{held[0]} would train on those"
                )
            return found
    return Layout()
