"""BaseTrainer: the life of a run, from seeding to the last evaluation, in one file.

    run        setup, then what `mode` asks: fit | validate | test, or a tool;
               always cleans up
    setup      seed_everything  initialize_data  initialize_modules
               initialize_optimizer  initialize_scheduler  initialize_evaluation
               load_checkpoint
    fit        per epoch: before_train_epoch
                 for batch in train_loader: self.data = batch
                   before_train_step  train_step(batch)  after_train_step
                   probe, row, evaluation, checkpoint, each if due
               after_train_epoch
    evaluate   before_eval_epoch
                 per batch: before_eval_step  eval_step(batch)  after_eval_step
               after_eval_epoch

Every name is a method to override; the hooks, `before_*` and `after_*`, are empty.
What a checkpoint holds of a run is in state.py.
"""

from __future__ import annotations

import math
import os
import platform
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.optim import Optimizer

from stable_ssl import checkpoint, distributed, seeding, splits
from stable_ssl.batch import (
    batches_from,
    count,
    first_view,
    joined,
    known_length,
    seen,
)
from stable_ssl.cadence import is_due
from stable_ssl.config import TRAINING, Eval, complete, load_config, resolver
from stable_ssl.data import Loader, build_loaders
from stable_ssl.data.batch_sizes import batch_size_of
from stable_ssl.data.combined import named_parts, split_datasets, take_skipped
from stable_ssl.data.datasets import recorded
from stable_ssl.data.nodes import labelled_name
from stable_ssl.data.objects import put_into
from stable_ssl.data.shares import shares
from stable_ssl.distributed import sharding
from stable_ssl.evaluation.monitor import Patience
from stable_ssl.evaluation.otherwise import apart
from stable_ssl.evaluation.protocol import protocol_table
from stable_ssl.evaluation.suite import Suite
from stable_ssl.instantiate import find_object
from stable_ssl.lifecycle import (
    Diverged,
    apply_settings,
    awaited_checkpoint,
    name_run,
    preserve_settings,
    recorded_end,
    run_on_ranks,
    share_threads,
)
from stable_ssl.loggers.environment import environment
from stable_ssl.loggers.means import Reduce, below
from stable_ssl.loggers.own_code import modules_of
from stable_ssl.loggers.records import COSTS, Records
from stable_ssl.loggers.run_folder import APART, open_folder
from stable_ssl.loggers.run_names import run_path
from stable_ssl.loggers.trackers import check_installed
from stable_ssl.models.checkpointing import checkpoint_activations
from stable_ssl.models.ema import forgotten
from stable_ssl.models.norm import convert_sync_batchnorm
from stable_ssl.models.weights import reports
from stable_ssl.opening import drawn, opening
from stable_ssl.optim import (
    build_optimizer,
    build_schedulers,
    count_steps,
)
from stable_ssl.optim.collect import MAIN, collect_optimizers
from stable_ssl.optim.exact_batch import ExactBatch
from stable_ssl.optim.step import Stepper
from stable_ssl.preemption import Preempted, Preemption
from stable_ssl.schema import ConfigError, nearest
from stable_ssl.secrets import masked
from stable_ssl.setup_checks import (
    hints,
    refuse_data,
    refuse_exact_batch,
    refuse_incomplete,
    refuse_monitor,
    refuse_sharded_export,
)
from stable_ssl.state import (
    begin,
    capture,
    completed,
    generator_states,
    restore,
    set_generator_states,
)
from stable_ssl.subclass_state import Attributes
from stable_ssl.tool_registry import (
    IMAGE_CALLBACK,
    MODES,
    SUMMARY,
    check_tools,
    run_tool,
)
from stable_ssl.torch_errors import translated_torch_errors

DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class BaseTrainer(nn.Module):
    """Train and evaluate a model; a subclass says what is trained, seen and minimised.

    A subclass writes `initialize_modules`, `forward` and `compute_loss`; it reads
    `self.data` (the current batch), `self.config`, `self.epoch` (epochs completed),
    `self.step` (optimizer steps taken), `self.total_steps`, `self.device`, `self.rank`,
    `self.world_size`, `self.run_dir`, `self.num_classes`.

    Args:
        config: as `load_config` returns it, or a mapping of the five groups; None is
            the recipe `base`, the embedded digits.
        train: a dataset, whose samples become views as the config says, a loader of
            batches (images, labels), or several datasets by name; None: all data are
            the config's.
        val: likewise, and so are `test` and `bank`; None beside another: off, and the
            bank is the dataset of `train`.

    Raises:
        ConfigError: a key or value is wrong, or one of the three methods is missing;
            nothing was built.
    """

    model_config: type | None = None  # dataclass of the keys under `model`; None: any
    views: int | dict[str, int] | None = None  # of an image, or by loader; None: any
    min_views = 1  # or `model.global_views` where the method has that key
    min_batch = 1  # images that its loss and its heads' batch norms need, of all ranks
    needs_labels = False  # of the train data
    predicts = False  # `forward` returns logits, which are scored where no probe is on
    task = "multiclass"  # of those logits: or binary, multilabel; see `Scores`
    not_saved: tuple[str, ...] = ()  # attributes that no checkpoint needs

    def __init__(
        self,
        config: Mapping | None = None,
        *,
        train: Any = None,
        val: Any = None,
        test: Any = None,
        bank: Any = None,
    ):
        super().__init__()
        refuse_incomplete(type(self), BaseTrainer)
        config = load_config("base") if config is None else config
        self.config = complete(config, self.model_config)
        given = {"train": train, "val": val, "test": test, "bank": bank}
        self.data_objects = put_into(self.config, given)
        self.overrides: list[str] = []  # as given on the command line
        self.epoch, self.step, self.total_steps = 0, 0, 0
        self.steps_per_epoch = 0
        self.images_per_step: int | None = None  # None: the loader does not say it
        self.micro_batches, self.micro_batch = 1, 0  # of a step, and which it is
        self.data: Any = None
        self.train_loader: Any = None
        self.loaders: dict[str, Any] = {}  # by split: train, val, test, bank
        self.num_classes: int | None = None
        self.device, self.rank, self.world_size = torch.device("cpu"), 0, 1
        self.optimizers: dict[str, Optimizer] = {}  # by name, that of the config first
        self.schedulers: dict[str, Any] = {}  # by name, see `optim.step.moved_by`
        self.stepper: Stepper | None = None  # of the optimizers
        self.exact_batch: ExactBatch | None = None  # of `optim.exact_batch`
        self.scaler: Any = None  # of the loss, for float16
        self.records = Records()
        self.own_names: set[str] = set()  # of figures that `log` must not change
        self.metrics = self.records.last  # the last value of everything reported
        self.preemption = Preemption()
        self.run_dir: Path | None = None
        self.settings: Any = None  # group log, plain: read at every step
        self.checkpoints: Any = None
        self.evaluation: Suite | None = None  # evaluators, the online probe among them
        self.image_callback: Any = None  # draws what `log.pictures` asks for
        self.subclass_attributes: Attributes | None = None  # that the subclass set
        self.split: str | None = None  # the one under evaluation
        self.early_stopping: Patience | None = None  # of `log.early_stopping`
        self.stopped: str | None = None  # why the training ended before its last step
        self._stop_asked: str | None = None  # by this rank
        self.validated = -1  # the step of the last validation
        self.measured: dict[str, float] = {}  # its values
        self.probe_features: Any = None  # those that the loss handed over
        self.probe_batches: Any = None  # of a whole step, under `optim.exact_batch`
        self._ranks_checked = False  # whether they train one model
        self.rng_at_epoch: Any = None  # the global generators at its start
        self.resumed_state: Any = None  # a state to restore once more, its epoch begun
        self._built: Optimizer | None = None  # the one of the config
        self._weight = 1  # samples of the batch under evaluation, where there is one
        self.batch_limit: int | None = None  # of a split
        self._saved_at = 0.0  # time of the last checkpoint
        self.batches_per_epoch = 1
        # of a compiled loss: `step_key` and `micro_batch`
        self.compiled_place: tuple[Tensor, Tensor] | None = None
        self._compute_loss = self._embed = self._dtype = self._vote = None
        self._names = frozenset(vars(self)) | {"_names"}  # those of this class

    # --- what a subclass writes -------------------------------------------------------

    def initialize_modules(self) -> None:
        """Build what is trained, as attributes of self."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return the prediction for a view (N, C, H, W): features or logits (N, D)."""
        raise NotImplementedError

    def compute_loss(self) -> Tensor | dict[str, Tensor]:
        """Return the loss of `self.data`: a scalar, or a dict of `loss` and others.

        The features under `features`, (N, D) or a list of such, one a view, are what
        the online probe learns from; all others are scalars, and logged. Written as
        `embed` and `loss_of`, it can have `optim.exact_batch`.
        """
        views, *_ = self.data
        return self.loss_of(self.embed(views))

    def embed(self, views: Any) -> Any:
        """Return what the loss compares: tensors with a row an image each.

        Args:
            views: (N, C, H, W), or a list of such.

        Returns:
            A list, tuple or dict of tensors (N, ...), nested as one likes.
        """
        raise NotImplementedError

    def loss_of(self, embeddings: Any) -> Tensor | dict[str, Tensor]:
        """Return the loss of what `embed` returned, in the form of `compute_loss`."""
        raise NotImplementedError

    def encode(self, x: Tensor) -> Tensor:
        """Return the features (N, D) that probe, kNN and other evaluations see."""
        return self(x)

    def predict(self, x: Tensor) -> Tensor:
        """Return the logits that metrics compare with labels, see `task`."""
        probe = None if self.evaluation is None else self.evaluation.probe
        if probe is not None:
            return probe(self.encoded(x))
        features = type(self).encode is BaseTrainer.encode  # `forward` makes them
        return self.encoded(x) if features else self(x)

    def encoded(self, x: Tensor) -> Tensor:
        """Return `encode(x)`, made once for a view of an evaluation, whoever asks."""
        return self.encode(x) if self.evaluation is None else self.evaluation.encode(x)

    def before_train_epoch(self) -> None:
        """Run before an epoch."""

    def before_train_step(self) -> None:
        """Run before an optimizer step, `self.data` being its first micro-batch."""

    def after_train_step(self) -> None:
        """Run after an optimizer step: the place of a teacher's moving average."""

    def after_train_epoch(self) -> None:
        """Run after an epoch."""

    def before_eval_epoch(self) -> None:
        """Run before a split is evaluated."""

    def before_eval_step(self) -> None:
        """Run before a batch is evaluated."""

    def after_eval_step(self) -> None:
        """Run after a batch is evaluated."""

    def after_eval_epoch(self) -> None:
        """Run after a split is evaluated, before its row is written."""

    # --- run --------------------------------------------------------------------------

    def run(self) -> float | None:
        """Live through setup and `mode`; return the last monitored value.

        SIGTERM, SIGUSR2, SIGHUP and Ctrl-C are honoured at the next step boundary: the
        state is saved, and the signal then takes its course.
        """
        processes = distributed.processes_asked(self.config.hardware)
        if processes > 1:
            return run_on_ranks(self, processes)
        with recorded_end(self):
            with (
                preserve_settings(),
                self.preemption,
                translated_torch_errors(),
                awaited_checkpoint(self),
            ):
                self.preemption.at_once()  # there is nothing to save yet
                self.setup()
                self.preemption.honour()
                mode = self.config.mode
                if mode in MODES:
                    with distributed.patient(), sharding.whole(self):
                        find_object(MODES[mode], "mode")(self)
                else:
                    getattr(self, mode)()
            distributed.barrier()  # none leaves while another still writes
            self._vote.close()
        return self.metrics.get(self.config.log.monitor)

    def fit(self) -> None:
        """Train to `total_steps`; evaluate before, during and after."""
        if self.step == 0:
            if self.settings.eval.sanity_steps:
                for split in self.splits("val"):
                    self.evaluate(split, limit=self.settings.eval.sanity_steps)
            if self.settings.eval.untrained:
                self.validate()
                self.test()
        self.preemption.at_steps()
        self.records.console.progress(self.total_steps, self.step)
        epochs = math.ceil(self.total_steps / self.steps_per_epoch)
        while self.epoch < epochs and not self.stopped:
            self.train_epoch()
        with distributed.patient():
            if self.settings.eval.test_at_end:
                self.test()
            if self.rank == 0:
                self.checkpoints.finish()
                if not self.config.fast_dev_run:
                    run_tool(SUMMARY, self)
            if self.settings.export.types:
                run_tool(MODES["export"], self)

    def validate(self) -> None:
        """Evaluate the val split, or several, and write their rows, once a step."""
        if self.validated != self.step:
            self.validated, self.measured = self.step, {}
            with self.records.off_the_clock():
                for split in self.splits("val"):
                    self.measured |= self._report_split(split)
            monitor, waits = self.settings.monitor, self.evaluation.waits
            # before the first row of the training there is no metric of train
            trained = "train/loss" in self.metrics
            waits |= not trained and str(monitor).startswith("train/")
            if monitor not in (None, *self.metrics) and self.measured and not waits:
                raise ConfigError(
                    f"log.monitor={monitor} is never reported"
                    f"{nearest(monitor, list(self.metrics))}"
                    f" (reported: {', '.join(self.metrics)})"
                )
            if self.early_stopping is not None and self.step and not self.stopped:
                reason = self.early_stopping(self.measured, waits)
                self.stopped = distributed.broadcast_object(reason)

    def stop(self, why: str) -> None:
        """End the training after this step, on all ranks, as if it were the last one.

        Any rank may ask; several processes agree on it within two steps. The run ends
        as finished, and started again trains no further unless it is made longer.

        Args:
            why: said in status.json.
        """
        self._stop_asked = why

    def test(self) -> None:
        """Evaluate the test split, or several, and write their rows."""
        for split in self.splits("test"):
            self._report_split(split)

    def _report_split(self, split: str) -> dict[str, float]:
        """Evaluate a split and write its row; say each figure's protocol, if asked."""
        values = self.evaluate(split, self.batch_limit)
        self.report(values)
        folder, metrics = self.records.folder, self.evaluation.metrics
        folder.describe_metrics(metrics)
        if eigenvalues := self.evaluation.eigenvalues:
            at = {"step": self.step, "epoch": round(self._epochs(self.step), 4)}
            folder.write_spectrum(at | {"split": split, "eigenvalues": eigenvalues})
        if self.config.mode != "fit":
            title = f"{split} split, epoch {self.epoch}, step {self.step}"
            title += f", seed {self.config.hardware.seed}"
            self.records.console.table(protocol_table(values, metrics, title))
        return values

    def splits(self, kind: str) -> list[str]:
        """Return the splits there are of val or test: `val`, or `val_<name>` each."""
        return [s for s in self.loaders if s == kind or s.startswith(f"{kind}_")]

    def cleanup(self) -> None:
        """Release the workers, the terminal and the files, whatever happened."""
        distributed.unwatch()  # all that takes long here keeps nobody waiting
        for loader in [self.train_loader, *self.loaders.values()]:
            for part in named_parts(loader).values():
                if isinstance(part, Loader):
                    part.close()
        if self.stepper is not None:
            self.stepper.close()
        try:
            if self.checkpoints is not None:
                self.checkpoints.background.wait()  # before another owns the folder
        finally:
            self.records.close()
            distributed.stop()

    # --- setup ------------------------------------------------------------------------

    def setup(self) -> None:
        """Build everything, in an order that is a contract."""
        self.initialize_run()
        self.seed_everything()
        self.initialize_data()
        refuse_data(self)
        self.count_steps()
        self.initialize_modules()
        for text in reports(self):
            self.say(text)
        self.place_modules()
        self.initialize_optimizer()
        self._collect_optimizers()
        self.initialize_scheduler()
        for hint in hints(self):
            self.say(hint)
        self._build_stepper()
        self.initialize_evaluation()
        refuse_monitor(self)
        self.subclass_attributes = Attributes(
            self,
            self._names,
            [*self.loaders.values(), *self.optimizers.values()],
            self.not_saved,
            self.say,
        )
        self.load_checkpoint()
        for line in opening(self):
            self.say(line)

    def initialize_run(self) -> None:
        """Join the other processes, choose the device and open the run folder."""
        config, log = self.config, self.config.log
        check_installed(log.api)
        check_tools(log.export.types)
        refuse_sharded_export(self)
        self.device = distributed.start(config.hardware)
        self.rank, self.world_size = distributed.rank(), distributed.world_size()
        apply_settings(config.hardware)
        self.batch_limit = 1 if config.fast_dev_run else None
        if log.resume is None and int(os.environ.get("SLURM_RESTART_COUNT", 0)):
            log.resume = "auto"  # the folder is this very job's, requeued
        name_run(config)
        path = None if config.fast_dev_run else run_path(log)
        folder = open_folder(path, fresh=log.resume is None)
        self.records.open(folder, quiet=self.rank > 0)
        self.run_dir = folder.path
        distributed.at_missing(folder.abandon)
        folder.status("running")
        self.checkpoints = checkpoint.Checkpoints(
            self.run_dir / "ckpts",
            log.checkpoint.top_k,
            log.checkpoint.last,
            largest=log.monitor_mode == "max",
        )
        self.settings = OmegaConf.to_object(log)
        self._saved_at = time.monotonic()
        self._vote = distributed.Vote()

    def seed_everything(self) -> None:
        """Seed the global generators; initial weights and dropout draw from them."""
        seeding.seed_everything(self.config.hardware.seed)

    def initialize_data(self) -> None:
        """Build the loaders `train` (to fit), `val`, `test` and `bank`."""
        # data draws nothing from the global generators; rank 0 alone downloads
        with seeding.preserve_rng(), distributed.patient(), distributed.main_first():
            self.loaders = build_loaders(self.config, self.device, self.data_objects)
        with seeding.preserve_rng(), distributed.patient():
            self.loaders = shares(self.loaders)
        self.train_loader = self.loaders.get("train")
        self.num_classes = self.config.data.num_classes
        if self.device.type == "cpu":
            share_threads(self.config.hardware, self.loaders)
        if self.rank == 0:
            rows = partial(recorded, split_datasets(self.loaders))
            splits.record(self.run_dir / "data", rows, masked(self.config.data))

    def count_steps(self) -> None:
        """Set `images_per_step`, and `steps_per_epoch` and `total_steps` in steps."""
        if self.config.mode in TRAINING:
            optim = self.config.optim
            if batch_size := batch_size_of(self.train_loader):
                self.images_per_step = batch_size * optim.accumulate
            batches = known_length(self.train_loader)
            self.steps_per_epoch, self.total_steps = count_steps(optim, batches)
            self.batches_per_epoch = batches or self.steps_per_epoch * optim.accumulate
            if self.config.fast_dev_run:
                self.steps_per_epoch = self.total_steps = 1
            every = self.settings.eval.every_n_steps
            if every is not None and every < 1:
                every = max(1, round(every * self.steps_per_epoch))
                self.settings.eval.every_n_steps = every
        if resolver.asked(self.config):
            values = {
                "iterations_per_epoch": self.steps_per_epoch or None,
                "max_iterations": self.total_steps or None,
                "num_gpus": self.world_size if self.device.type == "cuda" else 0,
                "num_nodes": len(set(distributed.all_gather_object(platform.node()))),
            }
            filled = resolver.filled(self.config, values)
            self.config = complete(filled, self.model_config)

    def place_modules(self) -> None:
        """Move the modules to the device; set precision, memory format and the like."""
        hardware = self.config.hardware
        if getattr(self.config.model, "checkpointing", False):
            checkpoint_activations(self, hardware.compile)
        self.to(self.device)
        if hardware.channels_last:
            for tensor in [*self.parameters(), *self.buffers()]:
                if tensor.ndim == 4:  # of images; torch refuses those of volumes
                    tensor.data = tensor.data.to(memory_format=torch.channels_last)
        self._dtype = DTYPES[hardware.precision]
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=hardware.precision == "float16"
        )
        self._compute_loss, self._embed = self.compute_loss, self.embed
        if hardware.compile:
            self._compute_loss = self._compiled(self.compute_loss)
            self._embed = self._compiled(self.embed)
        if self.world_size > 1:
            if hardware.sync_batchnorm:
                convert_sync_batchnorm(self, self.device)
            distributed.share(self.parameters())
            distributed.share(self.buffers())
        if hardware.sharding == "full":
            sharding.shard(self, self.device)
        if self.rank:  # weights are rank 0's; dropout differs
            key = seeding.fold_in(hardware.seed, self.rank)
            seeding.seed_everything(int(key) % 2**63)

    def _compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function compiled, but for what `row_keys` and `step_key` read."""
        compiled = torch.compile(function)

        def call(*arguments: Any) -> Any:
            place = BaseTrainer.step_key(self), torch.tensor(self.micro_batch)
            self.compiled_place = place
            return compiled(*arguments)

        return call

    def initialize_optimizer(self) -> None:
        """Build `self.optimizer`, unless nothing is trained.

        More of them are attributes of self, or entries of `self.optimizers`; what they
        hold is not the first one's any more.
        """
        if self.config.mode in TRAINING:
            self.optimizer = self._built = build_optimizer(
                self.named_parameters(), self.config.optim, self.images_per_step
            )

    def _collect_optimizers(self) -> None:
        """Name all optimizers, and let each parameter belong to one of them."""
        built, self._built = self._built, None
        if self.config.mode in TRAINING:
            self.optimizers = collect_optimizers(self.optimizers, vars(self), built)

    def initialize_scheduler(self) -> None:
        """Build `self.schedulers`: each has torch's protocol, and follows an optimizer.

        One of your own is `self.scheduler`, or an entry by any name.
        """
        self.schedulers |= build_schedulers(
            self.config.optim, self.optimizers, self.steps_per_epoch, self.total_steps
        )

    def _build_stepper(self) -> None:
        moved = self.optimizers, self.schedulers, list(self.parameters())
        optim = self.config.optim
        own = self.records.training.add
        self.stepper = Stepper(*moved, self.scaler, optim, own)
        if self.config.mode in TRAINING and optim.exact_batch and optim.accumulate > 1:
            refuse_exact_batch(self, BaseTrainer)
            self.exact_batch = ExactBatch(self, self._embedded)

    @property
    def optimizer(self) -> Optimizer | None:
        """The only or first optimizer, None where nothing is trained."""
        return next(iter(self.optimizers.values()), None)

    @optimizer.setter
    def optimizer(self, optimizer: Optimizer) -> None:
        self.optimizers[MAIN] = optimizer

    @property
    def scheduler(self) -> Any:
        """The schedule of `self.optimizer`, None where its rate stays as it is."""
        return self.schedulers.get(next(iter(self.optimizers), MAIN))

    @scheduler.setter
    def scheduler(self, scheduler: Any) -> None:
        held = getattr(scheduler, "optimizer", None)
        names = (name for name, known in self.optimizers.items() if known is held)
        if scheduler is None:
            self.schedulers.pop(next(iter(self.optimizers), MAIN), None)
        else:
            self.schedulers[next(names, MAIN)] = scheduler

    def initialize_evaluation(self) -> None:
        """Build the evaluators of `log.eval`, and what ends or draws by them."""
        log, mode = self.settings, self.config.mode
        if mode in MODES:  # nothing is measured, but the probe may predict
            log.eval = Eval(linear=log.eval.linear, knn=None, offline=None)
        if not self.num_classes and (log.eval.linear or log.eval.knn):
            self.say("no classes are known: no probe, no kNN; set data.num_classes")
        self.evaluation = Suite(
            self,
            self.device,
            encode=self.encode,
            autocast=self.autocast,
            log=log,
            fits=mode == "fit",
            task=self.task if self.predicts else None,
            loaders=self.loaders,
            num_classes=self.num_classes,
            seed=self.config.hardware.seed,
            say=self.say,
            limit=self.batch_limit,
        )
        beside = {f"train/{name}_loss" for name in self.evaluation.online}
        self.own_names = {*beside, *self.stepper.rates, *self.stepper.norms, *COSTS}
        if self.config.data.on_error == "skip":
            self.own_names.add("train/skipped")
        if log.early_stopping.patience:
            self.early_stopping = Patience(log)
        if log.pictures is not None and not self.config.fast_dev_run:
            self.image_callback = find_object(IMAGE_CALLBACK, "log.pictures")(
                log.pictures
            )
            self.evaluation.evaluators["pictures"] = self.image_callback

    def load_checkpoint(self) -> None:
        """Resume the full state, or load weights alone, or start afresh."""
        now = masked(self.config)

        def settle(then: dict[str, Any]) -> dict[str, Any]:
            return completed(
                then, now, lambda part: masked(complete(part, self.model_config))
            )

        kept, weights = begin(self, settle)
        if self.config.mode == "fit":
            self.records.folder.own(not self.ended)
        if (aside := apart(self.run_dir, now, weights, settle)) is not None:
            self.say(
                f"these are no figures of the run, and go to {APART} of its folder"
            )
        self.records.open_rows(kept, self.config, self.step, aside)
        launch = environment(self.device, type(self)) | {"mode": self.config.mode}
        if self.config.mode == "fit":
            classes = map(type, [self, *split_datasets(self.loaders).values()])
            plain = OmegaConf.to_container(self.config)
            launch["own"] = self.records.folder.keep_code(modules_of(classes, plain))
        self.records.folder.describe(self.config, self.overrides, launch)

    # --- train ------------------------------------------------------------------------

    def train_epoch(self) -> None:
        """Train one epoch, or what a resumed run has left of it."""
        self.train()
        self.evaluation.free_bank()
        resumed, self.resumed_state = self.resumed_state, None
        if self.step == self.epoch * self.steps_per_epoch:
            self.rng_at_epoch, resumed = generator_states(self), None
        else:  # in its middle: hook and loader draw again what they drew before
            set_generator_states(self, self.rng_at_epoch)
        self.before_train_epoch()
        accumulate = self.config.optim.accumulate
        first = self.epoch * self.steps_per_epoch
        steps = min(self.steps_per_epoch, self.total_steps - first)
        end = min(self.batches_per_epoch, steps * accumulate)
        # the last step of an epoch may have had fewer micro-batches than the others
        start = min((self.step - first) * accumulate, end)
        may_skip = self.config.data.on_error == "skip"
        take_skipped(self.train_loader)  # of what was read between epochs
        begin = min(start, end - 1)  # hooks and pictures see an epoch's last batch
        batches = batches_from(self.train_loader, self.epoch, begin, end, self.device)
        for batch in islice(batches, start - begin):
            self.data = batch  # it was trained on, and saved, before
        if resumed is not None:
            restore(self, resumed)  # what hook and loader began anew
        index, skipped = start - 1, 0
        for index, batch in enumerate(self.records.waiting(batches), start):
            if accumulate > 1:
                self.micro_batch = index % accumulate
                left = end - index + self.micro_batch
                self.micro_batches = min(accumulate, left)
            if may_skip:
                skipped += take_skipped(self.train_loader)
                if self.last_micro_batch:  # all ranks', and `log` takes their mean
                    total = {"train/skipped": skipped * self.world_size}
                    self.records.training.add(total)
                    skipped = 0
            self.train_micro_batch(batch)
            if self.last_micro_batch:
                self._after_step()
                if self.stopped:
                    break
        if index + 1 < end and not self.stopped:
            raise ConfigError(
                f"the train data ended after {index + 1} batches of the {end} that its"
                " length promised; correct the length of the dataset or loader"
            )
        self.after_train_epoch()
        if begin == 0:
            for message in forgotten(self):
                self.say(message)
        self.epoch += 1
        last = self.ended
        evaluation, save = self.settings.eval, self.settings.checkpoint
        draws = self.image_callback is not None and self.image_callback.draws(
            self.epoch, last
        )
        before = self.validated
        if draws:
            val = self.splits("val")
            self.image_callback.open(self.loaders[val[0]] if val else None)
        if is_due(evaluation.every_n_epochs, self.epoch, last):
            self.validate()
        if draws:
            self._draw(seen=self.validated != before)
        if is_due(save.every_n_epochs, self.epoch, last):
            self.save_checkpoint()

    def _draw(self, seen: bool) -> None:
        """Draw pictures, of images that a validation kept just now if one was seen."""
        with (
            distributed.patient(),
            self.records.off_the_clock(),
            sharding.whole(self),
        ):
            if not seen and (val := self.splits("val")):
                self.evaluate(val[0], self.batch_limit)
            if self.rank == 0:
                for name, path in self.image_callback.draw(
                    self.run_dir / "figures",
                    self.epoch,
                    self.step,
                    self.data,
                    self.train_loader,
                ):
                    self.records.folder.trackers.picture(name, path, self.step)

    @property
    def ended(self) -> bool:
        """Whether no step of the training is left."""
        return self.step == self.total_steps or bool(self.stopped)

    @property
    def last_micro_batch(self) -> bool:
        """Whether the optimizers step after this micro-batch."""
        return self.micro_batch == self.micro_batches - 1

    def train_micro_batch(self, batch: Any) -> None:
        """Train on a micro-batch; the last one of a step completes it."""
        self.data, step = batch, self.step
        if self.micro_batch == 0:
            self.stepper.begin(measures=self._row_is_due(step + 1))  # it costs 1 %
            self._share_buffers()
            if self.exact_batch is not None:
                self.exact_batch.begin()
            self.before_train_step()
        if self.probe_features is not None:
            self.probe_features = None
        with self.records.part("train_step"):
            self.train_step(self.data)
        if self.exact_batch is not None:
            self._refuse_own_step()
        if self.data is not batch:
            self.data = batch  # what probe and pictures see
        if self.last_micro_batch:
            self.stepper.end()
            self.step = step + 1
            self.after_train_step()

    def _share_buffers(self) -> None:
        """Give all ranks rank 0's statistics, unless batch norms see all of a batch."""
        if self.world_size > 1 and not self.config.hardware.sync_batchnorm:
            distributed.share(self.buffers())

    def train_step(self, batch: Any) -> None:
        """Add a micro-batch's gradient; take the step with its last one."""
        if self.exact_batch is None:
            self.backward(self.loss(batch))
        else:
            self._add_exactly(batch)
        if self.last_micro_batch:
            self.average_gradients()  # an override of `optimizer_step` may read them
            self.optimizer_step()

    def _add_exactly(self, batch: Any) -> None:
        """Embed a micro-batch; with the last one, add the gradient of the step's loss.

        That loss is logged once, and the probe learns from all features of the step.
        """
        exact = self.exact_batch
        with self.records.part("forward"):
            exact.add(batch)
        if not self.last_micro_batch:
            return
        self.probe_batches = [
            (first_view(x) if self.evaluation.read else None, labels)
            for x, *rest in exact.batches
            for labels in rest[:1]
        ]
        with self.records.part("forward"), self.autocast():
            loss = self.loss_of(exact.embeddings())
        self.backward(self._logged(loss) * self.micro_batches)  # steps take the mean
        with self.records.part("backward"):
            exact.backward()

    def _refuse_own_step(self) -> None:
        """Refuse a `train_step` whose batch did not reach the one of this class."""
        if self.exact_batch.added != self.micro_batch + 1:
            raise ConfigError(
                f"{type(self).__name__}.train_step takes a loss of its own, of one"
                " micro-batch, under optim.exact_batch=true; hand the batch to"
                " super().train_step(batch), once, or set optim.exact_batch=false"
            )

    def _embedded(self, number: int, batch: Any) -> Any:
        """Return what `embed` makes of a micro-batch of the step."""
        self.micro_batch, self.data = number, batch
        views, *_ = batch
        with self.autocast():
            return self._embed(views)

    def loss(self, batch: Any) -> Tensor:
        """Return `compute_loss` of a batch, (), in the run's precision, and log it.

        Raises:
            ConfigError: it is no scalar, and no dict with one under `loss`.
        """
        if self.data is not batch:  # to set an attribute of a module costs 1 us
            self.data = batch
        with self.records.part("forward"), self.autocast():
            loss = self._compute_loss()
        return self._logged(loss)

    def _logged(self, loss: Tensor | dict[str, Any]) -> Tensor:
        """Return the scalar that `compute_loss` returned, and log it."""
        logged = {}
        if isinstance(loss, dict):
            if self.probe_features is None:
                self.probe_features = loss.get("features")
            others = [k for k in loss if k not in ("loss", "features")]
            logged = {f"train/{k}": loss[k] for k in others}
            loss = loss.get("loss", "a dict without 'loss'")
        if not isinstance(loss, Tensor) or loss.ndim:
            kind = loss if isinstance(loss, str) else type(loss).__name__
            raise ConfigError(
                f"compute_loss returned {getattr(loss, 'shape', kind)}; it must return"
                " a scalar, or a dict with one under 'loss'"
            )
        self.log(logged | {"train/loss": loss})
        return loss

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss, (), to the parameters'."""
        with self.records.part("backward"):
            self.stepper.backward(loss)

    def average_gradients(self) -> None:
        """Make gradients those of all ranks and micro-batches of the step.

        Who steps an optimizer need not call it; who reads gradients before does, as a
        clip of one's own. Nothing happens before the last micro-batch. Synchronises
        ranks.
        """
        if self.last_micro_batch:
            self.stepper.average(self.micro_batches)

    def optimizer_step(self, name: str | None = None) -> None:
        """Average, clip, update the weights, clear the gradient.

        Nothing happens before the last micro-batch of a step. Schedules move, and
        `self.step` counts, once `train_step` has ended.

        Args:
            name: of `self.optimizers`; None steps all but those that were stepped by
                name or by hand in this step.
        """
        if self.last_micro_batch:
            self.stepper.step(self.micro_batches, name)

    def _after_step(self) -> None:
        """Do what is due after a step: probe, row, evaluation, checkpoint.

        The checkpoint comes last: all that was due at its step is in it, so a resumed
        run neither repeats nor misses an evaluation.
        """
        log, step = self.settings, self.step
        save, evaluation = log.checkpoint, log.eval
        if self.evaluation.online:
            batch = self._probe_batch()
            losses = self.evaluation.fit(batch, self.probe_features, step)
            losses = {f"train/{name}": loss for name, loss in losses.items()}
            self.records.training.add(losses)
        minutes, signal = save.every_n_minutes, self.preemption.number
        late = minutes and time.monotonic() - self._saved_at > 60 * minutes
        asked = self._stop_asked is not None
        if self.world_size > 1:
            distributed.stepped()
            late, signal, asked = self._vote(bool(late), signal, asked)
        if asked and not signal:
            reasons = distributed.all_gather_object(self._stop_asked)
            self.stopped = next(filter(None, reasons))
        if self._row_is_due(step) or self.stopped:
            self._write_row()
        if is_due(evaluation.every_n_steps, step):
            self.validate()
        self.checkpoints.background.check()
        if late or signal or is_due(save.every_n_steps, step):
            self.save_checkpoint()
        if signal:
            self.preemption.number = signal  # another rank may have received it
            with distributed.patient():
                self.checkpoints.background.wait()
            distributed.barrier()  # none ends the job before rank 0 has saved
            raise Preempted(f"{self.preemption.requested} at step {self.step}")

    def _probe_batch(self) -> tuple[Any, ...]:
        """Return what probes learn from: a batch, or the labels of all of a step."""
        if self.exact_batch is None or self.probe_features is None:
            return self.labelled(self.data)
        return joined(self.probe_batches)

    def row_keys(self, rows: int) -> Tensor:
        """Return a key for each image of the micro-batch, to draw masks and such from.

        A function of (seed, step, row of the whole step: of all its micro-batches, and
        of all ranks in each), so that `seeding.uniform(keys)` is the same on N
        processes as on one, in k micro-batches as in one batch, and in a resume.

        Args:
            rows: N, the images of this rank's micro-batch, as many on every rank and in
                every micro-batch.

        Returns:
            (N,) int64 on the device.
        """
        compiling = torch.compiler.is_compiling()
        micro_batch = self.compiled_place[1] if compiling else self.micro_batch
        first = rows * (micro_batch * self.world_size + self.rank)
        return seeding.fold_in(
            self.step_key(), torch.arange(rows, device=self.device) + first
        )

    def step_key(self) -> Tensor:
        """Return a key of the step, () int64 on the CPU, the same on every rank.

        A function of (seed, step), and so the same in all micro-batches, to draw from
        as with `row_keys`. Under hardware.compile, methods that read `self.step` itself
        are best decorated with torch.compiler.disable: each of its values would be
        compiled anew.
        """
        if torch.compiler.is_compiling():  # `self.step` is a constant there
            return self.compiled_place[0]
        key = seeding.fold_in(self.config.hardware.seed, self.step)
        return seeding.fold_in(key, 0)  # as runs drew before, which may be resumed

    # --- evaluate ---------------------------------------------------------------------

    def evaluate(self, split: str, limit: int | None = None) -> dict[str, float]:
        """Evaluate a split, disturbing nothing of the training.

        Args:
            split: val, test, or one of several; nothing happens where there is none.
            limit: batches to see; None sees all.

        Returns:
            {"<split>/<metric>": value}, what the hooks logged included.
        """
        if split not in self.loaders:
            return {}
        training_data, self.split = self.data, split
        self._share_buffers()
        last = self.ended or self.config.mode != "fit"
        due = self.evaluation.due(split, self.epoch, last)
        with (
            distributed.patient(),
            sharding.whole(self),
            self.evaluation.collecting(due),
        ):
            self.before_eval_epoch()
            loader = self.loaders[split]
            take_skipped(loader)  # of what was read before
            batch = None
            for batch in seen(loader, self.device, limit):
                self.data, rows = batch, count(batch)
                if rows == 0:  # other ranks have the rest of the last one
                    continue
                self._weight = 1 if rows is None else rows
                self.evaluation.forget()
                self.before_eval_step()
                self.eval_step(batch)
                self.after_eval_step()
                self.evaluation.see(batch, loader)
            self._weight = 1
            if batch is None:
                warnings.warn(f"{split} yielded no batch to evaluate", stacklevel=2)
            self.after_eval_epoch()
            values = self.evaluation.measure(split, self.step)
            if unread := sum(distributed.all_gather_object(take_skipped(loader))):
                values["skipped"] = unread
        self.data, self.split = training_data, None
        values = {f"{split}/{name}": value for name, value in values.items()}
        logged = self.records.evaluation.take()
        _refuse_twins(values, logged)
        return values | logged

    def eval_step(self, batch: Any) -> None:
        """Compare `predict` with the labels, where a probe or the method predicts."""
        if (predictions := self.evaluation.predictions) is not None:
            x, labels, *_ = batch
            predictions.update(self.predict(first_view(x)), labels)

    def labelled(self, batch: Any) -> tuple[Any, Tensor]:
        """Return the batch whose labels probes use: of several, `data.labelled`'s."""
        if not isinstance(batch, dict):
            return batch
        return batch[labelled_name(self.config.data, list(batch))]

    def autocast(self) -> AbstractContextManager:
        """Return the context of the run's precision."""
        if self._dtype is None:
            return nullcontext()  # a disabled autocast costs 10 us
        return torch.autocast(self.device.type, self._dtype)

    # --- records ----------------------------------------------------------------------

    def log(
        self, values: Mapping[str, Tensor | float], reduce: Reduce = "mean"
    ) -> None:
        """Log scalars by name; a row holds their means, one host synchronisation.

        Args:
            values: {"train/loss": loss}: what training logs goes to the next row of
                every `log.every_n_steps`, what an evaluation's hooks log to its row. A
                name without a slash is put below `train`, or the split.
                A name of a figure of the library's own is refused, but train/loss, the
                mean of what is logged by it.
            reduce: mean (over samples in an evaluation), sum, last, over the ranks too;
                in an evaluation also a function of the values (N, ...) of the whole
                split, such as torch.median.

        Raises:
            ConfigError: no such reduction, a function in training, or a name that is
                taken.
        """
        for name in values:
            if "/" not in name:
                values = below(self.split or "train", values)
                break
        if self.split is None:
            if callable(reduce):
                raise ConfigError(
                    f"log({list(values)}, reduce={reduce}) in training; a function is"
                    " for a whole split, in the hooks of an evaluation"
                )
            if not self.own_names.isdisjoint(values):
                _refuse_twins(dict.fromkeys(self.own_names), values)
            self.records.training.add(values, reduce=reduce)
        else:
            self.records.evaluation.add(values, self._weight, reduce)

    def say(self, text: str) -> None:
        """Print a line, in console.log too."""
        self.records.say(text)

    def report(self, values: Mapping[str, float]) -> None:
        """Write a row of metrics.jsonl and show it."""
        epochs = self._epochs(self.step), self._epochs(self.total_steps)
        with distributed.patient():  # a file server may pause
            self.records.row(values, self.step, *epochs)

    def _epochs(self, steps: int) -> float:
        return steps / self.steps_per_epoch if self.steps_per_epoch else self.epoch

    def _row_is_due(self, step: int) -> bool:
        return is_due(self.settings.every_n_steps, step, step == self.total_steps)

    def _check_ranks(self) -> None:
        """Refuse to go on where ranks do not train one model any more."""
        self._share_buffers()
        beside = self.evaluation.online
        distributed.refuse_differences(self, self.optimizers, beside, self.step)

    def _write_row(self) -> None:
        """Report the means since the last row; a host synchronisation.

        Raises:
            Diverged: the loss was not finite.
        """
        if not self._ranks_checked:
            self._ranks_checked = True
            self._check_ranks()
            if text := drawn(self):
                self.say(text)
        values = self.records.training.take()
        self._check_finite("train/loss", values.get("train/loss", 0.0))
        values |= self.stepper.rates
        cost = self.records.performance(self.step, self.images_per_step)
        self.report(values | cost)

    def _check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise Diverged(
                f"{what} is {value} by step {self.step}; lower optim.lr, or set"
                f" optim.grad_max_norm; the checkpoints before it are in {self.run_dir}"
            )

    # --- checkpoints ------------------------------------------------------------------

    def save_checkpoint(self) -> None:
        """Save the state, unless nothing is kept; synchronises the host.

        Where it is large, the training goes on before it is written, see `Checkpoints`.

        Raises:
            Diverged: the loss was not finite; the state is not saved.
            ConfigError: it, or the one before, could not be written.
        """
        if self.config.fast_dev_run:
            return
        self._check_ranks()
        state = capture(self)
        for rank_state in state["ranks"]:
            for loss in rank_state["logged"].get("train/loss", [])[-1:]:
                self._check_finite("train/loss", loss.item())
        norm = sharding.total_norm(p.float() for p in self.parameters()).item()
        self._check_finite("the norm of the weights", norm)
        self.records.folder.confirm()
        self.records.folder.sync()  # the checkpoint refers to lengths of the files
        monitor = self.settings.monitor
        fresh = self.measured if self.validated == self.step else {}
        if str(monitor).startswith("train/"):
            fresh = self.metrics  # of the last row
        value = fresh.get(monitor)
        with self.records.off_the_clock():
            if self.config.hardware.sharding == "full":
                state = self.checkpoints.save_shards(state, self.epoch, self.step)
            if self.rank == 0:
                with distributed.patient():
                    self.checkpoints.save(state, self.epoch, self.step, value)
        self._saved_at = time.monotonic()


def _refuse_twins(values: Mapping[str, Any], logged: Mapping[str, Any]) -> None:
    """Refuse what is logged by the name of a figure that the library measures."""
    if twins := sorted(values.keys() & logged.keys()):
        raise ConfigError(
            f"log({', '.join(twins)}): the library reports a figure of its own by that"
            " name; log yours by another one"
        )
