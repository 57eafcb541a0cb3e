"""Formats of access tokens and keys, as their issuers document them: to refuse a push, and to keep them out of records.

Prefixes and lengths follow the issuers' pages and the rules of gitleaks (github.com/gitleaks/gitleaks, config/gitleaks
.toml, MIT). A key without a form of its own, such as 40 hexadecimal digits, is known only by the word before it.
"""

import codecs
import functools
import os
import re
from collections.abc import Iterator
from typing import Any

REMOVED = "<removed>"
# TOKENIZERS_PARALLELISM contains no token, and SSH_KEY_PATH no key.
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:TOKEN|KEY|APIKEY|PASS|CREDENTIAL)S?(?:_|$)|_PWD$|SECRET|PASSWORD|PASSWD|PASSPHRASE", re.IGNORECASE
)
_PLACE_NAME = re.compile(r"_(?:PATH|FILE|DIR|HOME|NAME|URL)$", re.IGNORECASE)
# A shorter value may be an ordinary word.
_SHORTEST_SECRET = 8
# No letter or digit before a prefix: inside a word it is none.
_B = r"(?<![A-Za-z0-9])"
# What it is -> (words of which one must stand in the text, in lower case: looking for them is cheap; the format).
_FORMATS: dict[str, tuple[tuple[str, ...], str]] = {
    "a Hugging Face Hub token": (("hf_", "api_org_"), _B + r"(?:hf_|api_org_)(?:oauth_|jwt_)?[A-Za-z0-9]{20,}"),
    "a GitHub token": (("gh", "github_pat_"), _B + r"(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{40,})"),
    "a GitLab token": (
        ("gl", "gr1348941"),
        _B + r"(?:gl(?:pat|ptt|dt|rt|rtr|cbt|ft|imt|agent|oas|soat|ffct|wt)-|GR1348941)[\w-]{20,}",
    ),
    "an API key of an AI service": (
        ("sk-", "gsk_", "xai-", "r8_", "pplx-", "nvapi-", "fw_", "tgp_v1_", "jina_", "voyage"),
        _B + r"(?:sk-(?:[A-Za-z0-9]{32,}|(?:proj|ant|or|svcacct|admin|None|lf)-[\w-]{20,})|gsk_[A-Za-z0-9]{40,}|"
        r"xai-[A-Za-z0-9]{40,}|r8_[A-Za-z0-9]{30,}|pplx-[A-Za-z0-9]{40,}|nvapi-[\w-]{50,}|fw_[A-Za-z0-9]{22,}|"
        r"tgp_v1_[\w-]{40,}|jina_[\w-]{50,})",
    ),
    "an AWS access key": (
        ("akia", "asia", "abia", "acca", "a3t"),
        _B + r"(?:A3T[A-Z0-9]|AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}(?![0-9A-Za-z])",
    ),
    "an AWS secret key": (
        ("secret_access_key", "secretaccesskey", "session_token"),
        r"(?i:aws_?)?(?i:secret_?access_?key|session_?token)(?:\\{0,3}[\"'])?\s{0,3}[:=]\s{0,3}(?:\\{0,3}[\"'])?[A-Za-z0-9/+]{40,}",
    ),
    "a Google key or token": (
        ("aiza", "gocspx-", "ya29.", "1//0"),
        _B + r"(?:AIza[\w-]{35}|GOCSPX-[\w-]{20,}|ya29\.[\w-]{20,}|1//0[\w-]{40,})",
    ),
    "a Slack token or webhook": (
        ("xox", "xapp-", "hooks.slack.com"),
        _B + r"(?:(?:xoxe\.)?xox[a-z]-[\w-]{10,}|xapp-\d-[\w-]{10,}|hooks\.slack\.com/[a-z]+/[\w/+-]{20,})",
    ),
    "an npm token": (
        ("npm_", "_authtoken", "_auth"),
        r"(?<![A-Za-z0-9])npm_[A-Za-z0-9]{30,}|_auth(?:Token)?=[\w+/=-]{16,}",
    ),
    "a PyPI token": (("pypi-",), _B + r"pypi-Ag[\w-]{40,}"),
    "a token of a package registry": (
        ("rubygems_", "cio", "oy2", "dckr_", "akc"),
        _B + r"(?:rubygems_[a-f0-9]{48}|cio[A-Za-z0-9]{32}(?![A-Za-z0-9])|oy2[a-z0-9]{43}|dckr_[po]at_[\w-]{27,}|"
        r"AKCp[A-Za-z0-9]{50,})",
    ),
    "a Stripe key": (
        ("k_live_", "k_test_", "k_prod_", "whsec_"),
        _B + r"(?:[prs]k_(?:live|test|prod)_[A-Za-z0-9]{10,}|whsec_[A-Za-z0-9+/=]{20,})",
    ),
    "a key of a payment or shop service": (
        ("sq0", "shp", "eaaa"),
        _B + r"(?:sq0[a-z]{3}-[\w-]{22,}|shp(?:at|ca|pa|ss)_[A-Fa-f0-9]{32}|EAAA[\w-]{56,})",
    ),
    "an Azure key": (
        ("accountkey=", "accesskey=", "sig=", "q~"),
        r"(?i:Account|SharedAccess)Key=[A-Za-z0-9+/]{40,}={0,2}|[?&]sig=[A-Za-z0-9%+/]{40,}|"
        r"(?<![\w~.-])[\w~.-]{3}\dQ~[\w~.-]{31,34}(?![\w~.-])",
    ),
    "a Weights & Biases key": (
        ("wandb", "api.wandb.ai", "local-"),
        _B + r"(?:wandb_v\d_\w{40,}|(?i:wandb)[\w.]{0,30}(?:\\{0,3}[\"'])?\s{0,3}[:=\s]\s{0,3}(?:\\{0,3}[\"'])?"
        r"[0-9a-f]{40}(?![0-9a-f])|local-[0-9a-f]{40}(?![0-9a-f]))",
    ),
    "a token of an experiment tracker": (
        ("eyjhcglfywrkcmvzcyi6", "kgat_"),
        r"eyJhcGlfYWRkcmVzcyI6[\w+/=-]{40,}|KGAT_\w{30,}",
    ),
    "a JSON web token": (("eyj",), _B + r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"),
    "a private key": (
        ("private key", "putty-user-key-file", "age-secret-key-"),
        r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?:[^\"]*?-----END [A-Z0-9 ]*-----|[\w+/=\s\\]*)|"
        r"PuTTY-User-Key-File-\d|AGE-SECRET-KEY-1[A-Z0-9]{50,}",
    ),
    "a key of a messaging service": (
        ("sg.", "key-", "-us", ":aa", "discord", "sk", "."),
        _B + r"(?:SG\.[\w-]{20,24}\.[\w-]{39,50}|key-[0-9a-f]{32}(?![0-9a-f])|[0-9a-f]{32}-us\d{1,2}(?!\d)|"
        r"\d{8,10}:AA[\w-]{32,35}|SK[0-9a-f]{32}(?![0-9a-f])|"
        r"discord(?:app)?\.com/api/webhooks/\d{15,}/[\w-]{30,}|[MNO][\w-]{23,27}\.[\w-]{6}\.[\w-]{27,})",
    ),
    "a key of a cloud service": (
        ("_v1_", "dapi", "hrku-", "hv", "atlasv1", "pul-", "dp.", "sbp_", "sb_secret_", "nfp_", "pscale_", "ops_eyj"),
        _B + r"(?:do[opr]_v1_[a-f0-9]{64}|dapi[a-f0-9]{32}|HRKU-[\w-]{30,}|hv[sbr]\.[\w-]{24,}|"
        r"[A-Za-z0-9]{14}\.atlasv1\.[\w-]{60,}|pul-[a-f0-9]{40}|dp\.(?:pt|st|ct|sa|scim|audit)\.[\w.-]{40,}|"
        r"sbp_[a-f0-9]{40}|sb_secret_\w{20,}|nfp_[A-Za-z0-9]{36,}|pscale_(?:tkn|pw|oauth)_[\w.=-]{32,}|ops_eyJ[\w-]{50,})",
    ),
    "a key of a developer service": (
        ("at", "lin_api_", "ntn_", "secret_", "pmak-", "gls", "glc_", "nrak-", "sntry", "figd_"),
        _B + r"(?:AT(?:ATT3|CTT3)[\w=-]{50,}|ATBB[A-Za-z0-9]{28,}|lin_api_[A-Za-z0-9]{40}|ntn_[A-Za-z0-9]{40,}|"
        r"secret_[A-Za-z0-9]{43}|PMAK-[a-f0-9]{24}-[a-f0-9]{34}|gls[ao]_\w{32,}|glc_[\w+/=]{40,}|NRAK-[A-Z0-9]{27}|"
        r"sntry[su]_[\w+/=-]{40,}|figd_[\w-]{40,}|pat[A-Za-z0-9]{14}\.[a-f0-9]{64})",
    ),
    "a password inside a URL": (("@",), r"://[^\s/:@\"'<>]*:[^\s/@\"'<>]+@"),
    "a token inside a URL": (
        ("http", "ftp"),
        r"(?i:https?|ftps?)://(?!git@)[^\s/:@?#\"'<>\\]+@(?=[\w\[])",
    ),
    "a key of a map service": (("pk.eyj", "sk.eyj"), _B + r"[ps]k\.eyJ[\w-]{20,}\.[\w-]{20,}"),
    "a password of a .netrc file": (
        ("machine",),
        r"(?<![\w-])machine\s+\S+?(?:\s|\\+n)+(?:login|account)\s+\S+?(?:\s|\\+n)+password\s+[^\s\"'\\]+",
    ),
    # Letters and digits: a key, and neither a placeholder nor a word.
    "a key or password beside its name": (
        ("api", "access", "auth", "client", "secret"),
        r"(?i:api|access|auth|client|secret)[_-]?(?i:key|token|secret)(?:\\{0,3}[\"'])?\s{0,3}[:=]\s{0,3}\\{0,3}[\"']"
        r"(?=[\w.+/=-]*[A-Za-z])(?=[\w.+/=-]*\d)[\w.+/=-]{20,}\\{0,3}[\"']",
    ),
    "an authorization header": (
        ("authorization", "private-token", "x-api-key"),
        r"(?i:(?:authorization(?:\\{0,3}[\"'])?\s{0,2}[:=]\s{0,2}(?:\\{0,3}[\"'])?(?:bearer|basic|token)\s+|"
        r"(?:private-token|x-api-key)(?:\\{0,3}[\"'])?\s{0,2}[:=]\s{0,2}(?:\\{0,3}[\"'])?))[\w.~+/=-]{8,}",
    ),
}


@functools.cache
def _formats() -> dict[str, tuple[tuple[bytes, ...], re.Pattern[bytes]]]:
    """Return what -> (words, format), of bytes: a file may hold anything."""
    return {
        what: (tuple(word.encode() for word in words), re.compile(pattern.encode()))
        for what, (words, pattern) in _FORMATS.items()
    }


def find(content: bytes) -> str | None:
    """Return what kind of secret a content holds, without quoting it; None if none of a known format is found.

    Text in UTF-16, as editors of Windows write it, is read as such.
    """
    if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        content = content.decode("utf-16", errors="replace").encode(errors="replace")
    lower = content.lower()
    for what, (words, pattern) in _formats().items():
        if any(word in lower for word in words) and pattern.search(content):
            return what
    return None


def remove(text: str) -> str:
    """Return a text with secrets of known formats, and those of the environment, replaced by `<removed>`.

    A URL keeps its host.
    """
    for value in sorted((value for _, value in named_values()), key=len, reverse=True):
        text = text.replace(value, REMOVED)
    content = text.encode(errors="surrogatepass")
    lower = content.lower()
    for words, pattern in _formats().values():
        if any(word in lower for word in words):
            content = pattern.sub(_removed, content)
    return content.decode(errors="surrogatepass")


def is_in(text: str) -> bool:
    """Return whether a text has a secret that `remove` would take out."""
    return remove(text) != text


def is_secret_name(name: str) -> bool:
    """Return whether an environment variable is named like a secret, and not like the place of one."""
    return _SECRET_NAME.search(name) is not None and _PLACE_NAME.search(name) is None


def named_values() -> Iterator[tuple[str, str]]:
    """Yield (name, value) of the environment variables that are named like secrets."""
    for name, value in os.environ.items():
        if is_secret_name(name) and len(value.strip()) >= _SHORTEST_SECRET:
            yield name, value.strip()


def remove_all(tree: Any) -> Any:
    """Return a tree of lists and mappings with `remove` applied to all texts that are values."""
    if isinstance(tree, str):
        return remove(tree)
    if isinstance(tree, dict):
        return {key: remove_all(item) for key, item in tree.items()}
    return [remove_all(item) for item in tree] if isinstance(tree, list) else tree


def _removed(match: re.Match[bytes]) -> bytes:
    scheme, separator, _ = match[0].partition(b"://")
    return scheme + separator + REMOVED.encode() + b"@" if separator and match[0].endswith(b"@") else REMOVED.encode()
