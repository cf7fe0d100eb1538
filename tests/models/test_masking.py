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


@pytest.mark.parametrize(("patches", "hidden"), [(64, 48), (36, 22), (10, 1), (10, 9)])
def test_so_many_patches_are_hidden(patches, hidden):
    keep, mask = random_masks(keys(), patches, hidden)
    assert mask.shape == (64, patches) and mask.dtype == torch.bool
    assert (mask.sum(1) == hidden).all() and keep.shape == (64, patches - hidden)
    assert not mask.gather(1, keep).any()  # what is kept is not hidden
    assert (keep.diff(dim=1) > 0).all()


def test_every_patch_is_hidden_alike_often():
    n = 4000
    share = random_masks(keys(n), 16, 12)[1].float().mean(0)
    assert (share - 0.75).abs().max() < 4 * math.sqrt(0.75 * 0.25 / n)


def test_masks_are_of_the_keys_alone():
    before = torch.get_rng_state()
    whole = [*random_masks(keys(), 64, 48), *block_masks(keys(), sizes(), 14)]
    part = keys()[16:24]
    again = [*random_masks(part, 64, 48), *block_masks(part, sizes(), 14)]
    shortest = whole[2].shape[1]  # of all contexts, the part's are cut less
    assert again[2].shape[1] > shortest
    again[2] = again[2][:, :shortest]
    for found, expected in zip(again, whole, strict=True):
        assert found.equal(expected[16:24])
    other = random_masks(keys(epoch=1), 64, 48)[1]
    assert (other != whole[1]).any(1).all()
    assert torch.get_rng_state().equal(before)


def sides(patches, grid):
    """Return height and width (N,) of the smallest boxes around patches (N, k)."""
    rows, columns = patches // grid, patches % grid
    return (
        rows.amax(-1) - rows.amin(-1) + 1,
        columns.amax(-1) - columns.amin(-1) + 1,
    )


@pytest.mark.parametrize("grid, min_keep", [(8, 4), (14, 10)])
def test_targets_are_blocks_and_the_context_has_none_of_their_patches(grid, min_keep):
    shapes = set()
    for step in range(20):
        context, targets = block_masks(keys(), sizes(step), grid, min_keep=min_keep)
        assert targets.shape[:2] == (64, 4) and len(context) == 64
        high, wide = sides(targets, grid)
        assert len(high.unique()) == len(wide.unique()) == 1
        assert (high * wide == targets.shape[2]).all()  # a block has no holes
        assert (targets.diff(dim=2) > 0).all() and (context.diff(dim=1) > 0).all()
        for patches in (context, targets):  # never the last row and column
            assert 0 <= patches.min() and (patches // grid).max() < grid - 1
            assert (patches % grid).max() < grid - 1
        overlap = (context[:, :, None] == targets.flatten(1)[:, None]).any(2).any(1)
        assert not overlap.any() or grid == 8
        assert overlap.float().mean() < 0.1  # no place left without
        assert context.shape[1] > min_keep
        shapes.add((int(high[0, 0]), int(wide[0, 0])))
    if grid == 14:
        areas = [h * w / 14**2 for h, w in shapes]
        assert 0.13 < min(areas) and max(areas) < 0.22 and len(shapes) > 4
        assert {h > w for h, w in shapes} == {True, False}


@pytest.mark.parametrize("grid, min_keep, mean", [(8, 4, 13.9), (14, 10, 58.7)])
def test_contexts_are_as_long_as_those_of_the_authors(grid, min_keep, mean):
    """Their collator's mean of 60 batches of 16 has a standard error of 0.4 and 1.2."""
    lengths = [
        block_masks(keys(16, i), sizes(i), grid, min_keep=min_keep)[0].shape[1]
        for i in range(100)
    ]
    assert sum(lengths) / 100 == pytest.approx(mean, abs=0.08 * mean)


def test_sizes_are_those_of_the_authors():
    """One number u for scale and aspect; areas are cut, sides are rounded."""
    for step in range(20):
        u, v = seeding.uniform(sizes(step)[None], (2,))[0].tolist()
        area, aspect = int(14 * 14 * (0.15 + 0.05 * u)), 0.75 + 0.75 * u
        _, targets = block_masks(keys(4), sizes(step), 14)
        height, width = sides(targets[0, 0], 14)
        assert height == round(math.sqrt(area * aspect))
        assert width == round(math.sqrt(area / aspect))
        side = min(13, round(math.sqrt(int(14 * 14 * (0.85 + 0.15 * v)))))
        whole = {"targets": 1, "target_scale": (0.006, 0.006)}  # of one patch
        context, _ = block_masks(keys(4), sizes(step), 14, **whole)
        assert context.shape[1] == side**2 - 1 or side**2 == context.shape[1]


def test_contexts_are_cut_to_the_shortest_from_their_end():
    alone = [block_masks(keys()[i : i + 1], sizes(), 14)[0][0] for i in range(64)]
    context, _ = block_masks(keys(), sizes(), 14)
    assert context.shape[1] == min(map(len, alone)) < max(map(len, alone))
    for row, own in zip(context, alone, strict=True):
        assert row.equal(own[: len(row)])


def overlaps(**options):
    """Return which targets (M,) some context overlaps, on a grid of 8 x 8."""
    found = False
    for step in range(5):
        with pytest.warns(UserWarning, match="these show patches to be predicted"):
            context, targets = block_masks(keys(16), sizes(step), 8, **options)
        assert context.shape[1] > options["min_keep"]
        same = context[:, None, :, None] == targets[:, :, None]  # (N, M, k, a)
        found = found | same.flatten(2).any(2).any(0)
    return found


def test_a_context_without_a_place_overlaps_the_last_targets_first():
    big = {"target_scale": (0.55, 0.55), "target_aspect": (1.0, 1.0), "min_keep": 40}
    assert overlaps(**big).all()
    small = {"target_scale": (0.2, 0.2), "targets": 2, "min_keep": 32}
    assert overlaps(**small).tolist() == [False, True]


def test_places_are_drawn_for_each_image():
    context, targets = block_masks(keys(), sizes(), 14)
    assert len(targets[:, 0, 0].unique()) > 20 and len(context.unique(dim=0)) > 60
    assert (targets[:, 0, 0] != targets[:, 1, 0]).float().mean() > 0.9


@pytest.mark.parametrize("hidden", [0, 64])
def test_a_mask_that_hides_nothing_or_all_is_refused(hidden):
    with pytest.raises(ConfigError, match="hides some and leaves some"):
        random_masks(keys(), 64, hidden)


def test_a_context_block_of_too_few_patches_is_refused():
    with pytest.raises(ConfigError, match="3 x 3 patches has no more than model.min_"):
        block_masks(keys(), sizes(), 4)


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
