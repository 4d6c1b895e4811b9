"""Progress is a bar in a terminal, and a line per tenth elsewhere."""

import io
import re
from pathlib import Path

from clipattr.display.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_without_a_terminal_there_is_one_line_per_tenth():
    log = io.StringIO()
    assert list(Progress(range(250), desc="encoding", unit=" picture", file=log)) == list(range(250))
    lines = log.getvalue().splitlines()
    assert len(lines) == 10 and "\r" not in log.getvalue()
    assert lines[0].startswith("encoding: 25 of 250 pictures, 00:00 gone")
    assert lines[-1].startswith("encoding: 250 of 250 pictures")


def test_a_resumed_task_counts_from_where_it_was():
    log = io.StringIO()
    with Progress(total=10, initial=5, desc="training", unit="step", file=log) as bar:
        bar.set_postfix_str("loss 0.1")
        for _ in range(5):
            bar.update()
    assert [line.split(",")[0] for line in log.getvalue().splitlines()] == [
        f"training: {n} of 10 steps" for n in range(6, 11)
    ]


def test_a_terminal_has_a_bar_and_a_quiet_run_has_nothing():
    screen, log = Terminal(), io.StringIO()
    list(Progress(range(3), desc="encoding", file=screen))
    list(Progress(range(3), desc="encoding", file=log, disable=True))
    assert "\r" in screen.getvalue() and "3/3" in screen.getvalue() and log.getvalue() == ""


def test_what_was_spent_once_and_what_was_done_before_is_left_out_of_the_estimate(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("clipattr.display.progress.time.monotonic", lambda: now[0])
    log = io.StringIO()
    with Progress(total=10, desc="audit", unit="prompt", file=log) as bar:
        bar.known(2)
        bar.update(2)  # read from files
        now[0] += 100 + 10
        bar.set_aside(100)
        bar.update()
    assert log.getvalue().splitlines()[-1] == "audit: 3 of 10 prompts, 01:50 gone, 01:10 left"
    screen = Terminal()
    with Progress(total=10, desc="audit", file=screen, smoothing=0) as bar:
        bar.known(2)
        bar.set_aside(50)
        assert bar.initial == 2 and bar.start_t > bar.last_print_t


def test_lines_count_in_the_plural(capsys):
    with Progress(total=10, desc="audit", unit="prompt") as bar:
        bar.update(10)
    for _ in Progress(range(2), unit="batch", desc="effects"):
        pass
    told = capsys.readouterr().err
    assert "10 of 10 prompts," in told and "2 of 2 batches," in told
    with Progress(total=1, desc="audit", unit="prompt") as bar:
        bar.update()
    assert "1 of 1 prompt," in capsys.readouterr().err


def test_no_message_counts_one_with_a_plural():
    """A count in front of these nouns goes through `counted`, which knows the singular."""
    nouns = r"hidden pictures|links to|blank lines|repeated words|unexpected reliances|(picture|prompt|group)\(s\)"
    found = [
        f"{path.name}:{number}"
        for folder in ("clipattr", "widgets")
        for path in sorted((Path(__file__).parents[2] / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if re.search(rf"\}} ({nouns})", line)
    ]
    assert not found, found


def test_no_findings_show_their_verdicts_in_a_notebook():
    from clipattr.discovery.findings import Findings, PromptVerdict

    able = PromptVerdict(
        "<b>kite", "nothing found", pictures_finding=20, pictures_measuring=1, chosen_by="labels"
    )
    unable = PromptVerdict("tree", "cannot be judged", why="it has 1 picture of its own")
    shown = Findings([], verdicts=[able, unable])._repr_html_()
    assert "No unexpected reliance was found for 1 prompt. 1 prompt could not be judged." in shown
    assert "nothing found in 21 pictures of its own (by labels)" in shown and "it has 1 picture" in shown
    assert "<table" not in shown and "<b>" not in shown
    assert "no verdict says" in Findings([])._repr_html_()
    many = Findings([], verdicts=[able] * 21)._repr_html_()
    assert "1 further prompt: see verdict_frame()" in many
