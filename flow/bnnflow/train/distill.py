"""Distillation: a student learns the outputs of a teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from bnnflow.errors import InputError
from bnnflow.generation import compiled_loss, keras, producer

__all__ = ["Distiller", "distillation_loss", "ends_in_softmax"]

TINY = 1e-7  # smallest probability of a teacher that ends in a softmax


def distillation_loss(student: tf.Tensor, teacher: tf.Tensor, temperature: float = 1.0) -> tf.Tensor:
    """T^2 * KL(teacher || student) of softmax(logits / T) for each sample, in nats: two (n, classes) -> (n,).

    Hinton, Vinyals and Dean (arXiv 1503.02531); T^2 keeps the gradient's size. T = 1 is ReActNet's distributional loss
    (arXiv 2003.03488), up to the teacher's entropy, which is constant.
    """
    log_p, log_q = (tf.nn.log_softmax(logits / temperature) for logits in (teacher, student))
    return temperature**2 * tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1)


class Distiller(keras.Model):
    """A student in training with a teacher: loss = mix * T^2 * KL(teacher || student) + (1 - mix) * the compiled loss.

    Compile and fit it in the student's place; the student, unchanged but for its weights, is `student`. The teacher is
    any Keras model of the same inputs and classes, with logits or a softmax. It is called with each batch, in inference
    mode; it is neither trained nor part of this model or of any file. Logs: `kl` is the distillation loss, `loss` the
    compiled loss alone in the legacy Keras and the whole loss in Keras 3.
    """

    def __init__(self, student: keras.Model, teacher: keras.Model, temperature: float = 1.0, mix: float = 1.0):
        """T = 1 and mix = 1, without labels, is ReActNet's form.

        Raises InputError for T <= 0, a mix outside 0..1, and models whose inputs or classes differ.
        """
        super().__init__(name=f"{student.name}_distilled")
        if not 0 < temperature < float("inf"):
            raise InputError(f"distill: temperature={temperature}; give a number above 0")
        if not 0 <= mix <= 1:
            raise InputError(f"distill: mix={mix}; give a share from 0 (labels only) to 1 (teacher only)")
        for what in ("input", "output"):
            ours, theirs = (getattr(model, f"{what}_shape") for model in (student, teacher))
            if isinstance(ours, list) or ours != theirs:
                raise InputError(f"distill: the student's {what} is {ours} and the teacher's {theirs}; "
                                 "they must be one tensor of the same shape")
        self.student, self.temperature, self.mix = student, float(temperature), float(mix)
        self._kl = keras.metrics.Mean(name="kl")
        softmax, student_softmax = ends_in_softmax(teacher), ends_in_softmax(student)
        # These are functions, because Keras would track a teacher that is an attribute as a part of this model.
        self._teach: Callable[[Any], Any] = lambda x: _logits(teacher(x, training=False), softmax)
        self._learn: Callable[[Any], Any] = lambda y: _logits(y, student_softmax)

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """The student's outputs."""
        return self.student(x, training=training)

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None,
                     training: bool = True) -> tf.Tensor:
        """The mix; Keras calls this in every step."""
        compiled = compiled_loss(self, y, y_pred, sample_weight)
        kl = distillation_loss(self._learn(y_pred), tf.stop_gradient(self._teach(x)), self.temperature)
        self._kl.update_state(kl, sample_weight)
        kl = tf.reduce_mean(kl if sample_weight is None else kl * tf.reshape(sample_weight, [-1]))
        return tf.add_n([self.mix * kl, (1.0 - self.mix) * compiled, *self.losses])


def ends_in_softmax(model: keras.Model) -> bool:
    """True where the output is that of a softmax: probabilities instead of logits."""
    layer = producer(model.outputs[0])
    if isinstance(layer, keras.Model):
        return ends_in_softmax(layer)
    return isinstance(layer, keras.layers.Softmax) or getattr(getattr(layer, "activation", None), "__name__",
                                                              "") == "softmax"


def _logits(outputs: tf.Tensor, softmax: bool) -> tf.Tensor:
    return tf.math.log(tf.maximum(outputs, TINY)) if softmax else outputs
