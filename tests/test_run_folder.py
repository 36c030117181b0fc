# SPDX-License-Identifier: Apache-2.0
import json
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from keras_bn import environment, run_folder
from keras_bn.recipes import Recipe
from keras_bn.run_folder import RunFolderError
from keras_bn.writing import write_json


def open_run_folder(*arguments, **options):
    """Opens a folder and leaves it at once, before the run begins."""
    with run_folder.open_run_folder(*arguments, **options) as folder:
        return folder


def begin_run(path, recipe, *, device="cpu", begins=True, **options):
    """Opens a folder, does there what a run does, leaves it."""
    with run_folder.open_run_folder(path, recipe, **options) as folder:
        folder.write_recipe(recipe, device=device)
        for part, name in (
            ("train", "events.out.tfevents.{}.host.1.1.keras_bn"),
            ("checkpoints", "ckpt-{}.index"),
        ):
            (folder.path / part).mkdir(exist_ok=True)
            (folder.path / part / name.format(recipe.seed)).touch()
        if begins:
            folder.delete_replaced()
        return folder


def contents(path):
    """What lies in a folder but for its lock: names, and what files hold."""
    return {
        str(file.relative_to(path)): file.is_file() and file.read_bytes()
        for file in path.rglob("*")
        if file.name != run_folder.LOCK
    }


def test_a_new_folder_holds_recipe_and_environment(tmp_path):
    recipe = Recipe(steps=7)
    folder = begin_run(tmp_path / "a" / "run", recipe, device="cpu:0")
    contents = json.loads(folder.recipe_file.read_text())
    assert Recipe.from_mapping(contents["recipe"]) == recipe
    (start,) = contents["starts"]
    assert start["environment"]["device"] == "cpu:0"
    assert start["environment"]["processor"]
    assert {"keras_bn", "tensorflow", "keras"} <= set(
        start["environment"]["versions"]
    )


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_the_commit_is_that_of_the_code(tmp_path, monkeypatch):
    here = environment.commit()
    monkeypatch.chdir(tmp_path)
    assert environment.commit() == here
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    package = tmp_path / "lib" / "keras_bn"
    package.mkdir(parents=True)
    monkeypatch.setattr(
        environment, "__file__", str(package / "environment.py")
    )
    (package / "environment.py").touch()
    assert environment.commit() == "unknown"
    subprocess.run([*git, "add", "."], check=True)
    assert environment.commit() == "unknown-dirty"
    subprocess.run([*git, "commit", "-qm", "a"], check=True)
    clean = environment.commit()
    assert clean != "unknown"
    (package / "environment.py").write_text("changed")
    assert environment.commit() == f"{clean}-dirty"


def test_an_existing_run_is_never_mixed_in(tmp_path):
    recipe = Recipe()
    begin_run(tmp_path / "run", recipe)
    with pytest.raises(RunFolderError, match=r"exists.*--resume.*--overwrite"):
        open_run_folder(tmp_path / "run", recipe)


def test_what_would_be_refused_is_known_before_and_nothing_made(tmp_path):
    path, recipe = tmp_path / "run", Recipe()
    run_folder.check_run_folder(path, recipe)
    assert not path.exists()
    begin_run(path, recipe)
    before = contents(path)
    with pytest.raises(RunFolderError, match="exists"):
        run_folder.check_run_folder(path, recipe)
    with pytest.raises(RunFolderError, match="seed=0 there, 1 asked"):
        run_folder.check_run_folder(path, recipe.replace(seed=1), resume=True)
    run_folder.check_run_folder(path, recipe, resume=True)
    run_folder.check_run_folder(path, recipe.replace(seed=1), overwrite=True)
    assert contents(path) == before
    (path / "notes.txt").touch()
    with pytest.raises(RunFolderError, match=r"also holds notes\.txt"):
        run_folder.check_run_folder(path, recipe, overwrite=True)


def test_a_run_that_never_began_leaves_the_place_free(tmp_path):
    open_run_folder(tmp_path / "run", Recipe())
    begin_run(tmp_path / "run", Recipe())


def test_resume_takes_the_same_recipe_with_other_steps(tmp_path):
    begin_run(tmp_path / "run", Recipe())
    folder = begin_run(tmp_path / "run", Recipe(steps=9), resume=True)
    assert folder.read_recipe().steps == 9
    with pytest.raises(RunFolderError, match="seed=0 there, 1 asked"):
        open_run_folder(tmp_path / "run", Recipe(seed=1), resume=True)


def test_every_start_of_a_run_is_on_record(tmp_path):
    def devices():
        starts = json.loads((path / "recipe.json").read_text())["starts"]
        assert all(start["time"] for start in starts)
        return [start["environment"]["device"] for start in starts]

    path = tmp_path / "run"
    for device in ("cpu:1", "gpu:0", "cpu:1"):
        begin_run(path, Recipe(), device=device, resume=True)
    assert devices() == ["cpu:1", "gpu:0", "cpu:1"]
    begin_run(path, Recipe(), device="gpu:2", overwrite=True)
    assert devices() == ["gpu:2"]


def test_a_run_of_the_format_before_starts_is_a_run(tmp_path):
    folder = begin_run(tmp_path / "run", Recipe())
    written = json.loads(folder.recipe_file.read_text())
    del written["starts"]
    written["environment"] = {"commit": "aaa"}
    folder.recipe_file.write_text(json.dumps(written))
    begin_run(folder.path, Recipe(), resume=True)
    folder.recipe_file.write_text(json.dumps(written))
    begin_run(folder.path, Recipe(seed=1), overwrite=True)


def test_what_does_not_go_on_changes_nothing(tmp_path):
    begin_run(tmp_path / "run", Recipe())
    before = contents(tmp_path / "run")
    open_run_folder(tmp_path / "run", Recipe(steps=9), resume=True)
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("damaged", ["", "{", "[]", '{"name": "soup"}'])
@pytest.mark.parametrize("option", ["resume", "overwrite"])
def test_resume_with_a_damaged_recipe_is_refused(tmp_path, damaged, option):
    folder = begin_run(tmp_path / "run", Recipe())
    folder.recipe_file.write_text(damaged)
    before = contents(folder.path)
    with pytest.raises(RunFolderError, match=r"not a run.*a damaged one"):
        open_run_folder(folder.path, Recipe(), **{option: True})
    assert contents(folder.path) == before


def test_a_recipe_of_another_version_is_replaced_but_not_gone_on_with(tmp_path):
    folder = begin_run(tmp_path / "run", Recipe())
    text = folder.recipe_file.read_text()
    folder.recipe_file.write_text(text.replace('"steps"', '"old_name"'))
    with pytest.raises(RunFolderError, match=r"no recipe.*old_name"):
        open_run_folder(folder.path, Recipe(), resume=True)
    begin_run(folder.path, Recipe(seed=1), overwrite=True)
    assert folder.read_recipe().seed == 1


def test_overwrite_deletes_runs_and_nothing_else(tmp_path):
    folder = begin_run(tmp_path / "run", Recipe())
    begin_run(folder.path, Recipe(seed=1), overwrite=True)
    begin_run(tmp_path / "other", Recipe(seed=1))
    assert set(contents(folder.path)) == set(contents(tmp_path / "other"))

    for foreign in (
        "thesis.tex",
        "train/my.csv",
        "checkpoints/mine/best.keras",
        "events.out.tfevents.1.host.of_another_program",
        "empty/",
    ):
        path = folder.path / foreign
        path.parent.mkdir(exist_ok=True)
        path.mkdir() if foreign.endswith("/") else path.touch()
        before = contents(folder.path)
        name = re.escape(foreign.rstrip("/"))
        with pytest.raises(RunFolderError, match=f"also holds {name}"):
            begin_run(folder.path, Recipe(), overwrite=True)
        assert contents(folder.path) == before
        path.rmdir() if foreign.endswith("/") else path.unlink()
        if path.parent.name == "mine":
            path.parent.rmdir()

    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").touch()
    with pytest.raises(RunFolderError, match="is not a run"):
        open_run_folder(photos, Recipe(), overwrite=True)
    assert [path.name for path in photos.iterdir()] == ["cat.jpg"]


def test_a_run_that_is_to_be_replaced_comes_back_unless_the_new_one_began(
    tmp_path,
):
    path = begin_run(tmp_path / "run", Recipe()).path
    before = contents(path)
    begin_run(path, Recipe(seed=1), overwrite=True, begins=False)
    assert contents(path) == before


def test_a_folder_of_that_name_that_is_no_run_is_left_alone(tmp_path):
    path = begin_run(tmp_path / "run", Recipe()).path
    (path / "replaced").mkdir()
    (path / "replaced" / "notes").touch()
    before = set(contents(path))
    begin_run(path, Recipe(), resume=True)
    assert set(contents(path)) == before


@pytest.mark.parametrize("begins", [True, False])
@pytest.mark.parametrize("moment", range(14))
def test_a_kill_while_overwriting_leaves_one_whole_run(
    tmp_path, monkeypatch, moment, begins
):
    """From one moment on nothing is moved or deleted any more."""
    path = begin_run(tmp_path / "run", Recipe()).path
    calls = 0

    def until_killed(function):
        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls > moment:
                raise KeyboardInterrupt
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(Path, "rename", until_killed(Path.rename))
        patch.setattr(shutil, "rmtree", until_killed(shutil.rmtree))
        begin_run(path, Recipe(seed=1), overwrite=True, begins=begins)
    # Three are moved aside, then their folder renamed, twice: here it counts.
    left = Recipe(seed=int(begins and moment > 4))
    open_run_folder(path, left, resume=True)
    begin_run(tmp_path / "other", left)
    assert set(contents(path)) == set(contents(tmp_path / "other"))


def test_a_second_process_is_refused_until_the_first_is_done(tmp_path):
    with run_folder.open_run_folder(tmp_path / "run", Recipe()):
        for options in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(RunFolderError, match="another process"):
                open_run_folder(tmp_path / "run", Recipe(), **options)
    open_run_folder(tmp_path / "run", Recipe(), resume=True)


def test_a_folder_without_its_recipe_is_left_alone(tmp_path):
    (tmp_path / "notes").touch()
    with pytest.raises(RunFolderError, match="not a run"):
        open_run_folder(tmp_path, Recipe(), resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_where_and_in_what_portions_may_change_on_resume(tmp_path):
    begin_run(tmp_path / "run", Recipe())
    other = Recipe(strategy="mirrored", replicas=2, steps_per_execution=3)
    folder = begin_run(tmp_path / "run", other, resume=True)
    assert folder.read_recipe() == other


def test_a_run_goes_on_with_its_own_data_only(tmp_path):
    data = {"classes": 10, "digest": "a"}
    with run_folder.open_run_folder(tmp_path / "run", Recipe()) as folder:
        folder.take_data(data)
        folder.write_recipe(Recipe(), device="cpu")
        assert folder.read_data() == data
    with run_folder.open_run_folder(
        tmp_path / "run", Recipe(), resume=True
    ) as folder:
        folder.take_data(data)
        with pytest.raises(RunFolderError, match="digest=a there, b given"):
            folder.take_data({**data, "digest": "b"})


def test_a_temporary_file_is_nobody_elses(tmp_path):
    (tmp_path / "tmp.x.json").write_text("mine")
    write_json(tmp_path / "x.json", {})
    assert (tmp_path / "tmp.x.json").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match=r"file/run cannot be written"):
        open_run_folder(tmp_path / "file" / "run", Recipe())


def test_resume_and_overwrite_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match="Received: both"):
        open_run_folder(tmp_path, Recipe(), resume=True, overwrite=True)


def test_json_is_whole_or_not_there(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
