"""Models that the legacy Keras wrote, in Keras 3: layers whose last bits would differ compute as they did there.

QKeras 0.9 multiplies by rsqrt(variance + epsilon) where qkeras-v3 divides by a root, which rounds twice. At a tie the
two give different codes.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

from bnnflow.frontends.keras.kernels import parameters
from bnnflow.generation import keras, leaf_layers, qkeras

__all__ = ["as_in_legacy_keras"]


def as_in_legacy_keras(model: keras.Model) -> None:
    """Let the layers of a model of Keras 3 compute in inference what the legacy Keras does with the same weights."""
    for layer in leaf_layers(model):
        if type(layer) in INFERENCE:
            layer.rsqrt = True
            layer.call = MethodType(INFERENCE[type(layer)], layer)


def _batch_norm(layer: Any, inputs: Any, training: bool | None = None) -> Any:
    """A QBatchNormalization: x * inv + (beta - mean * inv) with inv = rsqrt(variance + epsilon) * gamma."""
    if training:
        return type(layer).call(layer, inputs, training)
    mean = _quantized(layer.mean_quantizer_internal, layer.moving_mean)
    variance = _quantized(layer.variance_quantizer_internal, layer.moving_variance)
    gamma = _quantized(layer.gamma_quantizer_internal, layer.gamma)
    beta = _quantized(layer.beta_quantizer_internal, layer.beta)
    axis = layer.axis[0] if isinstance(layer.axis, list | tuple) else layer.axis
    return keras.ops.batch_normalization(inputs, mean, variance, axis, beta, gamma, layer.epsilon)


def _folded_convolution(layer: Any, inputs: Any, training: bool | None = None) -> Any:
    """A QConv2DBatchnorm: a convolution with the quantised kernel and bias that its batch norm is folded into."""
    if training:
        return type(layer).call(layer, inputs, training)
    kernel, bias = parameters(layer.name, layer, layer.kernel)
    kernel, bias = _quantized(layer.kernel_quantizer_internal, kernel), _quantized(layer.bias_quantizer_internal, bias)
    sums = keras.ops.conv(inputs, kernel, layer.strides, layer.padding, layer.data_format, layer.dilation_rate)
    result = sums + (keras.ops.reshape(bias, (-1, 1, 1)) if layer.data_format == "channels_first" else bias)
    return result if layer.activation is None else layer.activation(result)


def _quantized(quantizer: Any, value: Any) -> Any:
    return value if value is None or quantizer is None else quantizer(value)


INFERENCE = {qkeras.QBatchNormalization: _batch_norm, qkeras.QConv2DBatchnorm: _folded_convolution}
