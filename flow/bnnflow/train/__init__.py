"""Training: Keras layers, quantizers, callbacks and losses of ours, and a training run.

QKeras 0.9 needs the legacy Keras (tf-keras), which TensorFlow chooses when it is imported. Importing this package asks
for it, so import `bnnflow.train` before TensorFlow and QKeras, or set TF_USE_LEGACY_KERAS=1.
"""

import os

from bnnflow.errors import InputError

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import qkeras
import tf_keras as keras

if not issubclass(qkeras.QDense, keras.layers.Layer):
    raise InputError(
        "TensorFlow was imported before bnnflow.train and chose Keras 3, which QKeras cannot use: "
        "import bnnflow.train first, or set TF_USE_LEGACY_KERAS=1"
    )

from bnnflow.train.alphabeta import AlphaBeta, Budget
from bnnflow.train.codebooks import KernelCodebook, SubBit
from bnnflow.train.distill import Distiller
from bnnflow.train.layers import ChannelSelect, LearnedThermometer, LogicAnd, LogicOr
from bnnflow.train.optimizers import Bop, Bop2ndOrder
from bnnflow.train.proximal import Binarize
from bnnflow.train.prune import Prune
from bnnflow.train.quantizers import Binary, Masked
from bnnflow.train.saving import input_type_of, with_input_type
from bnnflow.train.schedules import Progress, harden
from bnnflow.train.weight_sets import RBNN, TTQ, TWN, AdaBin, BiPer, MultiBranch, Rotations, SignedBinary, SiMaN

# What a model file may hold of ours.
LAYERS = (Binarize, ChannelSelect, LearnedThermometer, LogicAnd, LogicOr)
QUANTIZERS = (
    AdaBin, AlphaBeta, BiPer, Binary, KernelCodebook, Masked, MultiBranch, RBNN, SiMaN, SignedBinary, SubBit, TTQ, TWN,
)

__all__ = [
    "LAYERS", "QUANTIZERS", "RBNN", "TTQ", "TWN", "AdaBin", "AlphaBeta", "BiPer", "Binarize", "Binary", "Bop",
    "Bop2ndOrder", "Budget", "ChannelSelect", "Distiller", "KernelCodebook", "LearnedThermometer", "LogicAnd",
    "LogicOr", "Masked", "MultiBranch", "Progress", "Prune", "Rotations", "SiMaN", "SignedBinary", "SubBit", "harden",
    "input_type_of", "with_input_type",
]
