"""From a Keras model to the integer graph: a model is read, every sum and every epilogue between two sums becomes exact."""

import bnnflow.train  # noqa: F401  (asks TensorFlow for the legacy Keras before QKeras imports it)
