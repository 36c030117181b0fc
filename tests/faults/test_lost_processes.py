# SPDX-License-Identifier: Apache-2.0
"""What a run keeps when its processes are killed."""

import json
import os
import signal
import time

import pytest

from analysis import event_file
from tests.faults import processes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupts."""
    logdir = tmp_path_factory.mktemp("whole")
    code, out, _ = processes.end(processes.start(logdir))
    assert code == 0
    assert "1,200 steps" in out
    return logdir


def test_kills_at_random_moments_leave_no_trace(tmp_path, whole):
    """See also `make soak`, which kills hundreds of times."""
    kills = processes.kill_until_done(
        tmp_path, seed=0, between=(2.5, 5.0), most=4
    )
    assert kills
    processes.assert_same_run(tmp_path, whole)


def test_a_kill_before_the_first_checkpoint_doubles_nothing(tmp_path, whole):
    """The look at the untrained network lies at the step that it begins at."""
    process = processes.start(tmp_path)
    folder = tmp_path / "run" / "analysis"
    while not next(event_file.scalars(folder), None):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not processes.checkpoint(tmp_path, 150).exists()
    code, _, _ = processes.end(processes.start(tmp_path, "--resume"))
    assert code == 0
    processes.assert_same_run(tmp_path, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_a_checkpoint(tmp_path, whole, number):
    process = processes.start(tmp_path)
    processes.wait_for(processes.checkpoint(tmp_path, 150), process)
    process.send_signal(number)
    code, out, _ = processes.end(process)
    assert code == 128 + number
    assert f"Stopped by {number.name} after" in out
    code, _, _ = processes.end(processes.start(tmp_path, "--resume"))
    assert code == 0
    processes.assert_same_run(tmp_path, whole)


def test_a_clock_that_jumps_back_leaves_the_order(tmp_path, whole):
    process = processes.start(tmp_path)
    processes.wait_for(processes.checkpoint(tmp_path, 300), process)
    process.kill()
    process.communicate()
    for path in (tmp_path / "run").rglob("events.*"):
        name = path.name.split(".")
        name[3] = str(int(name[3]) + 10**6)  # from a clock ahead of ours
        os.rename(path, path.with_name(".".join(name)))
    code, _, _ = processes.end(processes.start(tmp_path, "--resume"))
    assert code == 0
    processes.assert_same_run(tmp_path, whole)


def test_a_damaged_newest_checkpoint_is_said_and_passed_over(tmp_path, whole):
    process = processes.start(tmp_path)
    processes.wait_for(processes.checkpoint(tmp_path, 450), process)
    process.kill()
    process.communicate()
    newest = max(
        (tmp_path / "run" / "checkpoints").glob("*.data-*"),
        key=lambda path: int(path.name.split("-")[1].split(".")[0]),
    )
    newest.write_bytes(newest.read_bytes()[:100])
    process = processes.start(tmp_path, "--resume")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "cannot be restored" in errors
    assert "going on from" in errors
    processes.assert_same_run(tmp_path, whole)


def test_a_disk_that_fills_up_costs_no_step(tmp_path, whole):
    """No file may grow beyond 4 KiB: checkpoints and event files both do."""
    process = processes.start(tmp_path, largest_file=4096)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "measurements wait in memory, training goes on" in errors
    assert "lacks the last" in errors
    assert "cannot be written" in errors
    assert "training goes on" in errors
    assert "File too large" in errors
    assert "{{" not in errors
    contents = json.loads((tmp_path / "run" / "result.json").read_text())
    assert contents["steps"] == 1200
    code, _, errors = processes.end(processes.start(tmp_path, "--resume"))
    assert code == 1
    assert "has no checkpoint to go on from" in errors
    code, _, _ = processes.end(processes.start(tmp_path, "--overwrite"))
    assert code == 0
    processes.assert_same_weights(tmp_path, whole)


def test_a_second_process_on_a_run_is_refused(tmp_path):
    first = processes.start(tmp_path, "--steps=1000000")
    processes.wait_for(tmp_path / "run" / "recipe.json", first)
    code, _, errors = processes.end(processes.start(tmp_path, "--resume"))
    first.kill()
    first.communicate()
    assert code == 1
    assert "another process is training in" in errors


@pytest.mark.parametrize("victim", [0, 1])
def test_a_lost_worker_ends_the_others_and_all_resume(tmp_path, victim):
    flags = ["--steps=300", "--checkpoint_every=50", "--resume"]
    workers = processes.start_cluster(tmp_path, *flags)
    processes.wait_for(processes.checkpoint(tmp_path, 50), workers[0])
    workers[victim].kill()
    workers[victim].communicate()
    code, _, errors = processes.end(workers[1 - victim])
    assert code == 1
    assert "another process of the run is gone" in errors
    assert "--resume" in errors
    assert "\n" not in errors
    workers = processes.start_cluster(tmp_path, *flags)
    assert [processes.end(worker)[0] for worker in workers] == [0, 0]
    steps = [step for tag, step, _ in processes.series(tmp_path)["train"]]
    assert sorted(set(steps)) == [100, 200, 300]
    assert len(steps) == 2 * 3  # loss and accuracy, nothing doubled


@pytest.mark.parametrize("victim", [0, 1])
def test_a_signal_to_one_worker_ends_all_of_them_alike(tmp_path, victim):
    """Whoever starts them again must not take one for finished."""
    flags = ["--steps=100000", "--checkpoint_every=50", "--resume"]
    workers = processes.start_cluster(tmp_path, *flags)
    processes.wait_for(processes.checkpoint(tmp_path, 50), workers[0])
    workers[victim].send_signal(signal.SIGTERM)
    ended = [processes.end(worker) for worker in workers]
    assert [code for code, _, _ in ended] == [128 + signal.SIGTERM] * 2
    assert all("Stopped by SIGTERM after" in out for _, out, _ in ended)


@pytest.mark.parametrize("measure", ["percentiles", "gradients"])
def test_all_workers_stop_where_one_of_them_measures(tmp_path, measure):
    flags = [
        *("--steps=40", "--evaluate_every=20", "--steps_per_execution=1000"),
        *(f"--measures={measure}", "--measure_every=15"),
    ]
    workers = processes.start_cluster(tmp_path, *flags)
    assert [processes.end(worker)[0] for worker in workers] == [0, 0]
    measured = processes.series(tmp_path)["analysis"]
    assert {0, 15, 30} <= {step for _, step, _ in measured}


def test_workers_with_another_recipe_are_refused_by_all(tmp_path):
    workers = processes.start_cluster(
        tmp_path, each=(["--momentum=0.1"], ["--momentum=0.2"])
    )
    for code, _, errors in map(processes.end, workers):
        assert code == 2
        assert "must be given the same recipe" in errors


def test_a_loss_that_is_not_finite_is_said_by_all_workers(tmp_path):
    flags = ["--norm=none", "--learning_rate=1e38", "--activation=relu"]
    workers = processes.start_cluster(tmp_path, *flags)
    for code, _, errors in map(processes.end, workers):
        assert code == 1
        assert "the loss is" in errors
        assert "another process" not in errors
