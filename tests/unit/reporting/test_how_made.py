"""reporting/how_made.py: how to run a page's runs again, their methods, and how their settings were chosen."""

import shutil
import subprocess
from pathlib import Path

import pytest

from bench.records.record import Environment
from bench.reporting import how_made, study_page
from tests.helpers import studies
from tests.helpers.pages import full

COMMAND = ["accelerate", "launch", "--config_file", "accelerate_configs/cpu_bf16.yaml", "bench/run.py", "r.yaml"]


def record(seed, *, path="mine/it's $HOME.yaml", commit="abc", **changes):
    made = full(seed=seed, **changes)
    made.recipe.path, made.recipe.overrides, made.recipe.hash = path, ["max_length=32"], path
    made.launch.command = [*COMMAND, "--seed", str(seed), "--out", "runs/x"]
    made.environment = Environment(
        python="3.11", platform="x", packages={"finetune-bench": "0.1.0"}, devices=[], cpu_threads=1,
        git={"commit": commit, "dirty": commit == "def"},
    )  # fmt: skip
    made.selected_on = []
    return made


def located(*records):
    return [(Path(f"runs/{number}/record.json"), one) for number, one in enumerate(records)]


def commands(text):
    import html

    return html.unescape(text.partition("<pre>\n")[2].partition("\n</pre>")[0])


def test_each_recipe_has_a_line_with_all_its_seeds_that_a_shell_reads():
    text = how_made.run_again(located(record(14), record(13), record(13, path="other.yaml", commit="def")))
    assert text.startswith("## How to run it again\n\n<details>\n<summary>Commands (2)</summary>")
    assert "finetune-bench 0.1.0, commit <code>abc</code> (2 runs)" in text
    assert "commit <code>def</code> with changes that are not committed (1 run)" in text
    script = "python() { printf '<%s>' \"$@\"; echo; }\n" + commands(text)
    said = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said == [
        "<-m><bench><run><mine/it's $HOME.yaml><max_length=32><--seed><13><--config><cpu_bf16>",
        "<-m><bench><run><mine/it's $HOME.yaml><max_length=32><--seed><14><--config><cpu_bf16>",
        "<-m><bench><run><other.yaml><max_length=32><--seed><13><--config><cpu_bf16>",
    ]


def test_runs_of_a_recipe_that_is_in_no_file_are_counted_and_no_command_is_made_up():
    assert how_made.run_again(located(record(13, path="<given as a mapping>"))) == ""
    text = how_made.run_again(located(record(13), record(13, path="<given as a mapping>")))
    assert "Runs without a command, as their recipe is in no file: 1." in text


def test_methods_are_defined_by_their_own_files_with_the_kinds_on_the_page():
    ia3 = full(method="lora")
    ia3.recipe.resolved["method"] = {"name": "lora", "peft": "IA3Config"}
    probe = full(method="probe")
    probe.recipe.resolved["method"] = {"name": "probe"}
    unknown = full(method="of_another_machine")
    lines = how_made.methods([ia3, probe, probe, unknown])
    assert [line.partition(":")[0] for line in lines] == ["Method ia3", "Method probe"]
    assert lines[1].startswith("Method probe: Frozen features, at the first token")


def test_it_is_said_how_settings_were_chosen_only_where_the_records_tell(tmp_path):
    runs = [(tmp_path / "runs" / "a" / "record.json", record(13))]
    assert how_made.selection(runs) == (
        "Settings are those of the recipes and of the commands below; no record says that scored data chose any."
    )
    runs[0][1].recipe.overrides = []
    assert how_made.selection(runs) == "Settings are the recipes' own; no record says that scored data chose any."
    runs[0][1].recipe.resolved.setdefault("training", {})["best"] = "accuracy"
    assert how_made.selection(runs).endswith("The best step of 1 run was chosen on validation data, by accuracy.")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "choices.json").write_text("[]", encoding="utf-8")
    assert how_made.selection(runs).startswith("Settings were chosen on validation data, see Tuning.")
    runs[0][1].selected_on = ["test"]
    assert how_made.selection(runs) == "Data that are scored also chose steps or settings of the runs marked †."
    assert how_made.selection([]) == ""


@pytest.fixture
def two(tmp_path):
    for name, right in (("s--small--full", 30), ("s--small--lora", 32)):
        studies.write_run(tmp_path / "runs" / name, name, 13, [True] * right + [False] * (40 - right))
    yield tmp_path / "runs"
    shutil.rmtree(tmp_path / "runs")


def test_a_page_has_them_near_its_top_and_among_its_definitions(two, tmp_path):
    study_page.write([two], tmp_path / "page")
    text = (tmp_path / "page" / "report.md").read_text(encoding="utf-8")
    assert text.index("## How to run it again") < text.index("## Data set")
    assert "no record says that scored data chose any" in text.partition("## ")[0]
    assert "- Method full: All weights are trained." in text.partition("### Definitions")[2]
