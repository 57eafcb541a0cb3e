"""Shared fixtures: recipes, cards and data of one's own in a temporary folder."""

import os

import pytest

# Read when a library is first imported: no test may reach for the network.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_EVALUATE_OFFLINE="1", TOKENIZERS_PARALLELISM="false")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Tokens are kept for these tests alone, also by the runs that they launch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def write(tmp_path):
    """write("study/own.yaml", text or bytes) -> the path of that file below tmp_path."""

    def write_file(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


def pytest_collection_modifyitems(items):
    """Files that launch runs go first: two workers share the rest, and neither waits for the other's last launch."""
    launching = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in launching)
