"""python -m bench compare with runs that were really made."""

import json

from bench.cli.main import main
from bench.records import store
from tests.helpers.launching import ROOT, launch_all


def test_two_real_runs(tmp_path, tmp_path_factory, capsys):
    recipe = ROOT / "recipes" / "tiny" / "bert-full.yaml"
    tiny = ["limit={train: 24, test: 16}", "training.steps=4"]
    jobs = {
        rate: [recipe, "--out", tmp_path / rate, *tiny, f"training.learning_rate={rate}"] for rate in ("1e-3", "1e-2")
    }
    for name, done in launch_all(jobs, tmp_path_factory.mktemp("printed")).items():
        assert done.returncode == 0, (name, done.stderr[-2000:])
    for stage in ("after", "before"):
        assert main(["compare", str(tmp_path), "--stage", stage, "--json", str(tmp_path / "c.json")]) == 0
        found = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
        assert (found["examples"], found["stage"], len(found["systems"])) == (16, stage, 2)
        for item in found["systems"]:
            rate = item["name"].partition("learning_rate=")[2].removesuffix(")")
            assert item["score"] == store.read(tmp_path / rate).scores[stage]["test"]["accuracy"].value
    assert "16 examples" in capsys.readouterr().out
