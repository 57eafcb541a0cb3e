"""Reports in the repository are those that the records beside them give; the README quotes them."""

import re
import statistics

import pytest

from bench.analysis import accessors
from bench.records import store
from bench.reporting import short_table
from tests.helpers.launching import ROOT

# What `scripts/gpu_fit` and `scripts/gpu_check` write has tables of its own, and the gate's baselines are no records:
# tests/runs/test_gpu_fit.py, tests/unit/test_gpu_check.py and tests/unit/sweeps/test_gate.py hold them.
APART = ("gpu_fit", "gpu_check", "baseline")
STUDY = ROOT / "reports" / "studies" / "minilm"
FOLDERS = sorted(path for path in (ROOT / "reports").iterdir() if path.is_dir() and path.name not in APART)


def test_there_are_reports():
    assert FOLDERS


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_table_is_up_to_date(folder, monkeypatch):
    monkeypatch.chdir(ROOT)
    table = short_table.table_report(*accessors.read_all([folder.relative_to(ROOT)]))
    assert table == folder.with_suffix(".md").read_text(encoding="utf-8")


def test_readme_quotes_the_records():
    """Means are those of the records; intervals, which need the predictions, those of the report beside them."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    report = (STUDY / "report.md").read_text(encoding="utf-8")
    _, *rows = re.findall(r"^\| (\S+|) \| (\S.*) \| (\S.*) \| (\S.*) \|$", text, re.MULTILINE)[:5]
    assert [row[0] for row in rows] == ["full", "LoRA", "probe", "TF-IDF"]
    records = [store.read(path) for path in store.find([STUDY])]
    assert len(records) == 69
    for method, *cells in rows:
        for data, seeds, cell in zip(("sst2", "imdb", "polish_hotels"), (5, 3, 3), cells, strict=True):
            recipe = f"recipes/studies/minilm/{data}-{method.lower().replace('-', '')}.yaml"
            scores = [one.scores["after"]["test"]["accuracy"].value for one in records if one.recipe.path == recipe]
            assert len(scores) == seeds, recipe
            assert cell.startswith(f"{statistics.mean(scores):.3f} (")
            assert f"| {cell} | {seeds} |" in report


def test_the_studys_readme_quotes_the_records():
    text = (ROOT / "recipes" / "studies" / "minilm" / "README.md").read_text(encoding="utf-8")
    report = (STUDY / "report.md").read_text(encoding="utf-8")
    records = [store.read(path) for path in store.find([STUDY])]
    names = {"last two blocks": "last_layers", "head alone": "head", "TF-IDF": "tfidf"}
    table = text.partition("## What was found")[2].partition("majority baseline")[0]
    rows = re.findall(r"^\| ([^|]+) \| (\d[^|]*) \| ([^|]*)\| ([^|]*)\|$", table, re.MULTILINE)
    assert len(rows) == 9
    for system, *cells in rows:
        shown = [cell.strip().replace("*", "") for cell in cells]
        for data, cell in zip(("sst2", "imdb", "polish_hotels"), shown, strict=True):
            recipe = f"recipes/studies/minilm/{data}-{names.get(system, system.lower())}.yaml"
            scores = [one.scores["after"]["test"]["accuracy"].value for one in records if one.recipe.path == recipe]
            assert bool(scores) == bool(cell), recipe
            assert not cell or cell.startswith(f"{statistics.mean(scores):.3f} (")
            assert cell in report
    (trained,) = {
        one.data.splits["train"].examples for one in records if one.recipe.path.endswith("polish_hotels-full.yaml")
    }
    assert f"{trained:,} of " in text
    ties = re.findall(r"\| [+−][\d.]+ \| ([\d.]+) \| [^|]+ \| [^|]+ \| no significant difference \|", report)
    quoted = set(re.findall(r"detectable\s+difference (0\.\d+)", text))
    assert len(quoted) == 2
    assert quoted <= {f"{float(one):.3f}" for one in ties}
