"""reporting/hub/redact.py: what looks like a secret or names a place of this machine is seen, plain words are not."""

import html
import json
from urllib.parse import quote

import pytest

from bench.reporting import markdown as md
from bench.reporting.hub import redact


@pytest.mark.parametrize(
    ("name", "is_secret"),
    [("PGPASSWORD", True), ("MYSQL_PWD", True), ("DB_PASS", True), ("MYSECRET_OF_A", True), ("HF_TOKEN", True),
     ("PWD", False), ("OLDPWD", False), ("SSH_KEY_PATH", False), ("TOKENIZERS_PARALLELISM", False)],
)  # fmt: skip
def test_variables_that_are_named_like_secrets(monkeypatch, name, is_secret):
    monkeypatch.setenv(name, "correct horse battery")
    assert (redact.find_secret(b"said: correct horse battery!") is not None) == is_secret


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("/data/me/x.json", "<removed>/x.json"),
        ("see (/scratch/al/run-1), please", "see (<removed>/run-1), please"),
        ("--cache=/mnt/a/b/ file:///home/al/c", "--cache=<removed>/b <removed>/c"),
        (r"C:\Users\al\x.txt", "<removed>/x.txt"),
        ("https://x.org/a/b and/or 1/2/3 org/name ../a/b ~/a/b </td></tr> /", None),
    ],
)
def test_absolute_paths_are_shortened_and_nothing_else(text, short):
    assert redact.PathShortener().shorten(text) == (text if short is None else short)


def test_a_secret_is_seen_however_a_file_escapes_it(monkeypatch):
    secret = '_a"b\\c<d|é&/*'
    monkeypatch.setenv("MY_PASSWORD", secret)
    row = json.dumps({"key": f"it is {secret}!"})
    held = [row, json.dumps({"key": secret}, ensure_ascii=False), json.dumps(row), html.escape(secret), quote(secret)]
    held += [md.escape(row), md.escape(f"x{secret}y"), md.verbatim(f"see {secret}"), quote(secret, "")]
    for text in held:
        assert redact.find_secret(text.encode()) == "the value of the environment variable MY_PASSWORD", text
        assert redact.REMOVED in redact.remove_secrets(text, None)
    assert redact.find_secret(rb'_a"b') is None


@pytest.mark.parametrize("text", ["risk-adjusted-performance-of-all-models-in-it", "hf_hub", "a" * 40, "x@y.z:80"])
def test_plain_words_are_no_secrets(text):
    assert redact.find_secret(text.encode()) is None
