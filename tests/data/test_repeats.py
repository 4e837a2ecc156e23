import pytest

from ldm.core.errors import UserError
from ldm.data.repeats import repeated


class Said(list):
    captions = list.__getitem__


CAPTIONS = [("a red rose", "a flower"), ("A Rose",), (), ("red roses",), ("a rose, red",)]


@pytest.mark.parametrize(
    ("repeats", "epoch"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"rose": 2}, [0, 0, 1, 1, 2, 3, 4, 4]),  # whole words, of either case
        ({"red rose": 3}, [0, 0, 0, 1, 2, 3, 4]),  # in that order
        ({"red rose": 3, "rose": 2}, [0, 0, 0, 1, 1, 2, 3, 4, 4]),  # the largest that fits
        ({"rose": 2, "red rose": 3}, [0, 0, 0, 1, 1, 2, 3, 4, 4]),  # however they are ordered
        ({"rose,": 2}, [0, 1, 2, 3, 4, 4]),  # words are no pattern
        ({"tulip": 1}, [0, 1, 2, 3, 4]),  # switched off
    ],
)
def test_an_epoch_shows_an_image_as_often_as_its_words_say(repeats, epoch):
    assert list(repeated(Said(CAPTIONS), repeats)) == epoch


def test_words_of_two_captions_are_not_read_as_one():
    with pytest.raises(UserError, match="no caption of the training set holds the words 'rose a'"):
        repeated(Said([("a rose", "a flower")]), {"rose a": 2})
