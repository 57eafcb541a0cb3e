"""Reports in the repository are those that the records beside them give; the README quotes them."""

import re

import pytest

from bench.analysis import accessors
from bench.records import store
from bench.reporting import short_table
from tests.helpers.launching import ROOT

# What `scripts/gpu_fit` and `scripts/gpu_check` write has tables of its own, and the gate's baselines are no records:
# tests/runs/test_gpu_fit.py, tests/unit/test_gpu_check.py and tests/unit/sweeps/test_gate.py hold them.
APART = ("gpu_fit", "gpu_check", "baseline")
FOLDERS = sorted(path for path in (ROOT / "reports").iterdir() if path.is_dir() and path.name not in APART)


def test_there_are_reports():
    assert FOLDERS


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_table_is_up_to_date(folder, monkeypatch):
    monkeypatch.chdir(ROOT)
    table = short_table.table_report(*accessors.read_all([folder.relative_to(ROOT)]))
    assert table == folder.with_suffix(".md").read_text(encoding="utf-8")


def test_readme_quotes_the_records():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (full|lora|qlora|probe|head) \| (\S+ \S+) \| (\S+ \S+) \|", text, re.MULTILINE)
    found = {item.method: item for item in map(store.read, store.find([ROOT / "reports" / "minilm"])) if is_sst2(item)}
    assert {row[0] for row in rows} == set(found) == {"full", "lora", "qlora", "probe", "head"}
    for method, before, after in rows:
        for shown, stage in ((before, "before"), (after, "after")):
            score = found[method].scores[stage]["test"]["accuracy"]
            assert shown == f"{score.value:.3f} ({score.low:.3f}–{score.high:.3f})"


def is_sst2(item):
    return item.recipe.path.startswith("recipes/minilm/sst2")
