"""Which folders and which parts of a data set are for training, and which are held out."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ldm.errors import UserError

TRAINING_NAMES = ("train", "training")
VALIDATION_NAMES = (  # the best first
    *("validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation", "holdout"),
)
_LONGER = re.compile(r"([a-z]+)[-_. ]?(\d*|images?|imgs?|photos?|pictures?|set|data|split)")


def role(name: str, longer: bool = False) -> str | None:
    """Which of those names this is, of any case; with `longer` also train2017 or test_images."""
    name = name.lower()
    if longer and (found := _LONGER.fullmatch(name)):
        name = found[1]
    return name if name in (*TRAINING_NAMES, *VALIDATION_NAMES) else None


def chosen(names: Iterable[str], split: str) -> list[str]:
    """Those of the names that are a split: of "validation", the best that there is."""
    roles = {name: role(name, longer=True) for name in names}
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


def layout(images: Iterable[Sequence[str]], where: str) -> Layout:
    """The splits among the folders that images lie in, each given as its nested folders' names.

    A name such as `test` is a split's wherever it stands; `train` may be a class beside others,
    unless something is held out; `train2017` is a split's where `val2017` is there too. One level
    deeper, as in images/train and images/val, both must be there. Raises UserError where nothing
    would be left to train on.
    """
    counts = Counter(tuple(folders[:2]) for folders in images)
    for depth in (0, 1):
        names = sorted({folders[depth] for folders in counts if len(folders) > depth})
        for longer in (False, True):
            folders = tuple(name for name in names if role(name, longer))
            trained, held = chosen(folders, "train"), chosen(folders, "validation")
            lone = trained and not held and depth == 0 and not longer and len(names) == 1
            if not (lone or (trained and held) or (held and depth == 0 and not longer)):
                continue
            found = Layout(depth, folders)
            if not any(found.holds("train", path) for path in counts):
                raise UserError(
                    f"{where} has images in {', '.join(folders)} and none to train on; "
                    f"data.source={where}/{held[0]} would train on those"
                )
            return found
    return Layout()
