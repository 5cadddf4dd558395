"""Random dense QKeras networks, hostile on purpose: ties, negative and zero gammas, zero variances, biases, masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import bnnflow.train  # isort: skip  (before QKeras)
import qkeras

from bnnflow.generation import keras
from bnnflow.ir import Domain, fixed

INPUT_TYPES = ("ufixed<8,0>", "fixed<6,2>", "ufixed<1,1>", "fixed<4,4>", "ufixed<5,1>", "fixed<10,3>")
KERNELS = (
    "binary", "binary_half", "binary_use_01", "ternary", "ternary_default", "binary_default", "stochastic_binary",
    "stochastic_ternary", "quantized_bits", "quantized_bits_auto_po2", "quantized_po2", "masked_binary",
    "masked_ternary", "masked_quantized_bits", "plain",
)
# Kernels, activations and stages of real-scaled networks: those whose meaning tests/rational.py spells out.
REAL_KERNELS = ("binary_auto", "ternary_auto", "quantized_bits_auto", "binary_0.3", "ternary_0.7",
                "stochastic_ternary_auto", "masked_binary_auto")
REAL_ACTIVATIONS = ("binary", "binary_half", "binary01", "ternary", "ternary_threshold", "relu21", "relu42", "bits",
                    "bits_unsigned")
REAL_NORMS = ("none", "plain", "hostile", "ties")
REAL_BETWEEN = ("none", "none", "relu", "leaky_relu")
BIASES = ("none", "float", "quantized", "binary")
NORMS = ("none", "plain", "hostile", "ties", "qbatchnorm", "twice")
BETWEEN = ("none", "none", "none", "relu", "leaky_relu", "prelu", "hard_tanh", "hard_sigmoid", "sigmoid", "tanh",
           "rescaling")
# name: (text, largest |value| in units, unit)
ACTIVATIONS: dict[str, tuple[str, int, float]] = {
    "binary": ("binary(alpha=1)", 1, 1.0), "binary_half": ("binary(alpha=.5)", 1, 0.5),
    "binary01": ("binary(use_01=True, alpha=1)", 1, 1.0), "binary_none": ("binary()", 1, 1.0),
    "ternary": ("ternary(alpha=1)", 1, 1.0), "ternary_threshold": ("ternary(alpha=1, threshold=.2)", 1, 1.0),
    "ternary_none": ("ternary()", 1, 1.0), "stochastic_binary": ("stochastic_binary(alpha=1)", 1, 1.0),
    "stochastic_ternary": ("stochastic_ternary(alpha=1)", 1, 1.0), "relu21": ("quantized_relu(2,1)", 3, 0.5),
    "relu42": ("quantized_relu(4,2)", 15, 0.25), "relu60": ("quantized_relu(6,0)", 63, 2.0**-6),
    "relu_slope": ("quantized_relu(3,1,negative_slope=.25)", 3, 0.5),
    "relu_sigmoid": ("quantized_relu(4,2,use_sigmoid=1)", 15, 0.25), "bits": ("quantized_bits(4,1,alpha=1)", 8, 0.25),
    "bits_unsigned": ("quantized_bits(3,1,keep_negative=0,alpha=1)", 7, 0.25), "tanh": ("quantized_tanh(3)", 4, 0.25),
    "sigmoid": ("quantized_sigmoid(3)", 7, 0.125), "po2": ("quantized_po2(3)", 8, 0.25),
    "relu_po2": ("quantized_relu_po2(3)", 128, 0.0625), "hswish": ("quantized_hswish(4,2)", 7, 0.5),
}
HEADS = ("logits", "norm", "softmax", "quantised", "bias", "float")
MERGES = ("none", "none", "none", "concatenate", "add", "subtract")


@dataclass
class Case:
    """A network, its input type, and the options it was made from (for the histogram)."""

    model: keras.Model
    input_type: str
    options: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)  # activation of the layers that have one

    @property
    def real(self) -> bool:
        """True for a network whose sums are real-scaled."""
        return "class=real" in self.options

    @property
    def domain(self) -> Domain:
        return fixed(self.input_type)

    def inputs(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Codes (count, *shape): uniform, few-valued and sparse rows, so that deep sums vary."""
        d, shape = self.domain, self.model.input_shape[1:]
        codes = rng.integers(d.lo, d.hi, (count, *shape), endpoint=True)
        codes[1::3] = rng.choice([d.lo, d.hi, (d.lo + d.hi) // 2], codes[1::3].shape)
        codes[2::3] = np.where(rng.random(codes[2::3].shape) < 0.7, min(max(0, d.lo), d.hi), codes[2::3])
        return codes


def _diagonal(shape: tuple[int, ...]) -> np.ndarray:
    """True at least once for every output: a mask that keeps none is refused."""
    return np.eye(int(np.prod(shape[:-1])), shape[-1]).reshape(shape) > 0


def kernel(kind: str, rng: np.random.Generator, shape: tuple[int, ...]) -> object:
    if kind.startswith("masked"):
        wrapped = bnnflow.train.Masked(kernel(kind.removeprefix("masked_"), rng, shape))
        wrapped.set_mask(np.maximum(rng.random(shape) < rng.choice([0.1, 0.5, 0.9]), _diagonal(shape)))
        return wrapped
    return {
        "binary": lambda: qkeras.binary(alpha=1), "binary_half": lambda: qkeras.binary(alpha=0.5),
        "binary_use_01": lambda: qkeras.binary(use_01=True, alpha=1), "binary_default": lambda: qkeras.binary(),
        "ternary": lambda: qkeras.ternary(alpha=1, threshold=0.3), "ternary_default": lambda: qkeras.ternary(),
        "stochastic_binary": lambda: qkeras.stochastic_binary(alpha=1),
        "stochastic_ternary": lambda: qkeras.stochastic_ternary(alpha=1),
        "quantized_bits": lambda: qkeras.quantized_bits(3, 0, alpha=1),
        "quantized_bits_auto_po2": lambda: qkeras.quantized_bits(4, 0, alpha="auto_po2"),
        "quantized_po2": lambda: qkeras.quantized_po2(3, 1), "plain": lambda: None,
        "binary_auto": lambda: qkeras.binary(alpha="auto"), "ternary_auto": lambda: qkeras.ternary(alpha="auto"),
        "quantized_bits_auto": lambda: qkeras.quantized_bits(4, 0, alpha="auto"),
        "binary_0.3": lambda: qkeras.binary(alpha=0.3), "ternary_0.7": lambda: qkeras.ternary(alpha=0.7),
        "stochastic_ternary_auto": lambda: qkeras.stochastic_ternary(alpha="auto"),
    }[kind]()


def _norm(kind: str, layer: keras.layers.BatchNormalization, rng: np.random.Generator, bound: int, unit: float) -> None:
    """Set batch norm weights. `ties`: means on sums and no shift, so that the sum at the threshold is an exact tie."""
    n = layer.moving_mean.shape[0]
    gamma = rng.normal(0, 1, n)
    variance = rng.uniform(0, 4, n) * max(bound, 1) * unit**2
    beta = rng.normal(0, 0.3, n)
    mean = rng.normal(0, np.sqrt(bound), n) * unit
    if kind in ("hostile", "ties"):
        gamma[rng.random(n) < 0.15] = 0
        variance[rng.random(n) < 0.2] = 0
        beta[rng.random(n) < 0.3] = 0
    if kind == "ties":
        mean, beta = np.rint(mean / unit) * unit, np.where(rng.random(n) < 0.8, 0, beta)
    values = [*([gamma] if layer.scale else []), *([beta] if layer.center else []), mean, variance]
    layer.set_weights([w.astype(np.float32) for w in values])


class Maker:
    """Makes one network; every choice is recorded."""

    moving = True  # an activation may come behind a Permute or Flatten
    fan_in = 1  # taps of the last sum

    def __init__(self, seed: int, real: bool):
        self.rng, self.real = np.random.default_rng(seed), real
        self.options: list[str] = [f"class={'real' if real else 'dyadic'}"]
        self.texts: dict[str, str] = {}
        self.later: list[Callable[[], None]] = []  # weights are set when the model is whole

    def choose(self, name: str, values: Iterable[str]) -> str:
        value = str(self.rng.choice(list(values)))
        self.options.append(f"{name}={value}")
        return value

    def dense(self, h: Any, units: int, bias: str, activation: str | None = None) -> Any:
        kind, quantizer = self.quantizer((h.shape[-1], units))
        options = self.sum_options(kind, bias, activation)
        layer = keras.layers.Dense(units, **options) if kind == "plain" else qkeras.QDense(
            units, kernel_quantizer=quantizer, **options)
        self.fan_in = h.shape[-1]
        return self.filled(h, layer, kind, activation)

    def quantizer(self, shape: tuple[int, ...]) -> tuple[str, Any]:
        kind = self.choose("kernel", REAL_KERNELS if self.real else KERNELS)
        return kind, kernel(kind, self.rng, shape)

    def sum_options(self, kind: str, bias: str, activation: str | None) -> dict[str, Any]:
        """Bias and activation, as a layer of Keras or of QKeras takes them."""
        if kind == "plain":
            return {"use_bias": bias != "none", "activation": qkeras.get_quantizer(activation)}
        text = {"quantized": "quantized_bits(6,3,alpha=1)", "binary": "binary(alpha=.5)"}.get(bias)
        return {"use_bias": bias != "none", "activation": activation, "bias_quantizer": text}

    def filled(self, h: Any, layer: Any, kind: str, activation: str | None) -> Any:
        """Call a layer and give it weights: some zero, those of a layer of Keras on a grid."""
        rng, out = self.rng, layer(h)
        self.texts[layer.name] = activation or ""
        for name in ("kernel", "depthwise_kernel", "pointwise_kernel"):
            weight = getattr(layer, name, None)
            if weight is not None:
                w = rng.normal(0, 0.7, weight.shape)
                w[rng.random(w.shape) < 0.05] = 0
                weight.assign(np.rint(w * 2) / 2 if kind == "plain" else w)
        if layer.use_bias:
            units = layer.bias.shape[0]
            layer.bias.assign(np.where(rng.random(units) < 0.5, rng.integers(-3, 4, units), rng.normal(0, 2, units)))
        return out

    total = dense  # the sum of a block

    def after_sum(self, h: Any) -> Any:
        """What may stand between a sum and its batch norm."""
        return h

    def norm(self, h: Any, kind: str, bound: int, unit: float) -> Any:
        for _ in range(2 if kind == "twice" else 1):
            if kind == "qbatchnorm":
                layer = qkeras.QBatchNormalization()
            else:
                layer = keras.layers.BatchNormalization(
                    epsilon=float(self.rng.choice([1e-3, 1e-6])), scale=bool(self.rng.random() < 0.9),
                    center=bool(self.rng.random() < 0.9))
            h = layer(h)
            self.later.append(lambda layer=layer: _norm(kind, layer, self.rng, bound, unit))
        return h

    def between(self, h: Any) -> Any:
        kind = self.choose("between", REAL_BETWEEN if self.real else BETWEEN)
        return {
            "none": lambda: h, "relu": lambda: keras.layers.ReLU(max_value=3)(h),
            "leaky_relu": lambda: keras.layers.LeakyReLU(0.3)(h), "prelu": lambda: keras.layers.PReLU("uniform")(h),
            "hard_tanh": lambda: qkeras.QActivation("hard_tanh")(h),
            "hard_sigmoid": lambda: keras.layers.Activation("hard_sigmoid")(h),
            "sigmoid": lambda: keras.layers.Activation("sigmoid")(h),
            "tanh": lambda: keras.layers.Activation("tanh")(h),
            "rescaling": lambda: keras.layers.Rescaling(1 / 3, 0.1)(h),
        }[kind]()

    def block(self, h: Any, units: int, levels: int, unit: float) -> tuple[Any, int, float]:
        """A sum and everything up to its activation: (tensor, largest value in units, unit)."""
        act = self.choose("act", REAL_ACTIVATIONS if self.real else ACTIVATIONS)
        text, top, step = ACTIVATIONS[act]
        if act != "hswish" and self.rng.random() < 0.25:
            self.options.append("act_as=argument")
            return self.total(h, units, self.choose("bias", BIASES), text), top, step
        h = self.after_sum(self.total(h, units, self.choose("bias", BIASES)))
        bound = levels * self.fan_in
        kind = self.choose("norm", REAL_NORMS if self.real else NORMS)
        h = h if kind == "none" else self.norm(h, kind, bound, unit)
        h = self.between(h)
        if self.rng.random() < 0.2:
            self.options.append("layer=dropout")
            h = keras.layers.Dropout(0.3)(h)
        if len(h.shape) == 3 and self.moving and self.rng.random() < 0.3:
            self.options.append("layer=moved_in_tail")
            h = keras.layers.Permute((2, 1))(h) if self.rng.random() < 0.5 else keras.layers.Flatten()(h)
        layer = qkeras.QActivation(text)
        self.texts[layer.name] = text
        return layer(h), top, step

    def hidden(self, h: Any, levels: int, unit: float) -> tuple[Any, int, float]:
        units, merge = int(self.rng.integers(2, 30)), self.choose("merge", MERGES)
        if merge == "none":
            return self.block(h, units, levels, unit)
        (a, top, step), (b, top2, step2) = (self.block(h, units, levels, unit) for _ in range(2))
        if a.shape != b.shape:
            a, b = keras.layers.Flatten()(a), keras.layers.Flatten()(b)
        layer = getattr(keras.layers, merge.capitalize())
        fine = min(step, step2)
        return layer()([a, b]), int((top * step + top2 * step2) / fine), fine

    def head(self, h: Any, levels: int, unit: float) -> Any:
        finish, units = self.choose("head", HEADS[:2] if self.real else HEADS), int(self.rng.integers(2, 12))
        if finish == "quantised":
            self.total, self.after_sum = self.dense, lambda h: h  # type: ignore[method-assign]
            return self.block(h, units, levels, unit)[0]
        bound = levels * h.shape[-1]
        h = self.dense(h, units, "float" if finish == "bias" else self.choose("bias", BIASES))
        if finish == "norm":
            h = self.norm(h, self.choose("norm", (REAL_NORMS if self.real else NORMS)[1:]), bound, unit)
        if finish == "float" and bound < 2000:
            h = keras.layers.LeakyReLU(0.3)(h)
        if finish == "softmax":
            h = keras.layers.Softmax()(h) if self.rng.random() < 0.5 else keras.layers.Activation("softmax")(h)
        return h


def first_layer(make: Maker, x: Any, domain: Domain) -> tuple[Any, int, float]:
    """What makes codes of the input: (tensor, largest value in units, unit)."""
    rng, h, features = make.rng, x, x.shape[-1]
    unit, levels = float(domain.unit), max(abs(domain.lo), abs(domain.hi))
    first = make.choose("first", ("none", "rescaling_255") if make.real else (
        "none", "none", "thermometer", "thermometer_per_channel", "rescaling_thermometer", "normalization",
        "activation", "rescaling_dyadic"))
    low, high = float(domain.scale * domain.lo), float(domain.scale * (domain.hi + 1))
    if first == "rescaling_255":
        h = keras.layers.Rescaling(1 / 255, float(rng.choice([0, 0.1])))(h)
    elif first == "rescaling_dyadic":
        h = keras.layers.Rescaling(0.5, 0.25)(h)
        unit, levels = min(unit, 1) / 4, 4 * levels + 4
    elif first == "normalization":
        h = keras.layers.Normalization(mean=rng.normal(0, 1, features), variance=rng.uniform(0.1, 3, features))(h)
        h = qkeras.QActivation("quantized_bits(4,1,alpha=1)")(h)
        unit, levels = 0.25, 8
    elif first == "activation":
        h, unit, levels = qkeras.QActivation("ternary(alpha=1)")(h), 1.0, 1
    elif first != "none":
        if first == "rescaling_thermometer":
            h, low, high = keras.layers.Rescaling(1 / 3, 0.1)(h), low / 3, high / 3
        planes, per_channel = int(rng.integers(1, 6)), first.endswith("channel")
        layer = bnnflow.train.LearnedThermometer(planes, low, high, per_channel=per_channel)
        h, unit, levels = layer(h), 1.0, 1
        make.later.append(lambda: layer.gaps.assign(rng.normal(0, 1.5, layer.gaps.shape)))
    return h, levels, unit


def network(seed: int) -> Case:
    """The network of a seed; the same in every process."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    make = Maker(seed, real=seed % 5 == 4)
    rng = make.rng
    input_type = make.choose("input", INPUT_TYPES)
    domain, features = fixed(input_type), int(rng.integers(3, 24))
    shape = (features,) if rng.random() < 0.8 else (int(rng.integers(2, 5)), features)
    make.options.append(f"rank={len(shape)}")
    x = keras.Input(shape)
    h, levels, unit = first_layer(make, x, domain)
    for _ in range(int(rng.integers(0, 3))):
        if len(h.shape) > 2 and rng.random() < 0.4:
            make.options.append("layer=flatten")
            h = keras.layers.Flatten()(h)
        elif rng.random() < 0.1:
            make.options.append("layer=reshape")
            h = keras.layers.Reshape((1, h.shape[-1]) if len(h.shape) == 2 else (-1, h.shape[-1]))(h)
        h, levels, unit = make.hidden(h, levels, unit)
    h = make.head(h, levels, unit)
    for setter in make.later:
        setter()
    return Case(keras.Model(x, h), input_type, make.options, make.texts)
