"""Every figure of an evaluation is said with its protocol, split, epoch and seed."""

import pytest

from stable_ssl.config import Eval, Knn, Log, Offline
from stable_ssl.evaluation.protocol import protocol, protocol_table

LOG = Log(
    eval=Eval(knn=Knn(k=7), offline=Offline(epochs=9, held_out=0.2, lrs=[0.1, 1.0])),
    metrics={"f1": {"callable": "torchmetrics.functional.f1_score"}},
)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "val/knn_acc1",
            "kNN, k=7, temperature 0.07, on the bank of 1,197",
        ),
        ("test/acc5", "online linear probe, top 5"),
        ("test/few10_acc1", "10 labels a class of the bank of 1,197 plain images"),
        ("test/few0.5pct_acc1", "0.5 % of the bank"),
        ("test/linear_acc1", "linear, SGD, 9 epochs on the bank"),
        ("test/linear_acc5", "1,197 plain images, top 5"),
        ("test/linear_lr", "best of 2 on 20% of the bank"),
        ("test_hard/f1", "torchmetrics.functional.f1_score"),
    ],
)
def test_a_name_says_its_protocol(name, words):
    assert words in protocol(name, LOG, 1197, probed=True)


def test_the_table_has_a_row_for_each_figure_and_words_for_each_known_one():
    found = {"val/acc1": 0.5, "val/rankme": 3.0, "val/a_hooks_own": 1.0}
    off = Log(eval=Eval(knn=None, offline=None))
    table = protocol_table(found, off, "val split, epoch 3", 0, probed=False)
    assert table.title == "val split, epoch 3"
    assert table.rows == [
        ("val/acc1", "50.00 %", "the model's prediction, top 1"),
        ("val/rankme", "3", "effective rank of the features"),
        ("val/a_hooks_own", "1", ""),
    ]
