"""All evaluators of a run, on features that are made once."""

from __future__ import annotations

from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stable_ssl import distributed, seeding
from stable_ssl.batch import first_view, seen
from stable_ssl.cadence import is_due
from stable_ssl.data.combined import Combined
from stable_ssl.data.fields import UNLABELLED, as_classes
from stable_ssl.data.loading.loader import Loader
from stable_ssl.distributed import gather_batches
from stable_ssl.evaluation.bank import Bank, encode_bank
from stable_ssl.evaluation.collapse import collapse_warning
from stable_ssl.evaluation.custom_metrics import custom_metrics
from stable_ssl.evaluation.evaluator import (
    Encode,
    Evaluator,
    Labelled,
    OnlineEvaluator,
    Split,
)
from stable_ssl.evaluation.few_labels import FewLabels
from stable_ssl.evaluation.knn import Knn
from stable_ssl.evaluation.labels import (
    check_bank,
    check_highest,
    check_labels,
    highest,
    with_labels,
)
from stable_ssl.evaluation.layers import read
from stable_ssl.evaluation.linear import Linear
from stable_ssl.evaluation.logistic import Logistic
from stable_ssl.evaluation.predictions import Predictions
from stable_ssl.evaluation.probe import Probe
from stable_ssl.evaluation.spectrum import Spectrum
from stable_ssl.instantiate import build_object, find_object
from stable_ssl.loggers.names import Metric
from stable_ssl.schema import ConfigError


class Encoded(NamedTuple):
    """What one pass over a view makes."""

    view: Tensor  # (N, C, H, W)
    features: Tensor  # (N, D) of `encode`
    outputs: dict[str, Any]  # of the layers that are read, by path


BUILT_IN: tuple[type[Evaluator], ...] = (
    Knn,
    Probe,
    FewLabels,
    Linear,
    Logistic,
    Spectrum,
)

NO_BANK = (
    "there is no bank of plain images, which a loader as train does not give (bank=...)"
)
RESERVED = {*(cls.__name__.lower() for cls in BUILT_IN), "predictions", "pictures"}
FIRST = 10  # batches of train whose labels are looked at on a GPU, which waits for it
CADENCE = ("every_n_epochs", "splits", "in_fit")  # keys of every evaluator's node


@contextmanager
def undisturbed(*modules: nn.Module) -> Iterator[None]:
    """Look without touching: eval mode, no gradient, all restored afterwards."""
    modes = [(child, child.training) for m in modules for child in m.modules()]
    for module in modules:
        module.eval()
    try:
        with torch.no_grad(), seeding.preserve_rng():
            yield
    finally:
        for module, training in modes:
            module.training = training


def asked_for(config: Any) -> Iterator[tuple[str, Evaluator]]:
    """Yield the evaluators of group `log.eval`, each with its name.

    Raises:
        ConfigError: one of the user's own cannot be built.
    """
    for cls in BUILT_IN:
        if node := getattr(config, cls.key):
            yield cls.__name__.lower(), cls(node)
    known = {field.name for field in fields(config)}
    for name, node in vars(config).items():
        if name not in known and node is not None:
            if name in RESERVED:
                raise ConfigError(
                    f"log.eval.{name} is the name of one of the library's evaluators;"
                    " choose another"
                )
            yield name, _own(node, f"log.eval.{name}")


def _own(node: Mapping[str, Any], at: str) -> Evaluator:
    """Build an evaluator of the user's own; its node says when it is asked, too."""
    cls = find_object(node["_target_"], at)
    if not (isinstance(cls, type) and issubclass(cls, Evaluator)):
        raise ConfigError(f"{at}: {node['_target_']} is no stable_ssl.Evaluator")
    when = {name: node[name] for name in CADENCE if name in node}
    evaluator = build_object({k: v for k, v in node.items() if k not in when}, at)
    if evaluator.taps is not None:
        evaluator.node = at.removeprefix("log.eval.")
    for name, value in when.items():
        setattr(evaluator, name, value)
    every, splits, in_fit = (getattr(evaluator, name) for name in CADENCE)
    listed = isinstance(splits, Collection) and not isinstance(splits, str)
    if not listed or not all(split in ("val", "test") for split in splits):
        raise ConfigError(f"{at}.splits={splits}: write a list of val, test or both")
    if every is not None and not (type(every) is int and every > 0):
        raise ConfigError(f"{at}.every_n_epochs={every}: write a number of epochs")
    if not isinstance(in_fit, bool):
        raise ConfigError(f"{at}.in_fit={in_fit} must be true or false")
    return evaluator


@contextmanager
def _named(evaluator: Evaluator) -> Iterator[None]:
    """Say whose fault an error is."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"log.eval.{evaluator.node}: {error}") from error


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw from global generators of this seed, which are restored afterwards."""
    with seeding.preserve_rng():
        torch.manual_seed(seed % 2**63)
        yield


def _yielded(evaluator: Evaluator, split: Split) -> dict[str, float]:
    """Return what an evaluator yields of a split.

    Raises:
        ConfigError: it is no name and number, or the split was changed.
    """
    seen = [split.features, split.labels, split.views, *(split.bank or ())]
    seen = [tensor for tensor in seen if isinstance(tensor, Tensor)]
    versions = [tensor._version for tensor in seen]
    values, of = {}, type(evaluator).__name__
    for pair in evaluator(split):
        try:
            name, value = pair
            values[str(name)] = float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"{of} yielded {pair!r}; an evaluator yields pairs of a name and a"
                " number"
            ) from error
    if versions != [tensor._version for tensor in seen]:
        raise ConfigError(
            f"{of} changed features or labels in place, which others see too; change a"
            " clone of them"
        )
    return values


def _refuse_twins(evaluators: Mapping[str, Evaluator]) -> None:
    """Refuse two evaluators that state a metric of one name."""
    owners: dict[str, str] = {}
    for name, evaluator in evaluators.items():
        for metric in evaluator.metrics:
            if owners.setdefault(metric, name) != name:
                raise ConfigError(
                    f"log.eval.{name}: {metric} is measured by {owners[metric]}"
                    " already; yield it by another name"
                )


def _reads_labels(evaluators: Mapping[str, Evaluator]) -> bool:
    return any(evaluator.needs_labels for evaluator in evaluators.values())


class Suite:
    """What `log.eval` asks for, and what each evaluator needs, made once.

    During an evaluation a view is encoded once a batch, whoever asks: `encode` keeps
    what it encoded until the next one.

    Args:
        model: put in eval mode where features are encoded for their own sake.
        device: where it is.
        encode: maps a view (N, C, H, W) to features (N, D).
        autocast: returns the precision to encode in.
        log: group `log`: eval and metrics are read.
        fits: whether the run trains; some evaluators wait for a run that does not.
        task: of what the model predicts where no probe does; None: it predicts nothing.
        loaders: by split; evaluators that compare need `bank`, online ones any.
        num_classes: of the labels; None turns off all that needs labels.
        seed: of the probe's weights and of the classifiers of a test split.
        say: is told, once each, that features have collapsed, and what has no bank.
        limit: batches of the bank to see; None sees all.

    Raises:
        ConfigError: labels are missing or out of range; features are not (N, D); an
            evaluator or a metric cannot be built.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        *,
        encode: Encode,
        autocast: Callable[[], AbstractContextManager],
        log: Any,
        fits: bool,
        task: str | None,
        loaders: Mapping[str, Any],
        num_classes: int | None,
        seed: int,
        say: Callable[[str], None],
        limit: int | None = None,
    ):
        self.model, self.device = model, device
        self.plain, self.autocast = encode, autocast
        self.num_classes, self.seed = num_classes, seed
        self.say, self.limit = say, limit
        self.bank_loader = loaders.get("bank")
        self.bank: tuple[int, Bank | None] = -1, None  # the step it was encoded at
        self.bank_size = 0  # when it was encoded last
        own = isinstance(loaders.get("train"), (Loader, Combined))  # which looks itself
        self.unchecked = 0 if own else FIRST
        self.collapsed = self.evaluating = False
        self.said: set[str] = set()  # notes of evaluators
        self.asked: Sequence[Evaluator] = ()  # those that measure the split
        self.encoded: list[Encoded] = []  # views of a batch
        self.metrics: dict[str, Metric] = {}  # of all that was yielded so far
        asked = {
            name: evaluator
            for name, evaluator in asked_for(log.eval)
            if (loaders or not isinstance(evaluator, OnlineEvaluator))  # to be built
            and (num_classes or not evaluator.needs_labels)
            and (evaluator.in_fit or not fits)
        }
        kinds = {name.partition("_")[0] for name in loaders}
        compares = [n for n, e in asked.items() if e.needs_bank and kinds & {*e.splits}]
        if self.bank_loader is None:
            if compares:
                say(f"{NO_BANK}: without {', '.join(compares)}")
            asked = {n: e for n, e in asked.items() if not e.needs_bank}
            compares = []
        check_labels(loaders, num_classes, asked)
        self.comparing = [asked[name] for name in compares]
        check_bank(self.bank_loader, self.comparing)
        self.online = {n: e for n, e in asked.items() if isinstance(e, OnlineEvaluator)}
        of_layers = [e for e in asked.values() if e.taps is not None]
        self.read = list(dict.fromkeys(n for e in of_layers for n in e.taps.names))
        self.beside = [e for e in of_layers if e.needs_features]  # in further columns
        self.widths: list[int] = []  # of `encode`'s features, and theirs
        for evaluator in of_layers:
            with _named(evaluator):
                evaluator.taps.check(model)
        if self.online or of_layers:
            split = "bank" if "bank" in loaders else next(iter(loaders))
            self._build_online(split, loaders[split])
        task = "multiclass" if self.probe is not None else task
        classes = num_classes if task else None
        custom = custom_metrics(log.metrics, task, classes)
        self.predictions: Predictions | None = None
        if classes:
            paths = {name: str(node["callable"]) for name, node in log.metrics.items()}
            probed = self.probe is not None
            self.predictions = Predictions(task, probed, custom, paths)
            asked = {"predictions": self.predictions, **asked}
        _refuse_twins(asked)
        self.evaluators = asked

    def _build_online(self, split: str, loader: Any) -> None:
        """Build what trains beside the method, for the features' measured dimension."""
        batch = next(seen(loader, self.device))
        x, labels = with_labels(batch, reads := _reads_labels(self.online))
        if reads:
            check_highest(int(highest(labels)), self.num_classes, split)
        with undisturbed(self.model), self.autocast():
            encoded = self._encoded(first_view(x))
            features = encoded.features
            self._beside(encoded)
        if features.ndim != 2:
            raise ConfigError(
                f"encode returned features of shape {tuple(features.shape)}; the linear"
                " probe needs (N, D): pool them in encode, or set log.eval.linear=null"
            )
        for evaluator in self.online.values():
            with _seeded(self.seed):
                dim = self._of(evaluator, encoded).shape[-1]
                evaluator.build(dim, self.num_classes, features.device)

    @property
    def probe(self) -> nn.Module | None:
        """The online linear probe, of features (N, D) to logits (N, num_classes)."""
        probe = self.online.get("probe")
        return None if probe is None else probe.module

    @property
    def modules(self) -> list[nn.Module]:
        """The model, and the probes if there are some."""
        probes = [e.module for e in self.online.values() if isinstance(e, Probe)]
        return [self.model, *probes]

    @property
    def eigenvalues(self) -> list[float]:
        """Those of the last split's features, largest first; on rank 0, if measured."""
        spectrum = self.evaluators.get("spectrum")
        return spectrum.eigenvalues if spectrum in self.asked else []

    @property
    def waits(self) -> bool:
        """Whether an evaluator of val splits was not due when one was measured last."""
        of_val = [e for e in self.evaluators.values() if "val" in e.splits]
        return any(e.every_n_epochs and e not in self.asked for e in of_val)

    # --- features, once ---------------------------------------------------------------

    def encode(self, x: Tensor) -> Tensor:
        """Encode a view (N, C, H, W); in an evaluation, once."""
        return self._encoded(x).features if self.evaluating else self.plain(x)

    def _encoded(self, x: Tensor) -> Encoded:
        """Encode a view, and read the layers meanwhile; in an evaluation, once."""
        for encoded in self.encoded:
            if encoded.view is x:
                return encoded
        encoded = self._encoded_anew(x)
        if self.evaluating:
            self.encoded.append(encoded)
        return encoded

    def _encoded_anew(self, x: Tensor) -> Encoded:
        """Encode a view, and read the layers meanwhile."""
        if not self.read:
            return Encoded(x, self.plain(x), {})
        with read(self.model, self.read) as outputs:
            return Encoded(x, self.plain(x), outputs)

    def _of(self, evaluator: Evaluator, encoded: Encoded) -> Tensor:
        """Return what an evaluator calls features of a view."""
        if evaluator.taps is None:
            return encoded.features
        with _named(evaluator):
            rows = len(encoded.view)
            return evaluator.taps.of(encoded.outputs, self.model, rows)

    def _beside(self, encoded: Encoded) -> Tensor:
        """Return the features of `encode`, and beside them those of layers."""
        if not self.beside:
            return encoded.features
        parts = [encoded.features, *(self._of(e, encoded) for e in self.beside)]
        self.widths = [part.shape[1] for part in parts]
        return torch.cat([part.float() for part in parts], 1)

    def _columns(self, split: Split, evaluator: Evaluator) -> Split:
        """Return a split with the features alone that an evaluator is to see."""
        if not self.beside or split.features is None:
            return split
        own = evaluator in self.beside
        index = 1 + self.beside.index(evaluator) if own else 0
        start = sum(self.widths[:index])
        part, bank = slice(start, start + self.widths[index]), split.bank
        if isinstance(bank, Bank):
            bank = bank.columns(part)
        elif bank is not None:
            bank = bank[0][:, part], bank[1]
        return replace(split, features=split.features[:, part], bank=bank)

    def forget(self) -> None:
        """Forget the batch before."""
        self.encoded.clear()

    # --- beside a training step -------------------------------------------------------

    def fit(
        self, batch: Any, features: Tensor | Sequence[Tensor] | None, step: int
    ) -> dict[str, Tensor]:
        """Train what trains beside the method on a batch.

        Args:
            batch: (views, labels, ...).
            features: of the images as the loss handed them over, (N, D), or of several
                views, (N, D) each, or all of one after all of another, (V N, D); None:
                the first view is encoded in eval mode, one forward pass more.
            step: optimizer steps taken.

        Returns:
            The losses, () on the device, by name: {"probe_loss": loss}.

        Raises:
            ConfigError: features that are not a whole number for each label.
        """
        x, labels = with_labels(batch, reads := _reads_labels(self.online))
        if self.unchecked and reads:
            check_highest(int(highest(labels)), self.num_classes, "train")
            self.unchecked -= labels.is_cuda  # on the CPU, each of them
        by_layers = [e for e in self.online.values() if e.taps is not None]
        if features is None or by_layers:
            with undisturbed(self.model), self.autocast():
                encoded = self._encoded(first_view(x))
            features = encoded.features if features is None else features
        if not isinstance(features, Tensor):
            features = torch.cat(list(features))
        if features.ndim != 2 or len(features) % len(labels):
            raise ConfigError(
                f"compute_loss returned features of shape {tuple(features.shape)} for"
                f" {len(labels)} labels; return (N, D) of one view or a list of such"
            )
        features, views = features.detach(), len(features) // len(labels)
        if views > 1:  # a copy of a few labels costs 10 us
            labels = labels.repeat(views, *[1] * (labels.ndim - 1))
        losses, device = {}, features.device.type
        autocast = nullcontext()  # a disabled autocast costs 10 us
        if torch.is_autocast_enabled(device):
            autocast = torch.autocast(device, enabled=False)
        with torch.enable_grad(), autocast:
            for name, evaluator in self.online.items():
                if evaluator.taps is not None:  # of the first view
                    seen = self._of(evaluator, encoded), labels[: len(encoded.view)]
                    losses[f"{name}_loss"] = evaluator.fit(*seen)
                    continue
                if not evaluator.whole_batch:  # and draws nothing
                    losses[f"{name}_loss"] = evaluator.fit(features, labels)
                    continue
                # view after view, as on one process
                pair = [gather_batches(t.chunk(views)) for t in (features, labels)]
                with _seeded(int(seeding.fold_in(self.seed, step))):
                    losses[f"{name}_loss"] = evaluator.fit(*pair)
        return losses

    # --- during an evaluation ---------------------------------------------------------

    def due(self, split: str, epoch: int, last: bool) -> list[Evaluator]:
        """Return the evaluators that are asked about a split.

        Args:
            split: val, test, val_<name> or test_<name>.
            epoch: epochs taken.
            last: whether no training follows; all of them are due then.
        """
        kind = split.partition("_")[0]
        return [
            evaluator
            for evaluator in self.evaluators.values()
            if kind in evaluator.splits
            and is_due(evaluator.every_n_epochs or 1, epoch, last)
        ]

    @contextmanager
    def collecting(self, due: Sequence[Evaluator]) -> Iterator[None]:
        """Collect what evaluators need of a split, whose batches are seen meanwhile."""
        self.asked = due
        self.features: list[Tensor] = []
        self.labels: list[Any] = []
        self.views: list[Tensor] = []
        self.highest: list[Tensor] = []  # label of each batch
        if self.predictions is not None:
            self.predictions.reset()
        self.evaluating = True
        try:
            with undisturbed(*self.modules), self.autocast():
                yield
        finally:
            self.evaluating = False
            self.forget()

    def see(self, batch: Any, loader: Any) -> None:
        """Show a batch to the evaluators, and keep the features they will need."""
        for evaluator in self.asked:
            evaluator.see(batch, loader, partial(self._seen_by, evaluator))
        pair = isinstance(batch, (tuple, list)) and len(batch) > 1
        labels = batch[1] if pair else None
        if isinstance(labels, Tensor):
            mask = labels.ndim == 1 and labels.dtype == torch.bool
            if labels.shape[1:] in ((), (1,)) and not mask:
                labels = as_classes(labels)  # of a loader of one's own
            if any(map(self._counts, self.asked)):
                self.highest.append(highest(labels))
        if not any(evaluator.needs_features for evaluator in self.asked):
            return
        if any(e.needs_labels and e.needs_bank for e in self.asked):
            _, labels = with_labels(batch)  # which are an index
        x, *_ = batch
        features = self._beside(self._encoded(first_view(x)))
        self.features.append(features.detach().float())
        self.labels.append(labels)
        if any(e.all_views for e in self.asked) and isinstance(x, list) and len(x) > 1:
            self.views.append(torch.stack([self.encode(view) for view in x], 1))

    def _counts(self, evaluator: Evaluator) -> bool:
        """Return whether labels are numbers of classes to an evaluator."""
        task = self.predictions.task if evaluator is self.predictions else "multiclass"
        return evaluator.needs_labels and task == "multiclass"

    def _seen_by(self, evaluator: Evaluator, x: Tensor) -> Tensor:
        """Return what an evaluator calls features of a view, made once."""
        return self._of(evaluator, self._encoded(x))

    def measure(self, name: str, step: int) -> dict[str, float]:
        """Ask the evaluators; return their values by name, the same on every rank.

        Args:
            name: of the split, whose batches were seen.
            step: optimizer steps taken; the bank is encoded once at each.
        """
        device = self.features[0].device.type if self.features else "cpu"
        values: dict[str, float] = {}
        share = self._share(name, step)
        with torch.autocast(device, enabled=False):
            whole = self._whole(share)
            bank = self._whole_bank(share.bank)
            for evaluator in self.asked:
                split = share if evaluator.each_rank else whole
                if not evaluator.shares_bank:
                    split = replace(split, bank=bank)
                split = self._columns(split, evaluator)
                split = split.labelled() if evaluator.needs_labels else split
                if evaluator.each_rank:
                    measured = _yielded(evaluator, split)
                else:
                    main = distributed.is_main()
                    measured = _yielded(evaluator, split) if main else {}
                    measured = distributed.broadcast_object(measured)
                self._describe(evaluator, measured)
                self._say_once(evaluator.note)
                if twins := values.keys() & measured.keys():
                    raise ConfigError(
                        f"{type(evaluator).__name__} yields {', '.join(twins)}, which"
                        " is measured already; yield it by another name"
                    )
                values |= measured
            if self.features and step and not self.collapsed:
                # untrained features have one direction, too
                features = torch.cat(self.features)[:, : (self.widths or [None])[0]]
                if warning := collapse_warning(features):
                    self.collapsed = True
                    self.say(f"step {step}: {warning}")
        return values

    def _share(self, name: str, step: int) -> Split:
        """Return what this rank saw of a split, beside the bank of all ranks."""
        if any(e.needs_bank for e in self.asked) and self.bank[0] != step:
            readers = {n: e for n, e in self.evaluators.items() if e.needs_bank}
            batches = seen(self.bank_loader, self.device, self.limit)
            bank = encode_bank(self._for_the_bank, batches, _reads_labels(readers))
            self.bank, self.bank_size = (step, bank), len(bank.labels)
            if _reads_labels(readers):
                check_highest(int(highest(bank.labels)), self.num_classes, "bank")
            for evaluator in self.comparing if self.limit is None else ():
                evaluator.check_bank(self.bank_size, bank.labels)
        bank, features, labels = self.bank[1], None, None
        finite = bank is None or bank.finite
        if self.features:
            features = torch.cat(self.features)
            finite = finite and bool(features.isfinite().all())
        if self.labels and isinstance(self.labels[0], Tensor):
            labels = torch.cat(self.labels)
        most = int(torch.stack(self.highest).amax()) if self.highest else UNLABELLED
        everyone = distributed.all_gather_object((finite, most))
        finite = all(finite for finite, _ in everyone)
        if self.num_classes:
            most = max(most for _, most in everyone)
            check_highest(most, self.num_classes, name)
        views = torch.cat(self.views) if self.views else None
        return Split(
            name, features, labels, views, bank, finite, self.num_classes, self.seed
        )

    def _for_the_bank(self, x: Tensor) -> Tensor:
        """Return all features of a view, kept for nobody else."""
        return self._beside(self._encoded_anew(x)) if self.beside else self.plain(x)

    def _whole(self, share: Split) -> Split:
        """Return what all ranks saw of a split, in its order; synchronises them."""
        if share.features is None or all(e.each_rank for e in self.asked):
            return share
        features = gather_batches(self.features)
        labels = None if share.labels is None else gather_batches(self.labels)
        views = gather_batches(self.views) if self.views else None
        return replace(share, features=features, labels=labels, views=views)

    def _whole_bank(self, bank: Bank | None) -> Labelled | None:
        """Return all ranks' rows where an evaluator of this rank is to see them."""
        asked = [e for e in self.asked if e.needs_bank and not e.shares_bank]
        seen_here = distributed.is_main() or any(e.each_rank for e in asked)
        return bank.whole(keep=seen_here) if asked else None

    def _say_once(self, note: str) -> None:
        """Say what an evaluator left out, unless it was said before."""
        if note and note not in self.said:
            self.said.add(note)
            self.say(note)

    def _describe(self, evaluator: Evaluator, names: Iterable[str]) -> None:
        """Keep what a reader is told of the values that were yielded."""
        text = f"the bank of {self.bank_size:,} plain images"
        sampler = getattr(self.bank_loader, "sampler", None)
        if getattr(sampler, "sampler", None) is not None:
            text += f", drawn of {sampler.samples:,}"
        for name in names:
            metric = evaluator.metrics.get(name, Metric(name.replace("_", " ")))
            protocol = metric.protocol.replace("{bank}", text)
            self.metrics[name] = replace(metric, protocol=protocol)

    def free_bank(self) -> None:
        """Give the memory of the bank's features back, which training makes stale."""
        self.bank = -1, None

    # --- checkpoints ------------------------------------------------------------------

    def stateful(self) -> dict[str, Any]:
        """Return the evaluators that have a state, by name."""
        return {n: e for n, e in self.evaluators.items() if hasattr(e, "state_dict")}

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the evaluators that have one, by name."""
        return {name: e.state_dict() for name, e in self.stateful().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ConfigError: there is one now that was not saved.
        """
        for name, evaluator in self.stateful().items():
            if name not in state:
                what = "linear probe" if name == "probe" else f"log.eval.{name}"
                key = "linear" if name == "probe" else name
                raise ConfigError(
                    f"the checkpoint holds no {what}; set log.eval.{key}=null, or a"
                    " probe that was never trained would be evaluated"
                )
            evaluator.load_state_dict(state[name])
