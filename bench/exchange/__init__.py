"""Results in the formats of other tools, and results of other tools as records.

Reading order: formats (their names), written (all of them), tables, examples (of a run),
every_eval_ever, hub_results, to_lm_eval; foreign
(records of others' results), from_lm_eval, from_peft, from_predictions, read_in (all of these, by the kind of file).
"""
