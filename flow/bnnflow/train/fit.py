"""A training run in memory: seeded, stepwise, with a state that can be saved and restored at any step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from bnnflow.errors import InputError
from bnnflow.generation import keras, leaf_layers, learning_rates, random_states, tf_variables
from bnnflow.recipe import Recipe
from bnnflow.train.alphabeta import Budget
from bnnflow.train.distill import Distiller, ends_in_softmax
from bnnflow.train.optimizers import Bop, Bop2ndOrder
from bnnflow.train.prune import Prune, zeros_of
from bnnflow.train.schedules import Progress, annealed_of, harden
from bnnflow.train.weight_sets import RBNN, Rotations

__all__ = ["OPTIMIZERS", "Arrays", "Row", "Training", "accuracy", "fit"]

Arrays = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]  # x_train, y_train, x_test, y_test
Row = dict[str, Any]
PREDICT = 1024  # samples in a batch of `Training.measure`

# name: (model, learning rate or schedule, options) -> optimizer.
OPTIMIZERS: dict[str, Callable[..., keras.optimizers.Optimizer]] = {
    "adam": lambda model, rate, **options: keras.optimizers.Adam(rate, **options),
    "bop": lambda model, rate, **options: Bop.of(model, learning_rate=rate, **options),
    "bop2": lambda model, rate, **options: Bop2ndOrder.of(model, learning_rate=rate, **options),
}

# TensorFlow operations whose results depend on a state that is no variable, or on Python.
HIDDEN = frozenset("""EagerPyFunc Multinomial ParameterizedTruncatedNormal PyFunc RandomGamma RandomPoisson
RandomPoissonV2 RandomShuffle RandomStandardNormal RandomUniform RandomUniformInt TruncatedNormal""".split())


class Training:
    """A training under way: a classifier, its arrays, the recipe, and how far it is.

    As long as `hidden()` is empty, the next step depends on `state()` and nothing else: the order of samples comes from
    (seed, epoch), schedules from the optimizer's steps, and every variable of the step is in the state.
    """

    def __init__(self, model: keras.Model, arrays: Arrays, recipe: Recipe, teacher: keras.Model | None = None):
        """Raises InputError for arrays that do not fit the model's input and classes, and for such a recipe."""
        _check(model, arrays)
        self.model, self.recipe, self.rows = model, recipe, list[Row]()
        self.best: tuple[int, list[NDArray[Any]]] | None = None  # epoch and weights of the best one
        self._shuffled: tuple[int, NDArray[np.int64]] = -1, np.empty(0, np.int64)
        x, y, *self.test = arrays
        self.train, self.held = _split(x, y, recipe)
        self.steps_per_epoch = -(-len(self.train[0]) // recipe.batch_size)
        self.steps = recipe.epochs * self.steps_per_epoch
        schedule = keras.optimizers.schedules.CosineDecay(recipe.learning_rate, self.steps)
        self.trained = Distiller(model, teacher, **(recipe.distill or {})) if teacher is not None else model
        self.trained.compile(_optimizer(model, recipe, schedule), _loss(model, recipe), metrics=["accuracy"],
                             jit_compile=False)
        self.trained.optimizer.build(self.trained.trainable_variables)
        self.prune = Prune(self.steps, **recipe.prune) if recipe.prune else None
        progress = [Progress(self.steps)] if any(annealed_of(model)) else []
        turns = [Rotations(self.steps_per_epoch)] if any(isinstance(p, RBNN) for p in annealed_of(model)) else []
        self.callbacks = keras.callbacks.CallbackList([*progress, *turns, *([self.prune] if self.prune else [])],
                                                      model=self.trained)
        self.callbacks.on_train_begin()
        self._step = tf.function(lambda x, y: self.trained.train_step((x, y)), reduce_retracing=True)
        self._outputs = tf.function(lambda x: model(x, training=False), reduce_retracing=True)
        shape = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32), tf.TensorSpec((None,), tf.int64)
        self._step = self._step.get_concrete_function(*shape)

    @property
    def step(self) -> int:
        """Steps made."""
        return int(self.trained.optimizer.iterations)

    @property
    def done(self) -> bool:
        """True where all epochs are in `rows`."""
        return len(self.rows) == self.recipe.epochs

    def advance(self) -> Row | None:
        """Make a step; at the end of an epoch measure it, too, and return its row of `rows`."""
        first = len(self.rows) * self.steps_per_epoch
        if self.step == first:
            self.trained.reset_metrics()
        if self.step < first + self.steps_per_epoch:
            self._make_step(self.step - first)
        return self._end_epoch() if self.step == first + self.steps_per_epoch else None

    def _make_step(self, number: int) -> None:
        chosen = self._order()[number * self.recipe.batch_size : (number + 1) * self.recipe.batch_size]
        self.callbacks.on_train_batch_begin(number)
        self._step(*(tf.constant(part[chosen]) for part in self.train))

    def _order(self) -> NDArray[np.int64]:
        """The samples of this epoch, in order."""
        epoch = len(self.rows)
        if self._shuffled[0] != epoch:
            self._shuffled = epoch, np.random.default_rng([self.recipe.seed, epoch]).permutation(len(self.train[0]))
        return self._shuffled[1]

    def _end_epoch(self) -> Row:
        """Measure the epoch. It can become the best one if its network is of the kind that ships."""
        row: Row = {"epoch": len(self.rows) + 1, "step": self.step,
                    **{name: float(value) for name, value in self.trained.get_metrics_result().items()},
                    "zeros": zeros_of(self.model), "ships": self.ships}
        if len(self.held[0]):
            row["val_loss"], row["val_accuracy"] = self.measure(*self.held)
            score = (row["val_accuracy"], -row["val_loss"])
            if row["ships"] and (self.best is None or score > self._score(self.rows[self.best[0] - 1])):
                self.best = (row["epoch"], self.model.get_weights())
        self.rows.append(row)
        return row

    @staticmethod
    def _score(row: Row) -> tuple[float, float]:
        return row["val_accuracy"], -row["val_loss"]

    @property
    def ships(self) -> bool:
        """True where the network is of the kind that ships: every forward is hard, and masks are frozen."""
        parts = leaf_layers(self.model)
        return not any(getattr(part, "unfinished", "") for part in parts) and (self.prune is None or self.prune.frozen)

    def measure(self, x: NDArray[Any], y: NDArray[Any]) -> tuple[float, float]:
        """(cross-entropy in nats, accuracy 0..1) of the model as it is, over x (n, ...) and labels (n,)."""
        batches = (x[k : k + PREDICT].astype(np.float32) for k in range(0, len(x), PREDICT))
        outputs = np.concatenate([self._outputs(tf.constant(batch)).numpy() for batch in batches]).astype(np.float64)
        if ends_in_softmax(self.model):
            outputs = np.log(np.maximum(outputs, 1e-7))
        top = outputs.max(axis=1, keepdims=True)
        losses = np.log(np.exp(outputs - top).sum(axis=1)) + top[:, 0] - outputs[np.arange(len(y)), y]
        return float(losses.mean()), accuracy(outputs, y)

    def finish(self) -> float:
        """Take the weights of the best epoch (without one, the last weights) and harden them; the test accuracy."""
        self.callbacks.on_train_end()
        if self.best is not None:
            self.model.set_weights(self.best[1])
        harden(self.model)
        return self.measure(*self.test)[1]

    def variables(self) -> list[Any]:
        """Every variable that a step reads or writes, but for a teacher's."""
        metrics = [v for metric in self.trained.metrics for v in metric.variables]
        return [*self.model.weights, *self.trained.optimizer.variables, *metrics, *random_states(self.model)]

    def hidden(self, teacher: keras.Model | None = None) -> Iterator[str]:
        """What a step depends on besides `variables`: variables that are not among them, and HIDDEN operations."""
        others = [*learning_rates(self.trained.optimizer), *(teacher.weights if teacher is not None else [])]
        known = {v.ref() for v in tf_variables([*self.variables(), *others])}
        graph = self._step.graph
        yield from (f"variable {v.name!r}" for v in graph.variables if v.ref() not in known)
        definition = graph.as_graph_def()
        nodes = [*definition.node, *(node for f in definition.library.function for node in f.node_def)]
        yield from (f"{node.op} in {node.name!r}" for node in nodes if node.op in HIDDEN)

    def state(self) -> dict[str, NDArray[Any]]:
        """The variables and the best weights, numbered; the caller keeps `rows` and the number of the best epoch."""
        best = self.best[1] if self.best else []
        return {**{f"variable{k}": v.numpy() for k, v in enumerate(self.variables())},
                **{f"best{k}": w for k, w in enumerate(best)}}

    def restore(self, state: Mapping[str, NDArray[Any]], rows: list[Row], best_epoch: int | None) -> None:
        """Continue from a state; raises InputError where it is of another network."""
        variables = self.variables()
        missing = [k for k, v in enumerate(variables)
                   if state.get(f"variable{k}", np.empty(0)).shape != tuple(v.shape)]
        if missing or f"variable{len(variables)}" in state:
            raise InputError("this state is of another network or version; start the training anew")
        for k, variable in enumerate(variables):
            variable.assign(state[f"variable{k}"])
        self.rows = list(rows)
        weights = [state[f"best{k}"] for k in range(len(self.model.weights))] if best_epoch is not None else []
        self.best = (best_epoch, weights) if best_epoch is not None else None


def fit(model: keras.Model, arrays: Arrays, epochs: int, batch_size: int = 64, learning_rate: float = 2e-3,
        seed: int = 0, report: Callable[[int, int, dict[str, float]], None] = lambda *_: None,
        teacher: keras.Model | None = None) -> float:
    """Train a classifier with cross-entropy, Adam and a cosine schedule; returns its test accuracy (0..1).

    With a `teacher` its outputs are learned instead of the labels (`Distiller`). `report(epoch, epochs, {"loss",
    "accuracy", ...})` is called after every epoch.
    """
    keras.utils.set_random_seed(seed)
    training = Training(model, arrays, Recipe(epochs, batch_size, learning_rate, seed), teacher)
    while not training.done:
        row = training.advance()
        if row is not None:
            report(row["epoch"], epochs, row)
    return training.finish()


def accuracy(outputs: NDArray[Any], labels: NDArray[Any]) -> float:
    """Share (0..1) of the rows of `outputs` (n, classes) whose largest value is at the label (n,)."""
    return float(np.mean(np.argmax(outputs, axis=-1) == labels))


def _optimizer(model: keras.Model, recipe: Recipe, schedule: Any) -> keras.optimizers.Optimizer:
    options = dict(recipe.optimizer_options or {})
    try:
        return OPTIMIZERS[recipe.optimizer](model, schedule, **options)
    except (TypeError, ValueError) as error:
        raise InputError(f"optimizer {recipe.optimizer!r} cannot be made with {options}: {error}") from error


def _loss(model: keras.Model, recipe: Recipe) -> keras.losses.Loss:
    """Cross-entropy; with a budget in the recipe, plus its penalty."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=not ends_in_softmax(model))
    if not recipe.budget:
        return loss
    if set(recipe.budget) != {"target", "gamma"}:
        raise InputError(f"budget: {dict(recipe.budget)}; give target (share of weights at beta) and gamma")
    return Budget(loss, model, **recipe.budget)


def _split(x: NDArray[Any], y: NDArray[Any], recipe: Recipe) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """(samples to train with, samples held back for validation), each [x float32, y int64]; the seed decides which."""
    count = round(recipe.validation * len(x))
    if count >= len(x) or (recipe.validation and not count):
        raise InputError(f"validation={recipe.validation}: holds back {count} of {len(x)} training samples; "
                         "some must remain on either side")
    order = np.random.default_rng([recipe.seed, 2**32]).permutation(len(x)) if count else np.arange(len(x))
    parts = [np.sort(order[count:]), order[:count]]
    train, held = ([x[part].astype(np.float32, copy=False), y[part].astype(np.int64)] for part in parts)
    return train, held


def _check(model: keras.Model, arrays: Arrays) -> None:
    """Raise InputError unless this is a classifier of one input, with samples of its shape and labels in its range."""
    if not _is_classifier(model):
        raise InputError(f"build() must give a built Keras model ({keras.__name__}) of one input and one output of two "
                         f"or more classes, got {getattr(model, 'output_shape', type(model).__name__)}")
    if not isinstance(arrays, (tuple, list)) or len(arrays) != 4 or not all(hasattr(a, "shape") for a in arrays):
        raise InputError("data() must give four arrays: x_train, y_train, x_test, y_test")
    for what, x, y in (("train", *arrays[:2]), ("test", *arrays[2:])):
        _check_samples(model, what, x, y)


def _is_classifier(model: Any) -> bool:
    """True for a built Keras model of one input and one output (n, classes) of two or more classes."""
    return (isinstance(model, keras.Model) and model.built and len(getattr(model, "inputs", None) or ()) == 1
            and len(model.outputs) == 1 and len(model.output_shape) == 2 and (model.output_shape[1] or 0) >= 2)


def _check_samples(model: keras.Model, what: str, x: NDArray[Any], y: NDArray[Any]) -> None:
    """Raise InputError unless `x` and `y` are finite samples (n, ...) of the model's input and their labels (n,)."""
    classes = model.output_shape[1]
    if x.shape[1:] != model.input_shape[1:] or y.shape != (len(x),) or not len(x):
        raise InputError(f"x_{what} {x.shape} and y_{what} {y.shape}: the model needs (n, "
                         f"{', '.join(map(str, model.input_shape[1:]))}) and labels (n,)")
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= classes:
        raise InputError(f"y_{what}: {y.dtype} labels from {y.min()} to {y.max()}; the model has {classes} "
                         f"classes, so integers from 0 to {classes - 1}")
    if not np.isfinite(x).all():
        raise InputError(f"x_{what} holds values that are not finite")
