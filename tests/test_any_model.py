# SPDX-License-Identifier: Apache-2.0
"""The callbacks during `fit`, for every kind of model: they only observe."""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.plugins.custom_scalar import layout_pb2

import analysis
import keras_bn
from analysis import event_file, schedules, summaries

CLASSES = 3


def normalization(kind):
    return {
        "ours": keras_bn.BatchNormalization,
        "keras": layers.BatchNormalization,
        "none": layers.Identity,
    }[kind]()


def functional(kind="ours"):
    """Two inputs, a shortcut, dropout, what adds to the loss."""
    image = keras.Input((6, 6, 2), name="image")
    extra = keras.Input((4,), name="extra")
    x = layers.Conv2D(4, 3, padding="same", use_bias=False)(image)
    first = x = layers.ReLU(name="early")(normalization(kind)(x))
    x = layers.Conv2D(4, 3, padding="same")(x)
    x = layers.ReLU(6.0, name="late")(normalization(kind)(x))
    x = layers.GlobalAveragePooling2D()(keras.ops.add(x, first))
    x = layers.Concatenate()([layers.Dropout(0.3)(x), extra])
    x = layers.Dense(
        8, activation="tanh", kernel_regularizer="l2", name="mixed"
    )(x)
    x = layers.ActivityRegularization(l2=1e-3)(x)
    outputs = layers.Dense(CLASSES)(x)
    return keras.Model({"image": image, "extra": extra}, outputs)


def sequential(kind="ours"):
    return keras.Sequential(
        [
            layers.Dense(8, name="first_linear"),
            normalization(kind),
            layers.Activation("sigmoid", name="first"),
            layers.Dropout(0.5),
            layers.Dense(6, activation="relu", name="second"),
            layers.Dense(CLASSES, name="logits"),
        ]
    )


def built(kind="ours"):
    return keras.Sequential([keras.Input((10,)), *sequential(kind).layers])


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    """Layers within layers of the same name, and one called in a loop."""

    def __init__(self, kind="ours"):
        super().__init__()
        self.first = keras.Sequential(
            [layers.Dense(6, name="linear"), normalization(kind)], name="a"
        )
        self.second = keras.Sequential(
            [layers.Dense(6, name="linear"), layers.ReLU(name="relu")],
            name="b",
        )
        self.drop = layers.Dropout(0.5)
        self.recurrent = layers.LSTM(5, name="recurrent")
        self.logits = layers.Dense(CLASSES, name="logits")

    def call(self, x, training=False):
        x = keras.ops.relu(self.first(x, training=training))
        x = self.drop(self.second(x), training=training)
        return self.logits(self.recurrent(keras.ops.expand_dims(x, 1)))


KINDS = {
    "functional": functional,
    "sequential": sequential,
    "subclassed": Subclassed,
}


def data(kind, count=60):
    rng = np.random.default_rng(0)
    y = rng.integers(0, CLASSES, count)
    if kind == "functional":
        image = rng.normal(2, 1, (count, 6, 6, 2)).astype(np.float32)
        extra = rng.normal(size=(count, 4)).astype(np.float32)
        return {"image": image, "extra": extra}, y
    return rng.normal(2, 1, (count, 10)).astype(np.float32), y


def fit(kind, *, norm="ours", callbacks=(), policy="float32", **options):
    """Trains for two epochs of six steps.

    Returns:
        The model, and all that training may change or depend on.
    """
    keras.utils.clear_session()  # names start from the same number
    keras.utils.set_random_seed(0)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = {**KINDS, "built": built}[kind](norm)
    finally:
        keras.config.set_dtype_policy(before)
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **options,
    )
    x, y = data(kind)
    model.fit(
        x,
        y,
        batch_size=10,
        epochs=2,
        verbose=0,
        validation_data=(x, y),
        callbacks=list(callbacks),
    )
    variables = [*model.variables, *model.optimizer.variables]
    draws = [np.random.random(), tf.random.uniform(()).numpy()]
    state = [keras.ops.convert_to_numpy(v) for v in variables] + draws
    return model, state


def assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def watch(folder, kind, **options):
    options = {
        "preset": "full",
        "schedule": schedules.every(2),
        "probe": data(kind, 20),
        **options,
    }
    return analysis.watch(folder, **options)


def steps(folder, tag):
    points = event_file.scalars(folder / "analysis")
    return [step for name, step, _ in points if name == tag]


def missing(folder):
    return [
        (tag, text)
        for tag, _, text in event_file.texts(folder / "analysis")
        if tag.startswith("missing/")
    ]


@pytest.mark.parametrize(
    ("norm", "kind"),
    [
        ("ours", "functional"),
        ("keras", "sequential"),
        ("none", "subclassed"),
        *[
            pytest.param(norm, kind, marks=pytest.mark.slow)
            for norm, kind in (
                ("ours", "sequential"),
                ("ours", "subclassed"),
                ("keras", "functional"),
                ("keras", "subclassed"),
                ("none", "functional"),
                ("none", "sequential"),
            )
        ],
    ],
)
def test_training_is_bit_identical(tmp_path, kind, norm):
    preset = "full" if norm == "ours" else "standard"
    _, plain = fit(kind, norm=norm)
    callbacks = watch(tmp_path, kind, preset=preset)
    model, watched = fit(kind, norm=norm, callbacks=callbacks)
    assert_same(plain, watched)
    assert missing(tmp_path) == []
    for layer in model._flatten_layers():
        assert "call" not in vars(layer)


@pytest.mark.parametrize(
    "options",
    [
        {"steps_per_execution": 4},
        {"policy": "mixed_float16"},
        *[
            pytest.param(options, marks=pytest.mark.slow)
            for options in (
                {"jit_compile": True},
                {"policy": "mixed_bfloat16"},
                {"run_eagerly": True},
            )
        ],
    ],
    ids=str,
)
def test_options_of_fit(tmp_path, options):
    _, plain = fit("sequential", **options)
    callbacks = watch(tmp_path, "sequential")
    _, watched = fit("sequential", callbacks=callbacks, **options)
    assert_same(plain, watched)
    assert missing(tmp_path) == []
    # Two epochs of six steps; with several at once, at the end of them.
    expected = [0, 2, 4, 6, 8, 10, 12]
    if "steps_per_execution" in options:
        expected = [0, 4, 6, 10, 12]
    assert steps(tmp_path, "percentiles/first/p50") == expected
    assert steps(tmp_path, "weights/second/update_ratio") == expected[1:]
    assert steps(tmp_path, "covariate_shift/logits/cosine") == expected[1:]


def test_beside_the_tensorboard_callback(tmp_path):
    """Which switches other callbacks' TensorFlow summaries off."""
    board = keras.callbacks.TensorBoard(
        tmp_path / "keras", update_freq=3, histogram_freq=1
    )
    for order, name in ((1, "after"), (-1, "before")):
        watched = watch(tmp_path / name, "sequential")
        fit("sequential", callbacks=[board, *watched][::order])
    for name in ("after", "before"):
        expected = [0, 2, 4, 6, 8, 10, 12]
        folder = tmp_path / name
        assert steps(folder, "percentiles/first/p50") == expected
        assert steps(folder, "covariance/first/directions") == expected


def test_a_resumed_run_goes_on_with_its_curves(tmp_path):
    """BackupAndRestore restores the model in its own `on_train_begin`."""

    class PowerCut(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            del logs
            if int(self.model.optimizer.iterations) == 9:
                raise RuntimeError(f"power cut in batch {batch}")

    def callbacks():
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        return [*watch(tmp_path, "sequential"), backup]

    with pytest.raises(RuntimeError, match="power cut in batch 2"):
        fit("built", callbacks=[*callbacks(), PowerCut()])
    assert steps(tmp_path, "percentiles/first/p50") == [0, 2, 4, 6, 8]
    fit("built", callbacks=callbacks())
    # Step 8 was made a second time, after the epoch of the backup.
    expected = [0, 2, 4, 6, 8, 10, 12]
    assert steps(tmp_path, "percentiles/first/p50") == expected
    growth = [
        value
        for tag, step, value in event_file.scalars(tmp_path / "analysis")
        if tag == "weights/second/growth" and step in (0, 8)
    ]
    assert growth[0] == 1
    assert growth[1] != pytest.approx(1, abs=1e-4)


def test_in_one_folder_with_the_tensorboard_callback(tmp_path):
    """Whose files are left alone."""
    board = keras.callbacks.TensorBoard(tmp_path)
    fit("sequential", callbacks=[board, *watch(tmp_path, "sequential")])
    tags = {tag for tag, _, _ in event_file.scalars(tmp_path / "train")}
    assert {"epoch_loss", "loss"} <= tags


def test_a_run_that_begins_mixes_with_no_earlier_one(tmp_path):
    def begin(**options):
        watched = watch(tmp_path, "sequential", **options)
        fit("sequential", callbacks=watched)
        return steps(tmp_path, "percentiles/first/p50")

    first = begin()
    with pytest.raises(ValueError, match=r"train holds the curves of an earli"):
        begin()
    assert steps(tmp_path, "percentiles/first/p50") == first
    assert begin(overwrite=True) == first


@pytest.mark.parametrize("kind", KINDS)
def test_default_blocks(tmp_path, kind):
    watched = watch(tmp_path, kind, preset="standard")
    fit(kind, callbacks=watched)
    percentiles = watched[1]
    names = [block.name for block in percentiles.blocks]
    assert (
        names
        == {
            "functional": ["early", "late", "mixed"],
            "sequential": ["first", "second"],
            "subclassed": ["batch_normalization", "relu"],
        }[kind]
    )
    gradients = watched[4]
    linear = [block.name for block in gradients.blocks]
    expected = {
        "functional": ["conv2d", "conv2d_1", "mixed", "dense"],
        "sequential": ["first_linear", "second", "logits"],
        "subclassed": [
            *("subclassed/a/linear", "subclassed/b/linear"),
            *("lstm_cell", "logits"),
        ],
    }[kind]
    assert linear == expected


def text_model():
    return keras.Sequential(
        [
            keras.Input((7,), dtype="int32"),
            layers.Embedding(20, 8),
            layers.GlobalAveragePooling1D(),
            layers.Dense(5, activation="relu"),
            layers.Dense(CLASSES),
        ]
    )


def test_embeddings_have_gradients_too(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 20, (64, 7)), rng.integers(0, CLASSES, 64)
    model = text_model()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    callbacks = analysis.watch(tmp_path, probe=(x, y), preset="full")
    model.fit(x, y, epochs=2, verbose=0, callbacks=callbacks)
    assert missing(tmp_path) == []
    measures = {
        tag.partition("/")[0]
        for tag, *_ in event_file.scalars(tmp_path / "analysis")
    }
    assert {"gradients", "covariate_shift", "landscape"} <= measures


def test_a_metric_may_have_a_value_for_each_class(tmp_path):
    x, y = data("sequential", 30)
    model = built("none")
    model.add(layers.Softmax())
    score = keras.metrics.F1Score(name="f1")
    model.compile("sgd", "categorical_crossentropy", metrics=[score])
    y = np.eye(CLASSES, dtype=np.float32)[y]
    callbacks = analysis.watch(tmp_path, probe=(x, y))
    model.fit(x, y, epochs=2, verbose=0, callbacks=callbacks)
    tags = {tag for tag, *_ in event_file.scalars(tmp_path / "train")}
    assert tags == {"loss", *(f"f1/{i}" for i in range(CLASSES))}


class OwnSteps(keras.Model):
    """Trains by an optimizer that Keras does not know of."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(4, activation="relu", name="dense")
        self.own = keras.optimizers.SGD(0.1)

    def call(self, x):
        return self.dense(x)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(x, training=True) - y) ** 2)
        weights = self.trainable_weights
        self.own.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


@pytest.mark.parametrize("options", [{}, {"steps_per_execution": 3}], ids=str)
@pytest.mark.parametrize("optimizer", ["rmsprop", None])
def test_steps_count_without_an_optimizer_that_does(
    tmp_path, optimizer, options
):
    x = np.random.default_rng(0).normal(size=(36, 5)).astype(np.float32)
    model = OwnSteps()
    model.compile(optimizer=optimizer, **options)
    model(x)
    model.own.build(model.trainable_weights)
    callbacks = analysis.watch(
        tmp_path, probe=(x,), schedule=schedules.every(3)
    )
    for _ in range(2):  # The second goes on where the first has ended.
        model.fit(x, x[:, :4], batch_size=6, verbose=0, callbacks=callbacks)
    assert steps(tmp_path, "percentiles/dense/p50") == [0, 3, 6, 9, 12]
    curve = [
        step
        for tag, step, _ in event_file.scalars(tmp_path / "train")
        if tag == "loss"
    ]
    assert curve == [6, 12]


def adapted(**options):
    return keras.optimizers.Adam(**options)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: adapted(gradient_accumulation_steps=3),
        lambda: keras.optimizers.LossScaleOptimizer(adapted()),
        lambda: keras.optimizers.LossScaleOptimizer(
            # Overflows in the first steps, which the optimizer leaves out.
            adapted(),
            initial_scale=2.0**127,
        ),
    ],
)
@pytest.mark.parametrize("options", [{}, {"steps_per_execution": 3}], ids=str)
def test_steps_are_batches_whatever_the_optimizer_counts(
    tmp_path, optimizer, options
):
    model = built()
    model.compile(
        optimizer(),
        keras.losses.SparseCategoricalCrossentropy(True),
        **options,
    )
    x, y = data("sequential", 36)
    callbacks = analysis.watch(
        tmp_path, probe=(x, y), schedule=schedules.every(3)
    )
    for _ in range(2):  # The second goes on where the first has ended.
        model.fit(x, y, batch_size=6, verbose=0, callbacks=callbacks)
    assert steps(tmp_path, "percentiles/first/p50") == [0, 3, 6, 9, 12]


def test_a_refused_callback_does_not_take_the_folder_when_asked_again(
    tmp_path,
):
    x, y = data("sequential", 36)
    fit("built", callbacks=watch(tmp_path, "sequential"))
    before = steps(tmp_path, "percentiles/first/p50")
    other = built()
    other.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    watching = watch(tmp_path, "sequential")
    for _ in range(2):
        with pytest.raises(ValueError, match="curves of an earlier run"):
            other.fit(x, y, 6, callbacks=watching, verbose=0)
        assert steps(tmp_path, "percentiles/first/p50") == before


def test_what_failed_in_its_first_batch_may_be_repeated(tmp_path):
    x, y = data("sequential", 36)

    class Fails(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            del logs
            raise InterruptedError(batch)

    model = built()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    watching = watch(tmp_path, "sequential")
    with pytest.raises(InterruptedError):
        model.fit(x, y, 6, callbacks=[*watching, Fails()], verbose=0)
    model.fit(x, y, 6, callbacks=watching, verbose=0)
    assert steps(tmp_path, "percentiles/first/p50") == [0, 2, 4, 6]


@pytest.mark.parametrize("gathered", [None, 3])
def test_a_second_fit_may_have_callbacks_of_its_own(tmp_path, gathered):
    """Though the optimizer has counted fewer batches than were made."""
    model = built()
    optimizer = adapted(gradient_accumulation_steps=gathered)
    model.compile(
        keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0**127),
        keras.losses.SparseCategoricalCrossentropy(True),
    )
    x, y = data("sequential", 30)
    for _ in range(2):
        watching = analysis.watch(
            tmp_path, probe=(x, y), schedule=schedules.every(5)
        )
        model.fit(x, y, 6, verbose=0, callbacks=watching)
    assert steps(tmp_path, "percentiles/first/p50") == [0, 5, 10]


def test_a_backup_of_the_first_epoch_goes_on(tmp_path):
    class PowerCut(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            del logs
            if batch == 3:
                raise RuntimeError("power cut")

    def callbacks():
        backup = keras.callbacks.BackupAndRestore(
            tmp_path / "backup", save_freq=3
        )
        return [*watch(tmp_path, "sequential"), backup]

    with pytest.raises(RuntimeError, match="power cut"):
        fit("built", callbacks=[*callbacks(), PowerCut()])
    fit("built", callbacks=callbacks())
    measured = steps(tmp_path, "percentiles/first/p50")
    assert measured == sorted({*measured})
    assert measured[:3] == [0, 2, 4]


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_steps_are_batches_where_their_number_is_not_known(tmp_path):
    model = built()
    model.compile(
        adapted(gradient_accumulation_steps=3),
        keras.losses.SparseCategoricalCrossentropy(True),
        steps_per_execution=4,
    )
    x, y = data("sequential", 30)
    batches = tf.data.Dataset.from_tensor_slices((x, y)).filter(lambda *_: True)
    watching = analysis.watch(tmp_path, probe=(x, y))
    model.fit(
        batches.batch(6),
        epochs=2,
        shuffle=False,
        verbose=0,
        callbacks=watching,
    )
    points = event_file.scalars(tmp_path / "train")
    assert [step for tag, step, _ in points if tag == "loss"] == [5, 10]


def test_a_model_that_was_trained_before_has_a_page(tmp_path):
    model, _ = fit("built")
    x, y = data("sequential", 36)
    watched = analysis.watch(tmp_path, probe=(x, y))
    model.fit(x, y, 6, callbacks=watched, verbose=0)
    assert event_file.own_files(tmp_path)
    read = [
        value.tag
        for path in event_file.own_files(tmp_path / "analysis")
        for event in event_file.read_events(path)
        for value in event.summary.value
    ]
    assert read.count("custom_scalars__config__") == 1
    assert "how_to_read/percentiles" in read


def test_a_model_that_was_trained_elsewhere_deletes_no_curves(tmp_path):
    """Whose steps its optimizer knows, but which are of another run."""
    x, y = data("sequential", 36)
    fit("built", callbacks=watch(tmp_path, "sequential"))
    before = steps(tmp_path, "percentiles/first/p50")
    other = built()
    other.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    other.fit(x, y, 6, verbose=0)
    with pytest.raises(ValueError, match="holds the curves of an earlier run"):
        other.fit(x, y, 6, callbacks=watch(tmp_path, "sequential"), verbose=0)
    assert steps(tmp_path, "percentiles/first/p50") == before


def test_a_callback_that_was_cut_off_may_begin_again(tmp_path):
    x, y = data("sequential", 30)

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):  # noqa: ARG002
            if batch == 2:
                raise InterruptedError

    watching = analysis.PercentilesCallback(
        summaries.Writer(tmp_path), schedule=schedules.every(1), probe=x
    )
    # The second is refused: these are the curves of an earlier run.
    for error, others in ((InterruptedError, [Stop()]), (ValueError, [])):
        model = built()
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
        with pytest.raises(error):
            model.fit(x, y, 5, verbose=0, callbacks=[watching, *others])
    of_median = [
        step
        for tag, step, _ in event_file.scalars(tmp_path)
        if tag == "percentiles/first/p50"
    ]
    assert of_median == [0, 1, 2, 3]


def probe_of(kind, form):
    x, y = data(kind, 20)
    if form == "arrays":
        return x, y
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    return batches if form == "dataset" else analysis.Probe(x, y)


@pytest.mark.parametrize("kind", ["functional", "sequential"])
@pytest.mark.parametrize("form", ["arrays", "dataset", "probe"])
def test_probes_of_every_form(tmp_path, kind, form):
    watched = watch(
        tmp_path, kind, probe=probe_of(kind, form), preset="economy"
    )
    fit(kind, callbacks=watched)
    assert missing(tmp_path) == []
    tags = [tag for tag, _, _ in event_file.scalars(tmp_path / "analysis")]
    assert any(tag.startswith("gradients/") for tag in tags)


def test_without_targets_there_are_no_gradients(tmp_path):
    x, _ = data("sequential", 20)
    fit("sequential", callbacks=watch(tmp_path, "sequential", probe=x))
    tags = {tag for tag, _, _ in event_file.scalars(tmp_path / "analysis")}
    measures = {tag.split("/")[0] for tag in tags}
    assert measures == {"percentiles", "jacobian", "covariance", "weights"}
    said = {tag.split("/")[1]: text for tag, text in missing(tmp_path)}
    assert {*said} == {"gradients", "covariate_shift", "landscape"}
    assert "the probe has no targets" in said["gradients"]


def test_wrong_arguments_are_said_before_the_first_step(tmp_path):
    x, y = data("sequential", 20)

    class NoStep(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            pytest.fail(f"trained batch {batch}, {logs}")

    cases = {
        r"layers must be among first, second, .*Received: frist": {
            "layers": ["first", "frist"]
        },
        r"^percentiles: layers must be names.*, at least one\. .*layers=5": {
            "layers": 5
        },
        r"at least one\. Received: layers=\[\]": {"layers": []},
        r"at least one\. Received: layers=\['first', 5\]": {
            "layers": ["first", 5]
        },
        r"^percentiles: Input 0 .*value 10, .*inputs: \(20, 7\)\)$": {
            "probe": (x[:, :7], y)
        },
    }
    for message, options in cases.items():
        watched = watch(tmp_path, "sequential", **options)
        with pytest.raises(ValueError, match=message):
            fit("built", callbacks=[*watched, NoStep()])
    with pytest.raises(ValueError, match=r"at least one .*shape \(0, 10\)"):
        watch(tmp_path, "sequential", probe=x[:0])
    for received, probe in {
        "probe=None": None,
        "probe=abc": "abc",
        "probe=5": 5,
        "a tuple of 3": (x, y, y),
        "a tuple of 0": (),
    }.items():
        with pytest.raises(ValueError, match=f"data set .*: {received}$"):
            watch(tmp_path, "sequential", probe=probe)
    with pytest.raises(ValueError, match="Received: preset=deluxe"):
        watch(tmp_path, "sequential", preset="deluxe")


def test_values_that_are_not_finite_are_noted(tmp_path, caplog):
    """One bad weight in the second layer: the first one is still measured."""

    class Poison(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            del logs
            if batch == 3:
                kernel = self.model.get_layer("second").kernel
                kernel.assign(kernel.value * np.nan)

    with caplog.at_level(logging.WARNING):
        fit(
            "sequential",
            callbacks=[Poison(), *watch(tmp_path, "sequential")],
        )
    noted = dict(reversed(missing(tmp_path)))
    for name in ("percentiles", "gradients", "covariate_shift"):
        assert "are not finite" in noted[f"missing/{name}/second"]
    assert "must be finite" in noted["missing/jacobian/second"]
    lines = [r.getMessage() for r in caplog.records if "second" in r.message]
    assert any("percentiles of second was not measured" in x for x in lines)
    # Once, not at every step.
    assert len(lines) == len(set(lines)) < 10
    assert steps(tmp_path, "percentiles/second/p50") == [0, 2]
    # The next step spreads it to all weights.
    assert steps(tmp_path, "percentiles/first/p50") == [0, 2, 4]


def test_a_measure_that_fails_costs_no_step(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise MemoryError("no room")

    monkeypatch.setattr("analysis.callbacks.covariance.samples.rows", fail)
    model, _ = fit("sequential", callbacks=watch(tmp_path, "sequential"))
    assert int(model.optimizer.iterations) == 12
    assert ("missing/covariance/first", "no room") in missing(tmp_path)
    assert len(steps(tmp_path, "jacobian/first/inference/s1")) == 7


@pytest.mark.parametrize("room", [0, 3000])
def test_a_full_disk_costs_no_step(tmp_path, monkeypatch, caplog, room):
    """What it cannot take waits; files stay readable in between."""
    full, append = [True], event_file.append

    def limited(path, data):
        if full[0] and "analysis" in str(path):
            append(path, data[:room])  # part of it may arrive
            raise OSError(28, "No space left on device")
        append(path, data)

    class MakeRoom(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            del logs
            if epoch == 1:
                assert len(steps(tmp_path, "percentiles/first/p50")) == 0
                full[0] = False

    monkeypatch.setattr(event_file, "append", limited)
    with caplog.at_level(logging.WARNING):
        fit(
            "sequential",
            callbacks=[*watch(tmp_path, "sequential"), MakeRoom()],
        )
    lines = [r for r in caplog.messages if "No space left" in r]
    assert len(lines) == 1
    assert "training goes on" in lines[0]
    expected = [0, 2, 4, 6, 8, 10, 12]
    assert steps(tmp_path, "percentiles/first/p50") == expected


def test_a_disk_that_stays_full_is_said_at_the_end(
    tmp_path, monkeypatch, caplog
):
    def fail(path, data):
        del path, data
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(event_file, "append", fail)
    with caplog.at_level(logging.WARNING):
        model, _ = fit("sequential", callbacks=watch(tmp_path, "sequential"))
    assert int(model.optimizer.iterations) == 12
    assert any("lacks the last" in message for message in caplog.messages)


def test_networks_of_other_layers_share_the_charts_of_every_layer(tmp_path):
    """Else TensorBoard shows two charts of one title for two runs."""

    def charts(kind):
        fit(kind, callbacks=watch(tmp_path / kind, kind, preset="full"))
        events = event_accumulator.EventAccumulator(
            str(tmp_path / kind / "analysis"),
            size_guidance={event_accumulator.TENSORS: 0},
        ).Reload()
        (event,) = events.Tensors("custom_scalars__config__")
        page = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
        return {
            part.title: list(part.chart)
            for part in page.category
            if part.title not in ("Percentiles", "Jacobian singular values")
        }

    first = charts("sequential")
    assert len(first) == 4
    assert charts("subclassed") == first
