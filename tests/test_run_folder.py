# SPDX-License-Identifier: Apache-2.0
import json

import pytest

from keras_bn import run_folder
from keras_bn.recipes import Recipe
from keras_bn.run_folder import RunFolderError, write_json


def open_run_folder(*arguments, **options):
    """Opens a folder and leaves it at once."""
    with run_folder.open_run_folder(*arguments, **options) as folder:
        return folder


def test_a_new_folder_holds_recipe_and_environment(tmp_path):
    recipe = Recipe(steps=7)
    folder = open_run_folder(tmp_path / "a" / "run", recipe, device="cpu:0")
    contents = json.loads(folder.recipe_file.read_text())
    assert Recipe.from_mapping(contents["recipe"]) == recipe
    assert contents["environment"]["device"] == "cpu:0"
    assert {"keras_bn", "tensorflow", "keras"} <= set(
        contents["environment"]["versions"]
    )


def test_an_existing_run_is_never_mixed_in(tmp_path):
    recipe = Recipe()
    open_run_folder(tmp_path / "run", recipe)
    with pytest.raises(RunFolderError, match=r"exists.*--resume.*--overwrite"):
        open_run_folder(tmp_path / "run", recipe)


def test_resume_takes_the_same_recipe_with_other_steps(tmp_path):
    open_run_folder(tmp_path / "run", Recipe())
    folder = open_run_folder(tmp_path / "run", Recipe(steps=9), resume=True)
    assert folder.read_recipe().steps == 9
    with pytest.raises(RunFolderError, match="seed=0 there, 1 asked"):
        open_run_folder(tmp_path / "run", Recipe(seed=1), resume=True)


@pytest.mark.parametrize("contents", ["", "{", "[]", '{"recipe": {"x": 1}}'])
def test_resume_with_a_damaged_recipe_is_refused(tmp_path, contents):
    folder = open_run_folder(tmp_path / "run", Recipe())
    folder.recipe_file.write_text(contents)
    with pytest.raises(RunFolderError, match=r"recipe.json holds no recipe"):
        open_run_folder(tmp_path / "run", Recipe(), resume=True)


def test_overwrite_deletes_runs_and_nothing_else(tmp_path):
    folder = open_run_folder(tmp_path / "run", Recipe())
    (folder.path / "old").touch()
    open_run_folder(tmp_path / "run", Recipe(), overwrite=True)
    assert not (folder.path / "old").exists()
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").touch()
    with pytest.raises(RunFolderError, match="is not a run"):
        open_run_folder(photos, Recipe(), overwrite=True)
    assert (photos / "cat.jpg").exists()


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
    open_run_folder(tmp_path / "run", Recipe())
    other = Recipe(strategy="mirrored", replicas=2, steps_per_execution=3)
    folder = open_run_folder(tmp_path / "run", other, resume=True)
    assert folder.read_recipe() == other


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
