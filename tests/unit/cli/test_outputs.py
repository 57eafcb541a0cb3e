"""Where commands write: never over a run's own files, and never in place of a device."""

import os
from pathlib import Path

import pytest

from bench.cli.main import main
from bench.cli.options import refuse_outputs
from bench.errors import BenchError
from tests.helpers.cases import together


@pytest.fixture
def run(tmp_path):
    """The folder of a run, by its record."""
    (tmp_path / "run" / "predictions").mkdir(parents=True)
    (tmp_path / "run" / "record.json").write_text("{}")
    (tmp_path / "run" / "report.md").write_text("the run's own")
    return tmp_path / "run"


@together("name", ["record.json", "report.md", "train_log.jsonl", "predictions/after-test.jsonl", "model/config.json"])
def test_the_files_of_a_run_are_not_written_over(run, name):
    with pytest.raises(BenchError, match=r"is a file of the run in .*run, and would be overwritten"):
        refuse_outputs(run / name)


@together("name", ["notes.md", "comparison.json", "../report.md", "../run.html", "predictions/mine.md"])
def test_other_files_are_written_also_inside_of_a_run(run, name):
    refuse_outputs(run / name, None)


def test_devices_and_fifos_are_not_replaced_by_files(tmp_path):
    os.mkfifo(tmp_path / "fifo.md")
    for path in (tmp_path / "fifo.md", Path("/dev/stdout"), Path("/dev/null"), Path("/dev/fd/1")):
        with pytest.raises(BenchError, match="is not a regular file, and would be replaced by one"):
            refuse_outputs(path)


@together(
    "words",
    [
        ["report", "{run}", "--html", "{run}/record.json"],
        ["compare", "{run}", "{run}", "--json", "{run}/record.json"],
        ["compare", "{run}", "{run}", "-o", "{run}/report.md"],
        ["plan", "--table", "-o", "{run}/report.md"],
        ["gate", "recipes/tiny", "--baseline", "reports/baseline", "-o", "{run}/report.md"],
    ],
)
def test_every_command_that_writes_looks_first(run, words, capsys):
    assert main([word.format(run=run) for word in words]) == 2
    assert "would be overwritten; give another path" in capsys.readouterr().err
    assert (run / "record.json").read_text() == "{}"
    assert (run / "report.md").read_text() == "the run's own"
