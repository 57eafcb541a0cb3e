"""Lets a model that was trained on a generate_until task of lm-evaluation-harness answer new texts, as there."""

from typing import Any

from bench.data.examples import Encoded
from bench.data.sources import Rows
from bench.errors import DataError
from bench.evaluation import predict_written
from bench.evaluation.lm_eval_examples import PairEncoder
from bench.evaluation.readers.until import Until, UntilReader


def predict(model: Any, tokenizer: Any, description: dict[str, Any], rows: Rows) -> Rows:
    """Return for each row {"text", "label": the written text, "scores": None, "cut", "written", "stopped"}.

    A row's text is what the task's doc_to_text makes of a document; the text around it in the run's prompts is put
    around it here. Raises DataError for a task whose prompts have something else around each text.
    """
    said = description.get("until")
    if said is None or said["around"] is None:
        why = (
            "this model was saved by a version that did not write down" if said is None else "each document has its own"
        )
        raise DataError(f"answers of a model that was trained on this task of lm_eval are not written: {why} prompt")
    before, after = said["around"]
    until = Until(stops=tuple(said["stops"]), max_new_tokens=said["max_new_tokens"])
    encoder = PairEncoder(
        tokenizer=tokenizer, family=description["model_card"]["family"], max_length=description["max_length"]
    )
    most = encoder.max_length - (0 if encoder.family == "encoder_decoder" else until.max_new_tokens)
    prompts = [encoder.alone(f"{before}{row['text']}{after}") for row in rows]
    split = Encoded(
        name="texts",
        ids=tuple(f"text {number + 1}" for number in range(len(rows))),
        features=[{"input_ids": ids[-most:], "labels": [], "document": None} for ids in prompts],
        truncated=0,
        in_words=True,
    )
    reader = UntilReader(model, split, predict_written.scoring_of(tokenizer, description), until, lambda *_: {})
    return predict_written.answers(reader, rows, lambda number: len(prompts[number]) > most)
