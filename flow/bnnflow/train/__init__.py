"""Training: Keras layers, quantizers, callbacks and losses of ours, and a training run.

Import it, or `bnnflow.generation`, before TensorFlow and QKeras where Keras is the legacy one.
"""

import bnnflow.generation  # noqa: F401  (asks TensorFlow for the Keras that QKeras is made for)
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
