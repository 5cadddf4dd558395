"""Networks, one file each: `build()` gives a Keras model, `data()` the arrays."""

import bnnflow.train  # noqa: F401  (before QKeras: where QKeras 0.9 is, it asks for the legacy Keras)
