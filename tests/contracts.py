"""One row a kernel quantizer, activation or layer; `test_contracts.py` holds every row to the same contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import qkeras

from bnnflow.frontends.keras.wrappers import PruneLowMagnitude
from bnnflow.generation import LEGACY, keras, leaf_layers
from bnnflow.train import AlphaBeta, Binarize, Binary, ChannelSelect, LearnedThermometer, LogicAnd, LogicOr, Masked
from bnnflow.train.codebooks import KernelCodebook, SubBit
from bnnflow.train.proximal import PAIRS
from bnnflow.train.weight_sets import RBNN, TTQ, TWN, AdaBin, BiPer, MultiBranch, SignedBinary, SiMaN

CAUSAL = "causal" if LEGACY else "same"  # qkeras-v3, and separable layers of Keras 3, know no causal padding


def half_mask(shape: tuple[int, ...]) -> np.ndarray:
    """Every other connection, in a chequered pattern."""
    return np.indices(shape).sum(axis=0) % 2 == 0


def masked(quantizer: Any) -> Masked:
    layer = Masked(quantizer)
    layer.set_mask(half_mask((12, 9)))
    return layer


def finished(part: Any) -> Any:
    """A scheduled part of ours at the end of its training."""
    part.build((12, 9))
    part.progress.assign(1.0)
    return part


def turned(shape: tuple[int, ...]) -> RBNN:
    """Rotations that are not the identity."""
    quantizer = RBNN()
    quantizer.build(shape)
    quantizer.solve(np.random.default_rng(3).normal(0, 1, shape).astype(np.float32))
    return quantizer


def scaled(quantizer: TTQ, high: float, low: float) -> TTQ:
    quantizer.build((12, 9))
    quantizer.scales.assign([high, low])
    return quantizer


def units(bits: int, largest: float) -> tuple[float, ...]:
    """Integers times 2^-bits, up to `largest`."""
    return tuple(k / 2**bits for k in range(int(-largest * 2**bits), int(largest * 2**bits) + 1))


@dataclass(frozen=True)
class Kernel:
    """A kernel quantizer: how to make it, its levels, and where its gradient may be zero by design."""

    make: Callable[[], Any]
    levels: tuple[float, ...]


KERNELS = {
    "binary": Kernel(lambda: qkeras.binary(alpha=1), (-1, 1)),
    "binary_half": Kernel(lambda: qkeras.binary(alpha=0.5), (-0.5, 0.5)),
    "ternary": Kernel(lambda: qkeras.ternary(alpha=1), (-1, 0, 1)),
    "ternary_auto_po2": Kernel(lambda: qkeras.ternary(), (-0.5, 0, 0.5, 1, -1)),
    "stochastic_binary": Kernel(lambda: qkeras.stochastic_binary(alpha=1), (-1, 1)),
    "stochastic_ternary": Kernel(lambda: qkeras.stochastic_ternary(alpha=1), (-1, 0, 1)),
    "binary_use_01": Kernel(lambda: qkeras.binary(use_01=True, alpha=1), (0, 1)),
    "quantized_bits": Kernel(lambda: qkeras.quantized_bits(3, 0, alpha=1), tuple(k / 4 for k in range(-4, 4))),
    "quantized_po2": Kernel(lambda: qkeras.quantized_po2(3), (-1, -0.5, -0.25, 0.25, 0.5, 1, -2, 2)),
    "quantized_bits_wide": Kernel(lambda: qkeras.quantized_bits(16, 2, alpha=1), tuple(
        k / 2**13 for k in range(-(2**15), 2**15))),
    **({} if LEGACY else {"quantized_linear": Kernel(lambda: qkeras.quantized_linear(3, 0, alpha=1), units(2, .75))}),
    "masked_binary": Kernel(lambda: masked(qkeras.binary(alpha=1)), (-1, 0, 1)),
    "masked_ternary": Kernel(lambda: masked("ternary(alpha=1)"), (-1, 0, 1)),
    **{f"binary_{name}": Kernel(lambda name=name: finished(Binary(name)), (-1, 1)) for name in PAIRS},
    "alpha_beta": Kernel(lambda: AlphaBeta(tau=0.5, phi=-0.25), (-0.75, 0.25)),
    "masked_alpha_beta": Kernel(lambda: masked(AlphaBeta(tau=0.3, phi=0.1)), (-0.203125, 0, 0.40625)),
    **{f"ada_bin_{bits}": Kernel(lambda bits=bits: AdaBin(snapped=bits), units(bits, 4)) for bits in (1, 5)},
    "siman": Kernel(SiMaN, (-1, 1)),
    "rbnn": Kernel(lambda: turned((12, 9)), (-1, 1)),
    "biper": Kernel(lambda: finished(BiPer()), (-1, 1)),
    "signed_binary": Kernel(SignedBinary, (-1, 0, 1)),
    "twn": Kernel(TWN, units(5, 2)),
    "ttq": Kernel(lambda: scaled(TTQ(), 0.7, 0.3), (-0.3125, 0, 0.6875)),
    **{f"multi_branch_{m}": Kernel(lambda m=m: MultiBranch(m), tuple(k / 2**m for k in range(1 - 2**m, 2**m, 2)))
       for m in (1, 2, 4)},
    "masked_ada_bin": Kernel(lambda: masked(AdaBin()), units(5, 4)),
    "masked_binary_bnn++": Kernel(lambda: masked(finished(Binary("bnn++"))), (-1, 0, 1)),
}


@dataclass(frozen=True)
class Activation:
    """An activation in QKeras' notation and the values it takes, where they are few."""

    text: str
    levels: tuple[float, ...] = ()


ACTIVATIONS = {
    "binary": Activation("binary(alpha=1)", (-1, 1)),
    "binary_use_01": Activation("binary(use_01=True, alpha=1)", (0, 1)),
    "binary_alpha_half": Activation("binary(alpha=.5)", (-0.5, 0.5)),
    "ternary": Activation("ternary(alpha=1)", (-1, 0, 1)),
    "ternary_threshold": Activation("ternary(alpha=1, threshold=.2)", (-1, 0, 1)),
    "quantized_relu": Activation("quantized_relu(3,1)", tuple(k / 4 for k in range(8))),
    "quantized_relu_slope": Activation("quantized_relu(3,1,negative_slope=.25)", (-0.5, 0, 0.5, 1, 1.5)),
    "quantized_relu_sigmoid": Activation("quantized_relu(4,2,use_sigmoid=1)"),
    "stochastic_binary": Activation("stochastic_binary(alpha=1)", (-1, 1)),
    "stochastic_ternary": Activation("stochastic_ternary(alpha=1)", (-1, 0, 1)),
    "quantized_bits": Activation("quantized_bits(3,0,alpha=1)", tuple(k / 4 for k in range(-4, 4))),
    "quantized_bits_unsigned": Activation("quantized_bits(2,1,keep_negative=0,alpha=1)", (0, 0.5, 1, 1.5)),
    "quantized_relu_wide": Activation("quantized_relu(10,2)", tuple(k / 256 for k in range(1024))),
    "quantized_relu_slope_wide": Activation("quantized_relu(9,3,negative_slope=.25)", tuple(
        k / 32 for k in range(-64, 256))),
    "quantized_bits_wide": Activation("quantized_bits(12,3,alpha=1)", tuple(k / 256 for k in range(-2048, 2048))),
    **({} if LEGACY else {"quantized_linear": Activation("quantized_linear(3,0)", tuple(k / 4 for k in range(-3, 4)))}),
    "quantized_tanh": Activation("quantized_tanh(3)", tuple(k / 4 for k in range(-4, 4))),
    "quantized_sigmoid": Activation("quantized_sigmoid(3)", tuple(k / 8 for k in range(8))),
    "quantized_po2": Activation("quantized_po2(3)", (-2, -1, -0.5, -0.25, 0.25, 0.5, 1, 2)),
    "quantized_relu_po2": Activation("quantized_relu_po2(3)"),
    "quantized_hswish": Activation("quantized_hswish(4,2)"),
    "binary_tanh": Activation("binary_tanh", (-1, 1)),
    "binary_sigmoid": Activation("binary_sigmoid", (0, 1)),
}

# Layers between a thermometer and a sum, or around one: (shape of one sample) -> layers.
LAYERS: dict[str, tuple[tuple[int, ...], Callable[[], list[keras.layers.Layer]]]] = {
    "thermometer": ((6,), lambda: [LearnedThermometer(3)]),
    "thermometer_per_channel": ((6,), lambda: [LearnedThermometer(2, per_channel=True)]),
    "thermometer_image": ((3, 2, 2), lambda: [LearnedThermometer(2), keras.layers.Flatten()]),
    "dense": ((6,), lambda: [dense(5)]),
    "dense_bias": ((6,), lambda: [dense(5, use_bias=True)]),
    **{f"binarize_{name}": ((6,), lambda name=name: [dense(5), keras.layers.BatchNormalization(),
                                                     finished(Binarize(name)), dense(4)]) for name in PAIRS},
    "dense_rank3": ((3, 4), lambda: [dense(5)]),
    "dense_activation": ((6,), lambda: [dense(5, activation="binary(alpha=1)")]),
    "batchnorm": ((6,), lambda: [dense(5), keras.layers.BatchNormalization()]),
    "batchnorm_first": ((6,), lambda: [keras.layers.BatchNormalization(), qkeras.QActivation("binary(alpha=1)")]),
    "flatten": ((3, 4), lambda: [dense(5), keras.layers.Flatten()]),
    "batchnorm_flatten": ((3, 4), lambda: [dense(5), keras.layers.BatchNormalization(), keras.layers.Flatten()]),
    "reshape": ((6,), lambda: [keras.layers.Reshape((3, 2))]),
    "reshape_then_batchnorm": ((6,), lambda: [dense(8), keras.layers.Reshape((4, 2)),
                                               keras.layers.BatchNormalization()]),
    "dropout": ((6,), lambda: [keras.layers.Dropout(0.5)]),
    "qbatchnorm": ((6,), lambda: [dense(5), qkeras.QBatchNormalization()]),
    "two_batchnorms": ((6,), lambda: [dense(5), keras.layers.BatchNormalization(), keras.layers.BatchNormalization()]),
    "permute": ((3, 4), lambda: [dense(5), keras.layers.Permute((2, 1)), keras.layers.BatchNormalization()]),
    "batchnorm_permute": ((3, 4), lambda: [dense(5), keras.layers.BatchNormalization(), keras.layers.Permute((2, 1)),
                                           keras.layers.Flatten()]),
    "repeat": ((6,), lambda: [dense(5), keras.layers.BatchNormalization(), keras.layers.RepeatVector(3)]),
    "relu": ((6,), lambda: [dense(5), keras.layers.ReLU()]),
    "leaky_relu": ((6,), lambda: [dense(5), keras.layers.LeakyReLU(0.3), keras.layers.BatchNormalization()]),
    "prelu": ((6,), lambda: [dense(5), keras.layers.PReLU("uniform")]),
    "elu": ((6,), lambda: [dense(5), keras.layers.ELU()]),
    **({"thresholded_relu": ((6,), lambda: [dense(5), keras.layers.ThresholdedReLU(0.5)])} if LEGACY else {}),
    "sigmoid_inside": ((6,), lambda: [dense(5), keras.layers.Activation("sigmoid"), keras.layers.BatchNormalization()]),
    "hard_sigmoid_quantizer": ((6,), lambda: [dense(5), qkeras.QActivation("hard_sigmoid"),
                                              keras.layers.BatchNormalization()]),
    "hard_tanh_quantizer": ((6,), lambda: [dense(5), qkeras.QActivation("hard_tanh"),
                                           keras.layers.BatchNormalization()]),
    # Two functions of one name: Keras' own, and that of QKeras, which QKeras' layers take.
    "hard_sigmoid": ((6,), lambda: [dense(5), keras.layers.Activation("hard_sigmoid"),
                                    keras.layers.BatchNormalization()]),
    "hard_sigmoid_conv": ((4, 4, 2), lambda: [conv(3, 3), keras.layers.Activation("hard_sigmoid"),
                                              keras.layers.BatchNormalization()]),
    "hard_sigmoid_argument": ((6,), lambda: [dense(5, activation="hard_sigmoid"), keras.layers.BatchNormalization()]),
    "tanh_argument": ((6,), lambda: [dense(5, activation="tanh"), keras.layers.BatchNormalization()]),
    "hard_tanh": ((6,), lambda: [dense(5), qkeras.QActivation("hard_tanh")]),
    "rescaling_dyadic": ((6,), lambda: [keras.layers.Rescaling(2.0, -0.75), dense(5)]),
    "rescaling_thermometer": ((6,), lambda: [keras.layers.Rescaling(1 / 3, 0.1), LearnedThermometer(3)]),
    **({} if LEGACY else {"rescaling_array": ((6,), lambda: [keras.layers.Rescaling(np.arange(6) / 4 - 0.5)])}),
    "rescaling": ((6,), lambda: [keras.layers.Rescaling(1 / 255, -0.03)]),
    "normalization": ((6,), lambda: [keras.layers.Normalization(mean=[0.3] * 6, variance=[0.1 * k + 0.1
                                                                                           for k in range(6)])]),
    "noise": ((6,), lambda: [keras.layers.GaussianNoise(1.0), keras.layers.GaussianDropout(0.5),
                             keras.layers.AlphaDropout(0.5), keras.layers.ActivityRegularization(0.1)]),
    "quantised_input": ((6,), lambda: [qkeras.QActivation("ternary(alpha=1)")]),
    "conv1d_causal": ((7, 3), lambda: [conv(4, 3, rank=1, dilation_rate=2, padding=CAUSAL)]),
    "conv1d_valid": ((7, 3), lambda: [conv(4, 2, rank=1, strides=3), keras.layers.BatchNormalization()]),
    "conv2d": ((5, 4, 3), lambda: [conv(4, 3, padding="same", strides=2, use_bias=True),
                                   keras.layers.BatchNormalization()]),
    "conv2d_groups": ((4, 5, 6), lambda: [conv(9, (2, 3), groups=3, padding="same")]),
    "conv2d_dilated": ((6, 7, 2), lambda: [conv(3, 3, dilation_rate=2, padding="same")]),
    "conv2d_pointwise": ((3, 4, 5), lambda: [conv(3, 1, activation="binary(alpha=1)")]),
    "conv2d_after_activation": ((4, 4, 2), lambda: [qkeras.QActivation("binary(alpha=1)"), conv(3, 3, padding="same")]),
    "conv2d_codebook": ((5, 4, 3), lambda: [conv(8, 3, kernel_quantizer=KernelCodebook(4, seed=1))]),
    "conv2d_codebook_groups": ((4, 5, 4), lambda: [conv(6, 3, groups=2, padding="same", kernel_quantizer=KernelCodebook(
        8, candidates=16, gradient="bireal", seed=2))]),
    "conv2d_subbit": ((5, 4, 3), lambda: [conv(8, 3, padding="same", kernel_quantizer=SubBit(4, seed=3))]),
    "conv2d_subbit_masked": ((4, 4, 2), lambda: [conv(4, 3, kernel_quantizer=Masked(SubBit(2, seed=4)))]),
    "depthwise_codebook": ((4, 5, 3), lambda: [qkeras.QDepthwiseConv2D(
        3, depth_multiplier=2, depthwise_quantizer=KernelCodebook(3, seed=5), use_bias=False)]),
    "folded_conv2d": ((6, 5, 3), lambda: [qkeras.QConv2DBatchnorm(
        4, 3, padding="same", strides=2, kernel_quantizer=bits(5), bias_quantizer=bits(8, 3))]),
    "folded_conv2d_float_bias": ((5, 4, 2), lambda: [qkeras.QConv2DBatchnorm(
        3, (2, 3), use_bias=False, kernel_quantizer=qkeras.ternary(), folding_mode="batch_stats_folding",
        ema_freeze_delay=1, activation="quantized_relu(3,1)")]),
    "folded_depthwise": ((5, 4, 3), lambda: [qkeras.QDepthwiseConv2DBatchnorm(
        3, depth_multiplier=2, padding="same", depthwise_quantizer=bits(4), bias_quantizer=bits(6, 2))]),
    "folded_depthwise_float_bias": ((4, 5, 3), lambda: [qkeras.QDepthwiseConv2DBatchnorm(
        2, use_bias=False, depthwise_quantizer=qkeras.binary(alpha=1), folding_mode="batch_stats_folding",
        ema_freeze_delay=1)]),
    **({} if LEGACY else {"folded_dense": ((6,), lambda: [qkeras.QDenseBatchnorm(
        5, kernel_quantizer=bits(5, 1), bias_quantizer=bits(8, 3))]),
        "folded_dense_float_bias": ((3, 4), lambda: [qkeras.QDenseBatchnorm(
            5, use_bias=False, kernel_quantizer=bits(3), ema_freeze_delay=1, activation="ternary(alpha=1)")]),
        "conv2d_mask": ((5, 4, 3), lambda: [conv(4, 3, mask=np.float32([[1, 0, 1], [0, 1, 0], [1, 1, 0]]))])}),
    "plain_conv1d": ((7, 2), lambda: [keras.layers.Conv1D(3, 3, padding="same")]),
    "plain_conv2d": ((4, 5, 2), lambda: [keras.layers.Conv2D(3, 2)]),
    "depthwise": ((4, 5, 3), lambda: [qkeras.QDepthwiseConv2D(
        3, depth_multiplier=2, padding="same", depthwise_quantizer=qkeras.ternary(alpha=1), use_bias=False)]),
    "plain_depthwise1d": ((7, 3), lambda: [keras.layers.DepthwiseConv1D(3, strides=2)]),
    "plain_depthwise2d": ((4, 5, 3), lambda: [keras.layers.DepthwiseConv2D(2)]),
    "separable1d": ((7, 3), lambda: [qkeras.QSeparableConv1D(
        4, 3, padding="same", depthwise_quantizer=qkeras.binary(alpha=1), pointwise_quantizer=qkeras.binary(alpha=1))]),
    "separable2d": ((5, 4, 3), lambda: [qkeras.QSeparableConv2D(
        4, 2, depth_multiplier=2, depthwise_quantizer=qkeras.ternary(alpha=1),
        pointwise_quantizer=qkeras.binary(alpha=1), use_bias=False)]),
    "plain_separable1d": ((7, 2), lambda: [keras.layers.SeparableConv1D(3, 3, padding=CAUSAL)]),
    "plain_separable2d": ((4, 5, 2), lambda: [keras.layers.SeparableConv2D(3, 2)]),
    "pruned": ((6,), lambda: [PruneLowMagnitude(dense(5, kernel_quantizer=bits(4), use_bias=True)),
                              PruneLowMagnitude(keras.layers.BatchNormalization())]),
    "pruned_binary": ((5, 4, 2), lambda: [PruneLowMagnitude(conv(3, 3))]),
    "pruned_separable": ((5, 4, 2), lambda: [PruneLowMagnitude(qkeras.QSeparableConv2D(
        3, 3, depthwise_quantizer=bits(3), pointwise_quantizer=bits(3), use_bias=False))]),
    "pruned_folded": ((5, 4, 2), lambda: [PruneLowMagnitude(qkeras.QConv2DBatchnorm(3, 2, kernel_quantizer=bits(4)))]),
    "times_dense": ((3, 4), lambda: [each(dense(5, use_bias=True)), each(keras.layers.BatchNormalization()),
                                     each(qkeras.QActivation("quantized_relu(3,1)"))]),
    "times_image": ((3, 4, 2), lambda: [conv(3, 2), each(keras.layers.BatchNormalization()), each(
        keras.layers.LeakyReLU(0.3)), each(keras.layers.Flatten())]),
    "times_twice": ((3, 2, 4), lambda: [each(each(dense(5, activation="binary(alpha=1)"))),
                                        each(keras.layers.Permute((2, 1)))]),
    "times_prelu": ((3, 2, 4), lambda: [conv(3, 1), each(keras.layers.PReLU("uniform"))]),
    "max_pooling1d": ((7, 3), lambda: [keras.layers.MaxPooling1D(3, padding="same")]),
    "max_pooling2d": ((5, 4, 3), lambda: [keras.layers.MaxPooling2D((3, 2), strides=1, padding="same")]),
    "max_pooling_of_sums": ((5, 4, 3), lambda: [conv(4, 2, use_bias=True), keras.layers.MaxPooling2D(2),
                                                keras.layers.BatchNormalization()]),
    "average_pooling1d": ((7, 3), lambda: [keras.layers.AveragePooling1D(3, padding="same")]),
    "average_pooling2d": ((5, 4, 3), lambda: [keras.layers.AveragePooling2D((3, 2))]),
    "average_pooling2d_same": ((5, 4, 3), lambda: [keras.layers.AveragePooling2D(3, strides=2, padding="same"),
                                                   keras.layers.BatchNormalization()]),
    "average_pooling_before_sum": ((4, 4, 3), lambda: [keras.layers.AveragePooling2D(2), conv(3, 2)]),
    "qaverage_pooling2d": ((6, 4, 3), lambda: [qkeras.QAveragePooling2D(
        3, average_quantizer="quantized_bits(8,0,1,alpha=1)", activation="quantized_bits(4,1,alpha=1)")]),
    "global_average1d": ((7, 3), lambda: [keras.layers.GlobalAveragePooling1D()]),
    "global_average2d": ((5, 4, 3), lambda: [keras.layers.GlobalAveragePooling2D(keepdims=True)]),
    "global_average_before_sum": ((4, 4, 3), lambda: [keras.layers.GlobalAveragePooling2D(), dense(5)]),
    "qglobal_average2d": ((5, 4, 3), lambda: [qkeras.QGlobalAveragePooling2D(
        average_quantizer="quantized_bits(8,0,1,alpha=1)")]),
    "global_max1d": ((7, 3), lambda: [keras.layers.GlobalMaxPooling1D()]),
    "global_max2d": ((5, 4, 3), lambda: [keras.layers.GlobalMaxPooling2D(keepdims=True)]),
    "zero_padding1d": ((5, 3), lambda: [qkeras.QActivation("binary(alpha=1)"), keras.layers.ZeroPadding1D(2),
                                        conv(3, 3, rank=1)]),
    "zero_padding2d": ((5, 4, 3), lambda: [qkeras.QActivation("binary(alpha=1)"),
                                           keras.layers.ZeroPadding2D(((1, 0), (2, 3))), conv(3, 3, strides=2)]),
    "zero_padding_alone": ((3, 4, 2), lambda: [qkeras.QActivation("binary(alpha=.5)"), keras.layers.ZeroPadding2D(1),
                                               keras.layers.MaxPooling2D(2)]),
    "cropping1d": ((7, 2), lambda: [keras.layers.Cropping1D((1, 2)), conv(3, 2, rank=1)]),
    "cropping2d": ((5, 6, 2), lambda: [conv(3, 2), keras.layers.Cropping2D(((1, 0), (1, 2)))]),
    "upsampling1d": ((4, 2), lambda: [keras.layers.UpSampling1D(2), conv(3, 3, rank=1)]),
    "upsampling2d": ((3, 2, 2), lambda: [qkeras.QActivation("ternary(alpha=1)"), keras.layers.UpSampling2D((2, 3)),
                                         conv(3, 3)]),
    "channel_shuffle": ((3, 2, 2), lambda: [
        conv(6, 1), qkeras.QActivation("binary(alpha=1)"), keras.layers.Reshape((3, 2, 2, 3)),
        keras.layers.Permute((1, 2, 4, 3)), keras.layers.Reshape((3, 2, 6)), conv(4, 2, groups=2)]),
    "thermometer_conv": ((4, 5, 2), lambda: [LearnedThermometer(3), conv(3, 3, padding="same")]),
    "prelu_image": ((3, 4, 2), lambda: [conv(3, 2), keras.layers.PReLU("uniform")]),
    "prelu_shared": ((3, 4, 2), lambda: [conv(3, 2), keras.layers.PReLU("uniform", shared_axes=(1, 2))]),
    "softmax": ((6,), lambda: [dense(5), keras.layers.Softmax()]),
    "activation_softmax": ((6,), lambda: [dense(5), keras.layers.Activation("softmax")]),
    "sigmoid": ((6,), lambda: [dense(5, use_bias=True, activation="sigmoid")]),
}
HEADS = ("softmax", "activation_softmax", "sigmoid")  # rows that end a network


def plain_dense() -> keras.Model:
    """A Dense whose float weights are small integers times 1/4, a bias on a finer grid."""
    x, layer = keras.Input((6,)), keras.layers.Dense(5)
    model = keras.Model(x, dense(3)(qkeras.QActivation("binary(alpha=1)")(layer(x))))
    rng = np.random.default_rng(0)
    layer.set_weights([rng.integers(-3, 4, (6, 5)) / 4, rng.integers(-30, 31, 5) / 64])
    return model


def quantised(x: Any, text: str, units: int = 5) -> Any:
    """A sum, a batch norm and an activation."""
    return qkeras.QActivation(text)(keras.layers.BatchNormalization()(dense(units)(x)))


def merged(layer: keras.layers.Layer, *texts: str) -> keras.Model:
    """Branches with these activations, merged, then a sum."""
    x = keras.Input((6,))
    return keras.Model(x, dense(3)(layer([quantised(x, text) for text in texts])))


def shared_layers() -> keras.Model:
    """One dense layer and one activation, each used twice."""
    x, layer, act = keras.Input((6,)), dense(6), qkeras.QActivation("binary(alpha=1)")
    return keras.Model(x, dense(3)(act(layer(act(layer(x))))))


def wide(text: str, normalised: bool = True) -> Callable[[], keras.Model]:
    """Sums of so many values that a wide activation is no table but ramps."""
    def make() -> keras.Model:
        x, bits = keras.Input((6,)), qkeras.quantized_bits(12, 1, alpha=1)
        h = dense(5, kernel_quantizer=bits, use_bias=not normalised)(x)
        h = keras.layers.BatchNormalization()(h) if normalised else h
        last = dense(3, kernel_quantizer=qkeras.quantized_bits(4, 0, alpha=1))
        return keras.Model(x, last(qkeras.QActivation(text)(h)))

    return make


def nested() -> keras.Model:
    """A Sequential inside a functional model inside a functional model, used twice."""
    inner = keras.Sequential([keras.Input((6,)), dense(6, name="in_d"), qkeras.QActivation("ternary(alpha=1)")])
    y = keras.Input((6,))
    middle = keras.Model(y, keras.layers.BatchNormalization()(dense(6)(inner(y))), name="middle")
    x = keras.Input((6,))
    h = qkeras.QActivation("binary(alpha=1)")(middle(x))
    return keras.Model(x, dense(2)(qkeras.QActivation("quantized_relu(2,1)")(middle(h))))


def by_name() -> keras.Model:
    """A nested model of two inputs in one order, called with a dictionary in another."""
    a, b = (keras.Input((6,), name=name) for name in "ab")
    kinds = [qkeras.QActivation(f"quantized_bits({k},0,alpha=1)")(t) for k, t in ((2, a), (4, b))]
    inner = keras.Model([b, a], keras.layers.Subtract()(kinds))
    x, y = keras.Input((6,), name="x"), keras.Input((6,), name="y")
    return keras.Model([x, y], dense(3)(inner({"b": y, "a": x})))


def several() -> keras.Model:
    """Two inputs, two outputs, one of them in the middle."""
    x, y = keras.Input((6,), name="a"), keras.Input((4,), name="b")
    h = keras.layers.Concatenate()([quantised(x, "binary(alpha=1)"), quantised(y, "binary(alpha=1)")])
    return keras.Model([y, x], [dense(3)(h), h])


MODELS: dict[str, Callable[[], keras.Model]] = {
    "concatenate": lambda: merged(keras.layers.Concatenate(), "binary(alpha=1)", "binary(alpha=1)", "binary(alpha=1)"),
    "concatenate_mixed": lambda: merged(keras.layers.Concatenate(), "binary(alpha=1)", "quantized_relu(3,1)",
                                        "ternary(alpha=1)"),
    "add": lambda: merged(keras.layers.Add(), "binary(alpha=1)", "binary(alpha=1)"),
    "add_mixed": lambda: merged(keras.layers.Add(), "binary(alpha=.5)", "quantized_relu(3,1)", "ternary(alpha=1)"),
    "subtract": lambda: merged(keras.layers.Subtract(), "quantized_bits(3,0,alpha=1)", "binary(alpha=1)"),
    "logic_or": lambda: merged(LogicOr(), "binary(alpha=1)", "binary(alpha=1)", "binary(alpha=1)"),
    "logic_and": lambda: merged(LogicAnd(), "binary(use_01=True, alpha=1)", "binary(use_01=True, alpha=1)"),
    "channel_select": lambda: merged(ChannelSelect(), "binary(alpha=1)", "binary(alpha=1)", "binary(alpha=1)"),
    "channel_select_mixed": lambda: merged(ChannelSelect(), "binary(alpha=.5)", "quantized_relu(3,1)"),
    "plain_dense": plain_dense,
    "wide_relu": wide("quantized_relu(10,2)"),
    "wide_relu_ties": wide("quantized_relu(10,2)", normalised=False),
    "wide_bits": wide("quantized_bits(9,2,alpha=1)"),
    "wide_few_reached": wide("quantized_bits(10,9,alpha=1)"),
    "wide_slope": wide("quantized_relu(9,3,negative_slope=.25)"),
    "wide_slope_ties": wide("quantized_relu(9,3,negative_slope=.25)", normalised=False),
    "many_levels_ties": wide("quantized_tanh(6)", normalised=False),
    "shared_layers": shared_layers,
    "nested": nested,
    "by_name": by_name,
    "several": several,
}


def dense(units: int, **options: Any) -> qkeras.QDense:
    """A binary QDense without bias, unless told otherwise."""
    return qkeras.QDense(units, **{"kernel_quantizer": qkeras.binary(alpha=1), "use_bias": False, **options})


def each(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The layer at each time."""
    return keras.layers.TimeDistributed(layer)


def bits(width: int, integer: int = 0) -> Any:
    """Weights of so many bits, exact."""
    return qkeras.quantized_bits(width, integer, alpha=1)


def conv(filters: int, size: Any, rank: int = 2, **options: Any) -> keras.layers.Layer:
    """A binary QConv2D or QConv1D without bias, unless told otherwise."""
    kind = (qkeras.QConv1D, qkeras.QConv2D)[rank - 1]
    return kind(filters, size, **{"kernel_quantizer": qkeras.binary(alpha=1), "use_bias": False, **options})


def shake(model: keras.Model, seed: int = 0) -> keras.Model:
    """Random weights, with batch norms of both signs; masks and thermometers keep theirs."""
    rng = np.random.default_rng(seed)
    for layer in leaf_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            n = layer.gamma.shape[0]
            layer.set_weights([rng.normal(0, 1, n), rng.normal(0, 1, n), rng.integers(-2, 3, n), rng.uniform(0, 4, n)])
        elif isinstance(layer, PruneLowMagnitude):
            for _, mask in layer.pruning_vars:
                mask.assign(half_mask(mask.shape))
        elif isinstance(layer, LearnedThermometer):
            layer.gaps.assign(rng.normal(0, 1, layer.gaps.shape))
        elif type(layer).__module__.startswith("qkeras") or "convolutional" in type(layer).__module__:
            for name in ("kernel", "depthwise_kernel", "pointwise_kernel"):
                weight = getattr(layer, name, None)
                if weight is not None:
                    w = rng.normal(0, 0.7, weight.shape)
                    weight.assign(w if type(layer).__module__.startswith("qkeras") else np.rint(4 * w) / 4)
            if getattr(layer, "bias", None) is not None:
                # Fixed-point, so that logits are exact.
                layer.bias.assign(np.round(rng.normal(0, 16, layer.bias.shape)) / 16)
    return model
