"""Training and lowering: our Keras layers and quantizers, and the way from a Keras model to the integer graph.

QKeras 0.9 needs the legacy Keras (tf-keras). Importing this package asks TensorFlow for it, which works until
`tf.keras` is used for the first time.
"""

import os

from flow.errors import InputError

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf

if getattr(tf.keras, "__version__", "2").startswith("3"):
    raise InputError(
        "tf.keras is already Keras 3 in this process, which QKeras cannot use: import flow.train before tf.keras is "
        "used, or set TF_USE_LEGACY_KERAS=1"
    )

from flow.train.layers import LearnedThermometer
from flow.train.quantizers import Masked

__all__ = ["LearnedThermometer", "Masked"]
