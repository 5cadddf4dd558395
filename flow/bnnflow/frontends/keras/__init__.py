"""From a Keras model to the integer graph: a model is read, and all between its quantised activations becomes exact."""

import bnnflow.train  # noqa: F401  (asks TensorFlow for the legacy Keras before QKeras imports it)
