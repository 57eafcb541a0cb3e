"""study_page.py and what it is made of: the report of many runs says what the records say, and nothing more."""

import html
import json
import os
import re
import shutil
import statistics
import subprocess
import sys

import pytest
from matplotlib.figure import Figure
from sklearn.metrics import f1_score

from bench.analysis import accessors, compare, costs, disagreements, leaderboard, predictions
from bench.analysis.stats import paired
from bench.cli.main import main
from bench.errors import DataError
from bench.records import store
from bench.records.record import OutOfMemory, PhaseTime, Resumed, Score
from bench.reporting import findings, study_page, study_sections
from bench.reporting.figures import study
from tests.helpers import pictures, studies
from tests.helpers.pages import NASTY, cells, tables_of
from tests.helpers.studies import ROOT

RENDERED = Figure.savefig
SKILLS = {"weak": 0.55, "good": 0.8, "better": 0.97}


def sections(page, level="### "):
    """Heading -> body."""
    found = {}
    for part in f"\n{page}".split(f"\n{level}")[1:]:
        heading, _, body = part.partition("\n")
        found.setdefault(heading, body.partition("\n## ")[0])
    return found


def report(paths, folder):
    study_page.write(paths, folder)
    return (folder / "report.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module", autouse=True)
def _unrendered():
    with pytest.MonkeyPatch.context() as patch:
        pictures.leave_unrendered(patch)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three systems of three seeds, a run that did not fit, and four files that are no records."""
    folder = studies.write_study(tmp_path_factory.mktemp("study"), SKILLS)
    failed = studies.base()
    failed.name, failed.seed, failed.status, failed.scores = "study--huge--full", 13, "oom", {}
    failed.reason = "out of memory during train | in step 1"
    failed.oom = OutOfMemory(phase="train", memory="gpu", device="NVIDIA A2", capacity_bytes=15 * 2**30)
    failed.memory_predicted = {"train": {"total_gib": 31.25, "parts": {"CUDA": 0.5, "weights": 30.75}}}
    (folder / "huge").mkdir()
    store.write(failed, folder / "huge")
    whole = (folder / "good-13" / "record.json").read_text(encoding="utf-8")
    broken = {
        "half": whole[: len(whole) // 2],
        "foreign": '{"schema": "x", "a": 1}',
        "newer": '{"schema": 99}',
        "edited": whole.replace('"seed": 13', '"seed": "thirteen"', 1),
    }
    for name, text in broken.items():
        (folder / name).mkdir()
        (folder / name / "record.json").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    return report([runs], tmp_path_factory.mktemp("report"))


def test_systems_stand_in_tiers_with_the_mean_of_their_seeds(runs, page):
    expected = compare.compare([runs], predictions.CompareRequest())
    table = cells(page, "tier") and next(table for table in tables_of(page) if table[0][0] == "tier")
    rows = [dict(zip(table[0], row, strict=True)) for row in table[1:]]
    assert [row["system"] for row in rows] == ["A: better / lora", "B: good / lora", "C: weak / lora"]
    assert [row["tier"] for row in rows] == [str(system.tier) for system in expected.systems] == ["1", "2", "3"]
    for row, system in zip(rows, expected.systems, strict=True):
        skill = SKILLS[row["system"].removesuffix(" / lora").split(": ")[1]]
        values = [studies.scores(studies.answers(skill, seed))["accuracy"].value
                  for seed in (13, 14, 15)]  # fmt: skip
        assert row["accuracy (95 % interval)"].startswith(f"{statistics.mean(values):.3f} (")
        assert row["std over seeds"] == f"{statistics.stdev(values):.4f}"
        assert (row["seeds"], row["system"][0]) == ("3", system.letter)
    verdicts = {tuple(row[:2]): row[-1] for row in next(t for t in tables_of(page) if t[0][0] == "better score")[1:]}
    assert verdicts[("A: better / lora", "C: weak / lora")] == "A better"


def test_the_interval_of_several_seeds_is_that_of_the_difference_from_a_system_that_is_always_wrong(tmp_path):
    folder = studies.write_study(tmp_path, {"good": 0.8})
    for seed in (13, 14):
        studies.write_run(folder / f"zero-{seed}", "study--zero--lora", seed, [False] * 200)
    found = compare.compare([folder], predictions.CompareRequest())
    (group,) = leaderboard.groups(accessors.read_all([folder])[0])
    assert group.systems[0].low == pytest.approx(found.pairs[0].low, abs=1e-12)
    assert group.systems[0].high == pytest.approx(found.pairs[0].high, abs=1e-12)
    assert 0 < group.systems[0].low < group.systems[0].high < 1


def test_the_interval_of_seeds_that_differ_much_stays_within_what_an_accuracy_can_be(tmp_path):
    for seed, hits in ((13, [True] * 100), (14, [True, False] * 50)):
        studies.write_run(tmp_path / f"one-{seed}", "s--one--lora", seed, hits)
        studies.write_run(tmp_path / f"two-{seed}", "s--two--lora", seed, [False] * 100)
    (group,) = leaderboard.groups(accessors.read_all([tmp_path])[0])
    assert [(system.score, system.low, system.high) for system in group.systems] == [
        (0.75, 0, 1), (0, None, None),
    ]  # fmt: skip


def test_what_can_not_be_read_is_listed_with_the_reason(page):
    found = {row[0]: row[1] for row in tables_of(sections(page, "## ")["Unreadable records"])[0][1:]}
    assert list(found) == [f"<code>{name}/record.json</code>" for name in ("edited", "foreign", "half", "newer")]
    reasons = ("seed", "no `schema` number", "not a whole record", "schema 99 is newer")
    for reason, shown in zip(reasons, found.values(), strict=True):
        assert reason in html.unescape(shown)
    assert "10 records (9 ok, 1 oom); 4 more could not be read." in page


def test_a_run_that_did_not_fit_is_a_row(page):
    (table,) = tables_of(sections(page)["Failed runs"])
    row = dict(zip(*table, strict=True))
    assert row["status"] == "**oom**"
    assert row["reason"] == (
        "Does not fit 15.00 GiB (NVIDIA A2); predicted need: 31.25 GiB. out of memory during train &#124; in step 1"
    )


def test_disagreements_show_the_texts_that_were_scored(runs, page):
    body = sections(page)["Disagreements"]
    (table,) = tables_of(body)
    assert table[0] == ["example", "text", "reference", "A: better / lora", "B: good / lora", "C: weak / lora"]
    assert len(table) == 1 + disagreements.SHOWN
    for row in table[1:]:
        number = int(row[0].removeprefix("<code>t-").removesuffix("</code>"))
        assert row[1] == f"a fine film, number {number}"
        assert row[2] == studies.LABELS[number % 2]
    hits = [[studies.answers(skill, seed) for seed in (13, 14, 15)] for skill in SKILLS.values()]
    together = [[hit for system in hits for seed in system for hit in [seed[number]]] for number in range(200)]
    right, wrong = sum(map(all, together)), sum(not any(answers) for answers in together)
    said = f"Of 200 examples, {right} were answered correctly by all 3 systems in all seeds and {wrong} by no system in"
    assert said in body


def test_ties_of_disagreement_are_counted_and_not_taken_from_one_label(tmp_path):
    """In the order of ids, all of the first half would be of one label."""
    for name, right in (("one", [True] * 100), ("other", [False] * 60 + [True] * 40)):
        studies.write_run(tmp_path / name, f"s--{name}--x", 13, right)
    body = sections(report([tmp_path], tmp_path / "report"))["Disagreements"]
    (table,) = tables_of(body)
    numbers = [int(row[0].removeprefix("<code>t-").removesuffix("</code>")) for row in table[1:]]
    assert f"; {60 - disagreements.SHOWN} more differ as much as the last" in body
    assert len(numbers) == disagreements.SHOWN
    assert max(numbers) > 30


def test_right_is_what_equals_the_reference_and_counts_are_of_all_systems(tmp_path, monkeypatch):
    hits = {"tied": ([True, True, False], [False, True, False]), "other": ([False, True, False], [False, True, True])}
    for name, (first, second) in hits.items():
        for seed, right in ((13, first), (14, second)):
            studies.write_run(tmp_path / f"{name}-{seed}", f"s--{name}--x", seed, right)
    studies.write_run(tmp_path / "last", "s--last--x", 13, [False] * 3)
    monkeypatch.setattr(study_sections, "MOST_SYSTEMS", 2)
    body = sections(report([tmp_path], tmp_path / "report"))["Disagreements"]
    assert "Of 3 examples, 0 were answered correctly by all 3 systems in all seeds and 0 by no system in any" in body
    assert "in any seed; the systems differ on 3." in body
    assert "on which the 2 best systems differ most" in body
    (table,) = tables_of(body)
    rows = {row[0]: row[table[0].index("reference") :] for row in table[1:]}
    assert sorted(rows["<code>t-00000</code>"]) == ["<b>positive</b>", "negative", "negative (1 of 2 seeds)"]
    assert "<code>t-00001</code>" not in rows


def test_an_answer_that_is_right_in_part_is_not_right(tmp_path):
    for name, values in {"one": (1.0, 0.67, 0.0), "two": (0.5, 0.67, 0.25)}.items():
        made = studies.write_run(tmp_path / name, f"s--{name}--x", 13, [True] * 3)
        lines = [
            {"id": f"t-{place}", "prediction": "a", "reference": ["b"], "scores": None, "metrics": {"squad_f1": value}}
            for place, value in enumerate(values)
        ]
        text = "\n".join(map(json.dumps, lines))
        (made / "predictions" / "after-test.jsonl").write_text(text, encoding="utf-8")
        content = store.read(made)
        content.scores = {"after": {"test": {"squad_f1": Score(value=sum(values) / 3, examples=3, signature="s")}}}
        store.write(content, made)
    body = sections(report([tmp_path], tmp_path / "report"))["Disagreements"]
    assert "0 were answered correctly by all 2 systems in all seeds and 2 by no system in any seed" in body
    assert "Wrong answers are bold; partly correct answers with their squad_f1" in body
    (table,) = tables_of(body)
    assert [sorted(row[-2:]) for row in table[1:]] == [["<b>a</b> (0.50)", "a"], ["<b>a</b>", "<b>a</b> (0.25)"]]


def test_the_same_records_give_the_same_bytes_without_torch(runs, page, tmp_path, monkeypatch):
    """In another process, from a copy at another place, named in another order."""
    copy = shutil.copytree(runs, tmp_path / "elsewhere")
    code = (
        "import sys; from bench.cli.main import main;"
        "assert main(['report', *sys.argv[2:], '-o', sys.argv[1], '--html', sys.argv[1] + '/page.html']) == 0;"
        "print([name for name in ('torch', 'transformers', 'datasets', 'evaluate') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "b"), *sorted(map(str, copy.iterdir()), reverse=True)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    monkeypatch.setattr(Figure, "savefig", RENDERED)
    study_page.write([runs], tmp_path / "a", tmp_path / "a" / "page.html")
    assert page == (tmp_path / "a" / "report.md").read_text(encoding="utf-8")
    names = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len([name for name in names if name.suffix == ".png"]) == 4
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert str(tmp_path) not in page


def test_figures_of_an_earlier_report_are_removed_and_other_files_stay(runs, tmp_path):
    (tmp_path / "figures").mkdir()
    for name in ("07-old-cost.png", "holiday.png"):
        (tmp_path / "figures" / name).write_bytes(b"x")
    report([runs / "good-13"], tmp_path)
    assert not (tmp_path / "figures" / "07-old-cost.png").exists()
    assert (tmp_path / "figures" / "holiday.png").exists()


# ---------------------------------------------------------------- the first screen


def test_title_and_finding_come_first_and_warnings_before_the_finding(tmp_path):
    folder = studies.write_study(tmp_path, SKILLS)
    found = compare.compare([folder], predictions.CompareRequest())
    lines = report([folder], tmp_path / "report").split("\n\n")
    assert lines[0] == study_page.OWN
    assert lines[1] == "# study: 3 systems on sst2_local"
    assert html.unescape(lines[2]) == "**sst2_local**, accuracy: " + findings.finding(
        found, {"A": "better", "B": "good", "C": "weak"}
    )
    score = r"accuracy 0\.\d{3} \(95 % interval 0\.\d{3} to 0\.\d{3}\)"
    assert re.fullmatch(rf"Best score: {score}, better; 0\.509 for the majority baseline\.", lines[3])
    content = store.read(folder / "weak-13")
    content.warn("leakage", "test texts are among the training texts")
    store.write(content, folder / "weak-13")
    page = report([folder], tmp_path / "report")
    assert page.index("1 of 9 runs warns of 1 thing") < page.index("better beats good")


def test_the_title_names_few_methods_and_data_sets(tmp_path):
    for number, method in enumerate(("full", "lora", "probe")):
        studies.write_run(tmp_path / str(number), f"s--m--{method}", 13, [True, False] * 20)
    title = report([tmp_path], tmp_path / "report").split("\n")[2]
    assert title == "# s: full, lora and probe on sst2_local"


def test_the_title_counts_the_systems_of_each_data_set(tmp_path):
    def write(data_set, names):
        for name in names:
            run = studies.write_run(tmp_path / data_set / name, f"s--{name}--full", 13, [True, False] * 20)
            made = store.read(run)
            made.data.id = data_set
            store.write(made, run)

    def title():
        return report([tmp_path], tmp_path / "report").split("\n")[2]

    write("films", "abcde")
    write("books", "abcde")
    assert title() == "# s: 5 systems on books and films"
    write("posts", "abc")
    assert title() == "# s: 5 systems on books and films; 3 systems on posts"
    write("songs", "defgh")
    assert title() == "# s: 5 systems on books and films; 3 systems on posts; 5 systems on songs"
    write("words", "a")
    assert title() == "# s: 1 to 5 systems on 5 data sets"


def test_a_metric_that_equals_accuracy_by_definition_is_said_once():
    rows = [{"split": "test", "metric": name, "A": value} for name, value in
            (("accuracy", "0.5 → 0.8"), ("f1_micro", "0.5 → 0.8"), ("mcc", "0.5 → 0.8"))]  # fmt: skip
    kept, sentence = study_sections._without_copies(rows)
    assert [row["metric"] for row in kept] == ["accuracy", "mcc"]
    assert sentence == " With one label for each example, f1_micro equals accuracy."
    rows[1]["A"] = "0.5 → 0.9"
    assert study_sections._without_copies(rows) == (rows, "")


# ---------------------------------------------------------------- costs


def with_costs(folder, seconds, gib):
    """Runs whose training took these seconds and GiB of memory."""
    for number, (train_s, rss_gib) in enumerate(zip(seconds, gib, strict=True)):
        studies.write_run(
            folder / str(number), f"s--{number}--x", 13, studies.answers(0.6 + number / 10, 13),
            phases=[PhaseTime(name="train", seconds=train_s)], memory={"train": {"rss_gib": rss_gib}},
        )  # fmt: skip
    return folder


def test_costs_that_hardly_differ_are_not_drawn(tmp_path):
    page = report([with_costs(tmp_path / "a", [100, 200, 300], [2.0, 2.05, 2.09])], tmp_path / "r")
    body = sections(page)["Score against cost"]
    assert "RAM peak, GiB: not drawn, since it is nearly the same for all systems (2.00 to 2.09)." in body
    assert "(figures/01-sst2_local-cost.png)" in body
    body = sections(report([with_costs(tmp_path / "b", [100, 100, 103], [2.0, 2.0, 2.0])], tmp_path / "r"))
    assert "-cost.png" not in body["Score against cost"]
    assert "training, s: not drawn, since it is nearly the same for all systems (100 to 103)." in str(body)


def test_without_paired_tests_there_is_no_front(tmp_path):
    folder = with_costs(tmp_path / "a", [100, 200, 300], [2, 3, 4])
    for path in folder.glob("*/predictions/*"):
        path.unlink()
    assert "No front is drawn, since there are no paired tests." in report([folder], tmp_path / "r")


def priced(before=(True, False) * 100, after=(True,) * 200, **changes):
    made = studies.base()
    found = {"before": list(before), "after": list(after)}
    made.__dict__["answers"] = found = {stage: right for stage, right in found.items() if right}
    made.scores = {stage: {"test": studies.scores(right)} for stage, right in found.items()}
    made.data.splits["test"].examples = len(after)
    made.phases = [PhaseTime(name="load", seconds=50), PhaseTime(name="train_steps", seconds=570),
                   PhaseTime(name="warm_up", seconds=30)]  # fmt: skip
    made.launch.world_size = 2
    for name, value in changes.items():
        setattr(made, name, value)
    return made


@pytest.fixture
def of(tmp_path):
    """Costs of runs of one system, with the predictions that their scores are made of."""

    def _of(*records, metric="accuracy"):
        runs = []
        for number, made in enumerate(records):
            folder = tmp_path / str(number)
            shutil.rmtree(folder, ignore_errors=True)
            (folder / "predictions").mkdir(parents=True)
            for stage, right in made.answers.items():
                lines = [json.dumps(studies.line(place, hit)) for place, hit in enumerate(right)]
                (folder / "predictions" / f"{stage}-test.jsonl").write_text("\n".join(lines), encoding="utf-8")
            runs.append((folder / "record.json", made))
        return costs.system_costs(runs, "test", metric, higher_is_better=metric != "loss")

    return _of


def test_minutes_per_point_by_hand(of):
    found = of(priced())
    # (570 + 30) s on 2 processes are 20 minutes; from 0.5 to 1 are 50 points.
    assert (found.training_s, found.process_minutes, found.device_kind) == (600, 20, "CPU")
    assert found.minutes_per_point == pytest.approx(20 / 50)


def test_costs_of_several_seeds_have_a_spread(tmp_path):
    for seed, seconds in zip((13, 14, 15), (9.0, 10.0, 14.0), strict=True):
        run = studies.write_run(tmp_path / "runs" / str(seed), "s--m--full", seed, [True, False] * 20)
        made = store.read(run)
        made.phases = [PhaseTime(name="train", seconds=seconds)]
        made.memory = {"train": {"rss_gib": seconds / 4}}
        made.throughput["train"] = {"real_tokens_per_s": 2500.0 + 100 * seed, "padding_share": 0.1}
        made.throughput["test"] = {"seconds_per_100_examples": 0.5}
        store.write(made, run)
    page = report([tmp_path / "runs"], tmp_path / "report")
    (table,) = [table for table in tables_of(page) if "training, s" in table[0]]
    cost = dict(zip(table[0], table[1], strict=True))
    # Standard deviation of 9, 10, 14: sqrt(14 / 2).
    assert cost["training, s"] == "11.0 ± 2.6"
    assert cost["process-minutes"] == "0.183 ± 0.044 CPU min"
    assert cost["real tokens/s"] == "3,900 ± 100"
    assert cost["RAM peak, GiB"] == "2.25–3.50"
    # The same in all seeds.
    assert (cost["padding share"], cost["s per 100 examples"]) == ("10.0 %", "0.500")
    assert "means ± sample standard deviation; memory is given from the lowest to the highest peak" in page


def test_a_gain_that_may_be_chance_has_no_price(of):
    chance = priced(after=[True, False] * 95 + [True] * 10)
    # 6 more right, none lost: McNemar's p is 2 / 2 ** 6 = 0.031, where the intervals of both scores overlap.
    shown = priced(after=[True, False] * 94 + [True] * 12)
    assert paired.mcnemar(5, 0) > 0.05 > paired.mcnemar(6, 0)
    assert of(shown).minutes_per_point == pytest.approx(20 / 3)
    why = "the gain from before to after training is not significant in every seed"
    for runs in ([chance], [shown, chance], [priced(after=[False] * 200)]):
        assert (of(*runs).minutes_per_point, of(*runs).why_no_price) == (None, why)
    assert of(priced(before=())).why_no_price == "not scored both before and after training"
    lost = priced()
    del lost.answers["before"]
    assert of(lost).why_no_price == "the predictions before and after training are not available"
    assert of(priced(), metric="loss").why_no_price.startswith("lower loss is better")


def test_a_gain_of_another_metric_is_priced_by_its_paired_interval(of):
    def by_f1(**answers):
        made = priced(**answers)
        for stage, right in made.answers.items():
            f1 = f1_score([place % 2 for place in range(200)], [place % 2 if hit else 1 - place % 2
                          for place, hit in enumerate(right)], average="macro")  # fmt: skip
            made.scores[stage]["test"]["f1_macro"] = Score(value=f1, examples=200, signature="f")
        return made, made.scores

    gained, scores = by_f1()
    points = 100 * (scores["after"]["test"]["f1_macro"].value - scores["before"]["test"]["f1_macro"].value)
    assert of(gained, metric="f1_macro").minutes_per_point == pytest.approx(20 / points)
    chance = [True] * 100 + [False] * 98 + [True] * 2
    assert of(by_f1(before=[True] * 100 + [False] * 100, after=chance)[0], metric="f1_macro").minutes_per_point is None


def test_steps_stand_beside_the_costs_and_a_probe_has_none(tmp_path):
    part = studies.base().training
    for number, (name, changes) in enumerate(
        {"one": {"steps": 40}, "two": {"steps": 90, "epochs": 2.5}, "probe": {"engine": "scikit-learn"}}.items()
    ):
        made = studies.write_run(tmp_path / str(number), f"s--{name}--x", 13, studies.answers(0.6 + number / 10, 13),
                                 training=part.model_copy(update=changes))  # fmt: skip
        (made / "train_log.jsonl").unlink() if name == "probe" else None
    page = report([tmp_path], tmp_path / "report")
    table = next(table for table in tables_of(page) if "training, s" in table[0])
    rows = {row[0].split(": ")[1]: dict(zip(table[0], row, strict=True)) for row in table[1:]}
    assert [rows[name]["steps"] for name in ("one", "two", "probe")] == ["40", "90", "–"]
    assert rows["two"]["epochs"] == "2.50"
    assert "without a log" not in page
    assert "No minutes per point for " in page


def test_times_that_are_not_whole_or_not_comparable_are_not_averaged(of):
    resumed = priced(resumed=[Resumed(at="t", from_step=10)])
    assert of(resumed).training_s is None
    assert of(resumed, priced()).process_minutes is None
    other = priced()
    other.launch = other.launch.model_copy(update={"device": "cuda"})
    assert of(priced(), other).training_s is None
    assert of(priced(), other).padding_share is not None


@pytest.mark.parametrize(
    ("memory", "fits"),
    [
        ({"allocated_gib": 8, "reserved_gib": 9, "device_gib": 10}, "12 yes, 16 yes, 24 yes (measured)"),
        ({"allocated_gib": 11, "reserved_gib": 13, "device_gib": 14}, "12 unclear, 16 yes, 24 yes (measured)"),
        ({"allocated_gib": 25, "reserved_gib": 60, "device_gib": 61}, "12 no, 16 no, 24 no (measured)"),
        ({"allocated_gib": 11}, "12 unclear, 16 unclear, 24 unclear (measured)"),
    ],
)
def test_what_fits_follows_from_what_was_measured(of, memory, fits):
    found = of(priced(memory={"train": memory, "probe": {"allocated_gib": 70}}))
    assert found.gpu.fits() == fits
    assert found.gpu.least == memory["allocated_gib"]


def test_what_fits_follows_from_the_prediction_for_a_gpu_where_nothing_was_measured(of):
    predicted = {"train": {"total_gib": 13.5, "parts": {"CUDA": 0.5, "weights": 13}}}
    assert of(priced(memory_predicted=predicted)).gpu.fits() == "12 no, 16 yes, 24 yes (predicted)"
    assert of(priced(memory_predicted={"train": {"total_gib": 1.5, "parts": {"weights": 1.5}}})).gpu is None
    assert of(priced(memory_predicted={"train": None, "reason": "x"})).gpu is None
    measured = priced(memory={"train": {"allocated_gib": 3, "device_gib": 4}})
    assert of(measured, priced(memory_predicted=predicted)).gpu.fits().endswith("(measured)")


def test_all_metrics_of_all_splits_and_the_sizes_stand_folded(tmp_path):
    folder = studies.write_study(tmp_path, SKILLS, seeds=(13, 14))
    for path in store.find([folder]):
        content = json.loads(path.read_text(encoding="utf-8"))
        whole = content["scores"]["after"]["test"]["accuracy"]
        content["scores"]["after"]["train"] = {
            "accuracy": {**whole, "value": 0.25 if content["seed"] == 13 else 0.75},
            "examples_total": {**whole, "value": 1234.0},
        }
        content["model"]["parameters"] = {"total": 22_713_986, "trainable": 770, "before_head": 22_713_216}
        path.write_text(json.dumps(content), encoding="utf-8")
    page = report([folder], tmp_path / "report")
    table = next(table for table in tables_of(page) if table[0][:2] == ["split", "metric"])
    rows = {tuple(row[:2]): row[2:] for row in table[1:]}
    assert table[0][2:] == ["A", "B", "C"]
    assert rows["train", "accuracy"] == ["0.500"] * 3
    assert rows["train", "examples_total"] == ["1,234"] * 3
    before, after = (
        statistics.mean(studies.scores(studies.answers(skill, seed))["accuracy"].value for seed in (13, 14))
        for skill in (0.5, SKILLS["weak"])
    )
    assert rows["test", "accuracy"][2] == f"{before:.3f} → {after:.3f}"
    (sizes,) = [table for table in tables_of(page) if table[0][1:2] == ["without head"]]
    assert sizes[1][1:] == ["22,713,216", "22,713,986", "770"]


def test_a_system_on_several_data_sets_is_one_system_with_one_name(tmp_path):
    methods = {"full": ({"name": "full"}, 38), "lora": ({"name": "lora", "peft": "IA3Config"}, 30)}
    for data_set in ("films", "hotels"):
        for method, (settings, right) in methods.items():
            answers = [True] * right + [False] * (40 - right)
            run = studies.write_run(tmp_path / "runs" / data_set / method, f"s--small--{method}", 13, answers)
            made = store.read(run)
            made.recipe.resolved["method"] = settings
            made.data.id, made.recipe.hash, made.comparability.key = data_set, f"{data_set}-{method}", data_set
            store.write(made, run)
    study_page.write([tmp_path / "runs"], tmp_path / "page")
    text = (tmp_path / "page" / "report.md").read_text(encoding="utf-8")
    assert "# s: full and ia3 on films and hotels" in text
    summary, standings = tables_of(text)[:2]
    assert [row[-1] for row in summary[1:]] == ["full"] * 2
    assert [row[0] for row in standings[1:]] == ["full", "ia3"]
    assert "small / " not in text


def test_only_what_is_shown_to_be_better_is_on_the_front():
    def point(cost, score):
        return study.Point(name="x", score=score, low=None, high=None, cost=cost)

    points = [point(9, 0.9), point(3, 0.89), point(2, 0.8), point(None, 0.99), point(1, 0.7), point(1, 0.6)]
    better = {(2, 4), (2, 5), (1, 4), (1, 5), (1, 2), (0, 4), (0, 5), (0, 2)}
    assert study.front(points, lambda first, second: (first, second) in better) == [4, 2, 1]
    assert study.front(points, lambda first, second: False) == [4]
    assert study.front([point(None, 1.0)], lambda first, second: True) == []
    # Better than the front so far; a cheaper one off the front, which ties with both, does not keep it out.
    rising = [point(1, 0.5), point(2, 0.52), point(3, 0.53)]
    assert study.front(rising, lambda first, second: (first, second) == (2, 0)) == [0, 2]
    # Better than the cheapest, and not than the next on the front.
    assert study.front(rising, lambda first, second: second == 0 and first > 0) == [0, 1]


# ---------------------------------------------------------------- little, wrong and hostile input


def test_one_seed_is_compared_and_said_to_be_one(tmp_path):
    page = report([studies.write_study(tmp_path, SKILLS, seeds=(13,))], tmp_path / "report")
    assert "One seed: the interval covers other examples" in page
    assert "Only one seed of" in page
    row = next(table for table in tables_of(page) if table[0][0] == "tier")[1]
    expected = studies.scores(studies.answers(SKILLS["better"], 13))["accuracy"]
    assert row[2] == f"{expected.value:.3f} ({expected.low:.3f}–{expected.high:.3f})"


def test_equal_predictions_are_no_difference(tmp_path):
    for name in ("one", "two"):
        studies.write_run(tmp_path / name, f"s--{name}--full", 13, studies.answers(0.8, 13))
    page = report([tmp_path], tmp_path / "report")
    assert "All systems have equal scores on every example." in page
    assert "no significant difference" in page
    assert {row[0] for row in next(table for table in tables_of(page) if table[0][0] == "tier")[1:]} == {"1"}


def test_runs_without_predictions_have_scores_and_no_tiers(tmp_path):
    folder = studies.write_study(tmp_path, SKILLS, seeds=(13,))
    for path in folder.glob("*/predictions/*"):
        path.unlink()
    page = report([folder], tmp_path / "report")
    assert "No paired tests: a comparison needs completed runs of at least two systems" in page
    assert "a run can't be compared without its predictions" in page
    assert [row[0] for row in next(table for table in tables_of(page) if table[0][0] == "tier")[1:]] == ["–"] * 3
    assert "RAM peak, GiB: not drawn, since it is nearly the same for all systems (" in page
    assert "better has 0.920; no paired tests, see below for the reason." in page


def test_predictions_that_were_edited_are_not_tested(tmp_path):
    folder = studies.write_study(tmp_path, SKILLS, seeds=(13,))
    path = folder / "weak-13" / "predictions" / "after-test.jsonl"
    lines = [studies.line(number, True) for number in range(200)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    page = report([folder], tmp_path / "report")
    assert "Not tested: <code>weak-13/record.json</code>" in page
    assert "one of the two files was modified" in page
    rows = next(table for table in tables_of(page) if table[0][0] == "tier")[1:]
    assert [row[:2] for row in rows] == [["1", "A: better"], ["2", "B: good"]]
    assert "Not counted: <code>weak-13/record.json</code>" in page


def test_a_run_whose_score_before_training_is_denied_does_not_count(tmp_path):
    folder = studies.write_study(tmp_path, SKILLS, seeds=(13,))
    before = folder / "weak-13" / "predictions" / "before-test.jsonl"
    lines = [studies.line(number, hit) for number, hit in enumerate(studies.answers(0.5, 13))]
    before.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (group,) = leaderboard.groups(accessors.read_all([folder])[0])
    assert len(group.systems) == len(group.comparison.systems) == 3
    path = folder / "weak-13" / "record.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["scores"]["before"]["test"]["accuracy"]["value"] = 0.1
    path.write_text(json.dumps(content), encoding="utf-8")
    (group,) = leaderboard.groups(accessors.read_all([folder])[0])
    assert len(group.systems) == len(group.comparison.systems) == 2
    (left_out,) = group.not_counted
    assert left_out.path == path
    assert "before-test.jsonl: accuracy recomputed from the predictions is 0.5" in left_out.reason


def test_score_interval_and_tests_are_of_the_same_runs(tmp_path):
    folder = studies.write_study(tmp_path, SKILLS, seeds=(13, 14, 15))
    whole = store.read(folder / "good-13").scores["after"]["test"]["accuracy"].value
    path = folder / "good-14" / "record.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["scores"]["after"]["test"]["accuracy"]["value"] = 0.999
    path.write_text(json.dumps(content), encoding="utf-8")
    (folder / "weak-13" / "predictions" / "after-test.jsonl").unlink()
    (folder / "weak-14" / "predictions" / "after-test.jsonl").unlink()
    (group,) = leaderboard.groups(accessors.read_all([folder])[0])
    runs = {one.name.split(" / ")[1]: [found.seed for found in one.records] for one in group.systems}
    assert runs["good"] == [13, 15]
    assert runs["weak"] == [15]
    good = next(one for one in group.systems if "good" in one.name)
    assert good.low < good.score < good.high < 0.999
    assert abs(good.score - whole) < 0.1
    assert {item.path.parent.name: item.is_unsound for item in group.not_counted} == {
        "good-14": True, "weak-13": False, "weak-14": False,
    }  # fmt: skip


def test_the_only_system_is_held_to_its_predictions_too(tmp_path):
    studies.write_run(tmp_path / "one", "s--one--full", 13, studies.answers(0.8, 13))
    path = tmp_path / "one" / "record.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"value": 0.', '"value": 0.9', 1), encoding="utf-8")
    (group,) = leaderboard.groups(accessors.read_all([tmp_path])[0])
    assert not group.systems
    assert "one of the two files was modified" in group.not_counted[0].reason


def test_systems_without_a_common_example_are_not_tested(tmp_path):
    for name in ("one", "two"):
        studies.write_run(tmp_path / name, f"s--{name}--full", 13, studies.answers(0.8, 13))
    path = tmp_path / "two" / "predictions" / "after-test.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('"t-', '"u-'), encoding="utf-8")
    assert "have no example in common" in report([tmp_path], tmp_path / "report")


def test_a_run_that_was_repeated_counts_once(tmp_path):
    folder = studies.write_study(tmp_path, SKILLS, seeds=(13,))
    studies.write_run(folder / "again", "study--good--lora", 13, studies.answers(0.8, 13), started_at="2030")
    page = report([folder], tmp_path / "report")
    assert "Not counted: <code>good-13/record.json</code>: same system and seed as again/record.json" in page
    assert {row[3] for row in next(table for table in tables_of(page) if table[0][0] == "tier")[1:]} == {"1"}


def test_other_data_are_not_shown_as_the_texts_and_the_hub_is_not_asked(tmp_path):
    folder = studies.write_study(tmp_path, {"one": 0.5, "two": 0.9}, seeds=(13,))
    first = store.read(folder / "one-13")
    studies.write_texts(tmp_path / "data", 200, "another film, number {number}")
    page = report([folder], tmp_path / "report")
    assert "another film" not in page
    assert "Texts are not shown: the data have changed since the run" in page
    first.recipe.resolved["dataset"]["source"] = {"kind": "hub", "id": "stanfordnlp/sst2"}
    assert disagreements.texts(first, "test") == ({}, "they are on the Hub; pass --hub-texts to load them")


def test_a_report_without_texts_has_the_same_examples(tmp_path):
    folder = studies.write_study(tmp_path, {"one": 0.5, "two": 0.9}, seeds=(13,))
    shown = report([folder], tmp_path / "report")
    assert main(["report", str(folder), "-o", str(tmp_path / "report"), "--no-texts"]) == 0
    page = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "| example | text | reference |" in shown
    assert "| example | reference |" in page
    assert "Texts are not shown: this page was asked for without texts of examples (option --no-texts)." in page
    with pytest.raises(SystemExit):
        main(["report", str(folder), "-o", str(tmp_path / "report"), "--no-texts", "--hub-texts"])


def test_failed_runs_alone_give_a_page(runs, tmp_path):
    page = report([runs / "huge"], tmp_path)
    assert "No run has a score." in page
    assert "Does not fit 15.00 GiB" in page


def test_broken_files_alone_give_a_page_and_nothing_at_all_is_refused(runs, tmp_path):
    assert "0 records (0 ok); 1 more could not be read." in report([runs / "half"], tmp_path / "a")
    with pytest.raises(DataError, match=r"no record\.json in or below"):
        study_page.write([tmp_path / "a"], tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_hostile_text_breaks_no_table(tmp_path):
    name = f"s--{NASTY.replace('--', '')}--x"
    text = "| a\nb <script>alert(1)</script> " + "y" * 100_000 + " {number}"
    texts = studies.write_texts(tmp_path / "data", 40, text)
    for number, system in enumerate((name, "s--two--x")):
        hits = [(place + number) % 3 > 0 for place in range(40)]
        studies.write_run(tmp_path / "runs" / str(number), system, 13, hits, texts=texts)
    failed = studies.base().model_copy(update={"name": name, "status": "crashed", "reason": NASTY, "seed": 3})
    (tmp_path / "runs" / "failed").mkdir()
    store.write(failed, tmp_path / "runs" / "failed")
    page = report([tmp_path / "runs"], tmp_path / "report")
    tables_of(page)
    assert "<script" not in page
    assert "\x00" not in page
    assert "\u202e" not in page
    assert len(page) < 60_000
    (table,) = tables_of(sections(page)["Disagreements"])
    shown = html.unescape(table[1][1])
    assert shown.startswith("| a b <script>alert(1)</script> yyy")
    assert shown.endswith("more characters)")


def test_names_hold_what_tells_systems_apart_and_no_more(tmp_path):
    for number, extra in enumerate(("training.steps=4", "training.steps=8", "training.steps=8", None)):
        name = "s--one--full" if extra else "s--two--full"
        made = studies.write_run(tmp_path / str(number), name, 13, [True, False] * 20)
        content = store.read(made)
        content.recipe.overrides = ["seed=1", extra] if extra else []
        content.recipe.hash = f"{number}abcdef0" * 8
        content.comparability.key = "k"
        store.write(content, made)
    (group,) = leaderboard.groups(accessors.read_all([tmp_path])[0])
    assert {system.short for system in group.systems} == {
        "one (training.steps=4)", "one [1abcdef0]", "one [2abcdef0]", "two",
    }  # fmt: skip
    assert group.differs == ""


def test_runs_that_were_scored_in_another_way_stand_apart(tmp_path):
    for name, parts in (("one", {"data": "a", "template": "x"}), ("two", {"data": "b", "template": "y"})):
        made = studies.write_run(tmp_path / name, f"s--{name}--full", 13, [True, False] * 20)
        content = store.read(made)
        content.comparability = content.comparability.model_copy(update={"key": name, "parts": parts})
        store.write(content, made)
    found = list(leaderboard.groups(accessors.read_all([tmp_path])[0]))
    assert [(group.key, group.differs, len(group.systems)) for group in found] == [
        ("one", "data", 1),
        ("two", "data", 1),
    ]
    assert all("a comparison needs completed runs of at least two systems" in group.why_untested for group in found)


def test_a_report_by_another_metric_ranks_and_tests_by_it(tmp_path, capsys):
    folder = studies.write_study(tmp_path, {"one": 0.9, "two": 0.6}, seeds=(13,))
    for place, loss in (("one-13", 0.7), ("two-13", 0.2)):
        path = folder / place / "predictions" / "after-test.jsonl"
        lines = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
        for number, row in enumerate(lines):
            row["metrics"]["loss"] = loss + 0.1 * (-1) ** number
        path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
        content = store.read(folder / place)
        content.scores["after"]["test"]["loss"] = Score(value=loss, examples=200, signature="l")
        store.write(content, folder / place)
    studies.write_run(folder / "three", "study--three--lora", 13, studies.answers(0.99, 13))
    assert main(["report", str(folder), "-o", str(tmp_path / "r"), "--metric", "loss"]) == 0
    page = (tmp_path / "r" / "report.md").read_text(encoding="utf-8")
    table = next(table for table in tables_of(page) if table[0][0] == "tier")
    assert table[0][2] == "loss (95 % interval)"
    assert [row[1].split(": ")[-1] for row in table[1:]] == ["two", "one", "three"]
    assert [row[0] for row in table[1:]] == ["1", "2", "–"]
    assert "Not tested: <code>three/record.json</code>: the run has no loss" in page
    assert "A better" in page
    (group,) = leaderboard.groups(accessors.read_all([folder])[0], "mcc")
    assert study_sections.leaderboard(group) == "No run on this data set has a single-valued score of the metric mcc."
    capsys.readouterr()
    for words in ([], ["-o", str(tmp_path / "s")]):
        assert main(["report", str(folder), *words, "--metric", "mcc"]) == 2
        assert (
            "no run has a single-valued score of the metric 'mcc'; available: accuracy, loss" in capsys.readouterr().err
        )
        assert not (tmp_path / "s").exists()


# ---------------------------------------------------------------- the command


def test_the_command_prints_a_table_or_writes_a_folder_and_a_page(runs, tmp_path, capsys):
    words = ["-o", str(tmp_path / "folder"), "--html", str(tmp_path / "p.html")]
    assert main(["report", str(runs), *words]) == 0
    assert (tmp_path / "folder" / "report.md").exists()
    assert (tmp_path / "p.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "p.html"]
    capsys.readouterr()
    assert main(["report", str(runs)]) == 0
    assert capsys.readouterr().out.startswith("# Runs\n")
    assert main(["report", str(runs), "-o", str(runs / "good-13")]) == 2
    assert "the folder of a run" in capsys.readouterr().err
    assert main(["report", str(runs), "-o", str(tmp_path / "p.html")]) == 2
    assert "is a file" in capsys.readouterr().err
    assert main(["report", str(runs), "-o", str(tmp_path / "t.md")]) == 2
    assert "t.md: give a folder; for the short table in a file write report RUNS >" in capsys.readouterr().err
    assert not (tmp_path / "t.md").exists()


def test_a_report_that_a_person_wrote_is_not_replaced(runs, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    page = tmp_path / "mine" / "report.md"
    page.write_text("# My findings\n", encoding="utf-8")
    words = ["report", str(runs), "-o", str(page.parent)]
    assert main(words) == 2
    assert "is not a report of this tool; pass another -o, or --overwrite to replace it" in capsys.readouterr().err
    assert page.read_text(encoding="utf-8") == "# My findings\n"
    assert main([*words, "--overwrite"]) == 0
    assert main(words) == 0  # now it is one of this tool


@pytest.mark.parametrize(
    ("metric", "bounds", "points"),
    [
        ("accuracy", (0, 1), 100),
        ("mcc", (-1, 1), 100),
        ("bleu", (0, 100), 1),
        ("chrf", (0, 100), 1),
        ("perplexity", (1, float("inf")), None),
        ("lm_eval:acc_norm,none", (0, 1), 100),
        ("lm_eval:word_perplexity,none", (0, float("inf")), None),
        # Of a task that counts from 0 to 100, or not: it is not known.
        ("lm_eval:f1,none", (-float("inf"), float("inf")), None),
        ("evaluate:anything", (-float("inf"), float("inf")), None),
    ],
)
def test_ranges_of_metrics_and_their_points(metric, bounds, points):
    """Intervals are clipped to the range; minutes per point and findings count in points."""
    assert accessors.metric_bounds(metric) == bounds
    assert accessors.points_of_one(metric) == points


def test_the_title_is_that_of_the_study(tmp_path):
    folder = studies.write_study(
        tmp_path / "runs", {"weak": 0.5, "good": 0.9}, seeds=(13,), study_title="Small *models*"
    )
    assert report([folder], tmp_path / "page").splitlines()[2].startswith("# Small &#42;models&#42;: 2 systems on")


def test_tfidf_is_a_line_of_the_chart_of_scores(tmp_path):
    folder = studies.write_study(tmp_path / "runs", {"weak": 0.5, "good": 0.9, "words": 0.7}, seeds=(13,))
    for path in folder.glob("*words*"):
        record = store.read(path)
        record.method = "tfidf"
        store.write(record, path)
    records, unreadable = accessors.read_all([folder])
    text, charts = study_page.page(records, unreadable, tmp_path / "page")
    (chart,) = (one for one in charts.values() if one["kind"] == "scores")
    assert [one["name"] for one in chart["baselines"]] == ["majority", "tfidf"]
    (words,) = (one["score"] for one in chart["systems"] if "words" in one["name"])
    assert chart["baselines"][1]["value"] == words
    assert "dashed: the baseline `majority`; dotted: the baseline `tfidf`." in text
