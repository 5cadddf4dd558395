from __future__ import annotations

import numpy as np
import pytest

from bnnflow.errors import InputError
from bnnflow.train import Masked
from bnnflow.train.distill import Distiller, distillation_loss, ends_in_softmax
from bnnflow.train.prune import Prune, zeros_of

import qkeras  # isort: skip
import tensorflow as tf  # isort: skip
from bnnflow.generation import keras  # isort: skip

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(64, 6)).astype(np.float32), RNG.integers(0, 3, 64)


def student(classes: int = 3) -> keras.Model:
    keras.utils.set_random_seed(1)
    x = keras.Input((6,))
    h = qkeras.QDense(8, kernel_quantizer=Masked("binary(alpha=1)"), use_bias=False, name="d1")(x)
    return keras.Model(x, keras.layers.BatchNormalization()(qkeras.QDense(
        classes, kernel_quantizer="binary(alpha=1)", use_bias=False)(h)), name="student")


def teacher(head: str | None = None, width: int = 6) -> keras.Model:
    keras.utils.set_random_seed(2)
    return keras.Sequential([keras.Input((width,)), keras.layers.Dense(16, activation="relu"),
                             keras.layers.Dropout(0.5), keras.layers.Dense(3, activation=head)], name="teacher")


def compiled(model: keras.Model) -> keras.Model:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"])
    return model


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_loss_is_the_formula(temperature):
    s, t = RNG.normal(size=(2, 5, 4)) * 3

    def softmax(z):
        e = np.exp(z / temperature)
        return e / e.sum(axis=1, keepdims=True)

    p, q = softmax(t), softmax(s)
    expected = temperature**2 * (p * np.log(p / q)).sum(axis=1)
    assert np.allclose(distillation_loss(tf.constant(s), tf.constant(t), temperature), expected)
    with tf.GradientTape() as tape:
        variable = tf.Variable(s)
        loss = tf.reduce_sum(distillation_loss(variable, tf.constant(t), temperature))
    assert np.allclose(tape.gradient(loss, variable), temperature * (q - p)), "T (q - p)"
    assert np.allclose(distillation_loss(tf.constant(t), tf.constant(t), temperature), 0)


@pytest.mark.parametrize(("head", "mix"), [(None, 1.0), ("softmax", 1.0), (None, 0.3), (None, 0.0)])
def test_the_mix_of_one_step(head, mix):
    model, teach = student(), teacher(head)
    distiller = compiled(Distiller(model, teach, 2.0, mix))
    outputs, given = model(X, training=True), teach(X, training=False)
    given = tf.math.log(given) if head else given
    kl = distillation_loss(outputs, given, 2.0)
    labels = keras.losses.sparse_categorical_crossentropy(Y, outputs, from_logits=True)
    distiller.reset_metrics()
    found = distiller.compute_loss(tf.constant(X), tf.constant(Y), outputs)
    expected = tf.reduce_mean(mix * kl + (1 - mix) * labels)
    assert np.isclose(found, expected, rtol=1e-4)


def test_fit_learns_the_student_and_nothing_else(tmp_path):
    model, teach = student(), teacher()
    before, given = model.get_weights(), teach.get_weights()
    config = model.to_json()
    distiller = compiled(Distiller(model, teach))
    history = distiller.fit(X, Y, batch_size=16, epochs=30, verbose=0,
                            callbacks=[Prune(120, "fan_in", inputs=3)]).history
    assert history["kl"][-1] < min(history["kl"][:2]) and {"loss", "accuracy"} <= history.keys()
    assert all(np.array_equal(a, b) for a, b in zip(given, teach.get_weights())), "the teacher learned"
    assert not np.array_equal(before[0], model.get_weights()[0]) and zeros_of(model) == 0.5
    assert model.to_json() == config and len(distiller.trainable_weights) == len(model.trainable_weights)
    assert not {id(w) for w in distiller.weights} & {id(w) for w in teach.weights}
    model.save(tmp_path / "student.h5", include_optimizer=False)
    assert b"teacher" not in (tmp_path / "student.h5").read_bytes()


def test_which_models_end_in_a_softmax():
    assert not ends_in_softmax(teacher()) and ends_in_softmax(teacher("softmax"))
    x = keras.Input((6,))
    assert ends_in_softmax(keras.Model(x, keras.layers.Softmax()(student()(x))))
    assert ends_in_softmax(keras.Model(x, teacher("softmax")(x))) and not ends_in_softmax(keras.Model(x, teacher()(x)))


@pytest.mark.parametrize(("call", "message"), [
    (lambda: Distiller(student(), teacher(), temperature=0), "distill: temperature=0; give a number above 0"),
    (lambda: Distiller(student(), teacher(), mix=1.5),
     "distill: mix=1.5; give a share from 0 (labels only) to 1 (teacher only)"),
    (lambda: Distiller(student(4), teacher()), "distill: the student's output is (None, 4) and the teacher's (None, 3);"
                                               " they must be one tensor of the same shape"),
    (lambda: Distiller(student(), teacher(width=7)), "distill: the student's input is (None, 6) and the teacher's "
                                                     "(None, 7); they must be one tensor of the same shape"),
])
def test_bad_input(call, message):
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value) == message
