"""Episodes as Minari's data sets, and back again."""

import json
import types

import minari
import numpy as np
import pytest
from gymnasium import spaces

import collect
from episodes import minari_export
from episodes.dataset import check_collection, read_collection, settings
from episodes.episode import episode_files
from tests.episodes.folders import (
    assert_same_episodes,
    import_folder,
    make_config,
    make_episode,
    make_folder,
    read_folder,
    refused,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:env_spec is None"),
    pytest.mark.filterwarnings("ignore:.*not in the possible render_modes"),
]


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("success, extras", [(None, ()), (1, ("state",)), (0, ("cost",)), (1, ("state", "cost"))])
def test_episodes_come_back_from_minari_bit_by_bit(terminal, success, extras, tmp_path, store, capsys):
    episodes = [make_episode(n, 3 + n, terminal, success, extras=extras) for n in range(3)]
    facts = {"settings": settings(make_config()), "command": ["collect.py"], "seed": 3, "noise": 0.3}
    folder = make_folder(tmp_path / "there", episodes, facts)
    assert collect.main(["export", str(folder), "latent-planning/there-v0"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["episodes"], printed["transitions"]) == (3, 12)
    known = import_folder(capsys, tmp_path / "back", "latent-planning/there-v0")
    assert_same_episodes(read_folder(folder), read_folder(tmp_path / "back"))
    assert known == read_collection(tmp_path / "back") and known.items() >= facts.items()
    assert known["successes"] == 3 * (success or 0) and known["episodes"] == 3 and known["transitions"] == 12
    check_collection(tmp_path / "back", make_config())
    assert sorted(path.suffix for path in (tmp_path / "back").iterdir()) == [".json"] + [".npz"] * 3


def test_episodes_that_report_different_outcomes_come_back_too(tmp_path, store, capsys):
    folder = make_folder(
        tmp_path / "there", [make_episode(0), make_episode(1, success=1), make_episode(2, extras=["cost"])]
    )
    assert collect.main(["export", str(folder), "there-v0"]) == 0
    known = import_folder(capsys, tmp_path / "back", "there-v0")
    assert_same_episodes(read_folder(folder), read_folder(tmp_path / "back"))
    assert known["successes"] == 1


def test_success_under_another_name_is_imported(tmp_path, store, capsys):
    folder = make_folder(tmp_path / "there", [make_episode(0, success=1)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minari_export, "OUTCOMES", {"is_success": ()})
        name_of = lambda key: "is_success" if key == "success" else key
        renamed = lambda episode: original({name_of(key): value for key, value in episode.items()})
        original = minari_export._buffer
        patch.setattr(minari_export, "_buffer", renamed)
        assert collect.main(["export", str(folder), "sb3-v0"]) == 0
    known = import_folder(capsys, tmp_path / "back", "sb3-v0")
    assert_same_episodes(read_folder(folder), read_folder(tmp_path / "back"))
    assert known["successes"] == 1


def test_an_exported_data_set_reads_as_minari_s_do(tmp_path, store, capsys):
    episodes = [make_episode(1, 3, True, 1, extras=["state"]), make_episode(2, 2, False, 0, extras=["state"])]
    make_folder(tmp_path / "data", episodes)
    assert collect.main(["export", str(tmp_path / "data"), "hammer-v1"]) == 0
    dataset = minari.load_dataset("hammer-v1")
    assert (dataset.total_episodes, dataset.total_steps) == (2, 5)
    assert list(minari.list_local_datasets()) == ["hammer-v1"]
    assert dataset.action_space == spaces.Box(-1.0, 1.0, (2,), np.float32)
    one, other = dataset
    np.testing.assert_array_equal(one.observations["image"], episodes[0]["image"])  # no JPEG
    np.testing.assert_array_equal(one.observations["state"], episodes[0]["state"])
    np.testing.assert_array_equal(one.actions, episodes[0]["action"][1:])
    assert one.rewards.tolist() == [101, 102, 103] and other.rewards.tolist() == [201, 202]
    assert one.terminations.tolist() == [False, False, True] and not one.truncations.any()
    assert other.truncations.tolist() == [False, True] and not other.terminations.any()
    assert one.infos["success"].tolist() == [0, 0, 0, 1] and other.infos["success"].tolist() == [0, 0, 0]
    assert dataset.observation_space.contains({key: value[0] for key, value in one.observations.items()})
    # Without collection.json nothing is known of the episodes, so that every run may have them.
    known = import_folder(capsys, tmp_path / "back", "hammer-v1")
    assert known["settings"] == {} and known["minari"]["dataset"] == "hammer-v1"


@pytest.mark.parametrize("name", ["hammer", "hammer-v", "two words-v0", "../hammer-v0", "/hammer-v0", ""])
def test_names_that_minari_does_not_accept(name, tmp_path, store, capsys):
    make_folder(tmp_path / "data", [make_episode()])
    assert "does not accept the name" in refused(capsys, "export", tmp_path / "data", name)
    assert "does not accept the name" in refused(capsys, "import", name, "--out", tmp_path / "out")
    assert not store.exists() and not (tmp_path / "out").exists()


def test_of_two_exports_to_one_name_the_later_one_is_refused(tmp_path, store, capsys, monkeypatch):
    folder, inside = make_folder(tmp_path / "data", [make_episode()]), []

    def check_room(*_):
        if not inside:  # both have seen that there is no such data set
            inside.append(None)
            inside.append(refused(capsys, "export", folder, "one-v0"))

    monkeypatch.setattr(minari_export, "_check_room", check_room)
    assert collect.main(["export", str(folder), "one-v0"]) == 0
    assert "choose another name" in inside[1]
    assert len(minari.load_dataset("one-v0")) == 1 and [path.name for path in store.iterdir()] == ["one-v0"]


def test_what_cannot_be_exported(tmp_path, store, capsys):
    assert "no episodes to export" in refused(capsys, "export", tmp_path / "none", "none-v0")
    good = make_folder(tmp_path / "good", [make_episode()])
    assert collect.main(["export", str(good), "good-v0"]) == 0
    assert "already" in refused(capsys, "export", good, "good-v0")
    assert len(minari.load_dataset("good-v0")) == 1
    early = make_episode()
    early["reward"][0] = 1
    fraction = make_episode()
    fraction["discount"][2] = 0.5
    for name, bad, words in (
        ("keys", make_episode(1, extras=["state"]), "its keys are"),
        ("reward", early, "before its first action"),
        ("discount", fraction, "discount between 0 and 1"),
    ):
        folder = make_folder(tmp_path / name, [bad])
        make_folder(folder / "first", [make_episode()])
        (first,) = episode_files(folder / "first")
        first.rename(folder / f"2020{first.name[4:]}")
        assert words in refused(capsys, "export", folder, f"{name}-v0")
        assert not (store / f"{name}-v0").exists()  # what was begun is gone
    (store / "file").touch()
    # Another name is of no use where all of Minari's folder is read-only.
    assert "another name or MINARI_DATASETS_PATH" in refused(capsys, "export", good, "file/name-v0")
    assert "unrecognized arguments: --configs" in refused(capsys, "export", good, "other-v0", "--configs", "metaworld")


def test_an_export_that_does_not_fit_onto_the_disk_is_refused_before_it_begins(tmp_path, store, capsys, monkeypatch):
    folder = make_folder(tmp_path / "data", [make_episode(number, steps=127) for number in range(2)])
    usage = lambda path: types.SimpleNamespace(free=path.exists() * 2**21)
    monkeypatch.setattr(minari_export.shutil, "disk_usage", usage)
    assert "takes 3 MiB, and the disk of" in refused(capsys, "export", folder, "data-v0")
    assert not (store / "data-v0").exists()


def test_the_task_of_an_exported_data_set_cannot_be_changed(tmp_path, store, capsys):
    facts = {"settings": settings(make_config())}
    folder = make_folder(tmp_path / "data", [make_episode()], facts)
    assert collect.main(["export", str(folder), "data-v0"]) == 0
    words = ["import", "data-v0", "--out", tmp_path / "out"]
    assert "of pointmass_obstacle, not of" in refused(capsys, *words, "--task", "pointmass_lottery")
    assert "'mass' is not a task" in refused(capsys, *words, "--task", "mass")
    assert (
        import_folder(capsys, tmp_path / "out", "data-v0", "--task", "pointmass_obstacle")["settings"]
        == facts["settings"]
    )


@pytest.mark.parametrize("inside", ["file", "file/sets", ""])
def test_a_store_that_cannot_be_made_is_named(tmp_path, monkeypatch, capsys, inside):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MINARI_DATASETS_PATH", inside and str(tmp_path / inside))
    folder, out = make_folder(tmp_path / "there", [make_episode(0)]), tmp_path / "back"
    for words in (["export", folder, "there-v0"], ["import", "there-v0", "--out", out]):
        said = refused(capsys, *words)
        assert "cannot be written" in said and "let MINARI_DATASETS_PATH name a folder where you can write" in said
    assert not out.exists()
