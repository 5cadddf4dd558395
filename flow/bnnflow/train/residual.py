"""Pruning of whole residual blocks: the least harmful one goes, until the weights fit a budget of bits.

Nguyen and Guicquero (arXiv 2505.13462) prune blocks and distil, but the text that we have does not say by which
criterion and in which order. The ranking here is ours: by how much the validation loss rises when only a block's
shortcut is left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from bnnflow.errors import InputError
from bnnflow.generation import CallNode, call_nodes, keras, qkeras_objects
from bnnflow.train.layers import ChannelSelect, LogicAnd, LogicOr
from bnnflow.train.quantizers import kernels_of, unwrapped

__all__ = ["prune_blocks", "rank_blocks", "remove_block", "residual_blocks", "weight_bits"]

MERGES = (LogicOr, LogicAnd, ChannelSelect, keras.layers.Add)


def weight_bits(model: keras.Model) -> int:
    """Bits of all quantised kernels: weights, pruned ones too, times the bits that number the values of a filter.

    Of a kernel's filters, the one with the most different values decides.
    """
    total = 0
    for _, weights, quantizer in kernels_of(model):
        filters = np.asarray(unwrapped(quantizer)[0](weights)).reshape(-1, weights.shape[-1]).T
        levels = max(len(np.unique(values)) for values in filters)
        total += filters.size * max((levels - 1).bit_length(), 1)
    return total


def residual_blocks(model: keras.Model) -> dict[str, Any]:
    """The residual blocks of a functional model, in order: name of the merge -> its shortcut, a Keras tensor.

    A block ends in a merge (LogicOr, LogicAnd, ChannelSelect, Add) that is used once. Its shortcut is the input of the
    merge from which all its other inputs are computed.
    """
    before: dict[int, set[int]] = {}  # tensor: itself and the tensors that it is computed from
    found: dict[str, Any] = {}
    for node in _nodes(model):
        given = node.inputs
        past = set().union(*(before[id(t)] for t in given))
        before.update({id(t): past | {id(t)} for t in node.outputs})
        shortcuts = [t for t in given if all(id(t) in before[id(other)] for other in given)]
        if isinstance(node.layer, MERGES) and len(node.layer._inbound_nodes) == 1 and shortcuts:
            found[node.layer.name] = shortcuts[0]
    return found


def remove_block(model: keras.Model, name: str) -> keras.Model:
    """A copy of a model, its trained weights included, in which the shortcut takes the place of the merge `name`.

    Layers that only the block used are gone; the model itself stays as it is. Raises InputError where there is no such
    block.
    """
    blocks = residual_blocks(model)
    if name not in blocks:
        raise InputError(f"model {model.name!r} has no residual block {name!r}; it has {', '.join(blocks) or 'none'}")
    with keras.utils.custom_object_scope(qkeras_objects()):
        made = _called_again(model, name, blocks[name])
    ends = [[made[id(t)] for t in tensors] for tensors in (model.inputs, model.outputs)]
    smaller = keras.Model(*(tensors[0] if len(tensors) == 1 else tensors for tensors in ends), name=model.name)
    for layer in smaller.layers:
        layer.set_weights(model.get_layer(layer.name).get_weights())
    return smaller


def _called_again(model: keras.Model, skipped: str, shortcut: Any) -> dict[int, Any]:
    """Call copies of a model's layers as it calls them, but for the merge `skipped`, which yields its shortcut.

    Returns the copy of each tensor by the id of the model's.
    """
    made: dict[int, Any] = {}
    copies: dict[int, Any] = {}  # of layers, by the id of the model's
    for node in _nodes(model):
        layer = node.layer
        if layer.name == skipped:
            made[id(node.outputs[0])] = made[id(shortcut)]
            continue
        if id(layer) not in copies:
            copies[id(layer)] = type(layer).from_config(layer.get_config())
        copy = copies[id(layer)]
        args, kwargs = tf.nest.map_structure(lambda t: made.get(id(t), t), (node.args, node.kwargs))
        outputs = copy.output if node.is_input else copy(*args, **kwargs)
        made.update({id(t): new for t, new in zip(node.outputs, tf.nest.flatten(outputs))})
    return made


def rank_blocks(model: keras.Model, loss: Callable[[keras.Model], float]) -> list[tuple[str, float]]:
    """(block, rise of the loss when it is removed), the least harmful first; `loss` measures on validation samples."""
    whole = loss(model)
    rises = [(name, loss(remove_block(model, name)) - whole) for name in residual_blocks(model)]
    return sorted(rises, key=lambda rise: rise[1])


def prune_blocks(model: keras.Model, bits: int, loss: Callable[[keras.Model], float],
                 tune: Callable[[keras.Model], Any] = lambda model: None) -> keras.Model:
    """Remove the least harmful residual block, `tune` the rest, and repeat until `weight_bits` is at most `bits`.

    `tune` trains a model in place. With the unpruned network, or a float one, as a teacher it is
    `lambda m: fit(m, arrays, epochs=5, teacher=teacher)`. Raises InputError where the model without any residual block
    still has more bits.
    """
    while weight_bits(model) > bits:
        ranked = rank_blocks(model, loss)
        if not ranked:
            raise InputError(f"model {model.name!r}: {weight_bits(model)} bits of weights are left without any "
                             f"residual block, more than the budget of {bits}; make the network smaller or the budget "
                             "larger")
        model = remove_block(model, ranked[0][0])
        tune(model)
    return model


def _nodes(model: keras.Model) -> list[CallNode]:
    """The calls of layers of a functional model, each after the calls whose results it needs."""
    nodes = list(call_nodes(model))
    if not nodes:
        raise InputError(f"model {getattr(model, 'name', model)!r} is not a built functional model")
    return nodes
