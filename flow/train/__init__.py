"""Training and lowering: our Keras layers and quantizers, and the way from a Keras model to the integer graph.

QKeras 0.9 needs the legacy Keras (tf-keras): importing this package asks TensorFlow for it, so import `flow.train`
(or set TF_USE_LEGACY_KERAS=1) before TensorFlow.
"""

import os
import sys

from flow.errors import InputError

if "tensorflow" not in sys.modules:
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf

if getattr(tf.keras, "__version__", "2").startswith("3"):
    raise InputError(
        "TensorFlow was imported with Keras 3, which QKeras cannot use: import flow.train before tensorflow, "
        "or set TF_USE_LEGACY_KERAS=1"
    )

from flow.train.layers import LearnedThermometer
from flow.train.quantizers import Masked

__all__ = ["LearnedThermometer", "Masked"]
