"""runner/completion.py: the last lines of a run are its warnings, scores, places and one next command."""

from bench.records.record import RunWarning
from bench.runner import completion
from tests.helpers.pages import full

WARNINGS = [RunWarning(code="a", sentence="first thing"), RunWarning(code="b", sentence="second \x1b[2Jthing")]


def test_a_run_that_ended_well(tmp_path, capsys):
    record = full(warnings=WARNINGS, artifacts={"report": "report.md", "model": "model"})
    completion.say_end(record, tmp_path / "record.json")
    said = capsys.readouterr()
    assert said.err == "warning: first thing\nwarning: second \\u001b[2Jthing\n"
    heading, first, *_ = lines = said.out.splitlines()
    assert heading.split()[0] == "metric"
    assert first.split()[0] == "accuracy"
    assert lines[-3:] == [
        f"report: {tmp_path}/report.md",
        f"record: {tmp_path}/record.json",
        f'next: python -m bench predict {tmp_path} --text "..."',
    ]


def test_scores_of_a_run_that_failed_are_not_shown(tmp_path, capsys):
    record = full(warnings=WARNINGS[:1], artifacts={"report": "report.md", "model": "model"}, status="invalid")
    completion.say_end(record, tmp_path / "record.json")
    said = capsys.readouterr()
    assert (said.err, said.out) == ("warning: first thing\n", f"record: {tmp_path}/record.json\n")
