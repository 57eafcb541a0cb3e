"""reporting/hub/redact.py, utils/secret_formats.py: secrets and places of this machine are seen, words are not."""

import html
import json
from urllib.parse import quote

import pytest

from bench.reporting import markdown as md
from bench.reporting.hub import redact
from bench.utils import secret_formats


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


@pytest.mark.parametrize(
    "text",
    [
        "risk-adjusted-performance-of-all-models-in-it",
        "hf_hub",
        "a" * 40,
        "x@y.z:80",
        'api_key = "your-key-goes-here-please"',
        "the machine that login needs a password for",
        '"access_token": null',
    ],
)
def test_plain_words_are_no_secrets(text):
    assert redact.find_secret(text.encode()) is None


A, D, H = "Ab3" * 40, "0123456789" * 6, "0f9e8d7c6b" * 8
# A value of the form that its issuer documents, put together here so that no scanner takes this file for a leak.
SECRETS = {
    "hugging face": "hf_" + A[:34], "github": "ghp_" + A[:36], "github, fine-grained": "github_pat_" + A[:60],
    "gitlab": "glpat-" + A[:20], "gitlab, deploy": "gldt-" + A[:20], "gitlab, runner": "glrt-" + A[:20],
    "gitlab, routable": "glpat-" + A[:27] + ".01.1a2b3c4d", "gitlab, CI": "glcbt-64_" + A[:20],
    "google": "AIza" + A[:35], "google, secret": "GOCSPX-" + A[:28], "google, access": "ya29." + A[:60],
    "slack, bot": "xoxb-" + D[:12] + "-" + A[:24], "slack, user": "xoxp-" + D[:12] + "-" + A[:24],
    "slack, app": "xapp-1-" + A[:30], "slack, hook": "https://hooks.slack.com/services/T0AA/B0BB/" + A[:24],
    "npm": "npm_" + A[:36], "npmrc": "//registry.npmjs.org/:_authToken=" + A[:36],
    "pypi": "pypi-AgEIcHlwaS5vcmc" + A[:60], "pypi, test": "pypi-AgENdGVzdC5weXBpLm9yZw" + A[:60],
    "aws": "AKIA" + "Q3EGRIZXJ5ZOEA2B", "aws, session": "ASIA" + "Q3EGRIZXJ5ZOEA2B",
    "aws, secret": "aws_secret_access_key = " + A[:40], "aws, JSON": '"SecretAccessKey": "' + A[:40] + '"',
    "private key": "-----BEGIN OPENSSH PRIVATE KEY-----\n" + A[:64] + "\n-----END OPENSSH PRIVATE KEY-----",
    "rsa": "-----BEGIN RSA PRIVATE KEY-----\n" + A[:64], "pgp": "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n" + A[:64],
    "jwt": "eyJ" + A[:30] + ".eyJ" + A[:60] + "." + A[:40],
    "azure": "AccountKey=" + A[:86] + "==",
    "azure, SAS": "https://x.blob.core.windows.net/c?sv=1&sig=" + A[:44] + "%3D",
    "stripe": "sk_live_" + A[:24], "stripe, restricted": "rk_test_" + A[:24], "stripe, hook": "whsec_" + A[:32],
    "openai": "sk-" + A[:48], "openai, project": "sk-proj-" + A[:60], "anthropic": "sk-ant-" + A[:60],
    "groq": "gsk_" + A[:52], "replicate": "r8_" + A[:37], "nvidia": "nvapi-" + A[:60],
    "wandb": "WANDB_API_KEY=" + H[:40], "wandb, YAML": "wandb_key: '" + H[:40] + "'",
    "sendgrid": "SG." + A[:22] + "." + A[:43], "twilio": "SK" + H[:32], "telegram": "123456789:AA" + A[:33],
    "discord": "https://discord.com/api/webhooks/" + D[:18] + "/" + A[:60],
    "digitalocean": "dop_v1_" + H[:64], "databricks": "dapi" + H[:32], "vault": "hvs." + A[:30],
    "docker": "dckr_pat_" + A[:27], "atlassian": "ATATT3" + A[:80], "notion": "ntn_" + A[:46],
    "linear": "lin_api_" + A[:40],
    "grafana": "glsa_" + A[:32] + "_0f9e8d7c", "shopify": "shpat_" + H[:32], "rubygems": "rubygems_" + H[:48],
    "password": "https://me:" + "hunter2" + "@example.org/x", "database": "postgres://me:" + "hunter2" + "@db/x",
    "no user": "redis://:" + "hunter2" + "@db", "token": "https://" + "abc123" + "@example.org/x.git",
    "git": "git+https://" + "s3cr3tt0ken" + "@example.org/x.git", "oauth": "https://oauth2:" + A[:20] + "@example.org",
    "header": "Authorization: Bearer " + A[:20], "header, JSON": '"authorization": "Basic ' + A[:20] + '"',
    "gitlab's header": "PRIVATE-TOKEN: " + A[:20], "mapbox": "pk.eyJ" + A[:40] + "." + A[:22],
    "netrc": "machine api.example.org\n  login me\n  password " + A[:9],
    "beside its name": 'API_KEY = "' + A[:24] + '"',
    "beside its name, in JSON": json.dumps({"client_secret": A[:30]}),
}  # fmt: skip


@pytest.mark.parametrize("kind", SECRETS)
def test_secrets_of_many_issuers_are_seen_and_removed(kind):
    secret = SECRETS[kind]
    for text in (secret, f"see {secret}.", json.dumps({"a": secret}), f"x={secret}&y=1\n"):
        assert redact.find_secret(text.encode()) is not None, text
        removed = secret_formats.remove(text)
        assert secret_formats.REMOVED in removed
        assert secret_formats.find(removed.encode()) is None
        assert A[:16] not in removed
        assert H[:32] not in removed
        assert "hunter2" not in removed
    json.loads(secret_formats.remove(json.dumps({"a": [secret, "b"]})))


PLAIN = [
    "https://example.org/@user/x", "https://example.org/x?to=me@example.org", "ssh://git@example.org/x",
    "git@github.com:a/b", "https://git@example.org/x", "mailto:me@example.org", "<pad>", "pad_token: <pad>", H[:40],
    f"commit {H[:40]}", H[:64], "12:34:56", "a@b", "sk-learn", "task-oriented-dialogue-with-a-long-name-indeed",
    "npm_config_cache", "the key-value store", "hf_transfer", "tokenizer.json", "eos_token_id: 2",
    "https://huggingface.co/models", "disk-2024-01-01-and-more-of-it", "xoxo", "AKIA", "-----BEGIN PUBLIC KEY-----",
    "http://localhost:8080/x", "file:///a/b", "C:/x@y", "pypi-Ag", "sig=1",
    "glance-at-the-long-list-of-all-the-models", "deadbeef" * 8, "0.123456789:AA", "SKU1234", "Bearer of news",
]  # fmt: skip


@pytest.mark.parametrize("text", PLAIN)
def test_ordinary_texts_are_left_as_they_are(text):
    assert secret_formats.find(text.encode()) is None
    assert secret_formats.remove(text) == text


def test_a_tree_is_cleaned_and_its_keys_and_numbers_stay():
    tree = {"a": [1, None, SECRETS["gitlab"], {"b": SECRETS["token"]}], "c": True}
    assert secret_formats.remove_all(tree) == {
        "a": [1, None, "<removed>", {"b": "https://<removed>@example.org/x.git"}], "c": True,
    }  # fmt: skip


def test_texts_of_any_kind_can_be_cleaned():
    for text in ("", "\ud800", "\udcff hf_", "é\x00"):
        assert secret_formats.remove(text) == text


def test_secrets_of_the_environment_are_removed(monkeypatch):
    monkeypatch.setenv("MY_PASSWORD", "correct horse battery")
    monkeypatch.setenv("MY_TOKEN", "short")
    assert secret_formats.remove("said: correct horse battery, short") == "said: <removed>, short"


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom"])
def test_a_secret_is_seen_in_the_codings_of_text_files(coding):
    text = f"see {SECRETS['gitlab']} there"
    content = b"\xff\xfe" + text.encode("utf-16-le") if coding == "utf-16-le-bom" else text.encode(coding)
    assert redact.find_secret(content) == "a GitLab token"
