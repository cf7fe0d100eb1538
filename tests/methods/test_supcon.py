import pytest
import torch

from stable_ssl import ConfigError
from stable_ssl.losses import nt_xent
from stable_ssl.methods.supcon import SupCon


@pytest.fixture
def ready(config):
    """Return a SupCon in float64 with a small batch."""
    trainer = SupCon(config("supcon", "++model.projector=[32,16]"))
    trainer.setup()
    trainer.double().train()
    views, labels = next(iter(trainer.train_loader))
    trainer.data = [view[:12].double() for view in views], labels[:12]
    yield trainer
    trainer.cleanup()


def test_the_loss_is_eq_2_over_all_views_of_a_label(ready):
    views, labels = ready.data
    z = ready.projector(ready.backbone(torch.cat(views)))
    z = torch.nn.functional.normalize(z)
    labels, tau, expected = labels.repeat(2), ready.config.model.temperature, 0
    for i in range(24):
        others = [a for a in range(24) if a != i]
        logits = {a: (z[i] @ z[a] / tau) for a in others}
        total = torch.stack([*logits.values()]).exp().sum().log()
        positives = [a for a in others if labels[a] == labels[i]]
        expected -= sum(logits[p] - total for p in positives) / len(positives) / 24
    assert ready.compute_loss()["loss"].item() == pytest.approx(
        expected.item(), rel=1e-9
    )


def test_it_is_simclr_where_no_label_occurs_twice(ready):
    views, _ = ready.data
    ready.data = views, torch.arange(12)
    z = ready.projector(ready.backbone(torch.cat(views)))
    expected = nt_xent(*z.chunk(2), temperature=ready.config.model.temperature)
    assert ready.compute_loss()["loss"].item() == pytest.approx(
        expected.item(), rel=1e-9
    )


@pytest.mark.parametrize("missing", ["classes", "some"])
def test_data_without_labels_are_refused(config, missing, monkeypatch):
    class Unlabelled(SupCon):
        def initialize_data(self):
            super().initialize_data()
            if missing == "classes":
                self.num_classes = None
            else:
                self.train_loader.dataset.labels[7] = -1

    trainer = Unlabelled(config("supcon", "log.monitor=null"))
    with pytest.raises(ConfigError, match=r"found no labels .* choose labelled"):
        trainer.setup()
    trainer.cleanup()
