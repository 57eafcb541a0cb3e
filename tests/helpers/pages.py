"""Records and pages for the tests of reports: a record in which everything was measured, and the tables of a page."""

import re

from bench.records import store
from bench.records.record import (
    Check,
    Comparability,
    Data,
    Environment,
    Launch,
    Model,
    PhaseTime,
    Prompts,
    RecipePart,
    Record,
    Score,
    SplitPart,
    TrainingPart,
)
from bench.reporting import study_page
from tests.helpers import studies

NASTY = "a|b\\|c\n# d <script>x</script> `e` *f* [g](h)\x00\u202e" + "z" * 100_000


def score(value, interval="wilson 95 %", half=0.02):
    ends = [[x + side for x in value] if isinstance(value, list) else value + side for side in (-half, half)]
    return Score(value=value, low=ends[0], high=ends[1], interval=interval, examples=872, signature="s|v1")


def stage(accuracy):
    draws = "bootstrap 95 %, 2000 draws by example"
    return {
        "test": {
            "accuracy": score(accuracy),
            "f1_macro": score(accuracy - 0.01, draws),
            "mcc": score(2 * accuracy - 1, draws),
            "loss": score(1.2 - accuracy, draws),
            "f1_per_label": score([accuracy - 0.02, accuracy + 0.01], draws),
            "confusion_matrix": Score(value=[[380, 48], [37, 407]], examples=872, signature="c|v1"),
        }
    }


def full(name="sst2--minilm--lora", seed=13, accuracy=0.9, **changes):
    """A record in which everything was measured."""
    study, _, method = name.split("--")
    fields = {
        "name": name,
        "study": study,
        "method": method,
        "seed": seed,
        "status": "ok",
        "reason": None,
        "started_at": "2025-11-21T07:00:00+00:00",
        "finished_at": "2025-11-21T07:04:10+00:00",
        "recipe": RecipePart(
            path="recipes/sst2/lora.yaml",
            as_written={"dataset": "sst2"},
            overrides=["training.steps=200"],
            card_overrides={"dataset.filters": {"min_words": 2}},
            hash="ab" * 32,
        ),
        "comparability": Comparability(key="0123456789ab", parts={"data": "d1", "metrics": "m1", "x": None}),
        "launch": Launch(
            world_size=1, num_machines=1, distributed_type="NO", mixed_precision="no", device="cpu",
            global_batch=32, per_device_batch=32, accumulation=1,
        ),
        "environment": Environment(
            python="3.11.9", platform="Linux x86_64", packages={"torch": "2.9.0"},
            devices=["Some CPU (2 cores)"], git={"commit": "abcdef", "dirty": True},
        ),
        "data": Data(
            id="stanfordnlp/sst2",
            revision="bcdcba7",
            labels=["negative", "positive"],
            splits={
                "train": SplitPart(
                    examples=1000, fingerprint="aa", labels={"negative": 400, "positive": 600}, truncated=12,
                    tokens={"mean": 13.3, "p50": 11, "p99": 42, "max": 128}, dropped={"leakage": 3},
                ),
                "test": SplitPart(
                    examples=872, fingerprint="bb", labels={"negative": 428, "positive": 444}, truncated=0,
                    tokens={"mean": 25.2, "p50": 24, "p99": 53, "max": 66},
                ),
            },
        ),
        "model": Model(
            id="org/minilm", weights="pretrained", class_="BertForSequenceClassification", attention="sdpa",
            parameters={"total": 22_000_000, "trainable": 220_000}, dtypes={"float32": 22_000_000},
            newly_initialized=["classifier.weight"],
        ),
        "prompts": Prompts(
            format="plain", answer="generate", signature="answer:generate|shots:2,fixed", template_hash="ab12",
            shots=2, draw="fixed", shot_ids=["r1", "r2"], example="Say it.\n\nReview: <b>Fine</b>\nSentiment:",
            manifests={"test": "cd34"},
            answers={"after": {"test": {"unparsable": 3, "stopped_share": 0.75, "mean_new_tokens": 1.5}}},
        ),
        "scores": {"before": stage(0.52), "after": stage(accuracy)},
        "baselines": {"test": {"majority": {"accuracy": 0.509, "loss": 0.693}, "random": {"accuracy": 0.5}}},
        "training": TrainingPart(
            engine="trainer", steps=200, epochs=6.4, stopped_by="early_stopping", best_step=150,
            best_value=0.9012, first_loss=0.6931, final_loss=0.2214, learning_rate_final=2.5e-7,
        ),
        "throughput": {
            "train": {
                "examples_per_s": 181.2, "real_tokens_per_s": 2412.3, "processed_tokens_per_s": 3901.0,
                "loss_tokens_per_s": 181.2, "padding_share": 0.3816, "mfu": None, "model_flops_per_s": 2.2e11,
                "step_time_s": {"p10": 0.141, "p50": 0.172, "p90": 0.231}, "warmup_steps": 3,
            },
            "test": {"examples_per_s": 640.2, "seconds_per_100_examples": 0.1562, "batch": 32},
        },
        "memory": {
            "load": {"allocated_gib": None, "rss_gib": 0.71, "per_rank": [{"rss_gib": 0.71}]},
            "train": {"allocated_gib": None, "rss_gib": 1.234, "per_rank": [{"rss_gib": 1.234}]},
        },
        "phases": [PhaseTime(name="load", seconds=4.0), PhaseTime(name="train", seconds=36.0)],
        "checks": [Check(name="ids_complete", ok=True, detail="after test: 872 of 872")],
        "notes": ["train: 3 rows left out (leakage)"],
    }  # fmt: skip
    return Record(**{**fields, **changes})


def tables_of(page):
    """Every table of a page as rows of cells; all rows of a table must be as wide as its header."""
    found, current = [], []
    for line in [*page.split("\n"), ""]:
        if line.startswith("|"):
            assert line.endswith("|")
            current.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line[1:-1])])
        elif current:
            assert {len(row) for row in current} == {len(current[0])}, current
            assert all(re.fullmatch(r":--|--:|:-:", cell) for cell in current[1])
            found.append([current[0], *current[2:]])
            current = []
    return found


def cells(page, first_header):
    """{first cell: {header: cell}} of the table whose first column has this title."""
    (table,) = [table for table in tables_of(page) if table[0][0] == first_header]
    return {row[0]: dict(zip(table[0], row, strict=True)) for row in table[1:]}


def write_hostile_study(folder):
    """Write runs with hostile names and texts, and their report with page.html, into a folder; return the folder."""
    texts = studies.write_texts(folder / "data", 60, "<img src=x onerror=alert(1)> | {number} </table>" + "z" * 100_000)
    for number, name in enumerate(("s--one--full", f"s--{NASTY.replace('--', '')}--full", "s--two--full")):
        hits = [(place + number) % 3 > 0 and place % 10 >= 2 * number for place in range(60)]
        run = studies.write_run(folder / "runs" / str(number), name, 13, hits, texts=texts)
        made = store.read(run)
        # So that neither cost is the same for all.
        made.phases = [PhaseTime(name="train", seconds=10.0 * (number + 1))]
        made.memory = {"train": {"rss_gib": 1.0 + number}}
        store.write(made, run)
    study_page.write([folder / "runs"], folder / "report", folder / "page.html")
    return folder
