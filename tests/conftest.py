"""Shared fixtures: recipes, cards and data of one's own in a temporary folder; what keeps many tiny runs short."""

import gc
import os
import pickle
import signal
import sys
from pathlib import Path

import pytest

# So many more modules than at the last look mean that libraries were imported.
MANY_MODULES = 300
RUNS = Path(__file__).resolve().parent / "runs"

# An assert in a helper says what both sides were, as one in a test does.
pytest.register_assert_rewrite("tests.helpers")

# Read when a library is first imported: no test may reach for the network.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_EVALUATE_OFFLINE="1", TOKENIZERS_PARALLELISM="false")


# A suite that is started in the background, or by nohup, ignores them, and so would every run that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Tokens, the key that signs and trackio's store are of these tests alone, also for the runs that they launch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))  # read when it is first imported
        yield


@pytest.fixture(scope="module", autouse=True)
def _own_settings():
    """Settings that a command makes for all that it starts, such as included folders, are of its test module alone."""
    before = {name: value for name, value in os.environ.items() if name.startswith("BENCH_")}
    yield
    for name in [name for name in os.environ if name.startswith("BENCH_")]:
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture
def write(tmp_path):
    """write("study/own.yaml", text or bytes) -> the path of that file below tmp_path."""

    def write_file(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


@pytest.fixture(scope="module")
def bare_runs():
    """Runs in this process draw no figures and make the same data set once: both have tests of their own.

    They take more than half of the time of a run of four steps.
    """
    from bench.data.builtin import corpora
    from bench.reporting.figures import run

    generate, known = corpora.generate, {}

    def made_once(name, seed=0, sizes=None):
        key = name, seed, tuple(sorted((sizes or {}).items()))
        if key not in known:
            known[key] = pickle.dumps(generate(name, seed, sizes))
        return pickle.loads(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "draw_all", lambda *_: {})
        patch.setattr(corpora, "generate", made_once)
        yield


class LibraryObjects:
    """Takes what libraries have made from the garbage collector's sight, at each import of several.

    The Trainer collects by hand, and would look through half a million objects for every run: a third of a second.
    """

    def __init__(self):
        self.modules = len(sys.modules)

    def pytest_runtest_setup(self):
        if len(sys.modules) > self.modules + MANY_MODULES:
            self.modules = len(sys.modules)
            gc.collect()
            gc.freeze()


def pytest_configure(config):
    config.pluginmanager.register(LibraryObjects())


def pytest_collection_modifyitems(items):
    """Files of tests/runs go first: two workers share the rest, and neither waits for the other's last launch."""
    items.sort(key=lambda item: RUNS not in item.path.parents)
