"""data/token_cache.py: the same tokens as without it, whatever happened to its files; other content, another entry."""

import copy
import hashlib
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from bench.data import token_cache
from bench.data.rows import Split
from bench.data.token_cache import TokenCache
from bench.evaluation.readers import head
from bench.utils import signing
from tests.helpers import tiny_cards as tiny
from tests.helpers.cases import cover
from tests.helpers.launching import ROOT, environment

SOURCES = [Path(head.__file__)]
PAIRS = [f"{text} Or not?" for text in reversed(tiny.TEXTS)]
# Cut or not, with a second text or not, several labels or one: any two of them meet.
WAYS = [(6, False, False), (6, True, True), (200, False, True), (200, True, False)]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A cache of one's own, empty at first."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


def split(pairs=False, several=False, texts=tiny.TEXTS):
    rows = [
        {
            "id": f"e{number}",
            "text": text,
            "text_pair": PAIRS[number] if pairs else None,
            "label": [number % 2, 1, 0] if several else number % 3,
        }
        for number, text in enumerate(texts)
    ]
    return Split(name="test", rows=rows)


def bert_like():
    """A tokenizer of one's own, that says which token is of which text."""
    tokens = tiny.tokenizer(tiny.card("bert"))
    return PreTrainedTokenizerFast(
        tokenizer_object=copy.deepcopy(tokens.backend_tokenizer),
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        split_special_tokens=True,
        **tokens.special_tokens_map,
    )


def asked(tokens, examples, max_length=12, encode=None, **options):
    """(what a cache gives for these rows, its notes)."""
    cache = TokenCache(tokens, max_length, SOURCES, **options)
    made = encode or (lambda: head.encode_rows(examples.rows, tokens, max_length))
    return cache.tokens(examples.fingerprint, len(examples.rows), made), cache.notes


def never():
    raise AssertionError("tokenised again")


def entries(place):
    return sorted(place.glob(f"*{token_cache.SUFFIX}"))


# ---------------------------------------------------------------- the same tokens


@pytest.mark.parametrize(
    ("name", "max_length", "pairs", "several"),
    [(name, *way) for name, way in cover(["bert", "bert-pairs", "t5", "gpt2"], WAYS, ["bert-pairs"])],
)
def test_what_is_read_is_what_was_made(name, max_length, pairs, several, place):
    tokens = bert_like() if name == "bert-pairs" else tiny.tokenizer(tiny.card(name))
    examples = split(pairs, several)
    plain, cut = head.encode_rows(examples.rows, tokens, max_length)
    first, notes = asked(tokens, examples, max_length)
    second, more = asked(tokens, examples, max_length, encode=never)
    assert (first.hit, second.hit) == (False, True)
    assert first.features == second.features == plain
    assert first.cut == second.cut == cut
    assert bool(cut) == (max_length == 6)
    assert ("token_type_ids" in second.features[0]) == (name == "bert-pairs" and pairs)
    kinds = {type(item) for row in second.features for value in row.values() for item in np.atleast_1d(value).tolist()}
    assert kinds == {int}
    assert notes == more == []
    assert len(entries(place)) == 1


def test_each_split_has_an_entry_of_its_own(place):
    tokens = tiny.tokenizer(tiny.card("bert"))
    splits = [split(), split(several=True), split(texts=tiny.TEXTS[:3]), split(texts=tiny.TEXTS[::-1])]
    for examples in splits:
        assert not asked(tokens, examples)[0].hit
    for examples in splits:
        found, _ = asked(tokens, examples, encode=never)
        assert found.features == head.encode_rows(examples.rows, tokens, 12)[0]
    assert len(entries(place)) == 4


# ---------------------------------------------------------------- keys


def changed(what):
    """The tokenizer with one thing about it changed."""
    tokens = bert_like()
    if what == "added":
        tokens.add_tokens(["breakfast"])
    elif what == "normalizer":
        tokens.backend_tokenizer.normalizer = None
    else:
        values = {"truncation_side": "left", "pad_token": "<unk>", "split_special_tokens": False}
        setattr(tokens, what, {**values, "model_input_names": ["input_ids"]}[what])
    return tokens


@pytest.mark.parametrize(
    "what", ["added", "normalizer", "truncation_side", "pad_token", "split_special_tokens", "model_input_names"]
)
def test_another_tokenizer_has_another_identity(what):
    plain, reason = token_cache.identity(bert_like())
    assert (len(plain), reason) == (64, "")
    assert token_cache.identity(bert_like())[0] == plain
    assert token_cache.identity(changed(what))[0] != plain
    assert token_cache.identity(tiny.tokenizer(tiny.card("bert")))[0] != plain


def test_what_a_call_leaves_behind_is_no_other_tokenizer(tmp_path):
    tokens = bert_like()
    before = token_cache.identity(tokens)
    tokens(tiny.TEXTS, truncation=True, max_length=5, padding="max_length")
    assert json.loads(tokens.backend_tokenizer.to_str())["truncation"] is not None
    assert token_cache.identity(tokens) == before


def test_the_same_tokenizer_in_another_place_and_process_is_the_same(tmp_path):
    bert_like().save_pretrained(tmp_path / "one")
    code = (
        "import sys; from transformers import AutoTokenizer; from bench.data import token_cache; "
        "print(token_cache.identity(AutoTokenizer.from_pretrained(sys.argv[1], split_special_tokens=True))[0])"
    )
    AutoTokenizer.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    found = set()
    for number, folder in enumerate(("one", "two")):
        script = [sys.executable, "-c", code, str(tmp_path / folder)]
        settings = {**environment(), "PYTHONHASHSEED": str(number)}
        done = subprocess.run(script, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        found.add(done.stdout.strip())
    assert len(found) == 1
    assert len(found.pop()) == 64


def test_all_that_decides_on_tokens_is_in_the_key(tmp_path, monkeypatch):
    code = [tmp_path / "a.py", tmp_path / "b.py"]
    for path in code:
        path.write_text("x = 1\n")
    known = {"fingerprint": "f", "tokenizer": "t", "max_length": 8, "sources": code}
    plain = token_cache.key(**known)
    others = [token_cache.key(**{**known, **change}) for change in ({"fingerprint": "g"}, {"tokenizer": "u"})]
    others.append(token_cache.key(**{**known, "max_length": 9}))
    code[1].write_text("x = 2\n")
    others.append(token_cache.key(**known))
    code[1].write_text("x = 1\n")
    assert token_cache.key(**known) == plain
    real = token_cache.importlib.metadata.version
    for name in ("tokenizers", "transformers"):
        with monkeypatch.context() as patch:
            newer = lambda asked, name=name: "99.0" if asked == name else real(asked)  # noqa: E731
            patch.setattr(token_cache.importlib.metadata, "version", newer)
            others.append(token_cache.key(**known))
    with monkeypatch.context() as patch:
        patch.setattr(token_cache, "FORMAT", token_cache.FORMAT + 1)
        others.append(token_cache.key(**known))
    assert len({plain, *others}) == len(others) + 1 == 8


class OfItsOwn(PreTrainedTokenizerFast):
    """Whatever its code does is in no file of the tokenizer."""


def test_a_tokenizer_that_is_more_than_its_files_is_not_kept(place):
    known = bert_like()
    tokens = OfItsOwn(tokenizer_object=known.backend_tokenizer, **known.special_tokens_map)
    for _ in range(2):
        found, notes = asked(tokens, split())
        assert not found.hit
        assert found.features == head.encode_rows(split().rows, tokens, 12)[0]
        assert notes == ["token cache: not used (OfItsOwn is not fully described by its files)"]
    assert not place.exists()


def test_tokens_that_are_drawn_are_not_kept():
    tokens = tiny.trained_tokenizer.__wrapped__("bpe", 400, "decoder")
    assert token_cache.identity(tokens)[0] is not None
    tokens.backend_tokenizer.model.dropout = 0.3
    assert token_cache.identity(tokens) == (None, "its tokens are random (BPE dropout)")


# ---------------------------------------------------------------- where


def test_where_tokens_are_kept(tmp_path, monkeypatch):
    assert token_cache.folder() == tmp_path / "cache" / "tokens"
    monkeypatch.delenv("BENCH_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert token_cache.folder() == tmp_path / "xdg" / "finetune-bench" / "tokens"
    for ignored in ("", "not/absolute"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert token_cache.folder() == tmp_path / "home" / ".cache" / "finetune-bench" / "tokens"


def test_nobody_else_reads_what_the_texts_were(place):
    asked(tiny.tokenizer(tiny.card("bert")), split())
    assert place.stat().st_mode & 0o077 == 0
    assert entries(place)[0].stat().st_mode & 0o077 == 0


def test_a_folder_that_can_not_be_written_is_noted(place):
    place.parent.mkdir(parents=True)
    place.write_text("a file where a folder should be")
    tokens = tiny.tokenizer(tiny.card("bert"))
    found, notes = asked(tokens, split())
    assert found.features == head.encode_rows(split().rows, tokens, 12)[0]
    assert notes == ["token cache: tokens can't be written (File exists)"]


# ---------------------------------------------------------------- damage


def test_no_changed_byte_gives_other_tokens(place):
    """Bytes all over an entry, one after the other."""
    tokens = tiny.tokenizer(tiny.card("bert"))
    examples = split(texts=tiny.TEXTS[:2])
    first, _ = asked(tokens, examples)
    (path,) = entries(place)
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x41]) + whole[position + 1 :])
        found, notes = asked(tokens, examples)
        assert found.features == first.features
        assert found.cut == first.cut
        assert not found.hit
        assert notes == [
            "token cache: an entry can't be read (its signature does not match); its texts were tokenized again"
        ]
    assert entries(place) == [path]


@pytest.mark.parametrize("length", [0, 1, 100, -1, -30])
def test_a_file_without_its_end_is_written_again(length, place):
    tokens = tiny.tokenizer(tiny.card("bert"))
    first, _ = asked(tokens, split())
    (path,) = entries(place)
    whole = path.read_bytes()
    path.write_bytes(whole[:length])
    found, notes = asked(tokens, split())
    assert not found.hit
    assert found.features == first.features
    assert len(notes) == 1
    assert notes[0].startswith("token cache: an entry can't be read (")
    assert str(place) not in notes[0]
    assert asked(tokens, split(), encode=never)[0].features == first.features


def write_signed(path, content):
    """An entry as this person's run would have written it."""
    signed = path.name.encode() + hashlib.sha256(content).digest()
    path.write_bytes(bytes.fromhex(signing.sign("tokens", signed)) + content)


def planted(first):
    """The features of an entry with one token changed, as a file of arrays."""
    features = [
        {name: list(value) if isinstance(value, list) else value for name, value in row.items()} for row in first
    ]
    features[0]["input_ids"][1] += 1
    content = io.BytesIO()
    np.savez(content, **token_cache._columns(features, ()))
    return content.getvalue()


@pytest.mark.parametrize("how", ["hashed", "unsigned", "another's key", "another purpose", "another entry"])
def test_what_somebody_else_has_planted_is_not_used(how, place, monkeypatch, tmp_path):
    """Tokens that are whole and fit, but that this person's run has not written under this name."""
    tokens = tiny.tokenizer(tiny.card("bert"))
    first, _ = asked(tokens, split())
    (path,) = entries(place)
    content = planted(first.features)
    digest = hashlib.sha256(content).digest()
    if how == "another entry":
        other = split(texts=[f"{text} so" for text in tiny.TEXTS])
        asked(tokens, other)
        (file,) = set(entries(place)) - {path}
        path.write_bytes(file.read_bytes())
    elif how == "another's key":
        with monkeypatch.context() as patch:
            patch.setenv("XDG_CONFIG_HOME", str(tmp_path / "theirs"))
            write_signed(path, content)
    else:
        purpose = "checkpoint" if how == "another purpose" else "tokens"
        signature = bytes.fromhex(signing.sign(purpose, path.name.encode() + digest))
        path.write_bytes({"hashed": digest, "unsigned": b"\0" * 32}.get(how, signature) + content)
    found, notes = asked(tokens, split())
    assert found.features == first.features
    assert not found.hit
    assert notes == [
        "token cache: an entry can't be read (its signature does not match); its texts were tokenized again"
    ]
    assert asked(tokens, split(), encode=never)[0].features == first.features


@pytest.mark.parametrize(
    ("which", "mode", "reason"),
    [
        ("tokens", 0o777, "its folder can be written by others; chmod go-w it"),
        ("tokens", 0o775, "its folder can be written by others; chmod go-w it"),
        ("tokens", 0o1777, "its folder can be written by others; chmod go-w it"),
        (".", 0o777, "its folder can be written by others; chmod go-w it"),
        (".", 0o1777, None),
        (".", 0o775, None),
        ("tokens", 0o755, None),
    ],
)
def test_a_folder_that_others_can_write_is_not_used(which, mode, reason, place):
    place.mkdir(parents=True, mode=0o700)
    (place.parent / which).chmod(mode)
    found, notes = asked(tiny.tokenizer(tiny.card("bert")), split())
    assert notes == ([] if reason is None else [f"token cache: not used ({reason})"])
    assert bool(entries(place)) == (reason is None)
    assert not found.hit


def test_another_person_s_folder_is_not_used(place, monkeypatch):
    place.mkdir(parents=True)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    _, notes = asked(tiny.tokenizer(tiny.card("bert")), split())
    assert notes == ["token cache: not used (its folder belongs to another user)"]
    assert entries(place) == []


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_an_entry_that_is_no_file_is_neither_followed_nor_waited_for(kind, place, tmp_path):
    tokens = tiny.tokenizer(tiny.card("bert"))
    first, _ = asked(tokens, split())
    (path,) = entries(place)
    path.rename(tmp_path / "moved")
    if kind == "link":
        path.symlink_to(tmp_path / "moved")
    else:
        os.mkfifo(path) if kind == "fifo" else path.mkdir()
    found, notes = asked(tokens, split())
    assert found.features == first.features
    assert not found.hit
    assert notes[0].startswith("token cache: an entry can't be read (")


def test_without_a_key_nothing_is_kept(place, monkeypatch, tmp_path):
    (tmp_path / "config").write_text("a file in the place of the folder")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(signing.tempfile, "gettempdir", lambda: "/proc/no/such")
    found, notes = asked(tiny.tokenizer(tiny.card("bert")), split())
    assert not found.hit
    assert notes[0].startswith("token cache: tokens can't be written (no key to sign with can be read or made: ")
    assert entries(place) == []


@pytest.mark.parametrize(
    "columns",
    [
        {"cut": np.array([], dtype=int)},
        {"cut": np.array([]), "feature/labels": np.array([1, 2])},
        {"cut": np.array([]), "feature/input_ids": np.arange(9), "ends/input_ids": np.array([1, 2, 3, 4, 5, 6])},
        {"cut": np.array([]), "feature/input_ids": np.arange(6), "ends/input_ids": np.array([1, 9, 3, 4, 5, 6])},
        {"cut": np.array([]), "feature/labels": np.array([{"an": "object"}] * 6)},
    ],
)
def test_an_entry_that_holds_something_else_is_not_used(columns, place):
    tokens = tiny.tokenizer(tiny.card("bert"))
    asked(tokens, split())
    (path,) = entries(place)
    content = io.BytesIO()
    np.savez(content, **columns)
    write_signed(path, content.getvalue())
    found, notes = asked(tokens, split())
    assert not found.hit
    assert len(notes) == 1
    assert found.features == head.encode_rows(split().rows, tokens, 12)[0]
    assert asked(tokens, split(), encode=never)[0].hit


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        (
            [{"input_ids": [1, 2]}, {"input_ids": [1, 2.5]}],
            "the feature 'input_ids' has values that are not whole numbers",
        ),
        ([{"input_ids": [1], "on": True}] * 2, "the feature 'on' has values that are not whole numbers"),
        ([{"input_ids": [1], "said": "no"}] * 2, "the feature 'said' has values that are not whole numbers"),
        ([{"input_ids": [[1], [2]]}] * 2, "the feature 'input_ids' has values that are not whole numbers"),
        ([{"input_ids": [1]}, {"input_ids": [1], "labels": 0}], "not all rows have the same features"),
    ],
)
def test_features_that_would_come_back_as_others_are_not_kept(features, reason, place):
    tokens = tiny.tokenizer(tiny.card("bert"))
    found, notes = asked(tokens, split(texts=tiny.TEXTS[:2]), encode=lambda: (features, ()))
    assert found.features == features
    assert notes == [f"token cache: tokens can't be written ({reason})"]
    assert entries(place) == []


def test_large_and_negative_numbers_come_back(place):
    tokens = tiny.tokenizer(tiny.card("bert"))
    features = [{"input_ids": [0, 2**40, -(2**40)], "labels": -1}, {"input_ids": [], "labels": 2**31}]
    examples = split(texts=tiny.TEXTS[:2])
    asked(tokens, examples, encode=lambda: (features, (1,)))
    found, _ = asked(tokens, examples, encode=never)
    assert found.features == features
    assert found.cut == (1,)


# ---------------------------------------------------------------- room


def test_the_least_recently_used_make_room(place):
    tokens = tiny.tokenizer(tiny.card("bert"))
    splits = [split(texts=[f"{text} {copy}" for text in tiny.TEXTS]) for copy in range(4)]
    for examples in splits[:3]:
        asked(tokens, examples)
    size = max(path.stat().st_size for path in entries(place))
    for age, path in enumerate(entries(place)):
        os.utime(path, (time.time() - 100 - age,) * 2)
    asked(tokens, splits[0], encode=never)  # used now, so that it stays
    limit = {"limit_bytes": 2 * size + 100}
    _, notes = asked(tokens, splits[3], **limit)
    assert len(notes) == 1
    assert notes[0].startswith("token cache: 2 entries, the least recently used, were dropped to stay in ")
    assert len(entries(place)) == 2
    for examples in (splits[0], splits[3]):
        assert asked(tokens, examples, encode=never, **limit)[0].hit
    for examples in (splits[1], splits[2]):
        assert not asked(tokens, examples)[0].hit


def test_what_is_too_large_for_all_of_it_is_not_kept(place):
    tokens = tiny.tokenizer(tiny.card("bert"))
    found, notes = asked(tokens, split(), limit_bytes=50)
    assert found.features == head.encode_rows(split().rows, tokens, 12)[0]
    assert notes == ["token cache: tokens can't be written (0.0 GiB exceed the limit of the whole cache)"]
    assert not place.exists()


def test_what_a_killed_run_left_is_swept_up(place):
    place.mkdir(parents=True)
    old, new = place / f"old{token_cache.TEMPORARY}", place / f"new{token_cache.TEMPORARY}"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * token_cache.ABANDONED_S,) * 2)
    asked(tiny.tokenizer(tiny.card("bert")), split())
    assert not old.exists()
    assert new.exists()


# ---------------------------------------------------------------- runs
