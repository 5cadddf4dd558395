"""Networks, one file each: `build()` gives a Keras model, `data()` the arrays."""

import flow.train  # noqa: F401  (asks TensorFlow for the legacy Keras before QKeras imports it)
