"""What features are worth where few labels are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from stable_ssl.data.few_labels import check_few, choose_few
from stable_ssl.evaluation.bank import Bank, standardiser
from stable_ssl.evaluation.evaluator import Evaluator, Labelled, Split
from stable_ssl.evaluation.logistic import logistic_accuracy
from stable_ssl.loggers.names import Metric


class FewLabels(Evaluator):
    """Fit logistic regression on a few labels of each class, several times.

    Args:
        few: numbers of labels, "10" a class or "1%" of each.
    """

    key = "few_labels"
    names = ("few*_acc1",)
    splits = ("test",)
    needs_bank = shares_bank = needs_labels = each_rank = True

    def __init__(self, few: Sequence[str]):
        self.few = {f"few{n.replace('%', 'pct')}_acc1": n for n in few}
        self.metrics = {name: _metric(n) for name, n in self.few.items()}

    def check_bank(self, size: int, labels: Tensor | None) -> None:
        """Refuse more labels than a class has, and shares that are less than one."""
        for few in self.few.values() if labels is not None else ():
            check_few(labels, few, "log.eval.few_labels")

    def __call__(self, split: Split) -> Iterator[tuple[str, float]]:
        """Yield an accuracy for each number of labels, of finite features."""
        queries = split.features, split.labels
        for name, few in self.few.items() if split.finite else ():
            yield name, few_label_accuracy(split.bank, queries, few, seed=split.seed)


def _metric(few: str) -> Metric:
    """Return the words for "10" labels a class, or for "1%" of the labels."""
    number = float(few.rstrip("%"))
    if few.endswith("%"):
        labels = f"{number:g} % of the labels"
        order = 30 + number / 100
    else:
        labels = f"{few} label{'s' * (few != '1')} a class"
        order = 20 + number / 1000
    return Metric(
        f"accuracy, {labels}",
        f"linear, {labels}",
        f"logistic regression, {labels} of {{bank}}, mean of 5 draws",
        order,
    )


def few_label_accuracy(
    bank: Labelled | Bank, queries: Labelled, labels: str, draws: int = 5, seed: int = 0
) -> float:
    """Return the top-1 accuracy of logistic regression on a few labels of each class.

    Features are standardised by the whole bank's mean and deviation, which need no
    labels; the regression is that of `logistic_accuracy`. Synchronises ranks.

    Args:
        bank: features (M, D) and labels (M,) that every rank holds, or their shares.
        queries: this rank's features (N, D) and labels (N,).
        labels: "10" a class, or "1%" of each class.
        draws: choices of the labelled samples to average over.
        seed: of the choices; the same seed chooses the same samples.
    """
    bank = Bank.of(bank)
    scaled = standardiser(bank)
    test = scaled(queries[0]), queries[1]
    scores = []
    for draw in range(draws):
        few = choose_few(bank.labels.cpu(), labels, seed, draw).to(bank.labels.device)
        known = scaled(bank.take(few)), bank.labels[few]
        scores.append(logistic_accuracy(known, test))
    return sum(scores) / draws
