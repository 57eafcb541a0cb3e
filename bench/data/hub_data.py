"""Looks a data set of the Hub up: its configs, splits, features, commit and licence, without loading its rows."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.errors import DataError, did_you_mean

_COMMIT = re.compile(r"[0-9a-f]{40}")
_MOST_LISTED = 40


@dataclass(frozen=True, kw_only=True)
class HubData:
    """Facts about one config of a data set: what `datasets` and the Hub say, None where they do not.

    config: None for the only one of a data set. revision: the commit. features: as `Features.to_dict` gives them.
    """

    config: str | None
    revision: str | None
    splits: tuple[str, ...]
    features: Mapping[str, Any] | None
    licence: str | None
    notes: tuple[str, ...] = ()


def look_up(identity: str, config: str | None, revision: str | None) -> HubData:
    """Return what is known of a data set; in offline mode of what lies in the cache.

    Raises DataError for one that is missing, gated, a script, has no such revision or config, or several configs where
    none is named.
    """
    import datasets

    datasets.disable_progress_bars()
    try:
        builder = datasets.load_dataset_builder(identity, config, revision=revision)
    except Exception as error:
        raise DataError(_sentence(error, identity, config, revision)) from error
    commit = builder.hash if _COMMIT.fullmatch(str(builder.hash)) else None
    if revision is not None and _COMMIT.fullmatch(revision) and commit != revision:
        raise DataError(
            f"the data set {identity!r} is in the cache at the commit {commit}, not at {revision}, and the Hub can't "
            "be reached; name that commit, or download the other one"
        )
    notes = []
    if commit is None or (revision is not None and builder.__class__.__name__ == "Cache" and commit != revision):
        notes.append(f"{identity}: the commit of the data in the cache can't be held against {revision or 'the Hub'}")
    splits, features = builder.info.splits, builder.info.features
    names = tuple(splits or getattr(builder.config, "data_files", None) or ())
    return HubData(
        config=None if builder.config.name == "default" else builder.config.name,
        revision=commit or revision,
        splits=tuple(map(str, names)),
        features=None if features is None else features.to_dict(),
        licence=_licence(identity, commit or revision),
        notes=tuple(notes),
    )


def features_of(identity: str, config: str | None, revision: str | None) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    """Return the splits and the features of a data set whose owner does not state them, by loading it."""
    import datasets

    try:
        loaded = datasets.load_dataset(identity, config, revision=revision)
    except Exception as error:
        raise DataError(_sentence(error, identity, config, revision)) from error
    return tuple(map(str, loaded)), next(iter(loaded.values())).features.to_dict()


def _sentence(error: Exception, identity: str, config: str | None, revision: str | None) -> str:
    """Return an error of `datasets` as a sentence that says what to do."""
    said, name = str(error), f"the data set {identity!r}"
    at = "" if revision is None else f" at the revision {revision!r}"
    missing = f"{name} is not in the cache"
    if "Config name is missing" in said or "configurations in the cache" in said:
        names = _configs(identity, revision)
        line = f"dataset: {{id: {identity}, config: {names[0] if names else '...'}}}"
        return f"{name} has several configs, {_listed(names)}; name one, as `{line}`"
    if "BuilderConfig" in said and "not found" in said:
        return f"{name} has no config {config!r}.{did_you_mean(str(config), _configs(identity, revision))}"
    if "scripts are no longer supported" in said:
        line = f"{{id: {identity}, revision: refs/convert/parquet}}"
        return (
            f"{name}{at} is a loading script, which is foreign code and is never run; name its rows in Parquet, which "
            f"the Hub may keep as `{line}`, or files of your own"
        )
    if "gated dataset" in said:
        page = f"https://huggingface.co/datasets/{identity}"
        return f"{name} is gated: ask for access on {page}, and log in with `hf auth login`, or set HF_TOKEN"
    if re.match(r"Revision '.*' doesn't exist", said):
        return f"{name} has no revision {revision!r}; name a commit, a branch or a tag of it"
    if "doesn't exist on the Hub" in said:
        return (
            f"there is no data set {identity!r} on the Hub, or it is private and you are not logged in (`hf auth "
            "login`, HF_TOKEN); a file or folder of your own is named by its path"
        )
    if "Couldn't find cache for" in said:
        cached = re.findall(r"'([^']+)'", said.partition("Available configs in the cache:")[2])
        have = f" with the config {config!r}, only with {_listed(cached)}" if cached else ""
        return f"{missing}{have}; {_download(identity, config)}"
    if isinstance(error, ConnectionError) or "Couldn't reach" in said or "offline mode" in said.lower():
        return f"{missing}, and the Hub can't be reached; {_download(identity, config)}"
    if type(error).__name__ in ("EmptyDatasetError", "DataFilesNotFoundError"):
        return f"{name}{at} has no file that can be read (CSV, JSON lines, Parquet ...)"
    first = (said.splitlines() or [type(error).__name__])[0]
    return f"{name}{at} can't be read: {first}"


def _download(identity: str, config: str | None) -> str:
    import datasets

    words = ", ".join(repr(word) for word in (identity, config) if word is not None)
    return (
        f"download it where there is a network, as with `datasets.load_dataset({words})`; it is looked for in "
        f"{datasets.config.HF_DATASETS_CACHE} (HF_HOME, HF_DATASETS_CACHE; offline by HF_HUB_OFFLINE)"
    )


def _configs(identity: str, revision: str | None) -> list[str]:
    import datasets

    try:
        return list(datasets.get_dataset_config_names(identity, revision=revision))
    except Exception:  # the sentence that asks for one is said without their names
        return []


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return ", ".join(names[:_MOST_LISTED]) + more


def _licence(identity: str, revision: str | None) -> str | None:
    """Return the licence that the metadata of the README states; None without one. It is in the cache by now."""
    import huggingface_hub

    try:
        path = huggingface_hub.hf_hub_download(identity, "README.md", repo_type="dataset", revision=revision)
        stated = huggingface_hub.DatasetCard.load(path, ignore_metadata_errors=True).data.to_dict().get("license")
    except Exception:  # no README, or no network and it is not in the cache: not stated
        return None
    names = stated if isinstance(stated, list) else [stated]
    return ", ".join(str(name) for name in names if name) or None
