"""Two evaluations of the same starts."""

import pytest

from analysis.markdown import number, percent
from analysis.pairs import pairs
from tests.analysis.logdirs import refusal, run


def write_table(path, *rows, head="episode,seed,return,success"):
    path.write_text("\n".join([head, *(f"{number},{row}" for number, row in enumerate(rows))]) + "\n")
    return path


def cells(text):
    """name of the row -> its cells."""
    lines = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in text.splitlines() if "|" in line]
    return {line[0]: line[1:] for line in lines[2:]}


def test_counts_and_p_of_the_starts_that_one_side_alone_solves(tmp_path):
    """Six starts that the second alone solves, none that the first does: two heads or tails in a row of 6, 2 / 2**6."""
    first = write_table(tmp_path / "a.csv", *(f"{seed},1,{int(seed == 9)}" for seed in range(10)))
    second = write_table(tmp_path / "b.csv", *(f"{seed},4,{int(seed in (0, 1, 2, 3, 4, 5, 9))}" for seed in range(10)))
    rows = cells(pairs([first], [second]))
    # Six differences of 1 and four of 0: mean 0.6, std 0.516, t 2.262.
    assert rows["success, %"] == ["10", "10 [2, 40]", "70 [40, 89]", "60 [23, 97]", "0", "6", "0.031"]
    assert cells(pairs([second], [first]))["success, %"][3:] == ["-60 [-97, -23]", "6", "0", "0.031"]


def test_interval_of_the_difference_is_over_pairs(tmp_path):
    """Differences 1, 2, 3: mean 2, std 1, t of two degrees of freedom; the starts themselves differ by far more."""
    first = write_table(tmp_path / "a.csv", "1,10,0", "2,50,0", "3,90,1")
    second = write_table(tmp_path / "b.csv", "3,91,1", "1,12,0", "2,53,0")  # in another order
    rows = cells(pairs([first], [second]))
    assert rows["return"][3] == "2.00 [-0.48, 4.48]"
    assert rows["success, %"][4:] == ["0", "0", "1"]


def test_several_evaluations_of_a_side_are_put_together_and_folders_are_searched(tmp_path, capsys):
    for name, success in (("a", 0), ("b", 1)):
        for seed in (0, 1):
            (tmp_path / name / str(seed)).mkdir(parents=True)
            write_table(tmp_path / name / str(seed) / "episodes.csv", f"7,{seed},0", f"8,{10 * seed},{success}")
    sides = [[tmp_path / name / str(seed) for seed in (0, 1)] for name in ("a", "b")]
    out, _ = run(capsys, "pairs", "--first", *sides[0], "--second", *sides[1])
    assert cells(out)["success, %"][0] == "4" and cells(out)["success, %"][4:6] == ["0", "2"]


def test_evaluations_of_one_start_count_once(tmp_path):
    """Start 1 is solved by the second in both evaluations, start 2 in one; start 3 in one by the first.

    Means of the starts: 0, 0, 0.5 against 1, 0.5, 0; two starts go better and one worse, so p is 1.
    """
    files = {
        name: write_table(tmp_path / name, *(f"{seed},{10 * solved},{solved}" for seed, solved in enumerate(row, 1)))
        for name, row in {"a0": (0, 0, 1), "a1": (0, 0, 0), "b0": (1, 1, 0), "b1": (1, 0, 0)}.items()
    }
    rows = cells(pairs([files["a0"], files["a1"]], [files["b0"], files["b1"]]))
    assert rows["success, %"] == ["6", "17 [0, 88]", "50 [0, 100]", "33 [-100, 100]", "1", "3", "1"]
    # Differences 10, 5, -5: mean 10 / 3, std 7.64, t 4.303.
    assert rows["return"][:4] == ["6", "1.67 [-5.50, 8.84]", "5.00 [-7.42, 17.42]", "3.33 [-15.64, 22.31]"]


def test_the_same_evaluation_twice_tells_no_more_than_once(tmp_path):
    first = write_table(tmp_path / "a.csv", *(f"{seed},1,{int(seed == 9)}" for seed in range(10)))
    second = write_table(tmp_path / "b.csv", *(f"{seed},{seed},{int(seed < 7)}" for seed in range(10)))
    once, twice = cells(pairs([first], [second])), cells(pairs([first, first], [second, second]))
    assert once["return"][1:4] == twice["return"][1:4]
    assert once["success, %"][3] == twice["success, %"][3] and once["success, %"][-1] == twice["success, %"][-1]


def test_equal_seeds_of_different_tasks_are_different_starts(tmp_path, capsys):
    head = "episode,task,seed,return,success"
    tables = {name: write_table(tmp_path / name, f"{name[0]},7,1,{name[1]}", head=head) for name in ("a0", "a1", "b1")}
    old = write_table(tmp_path / "old", "7,1,0")
    rows = cells(pairs([tables["a0"], tables["b1"]], [tables["a1"], tables["b1"]]))
    assert rows["success, %"][:3] == ["2", "50 [9, 91]", "100 [34, 100]"], "Wilson's, so each is a start of its own"
    assert "no start in common" in refusal(capsys, "pairs", "--first", tables["a0"], "--second", tables["b1"])
    assert cells(pairs([old], [tables["b1"]]))["success, %"][0] == "1"


def test_what_rounds_to_zero_has_no_sign():
    assert percent(-0.004) == "0" and number(-0.0001) == "0.000" and percent(-0.006) == "-1"


def test_starts_of_one_side_are_left_out_and_success_where_there_is_none(tmp_path, capsys):
    first = write_table(tmp_path / "a.csv", "1,5", "2,6", head="episode,seed,return")
    second = write_table(tmp_path / "b.csv", "2,8", "3,9", head="episode,seed,return")
    rows = cells(pairs([first], [second]))
    assert list(rows) == ["return"] and rows["return"][:4] == ["1", "6.00", "8.00", "2.00"]
    assert "2 starts that only one of them has are left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "is not a file"),
        ("", "is not a table of episodes"),
        ("episode,seed,return\n0,1,nan\n", "is not a table of episodes"),
        ("episode,seed,return\n0,1,2\n1,1,3\n", "is not a table of episodes"),
        ("episode,seed\n0,1\n", "is not a table of episodes"),
        ("episode,seed,return\n0\n", "is not a table of episodes"),
        ("episode,seed,return\n0,4,2\n", "no start in common"),
        ("episode,seed,return,success\n0,1,2,\n", "is not a table of episodes"),
    ],
)
def test_what_is_no_pair_is_refused(tmp_path, capsys, text, words):
    good = write_table(tmp_path / "good.csv", "1,5", head="episode,seed,return")
    other = tmp_path / "other.csv"
    if text is not None:
        other.write_text(text)
    assert words in refusal(capsys, "pairs", "--first", good, "--second", other)


def test_sides_of_different_numbers_are_refused(tmp_path, capsys):
    good = write_table(tmp_path / "good.csv", "1,5", head="episode,seed,return")
    assert "each needs one" in refusal(capsys, "pairs", "--first", good, good, "--second", good)
