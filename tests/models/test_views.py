import torch
from torch import nn

from stable_ssl.models import encode_views


def test_neighbours_of_one_size_are_one_batch_and_come_back_as_views():
    views = [torch.randn(3, 1, size, size) for size in (8, 8, 4, 4, 8)]
    batches = []

    def encoder(x):
        batches.append(x)
        return x.flatten(1).mean(1, keepdim=True)

    encoded = encode_views(encoder, views)
    assert [len(batch) for batch in batches] == [6, 6, 3]
    assert batches[0].equal(torch.cat(views[:2]))  # view after view
    assert batches[2] is views[4]  # alone, it is not copied
    for view, found in zip(views, encoded, strict=True):
        assert found.equal(view.flatten(1).mean(1, keepdim=True))


def test_a_batch_norm_sees_all_views_of_a_size():
    norm = nn.BatchNorm1d(2)
    views = [torch.randn(4, 2) + shift for shift in (0.0, 5.0)]
    a, b = encode_views(norm, views)
    torch.testing.assert_close(torch.cat([a, b]), norm(torch.cat(views)))
    assert norm.num_batches_tracked == 2 and (b - a).mean() > 1  # not centred each
