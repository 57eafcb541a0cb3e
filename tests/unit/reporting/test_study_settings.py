"""reporting/study_settings.py: what differs between systems is a column, what does not is said once."""

import re
import shutil

import pytest

from bench.analysis import accessors, leaderboard
from bench.records import store
from bench.reporting import study_settings
from tests.helpers import studies
from tests.helpers.pages import tables_of

LORA = {"name": "lora", "config": {"r": 16, "lora_alpha": 32}}


@pytest.fixture
def section(tmp_path):
    """The section of systems with these changes of the resolved recipe, best first."""

    def _section(*changes):
        shutil.rmtree(tmp_path)
        for number, changed in enumerate(changes):
            name = f"s--{number}--x"
            run = studies.write_run(tmp_path / str(number), name, 13, [True] * (40 - 5 * number) + [False] * 5 * number)
            made = accessors.read_all([run])[0][0][1]
            for key, value in changed.items():
                part, _, inner = key.partition(".")
                if key == "engine":
                    made.training = made.training.model_copy(update={"engine": value})
                elif inner:
                    made.recipe.resolved.setdefault(part, {})[inner] = value
                else:
                    made.recipe.resolved[key] = value
            made.recipe.hash = f"{number:064}"
            store.write(made, run)
        (group,) = leaderboard.groups(accessors.read_all([tmp_path])[0])
        return study_settings.section(group)

    return _section


def rows(text):
    (table,) = tables_of(text)
    return [dict(zip(table[0], row, strict=True)) for row in table[1:]]


def test_what_differs_is_a_column_and_the_rest_is_said_once(section):
    text = section({"training.learning_rate": 1e-3}, {"training.learning_rate": 5e-4})
    assert [(row["system"], row["learning rate"]) for row in rows(text)] == [("A: 0", "0.001"), ("B: 1", "0.0005")]
    assert set(rows(text)[0]) == {"system", "learning rate"}
    (sentence,) = [line for line in text.splitlines() if line.startswith("All systems to which it applies: ")]
    assert "schedule linear" in sentence
    assert "learning rate" not in sentence


def test_a_rank_that_full_fine_tuning_has_not_is_no_difference_but_an_option_of_one_method_is(section):
    text = section({"method": LORA}, {"method": {"name": "full"}})
    assert set(rows(text)[0]) == {"system", "method"}
    assert "rank 16" in text
    text = section({"method": LORA}, {"method": {"name": "lora", "config": {**LORA["config"], "use_dora": True}}})
    assert [row["use dora"] for row in rows(text)] == ["–", "yes"]


def test_an_adapters_settings_and_the_micro_batch_are_among_what_all_have(section):
    lora = {"name": "lora", "config": {**LORA["config"], "lora_dropout": 0.05, "target_modules": "all-linear"}}
    text = section({"method": lora}, {"method": {"name": "full"}})
    assert "rank 16, alpha 32, LoRA dropout 0.05, target modules all-linear" in text
    batch = r"batch (\d+), micro-batch (\d+)"
    assert re.search(batch, text)


def test_settings_of_an_optimiser_are_not_those_of_a_method_without_one(section):
    text = section({"training.learning_rate": 1e-3}, {"method": {"name": "probe"}, "engine": "scikit-learn"})
    assert "learning rate 0.001" in text
    assert set(rows(text)[0]) == {"system", "method"}


def test_many_columns_are_folded_and_texts_escaped(section):
    many = {f"option_{number}": number for number in range(14)}
    text = section({"method": {**LORA, **many}}, {"method": {**LORA, "odd": "<b>|x"}})
    assert "more settings that differ</summary>" in text
    assert "&lt;b&gt;&#124;x" in text


def test_systems_that_do_not_differ_have_no_table(section):
    assert tables_of(section({}, {})) == []
