"""cli/report.py: the table that fits a terminal, the page of a single run, and what is refused."""

import re

import pytest

from bench import console
from bench.analysis import accessors
from bench.cli.main import main
from bench.records import store
from bench.reporting import printed_table
from tests.helpers import pictures, studies
from tests.helpers.pages import full


@pytest.fixture(autouse=True)
def _unrendered(monkeypatch):
    pictures.leave_unrendered(monkeypatch)


def made(folder, *records):
    for number, record in enumerate(records):
        (folder / str(number)).mkdir(parents=True)
        store.write(record, folder / str(number))
    return folder


@pytest.fixture
def printed(monkeypatch, capsys):
    """What the command shows on a terminal of so many columns: its lines, and those of standard error."""

    def _printed(paths, width, *options):
        monkeypatch.setattr(console, "is_live", lambda: True)
        monkeypatch.setattr(console.out, "size", (width, 50))
        assert main(["report", *map(str, paths), *options]) == 0
        said = capsys.readouterr()
        return [line.rstrip() for line in said.out.splitlines()], said.err

    return _printed


def study(folder):
    """Two systems of two seeds, one run that failed and one with a warning."""
    failed = full("sst2--minilm--head", status="crashed", reason="CUDA error | " + "x" * 400)
    warned = full("sst2--minilm--full", seed=14, accuracy=0.95)
    warned.warn("one_label", "every answer is a")
    others = [full("sst2--minilm--full", accuracy=0.93), warned, full(accuracy=0.7), full(seed=14, accuracy=0.71)]
    return made(folder, failed, *others)


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_the_terminal_best_first_and_failed_last(tmp_path, printed, width):
    lines, errors = printed([study(tmp_path)], width)
    head = next(number for number, line in enumerate(lines) if line.startswith("system"))
    end = next(number for number, line in enumerate(lines) if line.startswith(("Overrides", "crashed:")))
    table = lines[head:end]
    assert max(map(len, table)) <= width, "\n".join(table)
    assert "Data set stanfordnlp/sst2" in lines
    assert "All names begin with sst2 / minilm." in lines
    rows = [line.split()[:2] for line in table[1:]]
    assert rows == [["full", "14"], ["full", "13"], ["lora", "14"], ["lora", "13"], ["head", "13"]]
    assert "accuracy after" in table[0]
    assert re.search(r"0\.950 \(0\.930–0\.970\) .* 1 +ok$", table[1])
    assert table[-1].split()[-1] == "crashed"
    assert ("f1_macro" in table[0]) == (width == 120)
    assert ("trainable" in lines[head - 1]) == (width == 120)  # a heading of two lines
    assert lines[end + 1].startswith("crashed: head, seed 13: CUDA error | xxx")
    assert len(lines[end + 1]) < 400
    over = next(number for number, line in enumerate(lines) if line.startswith("aggregated over seeds"))
    assert [line.split()[:3] for line in lines[over + 1 : over + 3]] == [["full", "2", "0.940"], ["lora", "2", "0.705"]]
    assert "5 records (4 ok, 1 crashed)." in lines
    assert "warning: stanfordnlp/sst2: every answer is a (1 run)" in errors


def test_each_comparability_key_has_a_table(tmp_path, printed):
    other = full("s--b--full")
    other.comparability = other.comparability.model_copy(update={"key": "ffff", "parts": {"data": "d2"}})
    lines, _ = printed([made(tmp_path, full(), other)], 80)
    assert sum(line.startswith("system") for line in lines) == 2
    assert "Runs with comparability key ffff" in lines
    assert any("Do not compare scores across them. They differ in: data" in line for line in lines)


def test_records_that_cannot_be_read_are_named_and_hostile_names_harmless(tmp_path, printed):
    name = "a|b\x1b[31m `c` *d* <i>x</i>" + "y" * 200 + "--m--full"
    made(tmp_path, full(name), full())
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "record.json").write_text("{", encoding="utf-8")
    lines, _ = printed([tmp_path], 80)
    shown = "\n".join(lines)
    assert "\x1b" not in shown
    assert "`c` *d*" in shown
    assert "<i>x</i>" in shown
    assert "more characters)" in " ".join(shown.split())
    head = next(number for number, line in enumerate(lines) if line.startswith("system"))
    end = next(number for number, line in enumerate(lines) if line.startswith("Overrides"))
    assert max(map(len, lines[head:end])) <= 80
    assert any(line.startswith("not read: ") and "not a whole record" in line for line in lines)
    assert "2 records (2 ok); 1 more could not be read." in lines


def test_a_single_run_is_shown_with_its_scores(tmp_path, printed):
    lines, _ = printed([made(tmp_path, full())], 80)
    assert lines[0] == "sst2 / minilm / lora, seed 13: ok"
    assert lines[1].startswith("LoRA fine-tuning of org/minilm (22 million parameters")
    assert any(line.startswith("accuracy ") and "0.880 to 0.920" in line for line in lines)
    failed, _ = printed([made(tmp_path / "b", full(status="oom", reason="no memory"))], 80)
    assert failed[0].endswith(": oom")
    assert failed[-1] == "no memory"
    printed_table.show(*accessors.read_all([tmp_path / "b"]), "mcc")  # a metric asks for the table


def test_a_single_run_is_written_as_its_page(tmp_path, capsys):
    texts = studies.write_texts(tmp_path / "data", 4)
    run = studies.write_run(tmp_path / "run", "s--one--full", 13, [True, False] * 2, texts=texts)
    (run / "figures").mkdir()
    (run / "figures" / "learning_curves.png").write_bytes(b"png")
    elsewhere = tmp_path / "page"
    words = ["report", str(run), "-o", str(elsewhere), "--html", str(tmp_path / "p.html")]
    for _ in range(2):  # its own page is replaced
        assert main(words) == 0
    page = (elsewhere / "report.md").read_text(encoding="utf-8")
    assert page.startswith("# s / one / full, seed 13\n")
    assert "a fine film, number 1" in page
    assert (elsewhere / "figures" / "learning_curves.png").read_bytes() == b"png"
    assert "a fine film, number 1" in (tmp_path / "p.html").read_text(encoding="utf-8")
    # Into its own folder: the page is made anew from the record.
    assert main(["report", str(run), "-o", str(run), "--no-texts"]) == 0
    page = (run / "report.md").read_text(encoding="utf-8")
    assert "fine film" not in page
    assert "figures/learning_curves.png" in page
    assert store.read(run)
    capsys.readouterr()
    # Not over another run's page, nor over what a person wrote.
    other = studies.write_run(tmp_path / "other", "s--two--full", 13, [True, False] * 2, texts=texts)
    assert main(["report", str(run), "-o", str(other)]) == 2
    assert "is the folder of another run" in capsys.readouterr().err
    (elsewhere / "report.md").write_text("# My own\n", encoding="utf-8")
    assert main(["report", str(run), "-o", str(elsewhere)]) == 2
    assert "is not the page of a run; pass another -o, or --overwrite" in capsys.readouterr().err
    assert main(["report", str(run), "-o", str(elsewhere), "--overwrite"]) == 0
    (tmp_path / "file").write_text("x", encoding="utf-8")
    assert main(["report", str(run), "-o", str(tmp_path / "file")]) == 2
    assert "is a file; pass a folder" in capsys.readouterr().err


def test_a_file_that_is_no_page_is_not_replaced(tmp_path, capsys):
    folder, notes = study(tmp_path / "runs"), tmp_path / "notes.html"
    notes.write_text("<html>my own</html>")
    assert main(["report", str(folder), "--html", str(notes)]) == 2
    assert f"{notes} is not a page of this tool" in capsys.readouterr().err
    assert notes.read_text() == "<html>my own</html>"
    for _ in range(2):  # its own page is replaced
        assert main(["report", str(folder), "--html", str(notes), *(["--overwrite"] if not _ else [])]) == 0
    assert notes.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("name", ["report.md", "figures", "."])
def test_one_output_is_not_the_other(tmp_path, capsys, name):
    folder, out = study(tmp_path / "runs"), tmp_path / "out"
    assert main(["report", str(folder), "-o", str(out), "--html", str(out / name)]) == 2
    assert "is what -o writes itself" in capsys.readouterr().err
    assert not out.exists()


def test_records_that_can_not_be_read_are_told_and_none_at_all_is_a_failure(tmp_path, capsys):
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "record.json").write_text('{"schema": 2')
    for options in ([], ["-o", str(tmp_path / "a")]):
        assert main(["report", str(tmp_path / "half"), *options]) == 1
        assert "can't be read: " in capsys.readouterr().err
    made(tmp_path, full())
    assert main(["report", str(tmp_path)]) == 0
    assert "half/record.json: not a whole record" in capsys.readouterr().err


def test_a_run_whose_predictions_are_others_has_no_page(tmp_path, capsys):
    """Also among others, where it is named as not counted."""
    folder = studies.write_study(tmp_path / "runs", {"weak": 0.5, "good": 0.9}, seeds=(13,))
    weak, good = sorted(folder.glob("*"), key=lambda path: "good" in path.name)
    predictions = "predictions/after-test.jsonl"
    (weak / predictions).write_bytes((good / predictions).read_bytes())
    for options in (["-o", str(tmp_path / "a")], ["--html", str(tmp_path / "a.html")]):
        assert main(["report", str(weak), *options]) == 2
        assert "recomputed from the predictions" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "a.html").exists()
    assert main(["report", str(folder), "-o", str(tmp_path / "b")]) == 0
    assert f"not counted: {weak / 'record.json'}: " in capsys.readouterr().err
    page = (tmp_path / "b" / "report.md").read_text(encoding="utf-8")
    assert "2 records (2 ok). Not counted, for a reason that stands below the leaderboard: 1." in page


def test_failures_alone_have_a_title(tmp_path):
    failed = full("sst2--minilm--head", status="crashed", reason="CUDA error")
    made(tmp_path / "runs", failed, full("sst2--minilm--full", status="oom", reason="too large"))
    assert main(["report", str(tmp_path / "runs"), "-o", str(tmp_path / "a")]) == 0
    assert "no systems on " in (tmp_path / "a" / "report.md").read_text(encoding="utf-8").splitlines()[2]
