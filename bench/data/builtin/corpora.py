"""The built-in data sets: reviews and posts here, the others from files of their own; deterministic and offline.

Each resembles a well-known task: sentiment, several emotions at once, question answering, ratings, names in sentences,
multiple choice, texts to write. Labels and answers follow from the text without noise, so a low score is the model's or
the harness's.
A grammar maps a symbol to alternatives, separated by "|" or a line break; `{symbol}` becomes one of them.
"""

import functools
import hashlib
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.data.builtin import endings, notices, passages, ratings, written
from bench.errors import DataError, did_you_mean

Row = dict[str, Any]
Grammar = Mapping[str, str]

NAMES: tuple[str, ...] = (
    *("reviews", "posts", *passages.NAMES, *ratings.NAMES, *notices.NAMES, *endings.NAMES, *written.NAMES),
)
_SIZES: Mapping[str, int] = {"train": 1600, "validation": 200, "test": 400}
_PASSAGES_SIZES: Mapping[str, int] = {"train": 800, "validation": 80, "test": 80}
# Which split may use a text is decided by the text's digest modulo 4: half of all texts are for training.
_BUCKETS: Mapping[str, tuple[int, ...]] = {"train": (0, 1), "validation": (2,), "test": (3,)}
# How many words the key of an item may have; the key is the text or, for passages, the article's title.
_WORDS: Mapping[str, range] = {
    "reviews": range(6, 61),
    "posts": range(5, 31),
    **dict.fromkeys(passages.NAMES, range(3, 4)),
    "ratings": range(2, 61),
    "notices": range(4, 61),
    **dict.fromkeys(endings.NAMES, range(5, 31)),
    "sums": range(8, 31),
    "chats": range(8, 61),
}
# Ids have five digits.
_MOST_ROWS = 99_999
# Three draws in four are refused at worst (a text of another split), so 500 in a row mean that none is left.
_MOST_TRIES = 500
_SYMBOL = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, kw_only=True)
class _Turn:
    """State of a draw: the split, the caller's seed, and how many rows the split has so far."""

    split: str
    seed: int
    num_rows: int


def generate(name: str, seed: int = 0, sizes: Mapping[str, int] | None = None) -> dict[str, list[Row]]:
    """Generate the rows of each split of a built-in corpus; equal arguments give equal rows on any machine.

    Each split has its own random stream and its own share of all texts (for passages: of all titles). So the
    rows of a split do not depend on the sizes of the others, a smaller size gives the first rows of a larger
    one, and no text is in two splits, not even of different seeds.

    Args:
        name: one of NAMES.
        seed: another seed gives other rows.
        sizes: rows per split; a split left out keeps its default: 800, 80 and 80 for passages, train 1600,
            validation 200 and test 400 for the others.

    Raises:
        DataError: an unknown name or split, a size that is not a count, or more rows than the grammar can give.
    """
    if name not in NAMES:
        raise DataError(f"there is no built-in corpus {name!r}.{did_you_mean(name, NAMES)}")
    for split, size in (sizes or {}).items():
        if split not in _SIZES:
            raise DataError(f"corpus {name!r} has no split {split!r}.{did_you_mean(split, _SIZES)}")
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= _MOST_ROWS:
            raise DataError(f"corpus {name!r}: size {size!r} of {split!r} is not in 0 to {_MOST_ROWS}.")
    usual = _PASSAGES_SIZES if name in passages.NAMES else _SIZES
    return {split: _rows(name, split, seed, size) for split, size in {**usual, **(sizes or {})}.items()}


def _rows(name: str, split: str, seed: int, size: int) -> list[Row]:
    rng = random.Random(f"{name}/{split}/{seed}")
    seen: set[str] = set()
    rows: list[Row] = []
    while len(rows) < size:
        turn = _Turn(split=split, seed=seed, num_rows=len(rows))
        rows += _unseen_item(name, rng, turn, seen)
    return [{"id": f"{name}-{split}-{number:05d}", **row} for number, row in enumerate(rows[:size], start=1)]


def _unseen_item(name: str, rng: random.Random, turn: _Turn, seen: set[str]) -> list[Row]:
    """Draw until the key is new, of this split and of a length that the corpus allows; add it to `seen`."""
    draw = _DRAW[name]
    for _ in range(_MOST_TRIES):
        text, rows = draw(rng, turn)
        key = " ".join(text.lower().split())
        bucket = hashlib.sha256(key.encode()).digest()[0] % 4
        if bucket in _BUCKETS[turn.split] and len(key.split()) in _WORDS[name] and key not in seen:
            seen.add(key)
            return rows
    raise DataError(
        f"corpus {name!r} has no new text for split {turn.split!r} after {turn.num_rows} rows "
        f"({_MOST_TRIES} draws in a row gave none); ask for at most {turn.num_rows}."
    )


@functools.cache
def _options(alternatives: str) -> tuple[str, ...]:
    return tuple(option.strip() for option in re.split(r"[|\n]", alternatives) if option.strip())


def _expand(text: str, grammar: Grammar, rng: random.Random) -> str:
    """Replace the leftmost {symbol} by one of its alternatives until none is left."""
    while match := _SYMBOL.search(text):
        text = text[: match.start()] + rng.choice(_options(grammar[match[1]])) + text[match.end() :]
    return text


def _weighted(weights: Mapping[str, int], rng: random.Random) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def _sentence(text: str) -> str:
    return re.sub(r"^\[*[a-z]", lambda match: match[0].upper(), text) + "."


# Reviews. The polarity of a clause is that of its word, turned round by a negation. What follows "but" or
# "yet" overrules what comes before; a clause after "although", "while" or "though" never counts. All agree.

_GOOD: Grammar = {
    "same": """superb|wonderful|charming|delightful|brilliant|excellent|lovely|impressive|splendid|pleasant
        refreshing|clever|thoughtful|satisfying""",
    "did_same": "won me over|delighted me|made me smile|kept its promise|exceeded my hopes|earned my praise",
}
_BAD: Grammar = {
    "same": """dreadful|dull|clumsy|awful|tedious|shabby|feeble|annoying|horrible|bland|sloppy|tiresome
        disappointing|careless""",
    "did_same": "let me down|bored me|wore me out|broke its promise|dashed my hopes|tried my patience",
}
# Tuned, here and in "clause": enough plain reviews for a bag of words to learn which word is good, and enough
# structure to keep it below 0.8, while a tiny transformer learns "but" and "although" from 1,600 rows.
_OPINIONS: Mapping[str, int] = {
    "{clause}": 42,
    "{clause} and {clause}": 14,
    "{contrary}, {but} {clause}": 26,
    "{although} {contrary}, {clause}": 16,
    "{clause}, though {contrary}": 2,
}
# How many sentences without an opinion there are: mostly few, with a long tail.
_ASIDES: Mapping[str, int] = {"": 38, "{aside}": 32, "{aside}|" * 2: 15, "{aside}|" * 3: 9, "{aside}|" * 4: 6}
_REVIEW: Grammar = {
    "clause": "{plain}|" * 17 + "{turned}",
    "plain": "{aspect} was {same}|{aspect} was {very} {same}|I found {aspect} {same}|{aspect} {did_same}",
    "turned": """{aspect} was {not} {other}|{aspect} was not {other} but {same}|{aspect} never {did_other}
        I did not find {aspect} {other}""",
    "not": "not|not once|not at all|never",
    "very": "truly|really|quite|so|very|rather",
    "but": "but|but in the end|yet",
    "although": "although|while",
    "day": "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday",
    "who": "my sister|my brother|a colleague|two friends|my parents|our neighbour|my aunt|a cousin",
    "place": "the old town|the harbour|the north|the capital|the mountains|a small village|the coast",
    "when": "in May|in October|last winter|two weeks ago|after work|around noon|on a rainy evening",
}
_REVIEWED: tuple[Grammar, ...] = (
    {
        "aspect": "the plot|the acting|the script|the ending|the dialogue|the music|the cast|the humour",
        "aside": """we saw it on {day} with {who}|{who} chose it for {day} evening|it runs for two hours
            the story is set in {place}|it was shown {when} in {place}|{who} bought the tickets {when}""",
    },
    {
        "aspect": "the battery|the screen|the handle|the sound|the manual|the motor|the colour|the lid",
        "aside": """I ordered it on {day} for {who}|the parcel came {when} from {place}|{who} tried it {when}
            it stands next to the radio|it replaced the one that {who} bought in {place}""",
    },
    {
        "aspect": "the room|the breakfast|the service|the pool|the bed|the view|the bar|the garden",
        "aside": """we stayed from {day} with {who}|{who} booked it for a trip to {place}|we slept upstairs
            we arrived {when} by train from {place}|the tram to {place} stops outside""",
    },
)


def _draw_review(rng: random.Random, turn: _Turn) -> tuple[str, list[Row]]:
    # Rows 2k and 2k+1 have different labels, in random order, so that any first n rows are balanced.
    coin = random.Random(f"reviews/{turn.split}/{turn.seed}/{turn.num_rows // 2}").randrange(2)
    is_positive = (turn.num_rows + coin) % 2 == 1
    words, opposite = (_GOOD, _BAD) if is_positive else (_BAD, _GOOD)
    subject = {**_REVIEW, **rng.choice(_REVIEWED)}
    grammar = {**subject, **words, "other": opposite["same"], "did_other": opposite["did_same"]}
    contrary = {**subject, **opposite, "other": words["same"], "did_other": words["did_same"]}
    sentences = list(_options(_weighted(_ASIDES, rng)))
    # One review in five states its opinion twice.
    for _ in range(rng.choice((1, 1, 1, 1, 2))):
        opinion = _weighted(_OPINIONS, rng).replace("{contrary}", _expand("{clause}", contrary, rng))
        sentences.insert(rng.randrange(len(sentences) + 1), opinion)
    text = " ".join(_sentence(_expand(sentence, grammar, rng)) for sentence in sentences)
    return text, [{"text": text, "label": "positive" if is_positive else "negative"}]


# Posts. One phrase for each label, and around them phrases that express none of the eleven emotions.

# Weights, shaped after the tweets of SemEval-2018 task 1: unequal, and with the companions known from there.
_EMOTION_SETS: Mapping[str, int] = {
    **dict.fromkeys(("trust", "surprise", "pessimism", "anger surprise", "joy love optimism trust"), 1),
    **dict.fromkeys(("love", "anticipation", "joy trust", "joy surprise", "optimism trust"), 2),
    **dict.fromkeys(("anticipation joy optimism", "anticipation fear", "fear pessimism"), 2),
    **dict.fromkeys(("anger", "fear sadness", "anticipation joy", "disgust sadness"), 3),
    **dict.fromkeys(("optimism", "fear", "disgust", "anticipation optimism", "anger disgust sadness"), 4),
    **dict.fromkeys(("joy", "sadness", "joy love", "joy love optimism", "pessimism sadness"), 5),
    "": 8,
    "joy optimism": 8,
    "anger disgust": 14,
}
_FEELINGS: Grammar = {
    "anger": "angry|furious|livid|mad",
    "anticipation": "curious|impatient|eager|restless",
    "disgust": "disgusted|revolted|sickened|grossed out",
    "fear": "afraid|scared|terrified|nervous",
    "joy": "happy|delighted|thrilled|cheerful",
    "love": "in love|smitten|enamoured|head over heels",
    "optimism": "hopeful|confident|upbeat|encouraged",
    "pessimism": "gloomy|hopeless|cynical|resigned",
    "sadness": "sad|heartbroken|miserable|tearful",
    "surprise": "surprised|stunned|astonished|baffled",
    "trust": "trustful|reassured|in safe hands|convinced",
}
EMOTIONS: tuple[str, ...] = tuple(_FEELINGS)
_EXPRESSIONS: Grammar = {
    "anger": "{topic} makes my blood boil|how dare they ruin {topic} >:(|shouting at {topic} again|#fuming",
    "anticipation": "counting days until {topic}|two sleeps until {topic} o_o|{topic} is near|#countdown",
    "disgust": "{topic} turns my stomach|{topic} smells like old fish :-&|yuck, just yuck|#gross",
    "fear": "my hands shake before {topic}|hiding from {topic} D:|what if {topic} goes wrong|#nightmare",
    "joy": "dancing through the kitchen \\o/|{topic} made my day :D|big grin all morning :)|#bestday",
    "love": "{who} has my whole heart <3|hugging {who} all evening|I adore {who} <3|#mylove",
    "optimism": "{topic} will turn out fine :)|better days will come|{topic} can only improve ;)|#onwards",
    "pessimism": "{topic} is never going to work|nothing will change :/|no point in trying {topic}|#doomed",
    "sadness": "crying over {topic} :'(|the house feels empty without {who}|another lonely night :(|#tears",
    "surprise": "did not see {topic} coming|wait, what, {topic} :O|out of nowhere, {topic}|#plottwist",
    "trust": "{who} always keeps a promise|I can rely on {who} :)|{who} has my back|#solid",
}
_POST: Grammar = {
    "felt": "{felt_now} about {topic}|{felt_now} {when}|{felt_now}",
    "felt_now": "I am so {feeling}|feeling {feeling}|{who} and I are {feeling}|really {feeling}",
    "unfelt": """not {feeling} any more|I am not even {feeling}|no longer {feeling} about {topic}
        not {feeling} at all|nobody here is {feeling} {when}""",
    "neutral": """{topic} is on the table {when}|reading about {topic} {when}|{who} asked about {topic}
        {topic} moved to {day}|coffee first, then {topic}|on the train with {who} {when}
        notes on {topic} https://example.org/{digit}{digit}{digit}""",
    "topic": """the exam|the match|the new season|the office party|the election|the concert|the weather
        the traffic|the school play|the job interview|the family dinner|the update|the night shift""",
    "who": "my sister|my best friend|the team|our coach|my grandmother|the neighbour|my boss|the dog",
    "when": "today|tonight|this morning|right now|since {day}|after lunch|again",
    "day": "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday",
    "handle": "@harbour{digit}{digit}|@kes_trel|@juniper{digit}|@paper_boat{digit}|@ottoline|@quill{digit}",
    "tag": "#monday|#weekend|#home|#work|#news|#citylife|#football|#music|#school|#travel",
    "digit": "0|1|2|3|4|5|6|7|8|9",
}


def _draw_post(rng: random.Random, _turn: _Turn) -> tuple[str, list[Row]]:
    labels = _weighted(_EMOTION_SETS, rng).split()
    parts = [_post_part(rng.choice(("{felt}", _EXPRESSIONS[label])), label, rng) for label in labels]
    if rng.random() < 0.4:
        absent = [emotion for emotion in EMOTIONS if emotion not in labels]
        parts.append(_post_part("{unfelt}", rng.choice(absent), rng))
    # A post with one emotion or none needs something else to talk about; with more there is seldom room.
    if not labels or rng.random() < 0.7 - 0.25 * len(labels):
        parts.append(_expand("{neutral}", _POST, rng))
    rng.shuffle(parts)
    body = parts[0] + "".join(rng.choice((". ", "! ", ", ", " ... ")) + part for part in parts[1:])
    # An emoticon needs no stop after it.
    body = re.sub(r"([^\w\s.])[.,!] ", r"\1 ", body)
    handle = "{handle} " if rng.random() < 0.3 else ""
    text = _expand(handle + body + rng.choice(("", "", " {tag}", " {tag}", " {tag} {tag}")), _POST, rng)
    return text, [{"text": text, "labels": labels}]


def _post_part(alternatives: str, emotion: str, rng: random.Random) -> str:
    return _expand("{part}", {**_POST, "part": alternatives, "feeling": _FEELINGS[emotion]}, rng)


def _draw_article(rng: random.Random, turn: _Turn) -> tuple[str, list[Row]]:
    return passages.draw(rng, answerable=True, is_train=turn.split == "train")


def _draw_article_v2(rng: random.Random, turn: _Turn) -> tuple[str, list[Row]]:
    return passages.draw(rng, answerable=False, is_train=turn.split == "train")


def _draw_rating(rng: random.Random, _turn: _Turn) -> tuple[str, list[Row]]:
    return ratings.draw(rng)


def _draw_notice(rng: random.Random, _turn: _Turn) -> tuple[str, list[Row]]:
    return notices.draw(rng)


def _draw_ending(rng: random.Random, _turn: _Turn) -> tuple[str, list[Row]]:
    return endings.draw(rng)


def _draw_sum(rng: random.Random, _turn: _Turn) -> tuple[str, list[Row]]:
    return written.draw_sum(rng)


def _draw_chat(rng: random.Random, _turn: _Turn) -> tuple[str, list[Row]]:
    return written.draw_chat(rng)


_DRAW: Mapping[str, Callable[[random.Random, _Turn], tuple[str, list[Row]]]] = {
    "reviews": _draw_review,
    "posts": _draw_post,
    "passages": _draw_article,
    "passages_v2": _draw_article_v2,
    "ratings": _draw_rating,
    "notices": _draw_notice,
    "endings": _draw_ending,
    "sums": _draw_sum,
    "chats": _draw_chat,
}
