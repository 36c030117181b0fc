# SPDX-License-Identifier: Apache-2.0
import dataclasses
import gc
import json
import os
import shutil
import signal
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from analysis import callbacks, event_file, summaries
from keras_bn import failures, training
from keras_bn.backend import checkpoints, diagnosis, execution
from keras_bn.data.batch_order import BatchOrder
from keras_bn.run_folder import RunFolder
from keras_bn.training import loop, runs, signals


class Recorder(keras.callbacks.Callback):
    """Notes the steps it is called at; acts at one of them."""

    # Keras names the arguments.
    # ruff: noqa: ARG002

    def __init__(self, schedule=None, *, at=None, action=None):
        super().__init__()
        if schedule is not None:
            self.schedule = schedule
        self._at, self._action = at, action
        self.steps = []
        self.epochs = []

    def on_train_batch_end(self, batch, logs=None):
        step = int(self.model.optimizer.iterations)
        self.steps.append(step)
        if step == self._at:
            self._action()

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append((epoch, sorted(logs)))


class OnBegin(keras.callbacks.Callback):
    """Acts before the first step."""

    def __init__(self, action):
        super().__init__()
        self._action = action

    def on_train_begin(self, logs=None):
        self._action()


def weights(model):
    return [np.asarray(w) for w in model.weights]


def assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def run(recipe, dataset, **options):
    return training.run(recipe, dataset, progress=False, **options)


@pytest.fixture(scope="module")
def whole(tiny_recipe, tiny_dataset):
    """A run that nothing interrupts."""
    return run(tiny_recipe, tiny_dataset)


def test_it_reports_every_evaluation(whole, tiny_recipe):
    _, result = whole
    assert [e["step"] for e in result.evaluations] == [20, 40, 60]
    assert result.steps == tiny_recipe.steps
    best = max(e["val_accuracy"] for e in result.evaluations)
    assert result.best["val_accuracy"] == best


def test_reported_metrics_are_those_of_keras(whole, tiny_dataset):
    model, result = whole
    loss, accuracy = model.evaluate(
        tiny_dataset.x_test, tiny_dataset.y_test, verbose=0
    )
    assert result.final["val_loss"] == pytest.approx(loss, rel=1e-5)
    assert result.final["val_accuracy"] == pytest.approx(accuracy)


def test_every_step_is_the_step_that_keras_takes(tiny_recipe, tiny_dataset):
    """The same batches through `train_on_batch` give the same weights."""
    recipe = tiny_recipe.replace(steps=12)
    model, _ = run(recipe, tiny_dataset)
    other = training.build_model(recipe, input_shape=(16,), classes=3)
    order = BatchOrder(examples=200, batch_size=20, seed=0)
    for rows in order.rows(0, 12):
        other.train_on_batch(
            tiny_dataset.x_train[rows], tiny_dataset.y_train[rows]
        )
    for a, b in zip(weights(model), weights(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"steps_per_execution": 1},
        {"steps_per_execution": 7, "evaluate_every": 60},
        {"checkpoint_every": 1},
    ],
)
def test_weights_do_not_depend_on_the_cuts(
    whole, tiny_recipe, tiny_dataset, changes
):
    model, _ = run(tiny_recipe.replace(**changes), tiny_dataset)
    assert_same(weights(model), weights(whole[0]))


def test_scheduled_callbacks_see_exactly_their_steps(tiny_recipe, tiny_dataset):
    wanted = {1, 2, 13, 37, 59, 60}
    recorder = Recorder(lambda step: step in wanted)
    run(tiny_recipe, tiny_dataset, callbacks=[recorder])
    stops = wanted | {20, 40, 60} | {25, 50}
    assert recorder.steps == sorted(stops)
    names = ["accuracy", "loss", "val_accuracy", "val_loss"]
    assert recorder.epochs == [(0, names), (1, names), (2, names)]


def test_seeds_differ_and_repeat(whole, tiny_recipe, tiny_dataset):
    again, _ = run(tiny_recipe, tiny_dataset)
    assert_same(weights(again), weights(whole[0]))
    other, _ = run(tiny_recipe.replace(seed=1), tiny_dataset)
    assert not np.array_equal(weights(other)[0], weights(again)[0])


def test_a_terminal_that_is_closed_sends_several_signals():
    model = keras.Sequential()
    earlier = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with signals.stop_training(model) as received:
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGHUP)
        assert received == [signal.SIGHUP]
        assert model.stop_training
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        with signals.stop_training(model) as received:
            os.kill(os.getpid(), signal.SIGHUP)
        assert received == []
    finally:
        signal.signal(signal.SIGHUP, earlier)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_cleanly_and_resume_goes_on(
    tmp_path, whole, tiny_recipe, tiny_dataset, number
):
    folder = RunFolder(tmp_path)
    stop = Recorder(
        lambda step: step == 33,
        at=33,
        action=lambda: os.kill(os.getpid(), number),
    )
    handlers = signal.getsignal(number)
    _, result = run(tiny_recipe, tiny_dataset, folder=folder, callbacks=[stop])
    assert (result.steps, result.interrupted) == (33, number)
    assert signal.getsignal(number) is handlers
    model, result = run(tiny_recipe, tiny_dataset, folder=folder)
    assert result.interrupted == 0
    assert_same(weights(model), weights(whole[0]))
    # Also what was averaged over the stretch that the signal cut in two.
    assert result.evaluations == whole[1].evaluations
    written = json.loads((folder.path / "result.json").read_text())
    assert written["final"] == pytest.approx(result.final)


def test_a_crash_resumes_from_the_last_checkpoint(
    tmp_path, whole, tiny_recipe, tiny_dataset
):
    def fail():
        raise RuntimeError("power cut")

    folder = RunFolder(tmp_path)
    crash = Recorder(lambda step: step == 33, at=33, action=fail)
    with pytest.raises(RuntimeError, match="power cut"):
        run(tiny_recipe, tiny_dataset, folder=folder, callbacks=[crash])
    seen = Recorder()
    model, _ = run(tiny_recipe, tiny_dataset, folder=folder, callbacks=[seen])
    assert seen.steps[0] == 40  # the checkpoint is of step 25
    assert_same(weights(model), weights(whole[0]))


def damage(path):
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 0xFF
    path.write_bytes(contents)


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(
    tmp_path, whole, tiny_recipe, tiny_dataset, caplog
):
    folder = RunFolder(tmp_path)
    run(tiny_recipe, tiny_dataset, folder=folder)
    damage(folder.checkpoints / "ckpt-60.data-00000-of-00001")
    seen = Recorder()
    model, result = run(
        tiny_recipe, tiny_dataset, folder=folder, callbacks=[seen]
    )
    assert seen.steps == [60]  # on from step 50
    assert "ckpt-60 cannot be restored" in caplog.text
    assert "going on from" in caplog.text
    assert_same(weights(model), weights(whole[0]))
    assert result.evaluations == whole[1].evaluations
    caplog.clear()  # that of step 60 is whole again
    run(tiny_recipe, tiny_dataset, folder=folder)
    assert not caplog.text


def test_checkpoints_are_found_by_their_names(
    tmp_path, tiny_recipe, tiny_dataset
):
    """Not by TensorFlow's own list of them."""
    folder = RunFolder(tmp_path)
    run(tiny_recipe, tiny_dataset, folder=folder)
    (folder.checkpoints / "checkpoint").write_bytes(b"garbage")
    seen = Recorder()
    run(
        tiny_recipe.replace(steps=61),
        tiny_dataset,
        folder=folder,
        callbacks=[seen],
    )
    assert seen.steps == [61]


def test_the_newest_two_checkpoints_stay(tmp_path, tiny_recipe, tiny_dataset):
    run(
        tiny_recipe.replace(checkpoint_every=4, steps=12),
        tiny_dataset,
        folder=RunFolder(tmp_path),
    )
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == [
        f"ckpt-{step}.{kind}"
        for step in (12, 8)
        for kind in ("data-00000-of-00001", "index")
    ]


def test_without_a_whole_checkpoint_there_is_one_clear_error(
    tmp_path, tiny_recipe, tiny_dataset
):
    folder = RunFolder(tmp_path)
    run(tiny_recipe, tiny_dataset, folder=folder)
    for data in folder.checkpoints.glob("*.data-*"):
        data.write_bytes(b"")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(
        training.CheckpointError, match=r"ckpt-60 cannot be.*ckpt-50 cannot be"
    ):
        run(
            tiny_recipe.replace(steps=70),
            tiny_dataset,
            folder=folder,
            callbacks=[
                callbacks.CurvesCallback(
                    *(summaries.Writer(tmp_path / part) for part in "ab")
                )
            ],
        )
    assert before == {
        p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()
    }


def test_a_disk_that_is_full_costs_no_run(
    tmp_path, monkeypatch, whole, tiny_recipe, tiny_dataset, caplog
):
    save = checkpoints.Checkpoints.save

    def full(self, step, **options):
        if step == 50:
            raise training.CheckpointError("step 50: no space left on device")
        save(self, step, **options)

    monkeypatch.setattr(checkpoints.Checkpoints, "save", full)
    model, _ = run(tiny_recipe, tiny_dataset, folder=RunFolder(tmp_path))
    assert "no space left on device; training goes on" in caplog.text
    assert_same(weights(model), weights(whole[0]))


def test_a_disk_that_is_full_from_the_start_is_no_checkpoint_to_go_back_to(
    tmp_path, monkeypatch, tiny_recipe, tiny_dataset
):
    def full(*_, **__):
        raise training.CheckpointError("no space left on device")

    monkeypatch.setattr(checkpoints.Checkpoints, "save", full)
    with pytest.raises(training.TrainingError, match="inf after 1 steps") as e:
        run(
            tiny_recipe.replace(norm="none", learning_rate=1e38),
            tiny_dataset,
            folder=RunFolder(tmp_path),
        )
    assert "checkpoint" not in str(e.value)


def test_a_run_without_its_checkpoints_is_not_begun_again(
    tmp_path, tiny_recipe, tiny_dataset
):
    folder = RunFolder(tmp_path)
    run(tiny_recipe, tiny_dataset, folder=folder)
    shutil.rmtree(folder.checkpoints)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(training.CheckpointError, match="no checkpoint to go"):
        run(tiny_recipe.replace(steps=70), tiny_dataset, folder=folder)
    assert before == {
        p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()
    }


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"norm": "none"}, "must be 0 without normalization"),
        ({"batch_size": 1}, "need batches of several examples"),
    ],
)
def test_population_statistics_that_cannot_be_are_refused_at_once(
    tiny_recipe, tiny_dataset, changes, reason
):
    recipe = tiny_recipe.replace(population_statistics=2, **changes)
    with pytest.raises(ValueError, match=reason):
        training.check(recipe, tiny_dataset)


def test_a_run_whose_population_statistics_diverge_has_failed(
    tmp_path, tiny_recipe, tiny_dataset
):
    recipe = tiny_recipe.replace(population_statistics=2, learning_rate=1e30)
    with pytest.raises(
        training.TrainingError, match=r"after \d+ steps.*learning_rate=1e\+30"
    ):
        run(recipe, tiny_dataset, folder=RunFolder(tmp_path))


def test_what_has_a_result_has_its_last_checkpoint(
    tmp_path, monkeypatch, tiny_recipe, tiny_dataset
):
    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    monkeypatch.setattr(RunFolder, "write_result", kill)
    folder = RunFolder(tmp_path)
    with pytest.raises(Killed):
        run(tiny_recipe, tiny_dataset, folder=folder)
    _, step = training.restore(folder, tiny_dataset)
    assert step == tiny_recipe.steps


def test_a_loss_that_is_not_finite_stops_the_run(
    tmp_path, tiny_recipe, tiny_dataset
):
    x = tiny_dataset.x_train.copy()
    x[7, 3] = np.nan
    order = BatchOrder(examples=200, batch_size=20, seed=0)
    before = int(np.argwhere(order.rows(0, 10) == 7)[0, 0])
    with pytest.raises(
        training.TrainingError,
        match=f"nan after {before} steps.*the batch itself.*step 0 stays$",
    ):
        run(
            tiny_recipe,
            dataclasses.replace(tiny_dataset, x_train=x),
            folder=RunFolder(tmp_path),
        )


def test_a_loss_that_overflows_leaves_the_checkpoint_before_its_weights(
    tmp_path, tiny_recipe, tiny_dataset
):
    """Those of step 1 are numbers, but their loss is none."""
    recipe = tiny_recipe.replace(
        norm="none", learning_rate=1e38, checkpoint_every=1
    )
    folder = RunFolder(tmp_path)
    folder.write_recipe(recipe, device="cpu")
    with pytest.raises(
        training.TrainingError, match=r"inf after 1 steps.*of step 0 stays"
    ):
        run(recipe, tiny_dataset, folder=folder)
    model, step = training.restore(folder, tiny_dataset)
    assert step == 0
    untrained = training.build_model(recipe, input_shape=(16,), classes=3)
    assert_same(weights(model), weights(untrained))


def test_a_bad_batch_leaves_the_checkpoint_of_its_step(
    tmp_path, tiny_recipe, tiny_dataset
):
    x = tiny_dataset.x_train.copy()
    order = BatchOrder(examples=200, batch_size=20, seed=0)
    x[order.rows(0, 10)[7]] = np.nan
    with pytest.raises(
        training.TrainingError, match=r"nan after 7 steps.*of step 7 stays"
    ):
        run(
            tiny_recipe.replace(checkpoint_every=1),
            dataclasses.replace(tiny_dataset, x_train=x),
            folder=RunFolder(tmp_path),
        )


def test_a_damaged_checkpoint_hides_no_loss_that_is_not_finite(
    tmp_path, tiny_recipe, tiny_dataset, caplog
):
    def damage():
        for path in (tmp_path / "checkpoints").glob("ckpt-*.index"):
            path.write_bytes(b"")

    x = np.full_like(tiny_dataset.x_train, np.nan)
    with pytest.raises(training.TrainingError, match="nan after 0 steps"):
        run(
            tiny_recipe,
            dataclasses.replace(tiny_dataset, x_train=x),
            folder=RunFolder(tmp_path),
            callbacks=[OnBegin(damage)],
        )
    assert "cannot be restored" in caplog.text


def test_a_last_step_that_blows_up_is_no_result(
    tmp_path, tiny_recipe, tiny_dataset
):
    recipe = tiny_recipe.replace(norm="none", learning_rate=1e38, steps=1)
    with pytest.raises(
        training.TrainingError,
        match=r"the test loss is (inf|nan) after 1 steps.*of step 0 stays",
    ):
        run(recipe, tiny_dataset, folder=RunFolder(tmp_path))
    assert not (tmp_path / "result.json").exists()


def test_a_test_loss_that_is_not_finite_on_the_way_is_valid_json(
    tmp_path, tiny_recipe, tiny_dataset
):
    class Spoil(Recorder):
        """The moving averages are bad at the first evaluation only."""

        def on_test_begin(self, logs=None):
            if self.steps[-1] == 20:
                variance = self.model.get_layer("hidden1_norm").moving_variance
                self.kept = variance.numpy()
                variance.assign(np.full_like(self.kept, np.nan))

        def on_test_end(self, logs=None):
            if self.steps[-1] == 20:
                variance = self.model.get_layer("hidden1_norm").moving_variance
                variance.assign(self.kept)

    _, result = run(
        tiny_recipe,
        tiny_dataset,
        folder=RunFolder(tmp_path),
        callbacks=[Spoil()],
    )
    assert np.isnan(result.evaluations[0]["val_loss"])
    text = (tmp_path / "result.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["evaluations"][0]["val_loss"] is None


def test_what_ran_keeps_no_data(tiny_recipe, tiny_dataset):
    """Or a process that trains a hundred runs fills the memory."""
    rows = 37
    x, y = tiny_dataset.x_train[:rows], tiny_dataset.y_train[:rows]
    data = dataclasses.replace(tiny_dataset, x_train=x, y_train=y)
    run(tiny_recipe.replace(steps=10, batch_size=4), data)
    gc.collect()
    eager = type(tf.constant(0))
    tensors = [each for each in gc.get_objects() if type(each) is eager]
    assert not [each for each in tensors if each.shape == x.shape]


def test_one_mirrored_replica_trains_as_one_device(
    tiny_recipe, tiny_dataset, whole
):
    recipe = tiny_recipe.replace(strategy="mirrored", replicas=1)
    model, result = run(recipe, tiny_dataset)
    assert_same(weights(model), weights(whole[0]))
    assert result.evaluations == whole[1].evaluations


class Unreadable:
    """Steps of which the batch after some cannot be read."""

    def __init__(self, steps, last):
        self._steps, self._last = steps, last

    def train(self, step, count):
        if step == self._last:
            raise failures.InputError("a batch cannot be read: it is gone")
        return self._steps.train(step, min(count, self._last - step))

    def __getattr__(self, name):
        return getattr(self._steps, name)


def test_a_batch_that_cannot_be_read_costs_no_step(
    tmp_path, tiny_recipe, tiny_dataset, whole, monkeypatch
):
    make_steps = runs.make_steps
    monkeypatch.setattr(
        runs, "make_steps", lambda *given: Unreadable(make_steps(*given), 33)
    )
    folder = RunFolder(tmp_path)
    with pytest.raises(failures.InputError, match="it is gone"):
        run(tiny_recipe, tiny_dataset, folder=folder)
    monkeypatch.undo()
    assert training.restore(folder, tiny_dataset)[1] == 33
    model, result = run(tiny_recipe, tiny_dataset, folder=folder)
    assert_same(weights(model), weights(whole[0]))
    assert result.evaluations == whole[1].evaluations


@pytest.mark.parametrize("number", [0, 1, -1])
def test_an_evaluation_that_cannot_be_read_costs_no_step(
    number, tmp_path, tiny_recipe, tiny_dataset, whole, monkeypatch
):
    """It is made when the run goes on; the last one, too."""
    evaluations = whole[1].evaluations
    left = [number % len(evaluations)]
    make_steps = runs.make_steps

    def breaking(*given):
        steps = make_steps(*given)
        evaluate = steps.evaluate

        def break_once():
            left[0] -= 1
            if left[0] == -1:
                raise failures.InputError("a batch cannot be read: no")
            return evaluate()

        steps.evaluate = break_once
        return steps

    monkeypatch.setattr(runs, "make_steps", breaking)
    folder = RunFolder(tmp_path)
    with pytest.raises(failures.InputError, match="cannot be read: no"):
        run(tiny_recipe, tiny_dataset, folder=folder)
    step = training.restore(folder, tiny_dataset)[1]
    assert step == evaluations[number]["step"]
    epochs = []
    seen = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, _: epochs.append(epoch)
    )
    watching = callbacks.for_run(tmp_path, tiny_recipe, tiny_dataset)
    model, result = run(
        tiny_recipe, tiny_dataset, folder=folder, callbacks=[seen, *watching]
    )
    assert_same(weights(model), weights(whole[0]))
    assert result.evaluations == evaluations
    assert result.seconds > 0
    steps = [
        step
        for tag, step, _ in event_file.scalars(tmp_path / "validation")
        if tag == "accuracy"
    ]
    assert steps == [e["step"] for e in evaluations][number:]
    assert epochs == [*range(len(evaluations))][number:]
    _, again = run(tiny_recipe, tiny_dataset, folder=folder)
    assert again.evaluations == evaluations
    longer = tiny_recipe.replace(steps=tiny_recipe.steps + 20)
    _, goes_on = run(longer, tiny_dataset, folder=folder)
    assert goes_on.evaluations[:-1] == evaluations


def test_statistics_of_what_cannot_be_read_cost_no_step(
    tmp_path, tiny_recipe, tiny_dataset, monkeypatch
):
    """They are estimated when the run goes on, and what follows is the same."""
    recipe = tiny_recipe.replace(population_statistics=3)
    expected = run(recipe, tiny_dataset)
    make_batches, left = runs.training_batches, [1]

    def breaking(*given):
        def fail_once(x, y):
            left[0] -= 1
            if left[0] == -1:
                raise OSError(5, "Input/output error", "a.jpg")
            return x, y

        batches = make_batches(*given)
        spec = batches.element_spec
        return batches.map(
            lambda x, y: [
                tf.ensure_shape(found, of.shape)
                for found, of in zip(
                    tf.numpy_function(
                        fail_once, [x, y], [of.dtype for of in spec]
                    ),
                    spec,
                    strict=True,
                )
            ]
        )

    monkeypatch.setattr(runs, "training_batches", breaking)
    folder = RunFolder(tmp_path)
    message = r"^a batch cannot be read: OSError: .*Input/output .*'a.jpg'$"
    with pytest.raises(failures.InputError, match=message):
        run(recipe, tiny_dataset, folder=folder)
    assert training.restore(folder, tiny_dataset)[1] == 20
    model, result = run(recipe, tiny_dataset, folder=folder)
    assert_same(weights(model), weights(expected[0]))
    assert result.evaluations == expected[1].evaluations


def test_what_cannot_be_read_again_hides_no_loss_that_is_not_finite(
    tmp_path, tiny_recipe, tiny_dataset, monkeypatch
):
    make_steps = runs.make_steps

    def once(*given):
        steps = Unreadable(make_steps(*given), 20)
        train = steps.train

        def then_not(step, count):
            metrics = train(step, count)
            steps._last = 0
            return metrics

        steps.train = then_not
        return steps

    monkeypatch.setattr(runs, "make_steps", once)
    x = np.full_like(tiny_dataset.x_train, np.nan)
    with pytest.raises(training.TrainingError, match="nan after 0 steps"):
        run(
            tiny_recipe.replace(checkpoint_every=60),
            dataclasses.replace(tiny_dataset, x_train=x),
            folder=RunFolder(tmp_path),
        )


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.InternalError(None, None, "no algorithm [Op:Conv2D]"),
        tf.errors.ResourceExhaustedError(None, None, "[Op:IteratorGetNext]"),
        tf.errors.UnavailableError(None, None, "[Op:IteratorGetNext]"),
    ],
    ids=["of a model", "memory", "another process"],
)
def test_what_is_no_matter_of_reading_is_not_called_so(error):
    with (
        pytest.raises(type(error)),
        failures.reading(operation="IteratorGetNext"),
    ):
        raise error


def test_batches_before_one_that_cannot_be_read_are_trained_on(
    tiny_recipe, tiny_dataset, monkeypatch
):
    broken = [True]

    def train_part(step, part):
        del part

        def batches():
            for i in range(step, 9):
                if broken[0] and i == 3:
                    raise OSError(5, "Input/output error", "a.jpg")
                yield tiny_dataset.x_train[:4], tiny_dataset.y_train[:4]

        return tf.data.Dataset.from_generator(
            batches,
            output_signature=(
                tf.TensorSpec((4, 16)),
                tf.TensorSpec((4,), tf.int32),
            ),
        )

    model = training.build_model(tiny_recipe, input_shape=(16,), classes=3)
    steps = execution.StreamedSteps(
        model,
        train_part,
        lambda part: train_part(0, part),
        strategy=tf.distribute.get_strategy(),
        jit_compile=False,
    )
    assert len(steps.train(0, 5)) == 3
    message = r"^a batch cannot be read: OSError: .*Input/output .*'a.jpg'$"
    with pytest.raises(failures.InputError, match=message):
        steps.train(3, 2)
    with pytest.raises(failures.InputError, match=message):
        steps.evaluate()
    with pytest.raises(failures.InputError, match=message):
        steps.batch(3)
    with monkeypatch.context() as patch:
        patch.setattr(steps, "_train_part", lambda *_: os.stat("a.jpg"))
        with pytest.raises(failures.InputError, match=r"No such.*'a.jpg'$"):
            steps.batch(3)
    broken[0] = False
    assert len(steps.train(3, 2)) == 2
    assert int(model.optimizer.iterations) == 5


def test_streamed_steps_end_before_their_stretch_when_asked_to(
    tiny_recipe, tiny_dataset
):
    model = training.build_model(tiny_recipe, input_shape=(16,), classes=3)
    batch = tiny_dataset.x_train[:4], tiny_dataset.y_train[:4]
    data = tf.data.Dataset.from_tensors(batch).repeat()
    steps = execution.StreamedSteps(
        model,
        lambda *_: data,
        lambda _: data,
        strategy=tf.distribute.get_strategy(),
        jit_compile=False,
    )
    train_step = steps._train_step

    def stop_after_three(*batch):
        model.stop_training = int(model.optimizer.iterations) == 2
        return train_step(*batch)

    steps._train_step = stop_after_three
    assert len(steps.train(0, 5)) == 3
    # A step is made in any case: callers count on it.
    assert len(steps.train(3, 5)) == 5
    assert int(model.optimizer.iterations) == 8


def test_a_run_without_an_evaluation_has_a_summary(tiny_recipe, tiny_dataset):
    _, result = run(tiny_recipe.replace(steps=60), tiny_dataset)
    assert "60 steps in" in training.summary(result)
    nothing = dataclasses.replace(result, evaluations=[])
    assert training.summary(nothing).endswith(": never evaluated")


def test_callbacks_learn_the_step_though_float16_leaves_steps_out(
    tmp_path, tiny_recipe, tiny_dataset
):
    """The optimizer counts only those whose gradients are finite."""
    recipe = tiny_recipe.replace(mixed_precision="float16", batch_size=200)
    folder = RunFolder(tmp_path)
    model, _ = run(recipe.replace(steps=20), tiny_dataset, folder=folder)
    assert int(model.optimizer.iterations) < 20
    watching = callbacks.CurvesCallback(
        *(summaries.Writer(tmp_path / part) for part in ("train", "validation"))
    )
    run(recipe, tiny_dataset, folder=folder, callbacks=[watching])
    steps = [step for _, step, _ in event_file.scalars(tmp_path / "validation")]
    assert sorted(set(steps)) == [40, 60]


@pytest.mark.parametrize(
    ("layer", "value", "message"),
    [
        ("hidden2_linear", np.nan, "the weights of hidden2_linear"),
        ("hidden2_linear", 3e38, "the output of hidden2_linear"),
        (None, None, "the loss"),
    ],
)
def test_the_first_layer_that_is_not_finite_is_named(
    tiny_recipe, tiny_dataset, layer, value, message
):
    model = training.build_model(tiny_recipe, input_shape=(16,), classes=3)
    if layer:
        kernel = model.get_layer(layer).kernel
        kernel.assign(np.full(kernel.shape, value))
    found = diagnosis.first_bad_layer(model, tiny_dataset.x_train[:20])
    assert found == message


@pytest.mark.parametrize("mixed_precision", ["none", "float16", "bfloat16"])
@pytest.mark.parametrize("jit_compile", [True, False])
def test_it_learns_in_mixed_precision(
    tiny_recipe, tiny_dataset, mixed_precision, jit_compile
):
    before = keras.config.dtype_policy()
    recipe = tiny_recipe.replace(
        mixed_precision=mixed_precision,
        jit_compile=jit_compile,
        learning_rate=0.5,
        steps=400,
        evaluate_every=400,
    )
    model, result = run(recipe, tiny_dataset)
    assert result.final["val_accuracy"] > 0.9
    hidden = model.get_layer("hidden1")
    expected = "float32" if mixed_precision == "none" else mixed_precision
    assert hidden.compute_dtype == expected
    assert keras.config.dtype_policy() == before


def test_a_resumed_run_takes_as_long_as_the_steps_of_its_own(
    monkeypatch, capsys
):
    now = [1e9]
    monkeypatch.setattr(time, "time", lambda: now[0])
    bar = loop._ProgressBar(1000, first=900)
    now[0] += 20
    bar.update(910)  # Two seconds a step, and ninety steps left.
    shown = capsys.readouterr().out
    assert "3:00" in shown
    assert "2s/step" in shown


def test_description_names_recipe_and_size(tiny_recipe, tiny_dataset):
    text = training.describe(tiny_recipe, tiny_dataset)
    assert '"steps": 60' in text
    # 16x8 + 2 x 8x8 + 3 x 16 of gamma and beta + 8x3 + 3 of the last layer.
    assert "trainable weights            331" in text
    assert "hidden2_norm" in text


def test_a_batch_that_is_too_large_is_refused(tiny_recipe, tiny_dataset):
    with pytest.raises(ValueError, match="Received: batch_size=201"):
        training.check(tiny_recipe.replace(batch_size=201), tiny_dataset)
