"""Measure what a small decoder keeps of one language when it learns another: `reports/studies/retention`.

    python scripts/retention_study.py [--data data] [--out runs/retention] [--report FOLDER] [--small]

A GPT-2 of a few million parameters learns SST-2 from nothing, texts and labels. It then learns the sentiment of Polish
hotel reviews by all weights, by LoRA and by its last block, with several seeds each. Before and after each training it
is asked about SST-2's sentences once more, and the perplexity of English articles (contexts of SQuAD), which it never
learned, is taken: `evaluation.also`. --data: the folder of the data that recipes/datasets/*_local.yaml describe.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Learned with its texts, so that it is a language model, if a small one.
BASE = """dataset: sst2_local
model:
  card: tiny_gpt2
  architecture: {vocab_size: 4096, n_positions: 256, n_embd: 160, n_layer: 3, n_head: 4}
  tokenizer: {train: bpe, vocab_size: 4096}
  max_length: 256
method: scratch
objective: text
max_length: 128
training: {epochs: EPOCHS, global_batch: 32, learning_rate: 1e-3, warmup: 0.1, schedule: cosine, loss_on: all}
evaluation: {before: false}
"""
TUNED = """dataset: polish_hotels_local
model: {id: BASE, family: decoder, licence: Apache-2.0, max_length: 256}
method: METHOD
objective: text
max_length: 192
limit: {train: TRAIN, test: 400}
training: {epochs: 10, global_batch: 32, learning_rate: RATE, warmup: 0.1}
evaluation: {also: [{dataset: sst2_local, limit: 600}, {perplexity: TEXT, limit: 40}]}
save: false
"""
METHODS = {
    "full": ("full", "1e-3"),
    "lora": ("{name: lora, config: {r: 8, lora_alpha: 16, target_modules: all-linear}}", "3e-3"),
    "last_block": ("{name: last_layers, blocks: 1}", "1e-3"),
}


def bench(*words: str) -> None:
    """Run a command of the harness; a failure ends this script too."""
    print("$ python -m bench", *words, flush=True)
    done = subprocess.run([sys.executable, "-m", "bench", *words], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def neutral_text(data: Path) -> str:
    """Return the contexts of SQuAD's sample."""
    articles = json.loads((data / "squad_v1.1" / "eval.json").read_text(encoding="utf-8"))["data"]
    contexts = (paragraph["context"] for article in articles for paragraph in article["paragraphs"])
    return "\n\n".join(dict.fromkeys(contexts))


def is_trained(folder: Path) -> bool:
    """Return whether a run of the base ended well, which is then taken as it is, as a sweep does with its runs."""
    record = folder / "record.json"
    return record.is_file() and json.loads(record.read_text(encoding="utf-8"))["status"] == "ok"


def main() -> None:
    """Train the base, tune it, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=Path("runs/retention"))
    parser.add_argument("--report", type=Path, default=Path("reports/studies/retention"))
    parser.add_argument("--jobs", default="2")
    parser.add_argument("--seeds", default="3")
    parser.add_argument("--small", action="store_true", help="one epoch, one seed and few examples: does it run?")
    asked = parser.parse_args()
    out, data = asked.out, asked.data
    recipes = ROOT / out / "what_is_kept"
    recipes.mkdir(parents=True, exist_ok=True)
    text = out / "neutral.txt"
    (ROOT / text).write_text(neutral_text(ROOT / data), encoding="utf-8")
    base = out / "base"
    few = ["limit={train: 64, test: 40}"] if asked.small else []
    (recipes / "base.yaml").write_text(BASE.replace("EPOCHS", "1" if asked.small else "6"), encoding="utf-8")
    folder = f"dataset.source.folder={data}/"
    if not is_trained(ROOT / base):
        bench(
            *("run", str(recipes / "base.yaml"), "--config", "cpu_bf16", "--out", str(base), "--overwrite"),
            *(f"{folder}sst2", "dataset.quote=false", *few),
        )
    for name, (method, rate) in METHODS.items():
        recipe = TUNED.replace("BASE", str(base / "model")).replace("METHOD", method).replace("RATE", rate)
        recipe = recipe.replace("TEXT", str(text)).replace("TRAIN", "64" if asked.small else "640")
        (recipes / f"{name}.yaml").write_text(recipe, encoding="utf-8")
    bench(
        *("sweep", *(str(recipes / f"{name}.yaml") for name in METHODS), "--config", "cpu_bf16", "--jobs", asked.jobs),
        *("--num-seeds", "1" if asked.small else asked.seeds, "--out", str(out / "tuned")),
        *(f"{folder}polish_wccrs_hotels", "dataset.quote=false"),
    )
    bench("report", str(out / "tuned"), "-o", str(asked.report), "--overwrite")


if __name__ == "__main__":
    main()
