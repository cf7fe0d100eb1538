"""Classification metrics as sums and counts over a whole split."""

from __future__ import annotations

from torch import Tensor

from stable_ssl import distributed


def topk_correct(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Count the samples whose label is among the k largest logits.

    Args:
        logits: (N, C).
        labels: (N,) int64.
        k: at most C.

    Returns:
        Scalar int64 on the device; no synchronisation.
    """
    return (logits.topk(k, dim=1).indices == labels[:, None]).sum()


class Accuracy:
    """Top-1 and, with more than five classes, top-5 accuracy of a split."""

    def __init__(self) -> None:
        self.count, self.correct = 0, {}

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (N, C), labels (N,)."""
        self.count += len(labels)
        for k in (1, 5) if logits.shape[1] > 5 else (1,):
            hits = topk_correct(logits, labels, k)
            self.correct[f"acc{k}"] = self.correct.get(f"acc{k}", 0) + hits

    def compute(self) -> dict[str, float]:
        """Return the shares {"acc1", "acc5"} of all ranks' samples.

        Synchronises the host and the ranks.
        """
        own = self.count, {name: int(hits) for name, hits in self.correct.items()}
        everyone = distributed.all_gather_object(own)
        count = sum(samples for samples, _ in everyone)
        names = dict.fromkeys(name for _, correct in everyone for name in correct)
        return {
            name: sum(correct.get(name, 0) for _, correct in everyone) / count
            for name in names
        }
