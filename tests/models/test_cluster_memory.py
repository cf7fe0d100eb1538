import pytest
import torch

from stable_ssl.config import ConfigError
from stable_ssl.models import ClusterMemory, cluster_memory, spherical_kmeans
from stable_ssl.vectors import unit


def groups(count=4, each=10, d=8):
    """Return unit rows around orthogonal directions, and the group of each."""
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(count * each, d, generator=generator)
    labels = torch.arange(count * each) % count
    return unit(torch.eye(d)[labels] + noise), labels


@pytest.mark.parametrize("block", [1, 64, 10**6])
def test_kmeans_finds_groups_in_blocks_of_any_size(monkeypatch, block):
    monkeypatch.setattr(cluster_memory, "BLOCK", block)
    rows, labels = groups()
    centroids, nearest = spherical_kmeans(rows, torch.arange(4))
    assert nearest.equal(labels)
    means = torch.stack([rows[labels == k].mean(0) for k in range(4)])
    torch.testing.assert_close(centroids, unit(means))


def test_a_centroid_without_rows_stays():
    rows = unit(torch.tensor([[1.0, 0.1], [1.0, 0.0], [1.0, -0.1], [0.0, 1.0]]))
    centroids, nearest = spherical_kmeans(rows, torch.tensor([1, 1, 3]))
    torch.testing.assert_close(centroids[1], rows[1])  # the first of equals takes all
    assert nearest.tolist() == [0, 0, 0, 2]


def test_the_views_take_turns_and_unseen_images_have_no_cluster():
    rows, labels = groups()
    memory = ClusterMemory(50, 2, 8, 3, 4)
    index = torch.arange(40) + 5
    memory.remember(index, [rows, rows.flip(0), rows / 0])  # of which two are kept
    assert memory.rows[0, index].equal(rows) and memory.rows[1, 5].equal(rows[-1])
    assert not memory.rows[:, :5].any() and not memory.rows[:, 45:].any()
    memory.cluster(seed=0, epoch=0)
    assert (memory.assignments[index] >= 0).all()
    assert (memory.assignments[:5] == -1).all()
    for head, view in enumerate((rows, rows.flip(0), rows)):
        nearest = (view @ memory.centroids[head].T).argmax(1)
        assert memory.assignments[index, head].equal(nearest)


def test_clusters_are_a_function_of_seed_and_epoch():
    found = []
    for seed, epoch in ((0, 1), (0, 1), (0, 2), (1, 1)):
        memory = ClusterMemory(40, 1, 8, 1, 6)
        memory.remember(torch.arange(40), [groups()[0]])
        memory.cluster(seed, epoch)
        found.append(memory.centroids)
    assert found[0].equal(found[1])
    assert not found[0].equal(found[2]) and not found[0].equal(found[3])


def test_more_clusters_than_images_are_refused():
    memory = ClusterMemory(40, 1, 8, 1, 20)
    memory.remember(torch.arange(19), [groups()[0][:19]])
    with pytest.raises(ConfigError, match="20 clusters of 19 images"):
        memory.cluster(0, 0)
