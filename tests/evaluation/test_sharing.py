import torch

from ldm.core.share import Share, in_pieces, pieces


def shares(world):
    """Processes that run one after the other: the last sees what all of them gathered."""
    gathered = []

    def gather(mine):
        gathered.extend(mine)
        return list(gathered)

    return [Share(rank, world, gather) for rank in range(world)]


def test_pieces_have_one_size_and_cover_all():
    assert pieces(5, 2) == [[0, 1], [2, 3], [4, 4]]
    assert pieces(4, 2) == [[0, 1], [2, 3]]
    assert pieces(0, 2) == []


def test_results_are_in_order_whatever_the_number_of_processes():
    seen = []

    def work(piece):
        seen.append(piece)
        return torch.tensor(piece) ** 2

    alone = in_pieces(work, 37, Share(), 5)
    assert torch.equal(alone, torch.arange(37) ** 2)
    once = list(seen)
    for world in (2, 3):
        seen.clear()
        results = [in_pieces(work, 37, share, 5) for share in shares(world)[:-1]]
        assert len(results[0]) < 37  # the first process alone has only its own
        seen.clear()
        last = [in_pieces(work, 37, share, 5) for share in shares(world)][-1]
        assert torch.equal(last, alone)
        assert sorted(seen) == sorted(once)  # every piece by exactly one of them
