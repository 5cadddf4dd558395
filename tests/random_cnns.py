"""Random convolutional networks: odd sizes, strides, dilation, groups, paddings, pools, padding, merges of images."""

from __future__ import annotations

from typing import Any

import numpy as np

import bnnflow.train  # isort: skip  (before QKeras)
import qkeras

from bnnflow.generation import LEGACY, keras
from bnnflow.ir import fixed
from tests.random_networks import ACTIVATIONS, BIASES, INPUT_TYPES, Case, Maker, first_layer

SUMS = ("conv", "conv", "conv", "grouped", "depthwise", "separable", "pointwise")
REAL_SUMS = ("conv", "conv", "grouped", "pointwise", "depthwise", "separable")
POOLS = ("none", "none", "none", "max", "max_same", "average", "average_same", "average_sum", "qaverage", "zeros",
         "zeros_max", "crop", "upsample", "shuffle")
REAL_POOLS = ("none", "none", "max", "max_same", "average_sum", "average_same_sum", "zeros", "crop", "upsample")
MERGES = ("none", "none", "none", "none", "add", "subtract", "concatenate", "or", "and", "select")
ENDS = ("flatten", "flatten", "global_average", "global_average", "global_max", "image")
FLAT_ENDS = {"flatten": "Flatten", "global_average": "GlobalAveragePooling", "global_max": "GlobalMaxPooling"}


def layer_of(name: str, rank: int, library: Any = keras.layers) -> Any:
    """The class of a layer for images of this rank."""
    return getattr(library, f"{name}{rank}D")


class ImageMaker(Maker):
    """Blocks of convolutions; everything else as in Maker."""

    moving = False  # epilogues of whole images are slow to evaluate element by element

    def __init__(self, seed: int, real: bool, rank: int):
        super().__init__(seed, real)
        self.rank = rank
        self.keep = False  # the next sums keep the size of the image

    def geometry(self, h: Any, causal: bool) -> tuple[tuple[int, ...], dict[str, Any]]:
        """A kernel that fits, and how it is placed."""
        rng, size = self.rng, h.shape[1:-1]
        paddings = ("valid", "same", "causal") if causal and LEGACY else ("valid", "same")
        padding = "same" if self.keep else self.choose("padding", paddings)
        kernel = tuple(int(rng.integers(1, min(4, n) + 1)) for n in size)
        options: dict[str, Any] = {"padding": padding}
        if not self.keep and rng.random() < 0.4:
            self.options.append("stride=2+")
            options["strides"] = int(rng.integers(2, 4))
        elif rng.random() < 0.3 and all((k - 1) * 2 < n for k, n in zip(kernel, size)):
            self.options.append("dilation=2")
            options["dilation_rate"] = 2
        return kernel, options

    def total(self, h: Any, units: int, bias: str, activation: str | None = None) -> Any:
        rng, rank, channels = self.rng, self.rank, h.shape[-1]
        # In one dimension QKeras has no depthwise layer, and Keras' own has no real scale.
        kinds = SUMS if not self.real else REAL_SUMS[:-2] if rank == 1 else REAL_SUMS
        kind = "conv" if self.keep else self.choose("sum", kinds)
        if kind in ("depthwise", "separable"):
            return self.by_channel(kind, h, units, bias, activation)
        size, options = self.geometry(h, causal=rank == 1)
        groups = 1
        if kind == "grouped":
            groups = int(rng.choice([g for g in range(1, channels + 1) if channels % g == 0]))
            units = groups * -(-units // groups)
        if kind == "pointwise":
            size, options = (1,) * rank, {}
        if groups > 1:
            options["groups"] = groups
        shape = (*size, channels // groups, units)
        quantized, quantizer = self.quantizer(shape)
        options |= self.sum_options(quantized, bias, activation)
        plain = quantized == "plain"
        layer = layer_of("Conv", rank)(units, size, **options) if plain else layer_of("QConv", rank, qkeras)(
            units, size, kernel_quantizer=quantizer, **options)
        self.fan_in = int(np.prod(shape[:-1]))
        return self.filled(h, layer, quantized, activation)

    def by_channel(self, kind: str, h: Any, units: int, bias: str, activation: str | None) -> Any:
        """Depthwise or separable; in one dimension QKeras has no depthwise layer."""
        rank, channels, times = self.rank, h.shape[-1], int(self.rng.integers(1, 3))
        size, options = self.geometry(h, causal=False)
        # Scales that differ by channel cannot pass through the pointwise sum; one output a channel has one scale.
        times = 1 if self.real and kind == "separable" else times
        options["depth_multiplier"] = times
        quantized, quantizer = self.quantizer((*size, channels, times))
        if rank == 1 and (kind == "depthwise" or quantized.startswith("masked")):
            quantized = "plain"
        options |= self.sum_options(quantized, bias, activation)
        self.fan_in = int(np.prod(size))
        if kind == "depthwise":
            layer = layer_of("DepthwiseConv", rank)(size, **options) if quantized == "plain" else layer_of(
                "QDepthwiseConv", rank, qkeras)(size, depthwise_quantizer=quantizer, **options)
            return self.filled(h, layer, quantized, activation)
        self.fan_in *= channels * times
        if quantized == "plain":
            layer = layer_of("SeparableConv", rank)(units, size, **options)
        else:
            layer = layer_of("QSeparableConv", rank, qkeras)(
                units, size, depthwise_quantizer=quantizer, pointwise_quantizer=qkeras.ternary(alpha=1), **options)
        return self.filled(h, layer, quantized, activation)

    def after_sum(self, h: Any) -> Any:
        if not self.keep and self.rng.random() < 0.15:
            self.options.append("pool=max_of_sums")
            return layer_of("MaxPooling", self.rank)(2, strides=1, padding="same")(h)
        if self.real and not self.keep and self.rng.random() < 0.15:
            self.options.append("pool=average_of_sums")
            return layer_of("AveragePooling", self.rank)(2, strides=1, padding="same")(h)
        return h

    def pool(self, h: Any, top: int, step: float) -> tuple[Any, int, float]:
        """What may stand between an activation and the next sum."""
        rng, rank, size = self.rng, self.rank, h.shape[1:-1]
        kind = self.choose("pool", REAL_POOLS if self.real else POOLS)
        area = tuple(int(rng.integers(1, min(3, n) + 1)) for n in size)
        strides = int(rng.integers(1, 3))
        padding = "same" if "_same" in kind else "valid"
        if kind.startswith("max"):
            return layer_of("MaxPooling", rank)(area, strides=strides, padding=padding)(h), top, step
        if kind.startswith("average"):
            h = layer_of("AveragePooling", rank)(area, strides=strides, padding=padding)(h)
            if kind.endswith("_sum"):
                return h, top * int(np.prod(area)), step / int(np.prod(area))
            return self.quantised(h)
        if kind == "qaverage" and rank == 2:
            h = qkeras.QAveragePooling2D(area, strides=strides, average_quantizer="quantized_bits(8,0,1,alpha=1)")(h)
            return self.quantised(h)
        if kind.startswith("zeros"):
            pads = tuple(tuple(rng.integers(0, 3, 2).tolist()) for _ in size)
            h = layer_of("ZeroPadding", rank)(pads if rank == 2 else pads[0])(h)
            size = 2 if kind == "zeros_max" and min(h.shape[1:-1]) > 1 else 1
            return layer_of("MaxPooling", rank)(size, strides=1)(h), top, step
        if kind == "crop" and min(size) > 2:
            return layer_of("Cropping", rank)(1)(h), top, step
        if kind == "upsample" and max(size) < 6:
            return layer_of("UpSampling", rank)(2)(h), top, step
        if kind == "shuffle" and h.shape[-1] % 2 == 0:
            order = (*range(1, rank + 1), rank + 2, rank + 1)
            h = keras.layers.Reshape((*size, 2, h.shape[-1] // 2))(h)
            h = keras.layers.Reshape((*size, h.shape[-1] * 2))(keras.layers.Permute(order)(h))
        return h, top, step

    def quantised(self, h: Any) -> tuple[Any, int, float]:
        text, top, step = ACTIVATIONS[self.choose("act", ("binary", "ternary", "relu42", "bits"))]
        if self.rng.random() < 0.5:
            h = self.norm(h, "hostile", 2, 1.0)
        return qkeras.QActivation(text)(h), top, step

    def hidden(self, h: Any, levels: int, unit: float) -> tuple[Any, int, float]:
        units = int(self.rng.integers(2, 12))
        merge = self.choose("merge", MERGES[:7] if self.real else MERGES)
        if merge == "none":
            return self.pool(*self.block(h, units, levels, unit))
        self.keep = True
        if merge in ("or", "and"):
            text = "binary(use_01=True, alpha=1)"
            parts = [self.total(h, units, self.choose("bias", BIASES), text) for _ in range(2)]
            merged = (bnnflow.train.LogicOr if merge == "or" else bnnflow.train.LogicAnd)()(parts)
            self.keep = False
            return self.pool(merged, 1, 1.0)
        (a, top, step), (b, top2, step2) = (self.block(h, units, levels, unit) for _ in range(2))
        self.keep = False
        layer = bnnflow.train.ChannelSelect() if merge == "select" else getattr(keras.layers, merge.capitalize())()
        fine = min(step, step2)
        return self.pool(layer([a, b]), int((top * step + top2 * step2) / fine), fine)


def network(seed: int) -> Case:
    """The network of a seed; the same in every process."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    rank = 1 if seed % 4 == 3 else 2
    make = ImageMaker(seed, real=seed % 10 == 4, rank=rank)
    rng = make.rng
    input_type = make.choose("input", INPUT_TYPES)
    shape = (*rng.integers(4, 10, rank).tolist(), int(rng.integers(1, 7)))
    make.options.append(f"rank={rank}")
    x = keras.Input(shape)
    h, levels, unit = first_layer(make, x, fixed(input_type))
    for _ in range(int(rng.integers(1, 4))):
        h, levels, unit = make.hidden(h, levels, unit)
    end = make.choose("end", ENDS[:5] if make.real else ENDS)
    if end == "image":
        h = make.block(h, 3, levels, unit)[0]
    else:
        layer = keras.layers.Flatten if end == "flatten" else layer_of(FLAT_ENDS[end], rank)
        area = int(np.prod(h.shape[1:-1])) if end == "global_average" else 1
        h = make.head(layer()(h), levels * area, unit / area)
    for setter in make.later:
        setter()
    return Case(keras.Model(x, h), input_type, make.options, make.texts)
