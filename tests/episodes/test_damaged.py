"""Damaged files among the episodes: set aside, counted and named, or too many of them."""

import io
import os
import zipfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from episodes.archive import read_arrays
from episodes.episode import episode_files, read_episode
from episodes.replay import Replay
from tests.episodes.numbered import make_episode
from tools.errors import UserError


def make_replay(folder, share=0.0, capacity=10**6, **options):
    return Replay(folder, 1, 5, capacity, seed=0, damaged_share=share, **options)


def fill(folder, count, **options):
    """The paths of new episodes 1, 2, ... of four transitions."""
    replay = make_replay(folder)
    return [replay.add(make_episode(number, 4, **options)) for number in range(1, count + 1)]


def write_archive(path, **arrays):
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def bare_array(path):
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


def huge_header(path):
    """The header of the reward promises 200 GB, the archive and its checksums are whole."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (5 * 10**10,)})
    members["reward.npy"] = header.getvalue() + bytes(20)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def hidden_member(path):
    """The comment of one array in the table of contents swallows the entry of the next."""
    content = bytearray(path.read_bytes())
    before, hidden = (content.rindex(b"PK\x01\x02", 0, content.rindex(name)) for name in (b"success.npy", b"cost.npy"))
    content[before + 32 : before + 34] = (len(content) - 22 - hidden).to_bytes(2, "little")
    path.write_bytes(content)


def no_date(path):
    path.rename(path.with_name(f"99999999T999999999999{path.name[21:]}"))


def another_suffix(path):
    path.rename(path.with_suffix(".NPZ"))


def another_name(path):
    path.rename(path.with_name("demonstration.npz"))


def named_pipe(path):
    path.unlink()
    os.mkfifo(path)


def folder(path):
    path.unlink()
    path.mkdir()


def dead_link(path):
    path.unlink()
    path.symlink_to("nowhere")


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "empty": lambda path: path.write_bytes(b""),
    "trailing bytes": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    "flipped": flip_a_byte,
    "bare array": bare_array,
    "objects": lambda path: write_archive(path, **make_episode(1, 4), state=np.array([{}] * 5)),
    "another length": lambda path: write_archive(path, **make_episode(1, 7)),
    "not finite": lambda path: write_archive(path, **make_episode(1, 4) | {"reward": np.full(5, np.nan, np.float32)}),
    "another kind": lambda path: write_archive(path, **make_episode(1, 4, size=16)),
    "200 GB": huge_header,
    "hidden array": hidden_member,
    "named pipe": named_pipe,
    "folder": folder,
    "dead link": dead_link,
    "no date": no_date,
    "another suffix": another_suffix,
    "another name": another_name,
}


def extended_episode(number):
    """One with everything that an episode may have."""
    success = np.arange(5, dtype=np.float32) == 3
    return make_episode(number, 4, state=True) | {"success": success.astype(np.float32), "cost": np.ones(5, np.float32)}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_file_is_set_aside_and_named_once(tmp_path, capsys, kind):
    replay = make_replay(tmp_path)
    paths = [replay.add(extended_episode(number)) for number in range(1, 4)]
    DAMAGES[kind](paths[0])
    (damaged,) = {path.name for path in tmp_path.iterdir()} - {path.name for path in paths[1:]}

    again = make_replay(tmp_path, share=0.1)
    assert (again.episodes, again.steps, again.entries) == (2, 8, 10)
    assert [path.name for path in (tmp_path / "damaged").iterdir()] == [damaged]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*(path.name for path in paths[1:]), "damaged"])
    said = capsys.readouterr().err
    assert said.startswith("note: 1 of 3 episodes") and said.count(damaged) == 1 and said.count("\n") == 1

    assert make_replay(tmp_path, share=0.1).add(extended_episode(4)).exists()
    assert not capsys.readouterr().err


@pytest.mark.parametrize("kind", DAMAGES)
def test_without_a_share_damage_is_refused_and_stays_where_it_is(tmp_path, kind):
    replay = make_replay(tmp_path)
    paths = [replay.add(extended_episode(number)) for number in range(1, 4)]
    DAMAGES[kind](paths[0])
    names = sorted(os.listdir(tmp_path))
    (damaged,) = set(names) - {path.name for path in paths[1:]}
    with pytest.raises(UserError) as error:
        make_replay(tmp_path)
    assert damaged in str(error.value) and "nothing was changed" in str(error.value) and len(str(error.value)) < 1000
    assert sorted(os.listdir(tmp_path)) == names


def test_share_bounds_how_many_are_set_aside(tmp_path, capsys):
    paths = fill(tmp_path, 10)
    for path in paths[:3]:
        flip_a_byte(path)
    with pytest.raises(UserError, match=r"3 of 10 episodes .* more than --damaged_share 0\.25 .* nothing was changed"):
        make_replay(tmp_path, share=0.25)
    assert episode_files(tmp_path) == paths
    assert make_replay(tmp_path, share=0.3).episodes == 7
    assert all(path.name in capsys.readouterr().err for path in paths[:1])


def test_newest_file_decides_the_kind_unless_it_is_damaged(tmp_path):
    paths = fill(tmp_path, 4)
    flip_a_byte(paths[-1])
    assert make_replay(tmp_path, share=0.1).entries == 15


def test_all_damaged_leaves_an_empty_replay_only_where_that_is_allowed(tmp_path):
    for path in fill(tmp_path, 2):
        flip_a_byte(path)
    with pytest.raises(UserError, match="2 of 2"):
        make_replay(tmp_path, share=0.5)
    assert make_replay(tmp_path, share=1.0).episodes == 0


def test_files_that_are_set_aside_never_replace_each_other(tmp_path):
    for _ in range(2):
        fill(tmp_path, 1)
        (tmp_path / "demonstration.npz").write_bytes(b"")
        make_replay(tmp_path, share=0.5)
    assert sorted(os.listdir(tmp_path / "damaged")) == ["demonstration.npz", "demonstration.npz.1"]


def test_offline_folder_is_not_changed(tmp_path, capsys):
    paths = fill(tmp_path / "offline", 3)
    flip_a_byte(paths[1])
    for _ in range(2):
        replay = make_replay(tmp_path / "own", share=0.1, offline=tmp_path / "offline")
        assert replay.entries == 10 and replay.episodes == 0
        assert f"passed over: {paths[1].name}" in capsys.readouterr().err
    assert sorted((tmp_path / "offline").iterdir()) == paths


def test_offline_folder_of_nothing_but_a_damaged_file_is_refused(tmp_path):
    (path,) = fill(tmp_path / "offline", 1)
    flip_a_byte(path)
    with pytest.raises(UserError, match="offline has no usable episode"):
        make_replay(tmp_path / "own", share=0.1, offline=tmp_path / "offline")


def test_older_files_are_read_in_place_of_damaged_ones(tmp_path):
    paths = fill(tmp_path, 5)
    flip_a_byte(paths[-2])
    assert make_replay(tmp_path, share=0.2, capacity=10).entries == 10


def corrupted(whole, path, flips):
    """Whether a file is refused after bits were flipped; otherwise its content must be the same."""
    content = bytearray(whole)
    for position in flips:
        content[position // 8] ^= 1 << position % 8
    path.write_bytes(content)
    try:
        episode = read_episode(path)
    except UserError:
        return True
    expected = extended_episode(1)
    assert episode.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(episode[key], value)
    return False


def test_flipped_bits_at_the_end_are_refused_or_harmless(tmp_path):
    # The table of contents and the record behind it are under no checksum.
    path = make_replay(tmp_path).add(extended_episode(1))
    whole = path.read_bytes()
    refused = [corrupted(whole, path, [position]) for position in range(8 * (len(whole) - 120), 8 * len(whole), 5)]
    assert sum(refused) > 60


def test_flipped_bits_anywhere_are_refused_or_harmless(tmp_path):
    path = make_replay(tmp_path).add(extended_episode(1))
    whole = path.read_bytes()

    @hypothesis.given(st.sets(st.integers(0, 8 * len(whole) - 1), min_size=1, max_size=3))
    @hypothesis.settings(max_examples=200)
    def check(positions):
        corrupted(whole, path, positions)

    check()


@pytest.mark.slow
def test_ten_thousand_flipped_bits_are_refused_or_harmless(tmp_path):
    path = make_replay(tmp_path).add(extended_episode(1))
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    refused = [corrupted(whole, path, [position]) for position in rng.integers(0, 8 * len(whole), 10_000)]
    assert sum(refused) > 5_000


@hypothesis.given(st.binary(max_size=300))
@hypothesis.settings(max_examples=100)
def test_any_bytes_are_no_episode(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="."):
        read_arrays(path)
