"""The layouts of public classification suites as their owners publish them, and small data sets in these layouts."""

import io

import datasets

GLUE_SPLITS = ("train", "validation", "test")
MNLI_SPLITS = ("train", "validation_matched", "validation_mismatched", "test_matched", "test_mismatched")
NLI = ("entailment", "neutral", "contradiction")
STANCES = ("none", "against", "favor")
TOPICS = ("abortion", "atheism", "climate", "feminist", "hillary")
CLASSES = (
    "Company", "EducationalInstitution", "Artist", "Athlete", "OfficeHolder", "MeanOfTransportation", "Building",
    "NaturalPlace", "Village", "Animal", "Plant", "Album", "Film", "WrittenWork",
)  # fmt: skip
FEW = ("train", "validation", "test")
# Card -> columns of text, class names (None: true and false), splits, and those of them whose labels are -1.
LAYOUTS = {
    "cola": (("sentence",), ("unacceptable", "acceptable"), GLUE_SPLITS, ("test",)),
    "mrpc": (("sentence1", "sentence2"), ("not_equivalent", "equivalent"), GLUE_SPLITS, ()),
    "qqp": (("question1", "question2"), ("not_duplicate", "duplicate"), GLUE_SPLITS, ("test",)),
    "qnli": (("question", "sentence"), ("entailment", "not_entailment"), GLUE_SPLITS, ("test",)),
    "rte": (("sentence1", "sentence2"), ("entailment", "not_entailment"), GLUE_SPLITS, ("test",)),
    "wnli": (("sentence1", "sentence2"), ("not_entailment", "entailment"), GLUE_SPLITS, ("test",)),
    "mnli": (("premise", "hypothesis"), NLI, MNLI_SPLITS, ("test_matched", "test_mismatched")),
    "boolq": (("question", "passage"), None, ("train", "validation"), ()),
    "cb": (("premise", "hypothesis"), ("entailment", "contradiction", "neutral"), GLUE_SPLITS, ("test",)),
    "wic": (("word", "sentence1", "sentence2"), ("False", "True"), GLUE_SPLITS, ("test",)),
    "ag_news": (("text",), ("World", "Sports", "Business", "Sci/Tech"), ("train", "test"), ()),
    "banking77": (("text",), tuple(f"intent_{number}" for number in range(77)), ("train", "test"), ()),
    "dbpedia_14": (("title", "content"), CLASSES, ("train", "test"), ()),
    "tweet_eval_emoji": (("text",), ("❤", "😍", "😂", "💕"), FEW, ()),
    "tweet_eval_emotion": (("text",), ("anger", "joy", "optimism", "sadness"), FEW, ()),
    "tweet_eval_hate": (("text",), ("non-hate", "hate"), FEW, ()),
    "tweet_eval_irony": (("text",), ("non_irony", "irony"), FEW, ()),
    "tweet_eval_offensive": (("text",), ("non-offensive", "offensive"), FEW, ()),
    "tweet_eval_sentiment": (("text",), ("negative", "neutral", "positive"), FEW, ()),
    **{f"tweet_eval_stance_{topic}": (("text",), STANCES, FEW, ()) for topic in TOPICS},
    "xnli_en": (("premise", "hypothesis"), NLI, FEW, ()),
    "xnli_de": (("premise", "hypothesis"), NLI, FEW, ()),
}


def files(name, folder):
    """Parquet files of a data set in a card's layout, "<folder>/<split>-00000-of-00001.parquet" -> content."""
    texts, classes, splits, hidden = LAYOUTS[name]
    label = datasets.Value("bool") if classes is None else datasets.ClassLabel(names=list(classes))
    column = "answer" if classes is None else "label"
    features = {**dict.fromkeys(texts, datasets.Value("string")), column: label}
    # GLUE and SuperGLUE number their rows.
    if (splits in (GLUE_SPLITS, MNLI_SPLITS) and hidden) or name == "mrpc":
        features["idx"] = datasets.Value("int32")
    made = {}
    for split in splits:
        count = max(4 * len(classes or ()), 120) if split == "train" else 2 * len(classes or (0, 1))
        rows = [
            {
                **{text: f"{split} {text} {number}" for text in texts},
                column: -1 if split in hidden else bool(number % 2) if classes is None else number % len(classes),
                **({"idx": number} if "idx" in features else {}),
            }
            for number in range(count)
        ]
        stream = io.BytesIO()
        datasets.Dataset.from_list(rows, features=datasets.Features(features)).to_parquet(stream)
        made[f"{folder}/{split}-00000-of-00001.parquet"] = stream.getvalue()
    return made
