"""Networks, one file each: `build()` gives a Keras model, `data()` the arrays."""

import bnnflow.train  # noqa: F401  (asks TensorFlow for the legacy Keras before QKeras imports it)
