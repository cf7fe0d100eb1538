"""Recorded command lines hold no secrets."""

import pytest

from stable_ssl.loggers.arguments import masked_arguments


@pytest.mark.parametrize(
    ("argument", "recorded"),
    [
        ("++log.api_key=abc", "++log.api_key=***"),
        ("+wandb.API_KEY='a b=c'", "+wandb.API_KEY=***"),
        ("hydra.job.env_set.WANDB_API_KEY=abc", "hydra.job.env_set.WANDB_API_KEY=***"),
        ("mine.token=abc,def", "mine.token=***"),
        ("--api-key=abc", "--api-key=***"),
        ("++log={api_key: abc, project: x}", "++log={api_key: ***, project: x}"),
        ('++a={b:{"token": "x, }y"},c: 1}', '++a={b:{"token": ***},c: 1}'),
        ("++a=[{password: [a, b], n: 1}]", "++a=[{password: ***, n: 1}]"),
    ],
)
def test_the_value_of_a_secret_is_masked(argument, recorded):
    assert masked_arguments([argument]) == [recorded]


def test_a_flag_hides_the_argument_after_it():
    line = ["main.py", "--token", "abc", "--verbose", "def"]
    assert masked_arguments(line) == ["main.py", "--token", "***", "--verbose", "def"]


@pytest.mark.parametrize(
    "argument",
    [
        "optim.lr=0.3",
        "~log.api_key",
        "--config-name=simclr",
        "+mine.keys=3",
        "model.monkey=1",
        "++optim.groups=[{pattern: '.*key', lr: 1}]",
        "data.root=${oc.env:DATA_ROOT,./data}",
        "data.train.dataset={name: digits, subset: train}",
    ],
)
def test_other_arguments_stay_as_they_are(argument):
    assert masked_arguments([argument]) == [argument]
