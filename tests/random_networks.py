"""Random dense QKeras networks, hostile on purpose: ties, negative and zero gammas, zero variances, biases, masks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

import flow.train  # isort: skip  (before QKeras)
import qkeras
import tf_keras as keras

from flow.ir import Domain, fixed

INPUT_TYPES = ("ufixed<8,0>", "fixed<6,2>", "ufixed<1,1>", "fixed<4,4>", "ufixed<5,1>", "fixed<10,3>")
KERNELS = ("binary", "binary_half", "ternary", "ternary_default", "masked_binary", "masked_ternary")
BIASES = ("none", "float", "quantized")
NORMS = ("none", "plain", "hostile", "ties")
ACTIVATIONS = {
    "binary": "binary(alpha=1)", "binary_half": "binary(alpha=.5)", "binary01": "binary(use_01=True, alpha=1)",
    "ternary": "ternary(alpha=1)", "ternary_threshold": "ternary(alpha=1, threshold=.2)", "ternary_none": "ternary()",
    "relu21": "quantized_relu(2,1)", "relu42": "quantized_relu(4,2)", "relu60": "quantized_relu(6,0)",
}
HEADS = ("logits", "norm", "softmax", "quantised", "bias")


@dataclass
class Case:
    """A network, its input type, and the options it was made from (for the histogram)."""

    model: keras.Model
    input_type: str
    options: list[str] = field(default_factory=list)

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


def kernel(kind: str, rng: np.random.Generator, shape: tuple[int, int]) -> object:
    if kind.startswith("masked"):
        wrapped = flow.train.Masked(kernel(kind.removeprefix("masked_"), rng, shape))
        wrapped.set_mask(np.maximum(rng.random(shape) < rng.choice([0.1, 0.5, 0.9]), np.eye(*shape) > 0))
        return wrapped
    return {
        "binary": lambda: qkeras.binary(alpha=1), "binary_half": lambda: qkeras.binary(alpha=0.5),
        "ternary": lambda: qkeras.ternary(alpha=1, threshold=0.3), "ternary_default": lambda: qkeras.ternary(),
    }[kind]()


def _norm(kind: str, layer: keras.layers.BatchNormalization, rng: np.random.Generator, reach: int, unit: float) -> None:
    """Set batch norm weights. `ties`: means on sums and no shift, so that the sum at the cut is an exact tie."""
    n = layer.gamma.shape[0]
    gamma = rng.normal(0, 1, n)
    variance = rng.uniform(0, 4, n) * max(reach, 1) * unit**2
    beta = rng.normal(0, 0.3, n)
    mean = rng.normal(0, np.sqrt(reach), n) * unit
    if kind in ("hostile", "ties"):
        gamma[rng.random(n) < 0.15] = 0
        variance[rng.random(n) < 0.2] = 0
        beta[rng.random(n) < 0.3] = 0
    if kind == "ties":
        mean, beta = np.rint(mean / unit) * unit, np.where(rng.random(n) < 0.8, 0, beta)
    layer.set_weights([w.astype(np.float32) for w in (gamma, beta, mean, variance)])


def network(seed: int) -> Case:
    """The network of a seed; the same in every process."""
    rng = np.random.default_rng(seed)
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    options: list[str] = []

    def choose(name: str, values: object) -> str:
        value = str(rng.choice(list(values)))
        options.append(f"{name}={value}")
        return value

    input_type = choose("input", INPUT_TYPES)
    domain, features = fixed(input_type), int(rng.integers(3, 24))
    norms: list[tuple[str, keras.layers.Layer, int, float]] = []
    biases: list[keras.layers.Layer] = []
    shape = (features,) if rng.random() < 0.8 else (int(rng.integers(2, 5)), features)
    options.append(f"rank={len(shape)}")
    h = x = keras.Input(shape)
    unit = float(domain.unit)
    if choose("thermometer", ("none", "shared", "channel")) != "none":
        low, high = float(domain.alpha * domain.lo), float(domain.alpha * (domain.hi + 1))
        layer = flow.train.LearnedThermometer(int(rng.integers(1, 6)), low, high,
                                              per_channel=options[-1].endswith("channel"))
        h, unit = layer(h), 1.0
        layer.gaps.assign(rng.normal(0, 1.5, layer.gaps.shape))
        levels = 1
    else:
        levels = max(abs(domain.lo), abs(domain.hi))
    depth = int(rng.integers(1, 4))
    flat_at = int(rng.integers(0, depth + 1))
    for k in range(depth):
        if k == flat_at and len(h.shape) > 2:
            options.append("layer=flatten")
            h = keras.layers.Flatten()(h)
        if rng.random() < 0.1:
            options.append("layer=reshape")
            h = keras.layers.Reshape((*h.shape[1:-1], 1, h.shape[-1]) if len(h.shape) == 2 else (-1, h.shape[-1]))(h)
        units, head = int(rng.integers(2, 40)), k == depth - 1
        finish = choose("head", HEADS) if head else "quantised"
        bias = choose("bias", BIASES) if finish not in ("bias",) else "float"
        act = choose("act", ACTIVATIONS)
        inside = finish == "quantised" and rng.random() < 0.3
        options.append(f"act_as={'argument' if inside else 'layer'}")
        kind = choose("kernel", KERNELS)
        dense = qkeras.QDense(
            units, kernel_quantizer=kernel(kind, rng, (h.shape[-1], units)), use_bias=bias != "none",
            bias_quantizer="quantized_bits(6,3,alpha=1)" if bias == "quantized" else None,
            activation=ACTIVATIONS[act] if inside else None)
        reach = levels * h.shape[-1]
        h = dense(h)
        if dense.use_bias:
            biases.append(dense)
        # ternary_default ("auto_po2" inside QDense) wants weights of some spread.
        w = rng.normal(0, 0.7, dense.kernel.shape).astype(np.float32)
        w[rng.random(w.shape) < 0.05] = 0
        dense.kernel.assign(w)
        norm = "none" if inside else choose("norm", NORMS if finish != "norm" else NORMS[1:])
        if finish in ("logits", "bias"):
            norm = "none"
        if norm != "none":
            layer = keras.layers.BatchNormalization(epsilon=float(rng.choice([1e-3, 1e-6])))
            h = layer(h)
            norms.append((norm, layer, reach, unit))
        if finish == "quantised" and not inside:
            if rng.random() < 0.2:
                options.append("layer=dropout")
                h = keras.layers.Dropout(0.3)(h)
            if rng.random() < 0.1 and len(h.shape) > 2:
                options.append("layer=flatten_in_tail")
                h = keras.layers.Flatten()(h)
            h = qkeras.QActivation(ACTIVATIONS[act])(h)
        unit = {"binary_half": 0.5, "relu21": 0.5, "relu42": 0.25, "relu60": 2**-6}.get(act, 1.0)
        levels = {"relu21": 3, "relu42": 15, "relu60": 63}.get(act, 1)
        if finish == "softmax":
            h = keras.layers.Softmax()(h) if rng.random() < 0.5 else keras.layers.Activation("softmax")(h)
    for kind, layer, reach, size in norms:
        _norm(kind, layer, rng, reach, size)
    for dense in biases:
        n = dense.bias.shape[0]
        dense.bias.assign(np.where(rng.random(n) < 0.5, rng.integers(-3, 4, n), rng.normal(0, 2, n)))
    return Case(keras.Model(x, h), input_type, options)
