"""A dotted path is one object, or one sentence that begins with its key."""

import sys
import traceback

import pytest
import torch

from stable_ssl.config import ConfigError
from stable_ssl.instantiate import accepted_by, build_object, find_object


def test_classes_functions_and_methods_are_found():
    assert find_object("torch.optim.SGD", "at") is torch.optim.SGD
    assert find_object("torch.nn.Linear.forward", "at") is torch.nn.Linear.forward
    assert find_object("xml.sax.saxutils.escape", "at").__name__ == "escape"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("torch.optim.SDG", "torch.optim has no SDG; did you mean 'SGD'"),
        ("torch.nn.Linear.forwrd", "torch.nn.Linear has no forwrd; did you mean 'forw"),
        ("no_such_package.f", "no module no_such_package; install it"),
        ("torch.optim", "it is a module"),
        ("needs.something", "No module named 'not_installed'"),
        ("broken.something", "name 'nothing' is not defined (broken.py, line 3)"),
        ("unread.something", "SyntaxError: "),
        (".SGD", "cannot be imported"),
        (3, "found 3; write a dotted path"),
    ],
)
def test_what_is_not_there_is_said_in_words(path, words, tmp_path, monkeypatch):
    (tmp_path / "needs.py").write_text("import not_installed")
    (tmp_path / "broken.py").write_text("import os\n\nnothing()\n")
    (tmp_path / "unread.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as error:
        find_object(path, "my.key")
    assert str(error.value).startswith("my.key: ") and words in str(error.value)
    assert "\n" not in str(error.value)
    sys.modules.pop("needs", None)


def test_a_node_is_built_with_what_it_nests():
    node = {
        "_target_": "torch.nn.Sequential",
        "_args_": [{"_target_": "torch.nn.ReLU"}],
    }
    assert isinstance(build_object(node, "at")[0], torch.nn.ReLU)
    linear = {"_target_": "torch.nn.Linear", "in_features": 2}
    assert build_object(linear, "at", out_features=3).out_features == 3
    for wrong in ({**linear, "bias_": 1}, {"in_features": 2}, "torch.nn.Linear"):
        with pytest.raises(ConfigError, match="^my.key: "):
            build_object(wrong, "my.key")


def failing(value):
    raise KeyError(value)


@pytest.mark.parametrize(("arguments", "own"), [({"value": 3}, True), ({}, False)])
def test_an_error_of_a_target_is_shown_without_hydra(arguments, own):
    with pytest.raises(ConfigError, match="^my.key: Error in call to target") as caught:
        build_object({"_target_": f"{__name__}.failing", **arguments}, "my.key")
    text = "".join(traceback.format_exception(caught.value))
    assert ("raise KeyError(value)" in text) == own
    assert text.count("Traceback") == 1 + own and "hydra/" not in text


def test_what_a_builtin_accepts_may_not_be_known():
    assert "bias" in accepted_by(torch.nn.Linear)
    assert accepted_by(dict) == {}
