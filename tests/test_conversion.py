# SPDX-License-Identifier: Apache-2.0
import keras
import numpy as np
import pytest

import keras_bn
from keras_bn import structure
from tests import networks, versions

KERAS, OURS = networks.NORMS


def predictions(model, x):
    return model.predict(x, verbose=0)


def example(model, examples=6):
    if isinstance(model, networks.Subclassed):
        return np.random.default_rng(1).normal(size=(examples, 4))
    return networks.inputs_of(model, examples)


@pytest.mark.parametrize("make", networks.ALL)
@pytest.mark.parametrize(
    ("norm", "to", "other"), [(KERAS, "keras_bn", OURS), (OURS, "keras", KERAS)]
)
def test_predictions_names_and_structure_stay(make, norm, to, other):
    model = networks.randomized(make(norm))
    x = example(model)
    expected, weights = predictions(model, x), model.get_weights()
    converted = keras_bn.convert(model, to=to)
    np.testing.assert_allclose(
        predictions(converted, x), expected, rtol=1e-5, atol=1e-5
    )
    weight_names = [w.name for w in model.weights]
    assert [w.name for w in converted.weights] == weight_names
    for find in (lambda x: x.layers, structure.batch_normalizations):
        names = [layer.name for layer in find(model)]
        assert [layer.name for layer in find(converted)] == names
    kinds = {type(x) for x in structure.batch_normalizations(converted)}
    assert kinds == {other}
    # The model itself is as before.
    assert {type(x) for x in structure.batch_normalizations(model)} == {norm}
    for now, then in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("make", networks.ALL)
def test_nothing_is_shared_with_the_original(make):
    model = networks.randomized(make())
    converted = keras_bn.convert(model)
    weights = model.get_weights()
    for weight in converted.weights:
        weight.assign(weight + 1)
    for now, then in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(now, then)


def test_a_functional_model_keeps_its_graph():
    model = networks.branched()
    graph = model.get_config()
    converted = keras_bn.convert(model)
    assert model.get_config() == graph
    assert type(converted) is type(model)
    names = [layer["name"] for layer in graph["layers"]]
    assert [x["name"] for x in converted.get_config()["layers"]] == names


@pytest.mark.parametrize("make", [networks.sequential, networks.composite])
def test_trainable_carries_over_at_every_depth(make):
    model = make()
    model.trainable = False
    structure.batch_normalizations(model)[0].trainable = True
    converted = keras_bn.convert(model)
    assert [x.trainable for x in structure.sublayers(converted)] == [
        x.trainable for x in structure.sublayers(model)
    ]
    assert not converted.trainable


def test_layer_options_replace_the_layers_own():
    model = networks.sequential()
    converted = keras_bn.convert(model, virtual_batch_size=2, momentum=0.5)
    for layer in structure.batch_normalizations(converted):
        assert (layer.virtual_batch_size, layer.momentum) == (2, 0.5)
    again = keras_bn.convert(converted, moving_average="cumulative")
    for layer in structure.batch_normalizations(again):
        assert layer.virtual_batch_size == 2
        assert len(layer.weights) == 6


def test_an_activation_is_carried_over_but_keras_has_none():
    model = keras.Sequential(
        [keras.Input((4,)), OURS(activation="silu", name="bn")]
    )
    networks.randomized(model)
    x = networks.inputs_of(model)
    np.testing.assert_array_equal(keras_bn.convert(model)(x), model(x))
    with pytest.raises(ValueError, match=r"activation\. Received: .*silu"):
        keras_bn.convert(model, to="keras")


@pytest.mark.parametrize(
    "options",
    [
        {"keeps": "output"},
        {"moving_average": "cumulative"},
        {"moving_variance_estimator": "unbiased"},
        {"renorm": True, "renorm_clipping": {"rmax": 2.0}},
        {"single_value": "error"},
        {"virtual_batch_size": 2},
    ],
)
def test_options_of_ours_carry_over(options):
    model = keras.Sequential([keras.Input((4,)), OURS(**options)])
    networks.randomized(model)
    converted = keras_bn.convert(model)
    for name, value in options.items():
        assert getattr(converted.layers[0], name) == value
    theirs = {w.name: w.numpy() for w in model.weights}
    assert len(theirs) == len(converted.weights)
    for weight in converted.weights:
        np.testing.assert_array_equal(weight, theirs[weight.name])


def test_what_has_no_configuration_carries_over():
    class Twos(keras.initializers.Initializer):
        def __call__(self, shape, dtype=None):
            return keras.ops.full(shape, 2, dtype)

    class Squares(keras.regularizers.Regularizer):
        def __call__(self, x):
            return keras.ops.sum(x**2)

    def tripled(z):
        return z * 3

    parts = {"gamma_initializer": Twos(), "beta_regularizer": Squares()}
    for norm in (
        keras.layers.BatchNormalization(**parts),
        OURS(activation=tripled, **parts),
    ):
        model = keras.Sequential([keras.Input((4,)), norm])
        copied = keras_bn.convert(model).layers[-1]
        assert isinstance(copied, OURS)
        for name, part in parts.items():
            assert getattr(copied, name) is part
        np.testing.assert_array_equal(copied.gamma, 2)
        x = np.ones((2, 4), "float32")
        np.testing.assert_array_equal(copied(x), norm(x))


@pytest.mark.parametrize("to", ["keras", "keras_bn"])
@pytest.mark.parametrize("norm", [keras.layers.BatchNormalization, OURS])
def test_penalties_carry_over_and_foreign_attributes_mean_nothing(norm, to):
    layer = norm(activity_regularizer="l2")
    model = keras.Sequential([keras.Input((4,)), layer])
    if norm is not OURS:
        layer.keeps, layer.activation, layer.kwargs = True, "relu", {}
    copied = keras_bn.convert(model, to=to)
    x = np.array([[1, -2, 3, -4]], "float32")
    np.testing.assert_array_equal(copied(x), model(x))
    assert len(copied.losses) == len(model.losses) == 1
    assert float(copied.losses[0]) == pytest.approx(float(model.losses[0]))


def test_a_class_derived_from_a_bn_layer_stays():
    class Other(KERAS):
        pass

    model = keras.Sequential([keras.Input((4,)), Other()])
    assert type(keras_bn.convert(model).layers[0]) is Other


def test_weights_that_a_layer_had_not_begin_as_the_layer_makes_them():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            OURS(center=False, scale=False, name="norm"),
        ]
    )
    converted = keras_bn.convert(model, scale=True, center=True)
    norm = converted.get_layer("norm")
    np.testing.assert_array_equal(norm.gamma, np.ones(4))
    np.testing.assert_array_equal(norm.beta, np.zeros(4))
    assert norm.gamma.trainable
    assert norm.beta.trainable


def test_names_of_later_layers_do_not_depend_on_it():
    def number():
        OURS()  # The first of all has none.
        return int(OURS().name.rpartition("_")[2])

    model, before = networks.sequential(), number()
    keras_bn.convert(model, momentum=0.9)
    assert number() == before + 2


def test_an_option_that_keras_lacks_is_refused_or_dropped_by_name():
    model = keras_bn.convert(networks.sequential(), virtual_batch_size=2)
    with pytest.raises(ValueError, match="virtual_batch_size=2 in layer bn"):
        keras_bn.convert(model, to="keras")
    back = keras_bn.convert(model, to="keras", virtual_batch_size=None)
    assert {type(x) for x in structure.batch_normalizations(back)} == {KERAS}


@pytest.mark.parametrize(("axis", "allowed"), [((-1,), True), ((1, 2), False)])
def test_keras_takes_a_single_axis(axis, allowed):
    model = keras.Sequential([keras.Input((2, 3)), OURS(axis=axis, name="bn")])
    if allowed:
        converted = keras_bn.convert(model, to="keras")
        assert converted.layers[0].axis == -1
    else:
        with pytest.raises(ValueError, match=r"axis=\(1, 2\) in layer bn"):
            keras_bn.convert(model, to="keras")


@versions.needs_renorm
def test_statistics_of_renorm_carry_over():
    model = keras.Sequential([keras.Input((4,)), KERAS(renorm=True)])
    networks.randomized(model)
    converted = keras_bn.convert(model)
    theirs = {w.path: w.numpy() for w in model.weights}
    assert len(theirs) == 7
    for weight in converted.weights:
        np.testing.assert_array_equal(weight, theirs[weight.path])


@pytest.mark.parametrize(
    "to", ["keras_bn", pytest.param("keras", marks=versions.needs_renorm)]
)
def test_renorm_begins_with_the_statistics_that_are_there(to):
    model = networks.randomized(networks.sequential())
    converted = keras_bn.convert(model, to=to, renorm=True)
    for layer in structure.batch_normalizations(converted):
        std = np.sqrt(np.asarray(layer.moving_variance) + layer.epsilon)
        np.testing.assert_allclose(layer.moving_stddev, std, rtol=1e-6)
        np.testing.assert_array_equal(layer.renorm_stddev, layer.moving_stddev)
        np.testing.assert_array_equal(layer.renorm_mean, layer.moving_mean)
    x = example(model)
    np.testing.assert_allclose(
        converted(x, training=True), model(x), rtol=1e-4, atol=1e-4
    )


def test_trainable_may_be_an_option():
    model = networks.sequential()
    for layer in structure.batch_normalizations(
        keras_bn.convert(model, trainable=False)
    ):
        assert not layer.trainable


def test_statistics_that_do_not_fit_are_refused():
    model = keras.Sequential([keras.Input((2,)), OURS(dtype="float16")])
    model.layers[0].moving_variance.assign([1.0, 1e5])
    with pytest.raises(ValueError, match=r"fit into float16.* up to 100000 in"):
        keras_bn.convert(model, to="keras")


def test_a_converted_model_trains_whatever_the_original_was_compiled_with():
    model = networks.sequential()
    model.compile("adam", lambda y, prediction: (y - prediction) ** 2)
    converted = keras_bn.convert(model)
    assert not converted.compiled
    converted.compile(keras.optimizers.SGD(0.1), "mse")
    x = networks.inputs_of(model, 8)
    losses = converted.fit(x, np.ones((8, 5)), epochs=9, verbose=0).history
    assert losses["loss"][-1] < 0.9 * losses["loss"][0]


def test_lambda_layers_and_operations_are_copied():
    x = keras.Input((4,))
    y = keras.layers.Lambda(lambda t: 2 * t)(KERAS()(x[:, :3]))
    model = networks.randomized(keras.Model(x, y))
    inputs = networks.inputs_of(model)
    np.testing.assert_allclose(
        keras_bn.convert(model)(inputs), model(inputs), rtol=1e-5
    )


@pytest.mark.parametrize("make", [networks.sequential, networks.composite])
def test_a_converted_model_can_be_saved(make, tmp_path):
    model = keras_bn.convert(networks.randomized(make()))
    path = tmp_path / "model.keras"
    model.save(path)
    if make is networks.composite:
        return  # Block makes Keras' layers anew when it is loaded.
    x = networks.inputs_of(model)
    again = keras.models.load_model(path)
    np.testing.assert_array_equal(predictions(again, x), predictions(model, x))


def test_a_layer_that_makes_its_sublayers_in_build_is_refused():
    class Late(keras.layers.Layer):
        def build(self, _):
            self.bn = KERAS()

        def call(self, x):
            return self.bn(x)

    x = keras.Input((4,))
    model = keras.Model(x, Late(name="late")(x))
    with pytest.raises(
        ValueError, match="Late late, which makes its bn in build"
    ):
        keras_bn.convert(model)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (
            networks.sequential(),
            {"to": "torch"},
            "keras_bn, keras. Received: to=torch",
        ),
        (networks.sequential(), {"momentun": 0.9}, "Received: momentun"),
        (
            networks.sequential(),
            {"virtual_batch_size": 0},
            "Received: virtual_batch_size=0",
        ),
        (
            networks.sequential(),
            {"renorm": True, "virtual_batch_size": 2},
            "renorm and virtual_batch_size exclude each other",
        ),
        (keras.Sequential(name="empty"), {}, "built. Received: empty"),
        ("model.keras", {}, "must be a keras.Model. Received: model.keras"),
    ],
)
def test_bad_input_is_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        keras_bn.convert(model, **options)
