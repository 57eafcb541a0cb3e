"""Finds a model on the Hub or in its local cache: commit, licence, type of its weights, and one file."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config import resolve, yaml_loader
from bench.errors import BenchError, RecipeError, nearest
from bench.utils.loading_errors import reason

# The Hub answers in a fraction of a second; without a route to it, a connection may hang.
TIMEOUT_S = 20.0
# Types of weights, by their names in safetensors files.
STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
OFFLINE = "HF_HUB_OFFLINE is set, so that the Hub was not asked"


@dataclass(frozen=True, kw_only=True)
class HubModel:
    """A model of the Hub. file: local path of the file that was asked for; None where the model has none.

    files: names of its files, where the Hub was asked. why_not_asked: why the local cache answered instead.
    """

    commit: str | None
    file: Path | None
    licence: str | None = None
    stored: str | None = None
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    why_not_asked: str | None = None


def find(name: str, revision: str | None, file: str) -> HubModel:
    """Return a model of the Hub, with one of its files. Without the Hub, what the local cache holds.

    Raises RecipeError for a name or revision that is not there, a gated model without access, and a model that is not
    in the cache when the Hub can't be asked.
    """
    from huggingface_hub import HfApi, constants, utils
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        utils.validate_repo_id(name)
    except HFValidationError as error:
        raise RecipeError(f"{name!r} can't be a name on the Hub: {reason(error)}") from error
    if constants.is_offline_mode():
        return _in_cache(name, revision, file, OFFLINE)
    try:
        info = HfApi().model_info(name, revision=revision, timeout=TIMEOUT_S)
    except GatedRepoError as error:
        raise RecipeError(_gated(name)) from error
    except RevisionNotFoundError as error:
        raise RecipeError(f"{name} on the Hub has no revision {revision!r}: no branch, tag or commit of it") from error
    except RepositoryNotFoundError as error:
        raise RecipeError(_not_found(name)) from error
    except Exception as error:  # of several network libraries: no name service, no route, a proxy's answer
        return _in_cache(name, revision, file, f"the Hub could not be asked ({reason(error)[:200]})")
    return _downloaded(name, revision, info, file)


def _downloaded(name: str, revision: str | None, info: Any, file: str) -> HubModel:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError

    names = tuple(sorted(one.rfilename for one in info.siblings or ()))
    try:
        # By the branch, not by its commit: so the cache knows later, offline, which commit the branch was at.
        local = Path(HfApi().hf_hub_download(name, file, revision=revision))
    except GatedRepoError as error:
        raise RecipeError(_gated(name)) from error
    except EntryNotFoundError:
        return HubModel(commit=info.sha, file=None, files=names)
    except Exception as error:  # as above
        raise RecipeError(f"{file} of {name} can't be downloaded: {reason(error)[:300]}") from error
    return HubModel(
        commit=local.parent.name,
        file=local,
        licence=licence_of(info.card_data.to_dict() if info.card_data is not None else {}),
        stored=_stored(info.safetensors),
        files=names,
    )


def _stored(safetensors: Any) -> str | None:
    """Return the type of most of a checkpoint's weights, by the Hub's count."""
    counts = dict(safetensors.parameters) if safetensors is not None else {}
    most = max(counts, key=lambda kind: counts[kind], default="")
    return STORED.get(most)


def licence_of(metadata: Mapping[str, Any]) -> str | None:
    """Return the licence that the metadata of a README name; None where they name none."""
    licence = metadata.get("license")
    if isinstance(licence, str) and licence.lower() == "other":
        licence = metadata.get("license_name") or metadata.get("license_link") or licence
    return licence.strip() or None if isinstance(licence, str) else None


def _in_cache(name: str, revision: str | None, file: str, why: str) -> HubModel:
    """Return what the local cache holds of a model; its commit is that of the cached snapshot."""
    from huggingface_hub import constants, try_to_load_from_cache

    cached = try_to_load_from_cache(name, file, revision=revision)
    if not isinstance(cached, str) and revision is None:
        # What was downloaded by its commit alone: where there is one, it is what can be meant.
        snapshots = [*_cache_folder(name).glob(f"snapshots/*/{file}")]
        cached = str(snapshots[0]) if len(snapshots) == 1 else None
    if not isinstance(cached, str):
        at = f"@{revision}" if revision else ""
        flag = f" --revision {revision}" if revision else ""
        known = _card_of(name)
        beside = (
            f"; the card {known!r} describes this model"
            if known
            else _nearest(name, [*_ids_of_cards().values(), *_cached()])
        )
        raise RecipeError(
            f"{name}{at} is not in the local cache, {_cache_folder(name)}, and {why}; download it where there is a "
            f"network, `hf download {name}{flag}`, into the cache ({constants.HF_HUB_CACHE}, moved by HF_HOME){beside}"
        )
    commit = Path(cached).parent.name
    note = f"{why}: {name} is taken from the local cache, at the commit of its snapshot, {commit}"
    return HubModel(commit=commit, file=Path(cached), notes=(note,), why_not_asked=why)


def _cache_folder(name: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"


def _gated(name: str) -> str:
    from huggingface_hub import constants, get_token

    token = get_token()
    missing = (
        "no token was given: log in with `hf auth login`, or set HF_TOKEN" if token is None else "your token has not"
    )
    access = f"and {missing}" if token is None else f"and {missing} been given access yet"
    return f"{name} is gated: its terms must be accepted on {constants.ENDPOINT}/{name}, {access}"


def _not_found(name: str) -> str:
    from huggingface_hub import HfApi, constants, get_token

    try:
        HfApi().dataset_info(name, timeout=TIMEOUT_S)
        return f"{name} is a data set on the Hub, not a model; name it as `dataset:`"
    except Exception:  # it is none; or the Hub does not answer
        token = "" if get_token() else "; a private one needs a token (`hf auth login`)"
        known = f"there is no model {name!r} on the Hub ({constants.ENDPOINT}){token}"
    return f"{known}{_nearest(name, [*_ids_of_cards().values(), *_cached()])}"


def _nearest(name: str, known: list[str]) -> str:
    near = nearest(name, (one for one in known if one != name))
    return f". Did you mean {near!r}?" if near else ""


def _card_of(name: str) -> str | None:
    return next((card for card, known in _ids_of_cards().items() if known == name), None)


def _ids_of_cards() -> dict[str, str]:
    """Return name -> Hub id of all model cards."""
    ids = {}
    for path in resolve.find_cards("model"):
        try:
            data = yaml_loader.read_shared(path).data
        except BenchError:
            continue
        if isinstance(data.get("id"), str):
            ids[path.stem] = data["id"]
    return ids


def _cached() -> Iterator[str]:
    from huggingface_hub import constants

    for folder in Path(constants.HF_HUB_CACHE).glob("models--*"):
        yield folder.name.removeprefix("models--").replace("--", "/", 1)
