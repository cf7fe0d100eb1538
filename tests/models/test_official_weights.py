"""Files that the authors of methods published, by the names that their code gives.

Names and nesting are those of main_dino.py, main_swav.py, main_simsiam.py,
main_moco.py, main.py of Barlow Twins, main_vicreg.py and DINOv2's hub; the networks
within are torchvision's and timm's, small ones.
"""

import re

import pytest
import torch

from stable_ssl.models import backbone
from stable_ssl.models.official import renamed
from stable_ssl.models.weights import reports

RESNET = {"name": "resnet18"}
VIT = {"name": "vit_tiny_patch16_224", "depth": 1, "embed_dim": 24}
VIT_V2 = {"name": "vit_small_patch14_dinov2", "depth": 1, "embed_dim": 24}
VIT_V2 |= {"num_heads": 2, "img_size": 28}


def state(spec, shift):
    """Return the names and other values of a network."""
    return {n: t + shift for n, t in backbone(spec).state_dict().items()}


def under(prefix, own, *more):
    """Return a state below a prefix, and further tensors of its own names."""
    return {prefix + n: t for n, t in own.items()} | dict.fromkeys(more, torch.ones(2))


def dino(own, other):
    student = under("module.backbone.", other, "module.head.last_layer.weight_g")
    teacher = under("backbone.", own, "head.mlp.0.weight", "head.last_layer.weight_g")
    loss = {"center": torch.zeros(1, 4)}
    return {"student": student, "teacher": teacher, "epoch": 1, "dino_loss": loss}


def dino_of_a_resnet(own, other):
    """The teacher has batch norms, and so the wrapper of several processes, too."""
    return dino(own, other) | {"teacher": under("module.backbone.", own)}


def swav(own, other):
    heads = "module.projection_head.0.weight", "module.prototypes.weight"
    return under("module.", own, *heads)


def simsiam(own, other):
    heads = "module.encoder.fc.0.weight", "module.predictor.0.weight"
    return {"arch": "x", "state_dict": under("module.encoder.", own, *heads)}


def moco_v3(own, other):
    head = "fc" if "conv1.weight" in own else "head"
    online = under("module.base_encoder.", own, f"module.base_encoder.{head}.0.weight")
    return {"epoch": 3, "state_dict": online | under("module.momentum_encoder.", other)}


def with_projector(own, other):
    """Barlow Twins' and VICReg's checkpoint.pth and model.pth."""
    more = "module.projector.0.weight", "module.bn.running_mean"
    return {"epoch": 3, "model": under("module.backbone.", own, *more)}


def plain(own, other):
    """resnet50.pth of both, and the hub's files of DINO."""
    return own


def dino_v2(own, other):
    return own | {"mask_token": torch.zeros(1, 24)}


@pytest.mark.parametrize(
    ("spec", "file"),
    [
        *[(RESNET, f) for f in (dino_of_a_resnet, swav, simsiam, moco_v3)],
        *[(RESNET, f) for f in (with_projector, plain)],
        *[(VIT, f) for f in (dino, moco_v3, plain)],
        (VIT_V2, dino_v2),
    ],
    ids=lambda value: getattr(value, "__name__", None) or value["name"],
)
def test_the_backbone_of_an_official_file_is_loaded(spec, file, tmp_path):
    own, other = state(spec, 1), state(spec, 2)
    torch.save(file(own, other), tmp_path / "official.pth")
    model = backbone({**spec, "weights": str(tmp_path / "official.pth")})
    for name, tensor in model.state_dict().items():
        assert tensor.equal(own[name]), name
    assert f"{len(own)} tensors" in " ".join(reports(model))


VIT_REG = {**VIT_V2, "name": "vit_small_patch14_reg4_dinov2", "depth": 3}


def official_v2(own, chunked):
    """Return a network of timm as DINOv2's code saves it, with registers."""
    position = torch.randn(1, 1, 24)
    file = dict(own)
    if chunked:  # two blocks a chunk
        number = re.compile(r"blocks\.(\d+)")
        file = {
            number.sub(lambda m: f"blocks.{int(m[1]) // 2}.{m[1]}", name): tensor
            for name, tensor in own.items()
        }
    file["register_tokens"] = file.pop("reg_token")
    file["cls_token"] = file["cls_token"] - position
    file["pos_embed"] = torch.cat([position, file["pos_embed"]], 1)
    file["mask_token"] = torch.zeros(1, 24)
    return file


@pytest.mark.parametrize("chunked", [False, True], ids=["hub", "in training"])
@pytest.mark.parametrize("prefix", ["", "teacher.backbone."])
def test_dinov2_with_registers_is_loaded(chunked, prefix, tmp_path):
    own = state(VIT_REG, 1)
    torch.save(under(prefix, official_v2(own, chunked)), tmp_path / "official.pth")
    model = backbone({**VIT_REG, "weights": str(tmp_path / "official.pth")})
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, own[name])


def test_blocks_of_stages_are_no_chunks(tmp_path):
    spec = {"name": "mobilenetv3_small_050", "provider": "timm"}
    own = state(spec, 1)
    torch.save(own, tmp_path / "own.pth")
    model = backbone({**spec, "weights": str(tmp_path / "own.pth")})
    assert all(t.equal(own[n]) for n, t in model.state_dict().items())


def test_the_gated_layers_of_dinov2_have_timms_names():
    names = "blocks.0.mlp.w12.weight", "blocks.0.mlp.w3.bias", "head.w3.weight"
    found = renamed(dict.fromkeys(names, torch.ones(2)), {})
    assert list(found) == [
        "blocks.0.mlp.fc1.weight",
        "blocks.0.mlp.fc2.bias",
        "head.w3.weight",
    ]


def test_of_a_student_and_its_teacher_the_teacher_is_taken_and_said(tmp_path):
    torch.save(dino(state(VIT, 1), state(VIT, 2)), tmp_path / "checkpoint.pth")
    said = reports(backbone({**VIT, "weights": str(tmp_path / "checkpoint.pth")}))
    assert "teacher.backbone -> the model" in next(said)
