"""Layers as features: read in one pass, pooled, joined, and measured beside others."""

import pytest
import torch
from torch import nn

from stable_ssl import ConfigError, LayerKnn, LayerProbe, SimCLR
from stable_ssl.checkpoint import equal
from stable_ssl.evaluation.layers import AttentivePooling, Layers, read
from stable_ssl.methods import method_class
from stable_ssl.models import backbone

VIT = ["model.backbone.name=vit", "++model.backbone.image_size=8"]
VIT += ["++model.backbone.patch_size=4", "++model.backbone.dim=16"]
VIT += ["++model.backbone.depth=2", "++model.backbone.heads=2"]
SHORT = [
    "data.batch_size=64",
    "optim.epochs=null",
    "optim.steps=3",
    "log.pictures=null",
]
SHORT += ["log.monitor=null", "log.eval.few_labels=[]", "log.eval.every_n_epochs=null"]


def asked(name, kind, **keys):
    text = ", ".join(f"{key}: {value}" for key, value in keys.items())
    return f"++log.eval.{name}={{_target_: stable_ssl.{kind}, {text}}}"


class Net(nn.Module):
    """A network whose layers return maps, tokens, features and a list."""

    num_prefix_tokens = 2

    def __init__(self):
        super().__init__()
        self.maps = nn.Conv2d(1, 4, 1)
        self.tokens, self.unused = nn.Identity(), nn.Identity()
        self.features = nn.Linear(4, 3)
        self.several = nn.Identity()

    def forward(self, x):
        tokens = self.tokens(self.maps(x).flatten(2).mT)
        self.several([tokens])
        return self.features(tokens[:, 0])


@pytest.fixture(scope="module")
def outputs():
    model, x = Net(), torch.rand(5, 1, 2, 3)
    names = ["maps", "tokens", "features", "several", "unused"]
    with read(model, names) as found:
        model(x)
    tokens = model.maps(x).flatten(2).mT.detach()
    assert not any(module._forward_hooks for module in model.modules())
    return model, found, tokens


@pytest.mark.parametrize(
    ("names", "pool", "join", "expected"),
    [
        ("maps", "mean", "concat", lambda t: t.mean(1)),
        ("tokens", "mean", "concat", lambda t: t[:, 2:].mean(1)),  # of the patches
        ("tokens", "token", "concat", lambda t: t[:, 0]),
        ("maps", "none", "concat", lambda t: t),
        ("tokens", "none", "concat", lambda t: t),
        (["maps", "tokens"], "none", "concat", lambda t: torch.cat([t, t], 2)),
        (["maps", "tokens"], "none", "mean", lambda t: t),
    ],
)
def test_layers_are_pooled_and_joined(outputs, names, pool, join, expected):
    model, found, tokens = outputs
    features = Layers(names, pool, join).of(found, model, 5)
    torch.testing.assert_close(features, expected(tokens))
    assert not features.requires_grad


def test_features_stay_and_go_beside_pooled_tokens(outputs):
    model, found, tokens = outputs
    both = Layers(["features", "maps"], "mean", "concat").of(found, model, 5)
    last = model.features(tokens[:, 0])
    torch.testing.assert_close(both, torch.cat([last, tokens.mean(1)], 1))


@pytest.mark.parametrize(
    ("names", "pool", "join", "words"),
    [
        ("unused", "mean", "concat", "unused was not called by encode"),
        ("several", "mean", "concat", "several returned a list, expected one tensor"),
        ("maps", "token", "concat", r"\(5, 6, 4\), which has no class token"),
        ("features", "none", "concat", r"\(5, 3\), which has no all tokens"),
        (["features", "maps"], "mean", "mean", "differ in shape"),
    ],
)
def test_what_cannot_be_pooled_is_said(outputs, names, pool, join, words):
    model, found, _ = outputs
    with pytest.raises(ConfigError, match=words):
        Layers(names, pool, join).of(found, model, 5)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (asked("a", "LayerKnn", layers="backbone.block.0"), "no module backbone.block"),
        (asked("a", "LayerKnn", layers="projector"), "log.eval.a: layer projector was"),
        (asked("a", "LayerKnn", layers="backbone", pool="cls"), "pool=cls is none of"),
        (asked("a", "LayerKnn", layers="backbone", pool="none"), "pool=none is none"),
        (asked("a", "LayerKnn", layers="backbone", kk=1), "kk is not one of its keys"),
        (asked("a", "LayerKnn", layers="backbone", k=0), "log.eval.a: k=0 must be"),
        (
            asked("a", "AttentiveProbe", layers="backbone.blocks.0", heads=3),
            "log.eval.a.heads=3 must divide the width of the tokens, 16",
        ),
    ],
)
def test_wrong_layers_are_refused_before_training(config, node, words):
    with pytest.raises(ConfigError, match=words):
        SimCLR(config("simclr", *VIT, *SHORT, node)).setup()


def test_a_probe_goes_on_as_it_was_trained(config):
    def run(lr, *more):
        node = asked("a", "LayerProbe", layers="backbone", lr=lr, **dict(more))
        trainer = SimCLR(config("simclr", *VIT, *SHORT, node))
        trainer.setup()
        trainer.save_checkpoint()
        trainer.cleanup()

    run(0.01)
    run(0.01, ("every_n_epochs", 3))  # when it is asked may change
    with pytest.raises(ConfigError, match="trained with log.eval.a.lr=0.01, not 0.05"):
        run(0.05)


NODES = [
    asked("first", "LayerKnn", layers="backbone.blocks.0", k=5),
    asked("all", "LayerLinear", layers="backbone", in_fit="true", epochs=2),
    asked("probe0", "LayerProbe", layers="[backbone.blocks.0, backbone.blocks.1]"),
    asked("pooled", "AttentiveProbe", layers="backbone.blocks.1", heads=4),
]


@pytest.fixture
def measured(config):
    """Return what a short run measures, and the run."""

    def run(*overrides, name="simclr"):
        trainer = method_class(name)(config(name, *VIT, *SHORT, *overrides))
        trainer.run()
        return trainer

    return run


def test_all_are_measured_beside_the_others_and_disturb_nothing(measured):
    plain = measured("log.run=plain")
    trainer = measured("log.run=layers", *NODES)
    names = {"first_knn_acc1", "probe0_acc1", "pooled_acc1", "all_linear_acc1"}
    assert {f"test/{name}" for name in names} <= trainer.metrics.keys()
    for name, value in plain.metrics.items():
        if not name.startswith("perf/"):
            assert trainer.metrics[name] == value, name
    for a, b in zip(plain.parameters(), trainer.parameters(), strict=True):
        assert torch.equal(a, b)
    stated = trainer.evaluation.metrics
    assert stated["first_knn_acc1"].protocol.endswith("backbone.blocks.0, mean")
    assert "features: concat of backbone.blocks.0" in stated["probe0_acc1"].protocol
    assert "all tokens" in stated["pooled_acc1"].protocol


def test_the_last_layer_measures_what_encode_does(measured):
    """`backbone` returns the features, so its kNN and probe are the usual ones."""
    trainer = measured(
        asked("same", "LayerKnn", layers="backbone"), "log.eval.linear.lr=0.01"
    )
    assert trainer.metrics["test/same_knn_acc1"] == trainer.metrics["test/knn_acc1"]


def test_a_run_is_gone_on_with(measured):
    keys = "optim.scheduler.name=null", *NODES[2:]
    whole = measured("log.run=whole", *keys)
    measured("log.run=parts", *keys, "optim.steps=2")
    parts = measured("log.run=parts", *keys)
    states = [trainer.evaluation.state_dict() for trainer in (whole, parts)]
    assert states[0].keys() == {"probe", "probe0", "pooled"}
    assert equal(*states)


def test_whole_steps_are_seen_under_exact_batch(measured):
    keys = ["optim.accumulate=2", "optim.exact_batch=true"]
    keys += ["optim.per_micro_batch_norm=true", *NODES[2:]]
    assert "train/pooled_loss" in measured(*keys).metrics


def accuracies(folder, *overrides):
    from stable_ssl import load_config

    torch.set_num_threads(1)
    keys = [*VIT, *SHORT, *NODES, f"log.folder={folder}", "log.run=r", *overrides]
    trainer = SimCLR(load_config("simclr", keys))
    trainer.run()
    return {k: v for k, v in trainer.metrics.items() if k.startswith("test/")}


@pytest.mark.slow
def test_processes_measure_as_one(ranks, tmp_path):
    one = accuracies(tmp_path / "one")
    for several in ranks(2, accuracies, str(tmp_path / "two")):
        assert several.keys() == one.keys()
        for name, value in one.items():
            assert several[name] == pytest.approx(value, abs=0.02), name


def test_the_pooling_is_attention_by_heads():
    """Written out for each head: softmax of query and keys weighs the values."""
    model = AttentivePooling(dim=6, heads=2, num_classes=3).eval()
    tokens = torch.randn(4, 5, 6)
    scaled = tokens / (1 + model.norm.eps) ** 0.5  # statistics of a fresh batch norm
    pooled = []
    for head in (slice(0, 3), slice(3, 6)):
        key, value = (m(scaled)[..., head] for m in (model.key, model.value))
        weights = (key @ model.query[head] / 3**0.5).softmax(1)
        pooled.append((weights[..., None] * value).sum(1))
    expected = model.classifier(torch.cat(pooled, 1))
    torch.testing.assert_close(model(tokens), expected)


def test_images_whose_maps_have_channels_last():
    """As timm's Swin says of its own."""

    class Last(nn.Module):
        output_fmt = "NHWC"

        def __init__(self):
            super().__init__()
            self.layer = nn.Identity()

    model, x = Last(), torch.rand(2, 3, 4, 5)
    found = Layers("layer", "mean", "concat").of({"layer": x}, model, 2)
    torch.testing.assert_close(found, x.mean((1, 2)))


def test_layers_of_torchvision_are_read_as_timms():
    from torchvision.models import SwinTransformer, VisionTransformer

    def built(name, provider_model):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "torchvision.models.get_model", lambda *_, **__: provider_model
            )
            return backbone({"name": name, "provider": "torchvision"}).eval()

    swin = SwinTransformer([4, 4], 24, [1, 1], [2, 2], [4, 4], num_classes=3)
    swin, x = built("swin_t", swin), torch.rand(2, 3, 32, 32)
    with read(swin, ["features.1"]) as found:
        swin(x)
    features = Layers("features.1", "mean", "concat").of(found, swin, 2)
    torch.testing.assert_close(features, found["features.1"].mean((1, 2)))
    vit = VisionTransformer(8, 4, 1, 2, 16, 16, num_classes=3)
    vit, name = built("vit_b_16", vit), "encoder.layers.encoder_layer_0"
    with read(vit, [name]) as found:
        vit(torch.rand(2, 3, 8, 8))
    token, mean = (
        Layers(name, p, "concat").of(found, vit, 2) for p in ("token", "mean")
    )
    torch.testing.assert_close(token, found[name][:, 0])
    torch.testing.assert_close(mean, found[name][:, 1:].mean(1))


def test_online_probes_are_seen_in_float32_with_labels_of_a_column():
    probe = LayerProbe("backbone")
    probe.node, x = "mine", torch.randn(40, 6)
    probe.build(6, 3, "cpu")
    labels = probe.module.eval()(x).argmax(1)
    pooling = AttentivePooling(8, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert probe.module(x.bfloat16()).dtype == torch.float32
        assert pooling(torch.rand(4, 5, 8).bfloat16()).dtype == torch.float32
        probe.see((x, labels[:, None]), None, lambda x: x)
    assert dict(probe(None)) == {"mine_acc1": 1.0}


def test_a_bank_is_not_held_while_its_layers_are_read(config):
    class Watched(SimCLR):
        def after_eval_epoch(self):
            super().after_eval_epoch()
            measure = self.evaluation.measure

            def measured(*arguments):
                values = measure(*arguments)
                self.held = max(len(e.view) for e in self.evaluation.encoded)
                self.views = len(self.evaluation.encoded)
                return values

            self.evaluation.measure = measured

    node = asked("block", "LayerKnn", layers="backbone.blocks.0")
    run = Watched(config("simclr", *VIT, *SHORT, node, "log.eval.test_at_end=false"))
    run.setup()
    run.evaluate("val")
    run.cleanup()
    assert run.views == 1 and run.held <= 200


def test_names_follow_the_node():
    evaluator = LayerKnn("backbone", k=5)
    evaluator.node = "mine"
    assert list(evaluator.metrics) == ["mine_knn_acc1", "mine_knn_acc5"]
