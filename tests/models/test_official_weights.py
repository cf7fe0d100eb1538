"""Files that the authors of methods published, by the names that their code gives.

Names and nesting are those of main_dino.py, main_swav.py, main_simsiam.py,
main_moco.py, main.py of Barlow Twins, main_vicreg.py and DINOv2's hub; the networks
within are torchvision's and timm's, small ones.
"""

import pytest
import torch

from stable_ssl.models import backbone
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


def test_of_a_student_and_its_teacher_the_teacher_is_taken_and_said(tmp_path):
    torch.save(dino(state(VIT, 1), state(VIT, 2)), tmp_path / "checkpoint.pth")
    said = reports(backbone({**VIT, "weights": str(tmp_path / "checkpoint.pth")}))
    assert "teacher.backbone -> the model" in next(said)
