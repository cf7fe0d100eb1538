import math

import pytest
import torch

from stable_ssl import seeding
from stable_ssl.config import ConfigError
from stable_ssl.models import (
    block_masks,
    blockwise_masks,
    hidden_first,
    random_masks,
)


def keys(n=64, epoch=0):
    return seeding.sample_keys(0, epoch, torch.arange(n))


def sizes(step=0):
    return seeding.fold_in(0, step)


@pytest.mark.parametrize(
    "patches, ratio, hidden", [(64, 0.75, 48), (196, 0.75, 147), (10, 0.33, 3)]
)
def test_the_ratio_counts_patches_alone(patches, ratio, hidden):  # fault 31
    keep, mask = random_masks(keys(), patches, ratio)
    assert mask.shape == (64, patches) and mask.dtype == torch.bool
    assert (mask.sum(1) == hidden).all() and keep.shape == (64, patches - hidden)
    assert not mask.gather(1, keep).any()  # what is kept is not hidden
    assert (keep.diff(dim=1) > 0).all()


def test_every_patch_is_hidden_alike_often():
    n = 4000
    share = random_masks(keys(n), 16, 0.75)[1].float().mean(0)
    assert (share - 0.75).abs().max() < 4 * math.sqrt(0.75 * 0.25 / n)


def test_masks_are_of_the_keys_alone():
    before = torch.get_rng_state()
    whole = [*random_masks(keys(), 64, 0.75), *block_masks(keys(), sizes(), 8)]
    part = keys()[16:24]
    again = [*random_masks(part, 64, 0.75), *block_masks(part, sizes(), 8)]
    for found, expected in zip(again, whole, strict=True):
        assert found.equal(expected[16:24])
    other = random_masks(keys(epoch=1), 64, 0.75)[1]
    assert (other != whole[1]).any(1).all()
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize("grid", [4, 8, 14])
def test_targets_are_blocks_and_the_context_has_none_of_their_patches(grid):
    shapes, counts = set(), set()
    for step in range(20):
        context, targets = block_masks(keys(), sizes(step), grid)
        assert targets.shape[:2] == (64, 4) and len(context) == 64
        rows, columns = targets // grid, targets % grid
        high = rows.amax(2) - rows.amin(2) + 1
        wide = columns.amax(2) - columns.amin(2) + 1
        assert len(high.unique()) == len(wide.unique()) == 1
        assert (high * wide == targets.shape[2]).all()  # a block has no holes
        assert (targets.diff(dim=2) > 0).all() and (context.diff(dim=1) > 0).all()
        assert 0 <= targets.min() and targets.max() < grid**2
        assert not (context[:, :, None] == targets.flatten(1)[:, None]).any()
        assert context.shape[1] == grid**2 - 4 * targets.shape[2]
        shapes.add((int(high[0, 0]), int(wide[0, 0])))
        counts.add(targets.shape[2])
    assert max(counts) <= 0.2 * grid**2
    if grid == 14:
        assert min(counts) >= 0.14 * grid**2 and len(shapes) > 4
        assert {h > w for h, w in shapes} == {True, False}


def spread(context, grid):
    """Return the sides of the smallest box around the patches, the longer one."""
    rows, columns = context // grid, context % grid
    high = rows.amax(1) - rows.amin(1) + 1
    return torch.maximum(high, columns.amax(1) - columns.amin(1) + 1)


def test_the_context_comes_from_its_block_where_that_has_enough():
    small = {"target_scale": (0.2, 0.2), "context_scale": (0.6, 0.6)}
    context, targets = block_masks(keys(2000), sizes(), 14, **small)
    left = 14**2 - torch.tensor([len(t.unique()) for t in targets])
    outside = 14**2 - 11 * 10  # 0.6 of 14 x 14 is a block of 11 x 10
    enough = left - outside >= context.shape[1]  # in the block, at the very least
    inside = spread(context, 14) <= 11
    assert enough.any() and inside[enough].all()
    assert not inside.all()  # some took patches from outside


def test_places_are_drawn_for_each_image():
    context, targets = block_masks(keys(), sizes(), 14)
    assert len(targets[:, 0, 0].unique()) > 20 and len(context.unique(dim=0)) == 64
    assert (targets[:, 0, 0] != targets[:, 1, 0]).float().mean() > 0.9


@pytest.mark.parametrize("ratio", [0.0, 0.001, 0.999, 1.0])
def test_a_ratio_that_hides_nothing_or_all_is_refused(ratio):
    with pytest.raises(ConfigError, match="hide some and leave some"):
        random_masks(keys(), 64, ratio)


def test_targets_that_could_cover_the_image_are_refused():
    with pytest.raises(ConfigError, match="leave no context"):
        block_masks(keys(), sizes(), 8, targets=5)


# --- blocks, one after the other ------------------------------------------------------


def drawn_one_by_one(grid, wanted, smallest, generator):
    """Return how many patches BEiT's algorithm hides, written for one image."""
    mask = torch.zeros(grid, grid, dtype=torch.bool)
    failures = 0
    while (left := wanted - int(mask.sum())) > 0 and failures < 10:
        u = torch.rand(4, generator=generator).tolist()
        area = smallest + u[0] * (left - smallest)
        stretch = math.exp(math.log(0.3) * (2 * u[1] - 1))
        high, wide = round(math.sqrt(area * stretch)), round(math.sqrt(area / stretch))
        failures += 1
        if high < grid and wide < grid:
            top, place = int(u[2] * (grid - high + 1)), int(u[3] * (grid - wide + 1))
            block = mask[top : top + high, place : place + wide]
            if 0 < (~block).sum() <= left:
                block[:] = True
                failures = 0
    return int(mask.sum())


@pytest.mark.parametrize("grid, smallest, wanted", [(14, 16, 120), (4, 1, 8)])
def test_blocks_hide_as_many_patches_as_the_algorithm_for_one_image(
    grid, smallest, wanted
):
    ratio = (wanted + 0.5) / grid**2
    mask = blockwise_masks(keys(400), (grid, grid), (ratio, ratio), smallest=smallest)
    generator = torch.Generator().manual_seed(0)
    counts = [drawn_one_by_one(grid, wanted, smallest, generator) for _ in range(400)]
    expected = torch.tensor(counts, dtype=torch.float64)
    found = mask.sum(1).double()
    assert found.max() <= wanted and found.min() > 0
    error = math.sqrt((expected.var() + found.var()) / 400)
    assert abs(expected.mean() - found.mean()) < 4 * error + 1e-9
    assert (
        abs((expected == wanted).double().mean() - (found == wanted).double().mean())
        < 0.14
    )


def test_a_share_of_the_images_is_hidden_in_blocks():
    masks = blockwise_masks(keys(2000), (6, 8), (0.2, 0.4), share=0.5, smallest=4)
    assert masks.shape == (2000, 48)
    hidden = masks.sum(1)
    assert abs((hidden > 0).double().mean() - 0.5) < 4 * math.sqrt(0.25 / 2000)
    assert hidden.max() <= 0.4 * 48
    whole = masks[hidden > 0].view(-1, 6, 8)
    pairs = (whole[:, 1:] == whole[:, :-1]).double().mean()
    assert pairs > 0.75  # a patch is like the one above: alone it would be as at random
    assert masks[:16].equal(blockwise_masks(keys(16), (6, 8), (0.2, 0.4), 0.5, 4))


def test_hidden_patches_come_first():
    mask = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 0]]).bool()
    places, hidden = hidden_first(mask, 3)
    assert places.tolist() == [[1, 3, 0], [0, 1, 2], [0, 1, 2]]
    assert hidden.tolist() == [[True, True, False], [False] * 3, [True] * 3]
