"""Figures of one name in one folder are of one protocol, whoever measures them."""

import json

import pytest
from omegaconf import OmegaConf

from stable_ssl import ConfigError, SimCLR

ALONE = ["mode=test", "log.eval.offline=null"]
TRAIN = "++data.test.dataset.subset=train"


@pytest.fixture
def trained(tiny, config):
    run = tiny(config("base", "log.checkpoint.top_k=2", "log.monitor=val/knn_acc1"))
    run.run()
    return run


def told(folder):
    """Return what the rows of `evaluations.jsonl` say beside their figures."""
    lines = (folder / "evaluations.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [(row["checkpoint"], row["otherwise"]) for row in rows]


def test_the_newest_weights_seen_likewise_add_to_the_figures(
    tiny, config, rows, trained
):
    before = rows(trained.run_dir)
    tiny(config("base", *ALONE)).run()
    tiny(config("base", *ALONE, "log.eval.few_labels=[2]")).run()
    last = f"log.load_from={trained.run_dir / 'ckpts' / 'last.ckpt'}"
    tiny(config("base", *ALONE, last)).run()
    *kept, first, second, third = rows(trained.run_dir)
    assert kept == before and first["test/knn_acc1"] == before[-1]["test/knn_acc1"]
    assert first["test/knn_acc1"] == second["test/knn_acc1"] == third["test/knn_acc1"]
    assert not (trained.run_dir / "evaluations.jsonl").exists()


@pytest.mark.parametrize(
    ("keys", "otherwise"),
    [
        (["log.eval.knn.k=1"], ["log.eval.knn.k"]),
        ([TRAIN], ["data.test.dataset.subset"]),
        (["data.bank_size=500"], ["data.bank_size"]),
        (["hardware.seed=1"], ["hardware.seed"]),
        (["hardware.precision=bfloat16"], ["hardware.precision"]),
    ],
)
def test_what_is_seen_otherwise_goes_apart(tiny, config, trained, keys, otherwise):
    files = "metrics.jsonl", "metrics.json", "config.yaml", "status.json"
    before = [(trained.run_dir / name).read_bytes() for name in files]
    tiny(config("base", *ALONE, *keys)).run()
    assert [(trained.run_dir / name).read_bytes() for name in files] == before
    assert told(trained.run_dir) == [(None, otherwise)]


@pytest.mark.parametrize(
    "keys",
    [
        ["++data.test.batch_size=50"],
        ["++data.train.batch_size=64", "++data.train.dataset.image_transform=[]"],
        ["data.val=null"],
        ["log.eval.knn=null"],
    ],
)
def test_what_changes_no_figure_is_as_before(tiny, config, trained, keys):
    tiny(config("base", *ALONE, *keys)).run()
    assert not (trained.run_dir / "evaluations.jsonl").exists()


def test_newest_weights_are_the_runs_whatever_rows_came_later(tiny, config, rows):
    class Dying(tiny):
        def after_train_step(self):
            if self.step == 16:
                raise KeyboardInterrupt

    keys = ["log.every_n_steps=1", "log.checkpoint.every_n_steps=4"]
    with pytest.raises(KeyboardInterrupt):
        Dying(config("base", *keys)).run()
    run = tiny(config("base", *ALONE))
    run.run()
    assert rows(run.run_dir)[-1]["step"] == run.step == 12
    assert not (run.run_dir / "evaluations.jsonl").exists()


def test_a_run_from_another_ones_state_is_measured_by_its_own(tiny, config, trained):
    path = f"log.resume={trained.run_dir / 'ckpts' / 'last.ckpt'}"
    second = tiny(config("base", "log.run=second", path, "optim.epochs=3"))
    second.run()
    tiny(config("base", *ALONE, "log.run=second", path)).run()
    assert not (second.run_dir / "evaluations.jsonl").exists()
    for _ in range(2):
        seen = tiny(config("base", *ALONE, "log.run=seen", path))
        seen.run()
    assert not (seen.run_dir / "evaluations.jsonl").exists()


def test_a_folder_older_than_a_key_had_its_default(tiny, config, trained):
    path = trained.run_dir / "config.yaml"
    kept = OmegaConf.load(path)
    del kept.log.eval.knn["temperature"]
    path.write_text(OmegaConf.to_yaml(kept))
    tiny(config("base", *ALONE)).run()
    assert not (trained.run_dir / "evaluations.jsonl").exists()


def test_other_weights_go_apart(tiny, config, trained):
    path, *_ = sorted((trained.run_dir / "ckpts").glob("e001_*"))
    tiny(config("base", *ALONE, f"log.load_from={path}")).run()
    assert told(trained.run_dir) == [(str(path), [])]


def test_an_evaluation_alone_keeps_to_its_first_settings(tiny, config, trained, rows):
    path = f"log.load_from={trained.run_dir / 'ckpts' / 'last.ckpt'}"
    own = [*ALONE, path, "log.run=seen"]
    folders = []
    for keys in ([], [], ["log.eval.knn.k=1"]):
        run = tiny(config("base", *own, *keys))
        run.run()
        folders.append(run.run_dir)
    assert len(rows(folders[0])) == 2
    assert told(folders[0]) == [(None, ["log.eval.knn.k"])]


def test_another_network_of_the_same_weights_is_said(config, capsys):
    vit = "{name: vit, image_size: 8, patch_size: 4, dim: 16, depth: 1, heads: %d}"
    keys = ["optim.epochs=1", "log.eval.test_at_end=false"]
    run = SimCLR(config("simclr", f"++model.backbone={vit % 2}", *keys))
    run.run()
    path = f"log.load_from={run.run_dir / 'ckpts' / 'last.ckpt'}"
    other = f"++model.backbone={vit % 4}"
    for place in (path, "log.resume=auto"):
        SimCLR(config("simclr", other, *ALONE, place)).run()
        said = "evaluated otherwise than the run was: model.backbone.heads"
        assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    "key",
    [
        "log.monitor=val/acc1",
        "log.monitor_mode=min",
        "log.eval.knn.k=1",
        "++data.val.dataset.subset=train",
        "log.early_stopping.mode=min",
    ],
)
def test_a_run_goes_on_by_what_it_was_judged_by(tiny, config, key):
    keys = ["log.monitor=val/knn_acc1", "log.early_stopping.patience=1"]
    keys += ["log.early_stopping.mode=max", "log.early_stopping.min_delta=1"]
    first = tiny(config("base", *keys))
    first.run()
    assert first.stopped
    changed = [*(k for k in keys if k.split("=")[0] != key.split("=")[0]), key]
    longer = "optim.epochs=4"
    with pytest.raises(ConfigError, match=f"by {key.split('=')[0].lstrip('+')}="):
        tiny(config("base", *changed, longer)).run()
    path = first.run_dir / "ckpts" / "last.ckpt"
    keys = [*changed, "log.run=other", f"log.resume={path}", longer]
    other = tiny(config("base", *keys))
    other.run()
    assert other.step > first.step and other.early_stopping.waited <= 1


def test_batches_of_another_size_change_no_figure(tiny, config, trained):
    keys = ["log.monitor=val/knn_acc1", "log.checkpoint.top_k=2", "optim.epochs=3"]
    run = tiny(config("base", *keys, "++data.val.batch_size=50"))
    run.run()
    assert run.step == 27


def test_evaluators_that_come_or_go_change_no_figure(tiny, config, trained):
    added = "++log.eval.mine={_target_: stable_ssl.LayerKnn, layers: layer}"
    run = tiny(config("base", "log.monitor=null", added, "optim.epochs=3"))
    run.run()
    assert run.step == 27 and "val/mine_knn_acc1" in run.metrics
