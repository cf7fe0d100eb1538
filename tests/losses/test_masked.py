import pytest
import torch

from stable_ssl.losses import (
    masked_l1,
    masked_mse,
    masked_smooth_l1,
    normalize_patches,
)


def patches(n=3, length=7, p=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, n, length, p, generator=generator, dtype=torch.float64)
    mask = torch.rand(n, length, generator=generator) < 0.6  # not the same count in all
    return x[0], 2 + 3 * x[1], mask


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_equals_the_mean_over_masked_patches_one_by_one(dtype):
    prediction, target, mask = patches()
    assert len(mask.sum(1).unique()) > 1
    errors = [
        sum((a - b) ** 2 for a, b in zip(u.tolist(), v.tolist(), strict=True)) / 4
        for u, v in zip(prediction[mask], target[mask], strict=True)
    ]
    found = masked_mse(prediction, target, mask.to(dtype))
    assert found.item() == pytest.approx(sum(errors) / len(errors), rel=1e-12)


def test_patches_that_were_seen_cost_nothing():
    prediction, target, mask = patches()
    prediction.requires_grad_()
    masked_mse(prediction, target, mask).backward()
    assert (prediction.grad[~mask] == 0).all() and (prediction.grad[mask] != 0).all()


def test_the_order_of_images_and_of_patches_changes_nothing():
    x, y, mask = patches()
    expected = masked_mse(x, y, mask)
    images, places = torch.tensor([2, 0, 1]), torch.tensor([3, 1, 5, 0, 6, 4, 2])
    again = masked_mse(*(z[images][:, places] for z in (x, y, mask)))
    torch.testing.assert_close(again, expected)


def test_patches_are_normalised_each_by_its_unbiased_variance():
    _, target, _ = patches()
    found = normalize_patches(target)
    for patch, own in zip(target.flatten(0, 1), found.flatten(0, 1), strict=True):
        mean = sum(patch.tolist()) / 4
        variance = sum((x - mean) ** 2 for x in patch.tolist()) / 3
        torch.testing.assert_close(own, (patch - mean) / (variance + 1e-6) ** 0.5)
    assert normalize_patches(torch.full((1, 1, 4), 9.0)).abs().max() == 0


@pytest.mark.parametrize(
    "prediction, target, mask",
    [
        ((2, 8, 4), (2, 7, 4), (2, 7)),  # a class token on one side
        ((2, 8, 4), (2, 8, 4), (2, 7)),  # the mask does not count it
        ((2, 7), (2, 7), (2, 7)),
    ],
)
def test_a_class_token_is_refused_in_words(prediction, target, mask):
    given = [torch.ones(shape) for shape in (prediction, target, mask)]
    with pytest.raises(ValueError, match="without the class token"):
        masked_mse(*given)


def test_absolute_and_smooth_errors_are_means_over_masked_patches():
    prediction, target, mask = patches()
    gap = (prediction - target).abs()[mask]
    torch.testing.assert_close(masked_l1(prediction, target, mask), gap.mean())
    smooth = torch.where(gap < 2, gap**2 / 4, gap - 1).mean()
    torch.testing.assert_close(masked_smooth_l1(prediction, target, mask, 2), smooth)
    with pytest.raises(ValueError, match="beta=0; use one above 0"):
        masked_smooth_l1(prediction, target, mask, 0)
