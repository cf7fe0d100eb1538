"""What an evaluator is: built from its node of `log.eval`, it yields names and values.

    class Margin(stable_ssl.Evaluator):
        metrics = {"margin": Metric("margin", "distance to the nearest other class")}

        def __call__(self, split):
            yield "margin", margin(split.features, split.labels)

    log: {eval: {mine: {_target_: my_lab.Margin, every_n_epochs: 5}}}

The other keys of the node are arguments of its class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from stable_ssl.loggers.names import Metric

if TYPE_CHECKING:
    from stable_ssl.evaluation.bank import Bank
    from stable_ssl.evaluation.layers import Layers

Labelled = tuple[Tensor, Tensor]  # features (N, D) and labels (N,)
Encode = Callable[[Tensor], Tensor]  # of a view (N, C, H, W) to features (N, D)


def labelled_rows(labels: Any) -> Tensor | None:
    """Return which samples have a label, (N,) bool: no negative one.

    None where all have one, or where the labels are no numbers of classes (N,).
    """
    if not isinstance(labels, Tensor) or labels.ndim != 1 or labels.is_floating_point():
        return None
    known = labels >= 0
    return None if known.all() else known


@dataclass(frozen=True)
class Split:
    """What an evaluator sees of a split once all of its batches were encoded.

    Features are float32 and in the order of the split, on the device of the run.
    """

    name: str  # val, test, val_<name> or test_<name>
    features: Tensor  # (N, D), of the first view of each image
    labels: Tensor | None  # (N, ...); None where the dataset's are no tensor
    views: Tensor | None  # (N, V, D), where the split's loader makes V > 1 views
    # the train split, seen as in validation, of those that need one; see `shares_bank`
    bank: Labelled | Bank | None
    finite: bool  # whether all features are, of the bank too, on every rank
    num_classes: int | None
    seed: int  # of what is random in fitting a classifier

    def labelled(self) -> Split:
        """Return the split without the images that have no label, a negative one."""
        if (known := labelled_rows(self.labels)) is None:
            return self
        views = None if self.views is None else self.views[known]
        features, labels = self.features[known], self.labels[known]
        return replace(self, features=features, labels=labels, views=views)


class Evaluator:
    """Measure one thing of a split; a subclass yields (name, value) when called.

    One that has `state_dict` and `load_state_dict` is saved in every checkpoint.

    It is called within `torch.no_grad`, in float32, and the global random generators
    are as before when it is done: nothing it does can disturb the training.
    """

    # by name, what a reader is told of them, all of them: `log.monitor` finds one here
    metrics: Mapping[str, Metric] = {}
    splits: tuple[str, ...] = ("val", "test")  # kinds of splits it is asked about
    every_n_epochs: int | None = None  # None: at every evaluation
    needs_bank = False  # labelled features to compare with
    shares_bank = False  # given each rank's rows of it, a `Bank`; else those of all
    needs_features = True  # of every image; False: `see` is all it wants
    all_views = False  # of a split whose loader makes several
    needs_labels = False  # it sees no image without a label, nor data without classes
    each_rank = False  # called on each rank with its share; else on rank 0 with all
    in_fit = True  # False: not while a training evaluates
    note = ""  # said once in the log: what it left out of an evaluation, and why
    taps: Layers | None = None  # whose features it sees, instead of `encode`'s
    node = ""  # of one with taps: its name in `log.eval`, before its figures
    key = ""  # of the library's own: the node of `log.eval` that turns it on
    names: tuple[str, ...] = ()  # and patterns of what it yields, for `log.monitor`

    def check_bank(self, size: int, labels: Tensor | None) -> None:
        """Refuse what the bank is too small for, so that no figure is misnamed.

        Asked of those that need the bank, before anything is trained as far as the
        dataset tells, and once its images were read.

        Args:
            size: images in it, of all ranks.
            labels: theirs (size,); None where reading the images alone would tell.
        """

    def __call__(self, split: Split) -> Iterable[tuple[str, float]]:
        """Yield names and values.

        With `each_rank` the values must be those of all ranks, on every rank.
        """
        return ()

    def see(self, batch: Any, loader: Any, encode: Encode) -> None:
        """Look at a batch of a split on its rank, while the split is evaluated.

        Args:
            batch: as the loader yields it, on the device.
            loader: of the split.
            encode: makes the features of a view, once for all who ask.
        """


class OnlineEvaluator(Evaluator):
    """Train something on detached features, beside the method and never through it.

    Its loss is logged as train/<name>_loss. On several processes each of them trains it
    on the batch of all, from the same random numbers, so that it stays one.
    """

    whole_batch = True  # `fit` sees that of all ranks; False: its share, and averages

    def build(self, dim: int, num_classes: int, device: Any) -> None:
        """Build what is trained, for features (N, dim) and labels (N,).

        Initial weights are the same on all ranks, and disturb no other random number.
        """

    def fit(self, features: Tensor, labels: Tensor) -> Tensor:
        """Take a step on a batch; return the loss, () on the device."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        raise NotImplementedError

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        raise NotImplementedError
