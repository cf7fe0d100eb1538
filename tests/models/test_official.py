"""Files of MAE's and I-JEPA's authors, by the names that their models give."""

import pytest
import torch

from stable_ssl import IJEPA, MAE, ConfigError, Supervised
from stable_ssl.models import backbone
from stable_ssl.models.weights import reports

DIM, WIDTH, DEPTH = 16, 8, 2
VIT = {"name": "vit", "in_channels": 1, "image_size": 8, "patch_size": 2}
VIT |= {"dim": DIM, "depth": 1, "heads": 2}
SIZES = ["data.batch_size=6", f"++model.backbone.dim={DIM}"]
SIZES += ["++model.backbone.depth=1"]
SIZES += ["log.monitor=null", "log.eval={knn: {}, linear: null}"]


def value(name, *shape):
    """Return numbers that only this name has."""
    generator = torch.Generator().manual_seed(sum(map(ord, name)) * len(name))
    return torch.randn(shape, generator=generator)


def block(prefix, dim):
    names = {
        **{f"norm{i}.{kind}": (dim,) for i in (1, 2) for kind in ("weight", "bias")},
        **{"attn.qkv.weight": (3 * dim, dim), "attn.qkv.bias": (3 * dim,)},
        **{"attn.proj.weight": (dim, dim), "attn.proj.bias": (dim,)},
        **{"mlp.fc1.weight": (4 * dim, dim), "mlp.fc1.bias": (4 * dim,)},
        **{"mlp.fc2.weight": (dim, 4 * dim), "mlp.fc2.bias": (dim,)},
    }
    return {f"{prefix}.{name}": shape for name, shape in names.items()}


def linear(name, inputs, outputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name, dim):
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


ENCODER = {  # of both, but for the table of positions
    **{"patch_embed.proj.weight": (DIM, 1, 2, 2), "patch_embed.proj.bias": (DIM,)},
    **block("blocks.0", DIM),
    **norm("norm", DIM),
}
DECODER = {
    **linear("decoder_embed", DIM, WIDTH),
    "mask_token": (1, 1, WIDTH),
    **{n: s for i in range(DEPTH) for n, s in block(f"decoder_blocks.{i}", 8).items()},
    **norm("decoder_norm", WIDTH),
    **linear("decoder_pred", WIDTH, 4),
}
PREDICTOR = {
    "mask_token": (1, 1, WIDTH),
    "predictor_pos_embed": (1, 16, WIDTH),
    **linear("predictor_embed", DIM, WIDTH),
    **{n: s for i in range(2) for n, s in block(f"predictor_blocks.{i}", 8).items()},
    **norm("predictor_norm", WIDTH),
    **linear("predictor_proj", WIDTH, DIM),
}


def filled(shapes, prefix=""):
    return {prefix + n: value(prefix + n, *shape) for n, shape in shapes.items()}


def table(dim, zeros):
    """Return the authors' table, with zeros for the class token or without."""
    from stable_ssl.models import sincos_positions

    return torch.cat([torch.zeros(zeros, dim), sincos_positions((4, 4), dim)])[None]


def mae_file(path, whole=True):
    model = {"cls_token": value("cls_token", 1, 1, DIM), "pos_embed": table(DIM, 1)}
    model |= filled(ENCODER)
    if whole:
        model |= {**filled(DECODER), "decoder_pos_embed": table(WIDTH, 1)}
    torch.save({"model": model, "epoch": 799}, path)
    return model


def ijepa_file(path):
    file = {"epoch": 300, "opt": {"state": {0: {"exp_avg": value("m", DIM)}}}}
    for network in ("encoder", "predictor", "target_encoder"):
        shapes = PREDICTOR if network == "predictor" else ENCODER
        state = {n: value(network + n, *shape) for n, shape in shapes.items()}
        if network != "predictor":
            state["pos_embed"] = table(DIM, 0)
        file[network] = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save(file, path)
    return file


@pytest.fixture
def make(config):
    made = []

    def build(cls, recipe, *overrides):
        made.append(cls(config(recipe, *SIZES, *overrides)))
        made[-1].setup()
        return made[-1]

    yield build
    for trainer in made:
        trainer.cleanup()


DECODING = [f"model.decoder_dim={WIDTH}", f"model.decoder_depth={DEPTH}"]
DECODING += ["model.decoder_heads=2", "model.backbone.heads=2"]
PREDICTING = [f"model.predictor_dim={WIDTH}", "model.predictor_depth=2"]
PREDICTING += ["model.predictor_heads=2", "model.backbone.heads=2"]


@pytest.mark.parametrize("whole", [True, False])
def test_maes_encoder_is_a_backbone(tmp_path, whole):
    state = mae_file(tmp_path / "mae.pth", whole)
    model = backbone({**VIT, "weights": str(tmp_path / "mae.pth")})
    for name, tensor in model.state_dict().items():
        expected = state[name][:, 1:] if name == "pos_embed" else state[name]
        assert tensor.equal(expected), name


def test_maes_whole_model_is_ours(make, tmp_path):
    state = mae_file(tmp_path / "mae.pth")
    path = f"log.load_from={tmp_path / 'mae.pth'}"
    trainer = make(MAE, "mae", *DECODING, "mode=validate", path)
    parts = {"narrow": "decoder_embed", "pixels": "decoder_pred"}
    parts |= {f"decoder.{i}": f"decoder_blocks.{i}" for i in range(DEPTH)}
    parts |= {f"decoder.{DEPTH}": "decoder_norm"}
    for ours, theirs in parts.items():
        own = trainer.get_submodule(ours).state_dict()
        assert own and all(t.equal(state[f"{theirs}.{n}"]) for n, t in own.items())
    assert trainer.mask_token.equal(state["mask_token"])
    assert trainer.backbone.cls_token.equal(state["cls_token"])
    assert trainer.backbone.norm.weight.equal(state["norm.weight"])


def test_ijepas_target_encoder_is_the_backbone(tmp_path):
    file = ijepa_file(tmp_path / "ijepa.pth.tar")
    path = str(tmp_path / "ijepa.pth.tar")
    model = backbone({**VIT, "class_token": False, "weights": path})
    for name, tensor in model.state_dict().items():
        assert tensor.equal(file["target_encoder"][f"module.{name}"]), name
    assert "teacher -> the model" in next(reports(model))


def test_ijepas_whole_model_is_ours(make, tmp_path):
    file = ijepa_file(tmp_path / "ijepa.pth.tar")
    path = f"log.load_from={tmp_path / 'ijepa.pth.tar'}"
    trainer = make(IJEPA, "ijepa", *PREDICTING, "mode=validate", path)
    predictor = file["predictor"]
    pairs = [
        (trainer.backbone, file["encoder"], ""),
        (trainer.teacher.module, file["target_encoder"], ""),
        (trainer.narrow, predictor, "predictor_embed."),
        (trainer.predictor[1], predictor, "predictor_blocks.1."),
        (trainer.predictor[2], predictor, "predictor_norm."),
        (trainer.widen, predictor, "predictor_proj."),
    ]
    for part, state, prefix in pairs:
        own = part.state_dict()
        found = {name: state[f"module.{prefix}{name}"] for name in own}
        assert own and all(tensor.equal(found[n]) for n, tensor in own.items())
    assert trainer.mask_token.equal(predictor["module.mask_token"])


def test_another_number_of_blocks_is_refused(make, tmp_path):
    mae_file(tmp_path / "mae.pth")
    with pytest.raises(ConfigError, match="unexpected: blocks|unexpected: backbone"):
        torch.save(
            {"model": {**mae_file(tmp_path / "x"), **filled(block("blocks.1", DIM))}},
            tmp_path / "deep.pth",
        )
        backbone({**VIT, "weights": str(tmp_path / "deep.pth")})


def test_a_classifier_takes_maes_encoder(make, tmp_path):
    state = mae_file(tmp_path / "mae.pth", whole=False)
    weights = f"++model.backbone.weights={tmp_path / 'mae.pth'}"
    vit = "model.backbone={name: vit, image_size: 8, patch_size: 2, heads: 2}"
    trainer = make(Supervised, "supervised", f"++{vit}", weights)
    assert trainer.backbone.norm.bias.equal(state["norm.bias"])
