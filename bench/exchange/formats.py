"""Names of the formats that scores are written in. Loads nothing, since every command reads them."""

# Name -> what it is. The last two are one file, the others a folder of files.
FORMATS = {
    "every-eval-ever": "files of scores and of examples, as the Every Eval Ever collection has them",
    "hub": "the Hub's .eval_results/*.yaml, for a model's repository",
    "lm-eval": "results and samples, as lm-evaluation-harness writes its own",
    "csv": "one table: a row for each run, stage, split and metric",
    "parquet": "the same table as Parquet",
}
TABLES = ("csv", "parquet")
STAGES = ("after", "before")
