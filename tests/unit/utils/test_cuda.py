"""Questions to a CUDA device: by index, also where accelerate names the device without one."""

from types import SimpleNamespace

import pytest
import torch

from bench.distributed import setup
from bench.errors import SetupError
from bench.memory import limits
from bench.models import batch_budget
from bench.utils import cuda, hardware

GIB = hardware.GIB
# As accelerate gives it to a run of one process.
UNINDEXED = torch.device("cuda")


@pytest.fixture
def memory(monkeypatch):
    """A device of 24 GiB with 23 free, of which torch holds one; its functions take nothing but an index."""
    state = SimpleNamespace(share=1.0, asked=[])

    def answer(value):
        def ask(device):
            if not isinstance(device, torch.device) or device.index is None:
                raise ValueError(f"Expected a torch.device with a specified index or an integer, but got: {device}")
            state.asked.append(device.index)
            return value() if callable(value) else value

        return ask

    def limit(share, device):
        state.share = answer(share)(device)

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", answer((23 * GIB, 24 * GIB)))
    monkeypatch.setattr(torch.cuda, "memory_reserved", answer(GIB))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", answer(lambda: state.share))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limit)
    monkeypatch.setattr(torch.cuda, "get_device_capability", answer((7, 5)))
    monkeypatch.setattr(torch.cuda, "get_device_name", answer("Tesla T4"))
    return state


@pytest.mark.parametrize(("device", "index"), [(UNINDEXED, 1), (torch.device("cuda:0"), 0)])
def test_a_device_is_asked_by_its_index(memory, device, index):
    assert cuda.indexed(device) == torch.device("cuda", index)
    assert (cuda.capability(device), cuda.name(device)) == ((7, 5), "Tesla T4")
    assert (cuda.free_and_total(device), cuda.reserved(device)) == ((23 * GIB, 24 * GIB), GIB)
    cuda.allow(device, 6 * GIB)
    assert (memory.share, cuda.allowed(device)) == (0.25, 6 * GIB)
    cuda.allow(device, 30 * GIB)
    assert memory.share == 1.0
    assert set(memory.asked) == {index}
    assert cuda.indexed(torch.device("cpu")) == torch.device("cpu")


def test_memory_is_capped_and_read_on_a_device_without_an_index(memory, monkeypatch):
    monkeypatch.setenv(setup.MEMORY_CAP, "12GiB")
    setup.cap_memory(UNINDEXED)
    cap = hardware.memory("12GiB")  # what such a card really gives
    assert 11 * GIB < cap < 12 * GIB
    assert memory.share == (cap - hardware.CONTEXT) / (24 * GIB)
    # What is still to be had under the cap, less what torch holds; then half of it.
    left = cap - hardware.CONTEXT - GIB
    assert limits.available_bytes(UNINDEXED) == {limits.DEVICE: left}
    assert limits.held_bytes(UNINDEXED) == {limits.DEVICE: GIB}
    limits.keep_within({limits.DEVICE: left // 2}, UNINDEXED)
    assert memory.share == (GIB + left // 2) / (24 * GIB)
    monkeypatch.setenv(setup.MEMORY_CAP, "25GiB")
    with pytest.raises(
        SetupError,
        match=r"BENCH_MEMORY_CAP is 25GiB \(25\.00 GiB usable\), more than this GPU has; take more than 0\.5",
    ):
        setup.cap_memory(UNINDEXED)


def test_batches_are_scored_in_the_memory_that_a_cap_leaves(memory):
    """Tokens at once follow from half of what torch may hold, not from the whole device."""
    config = SimpleNamespace(hidden_size=4096, intermediate_size=14_336, get_text_config=lambda: config)
    weight = SimpleNamespace(device=UNINDEXED)
    model = SimpleNamespace(
        config=config,
        get_input_embeddings=lambda: SimpleNamespace(weight=weight),
        get_memory_footprint=lambda: 4 * GIB,
        parameters=lambda: iter(()),
    )
    assert batch_budget.default_budget(model) == 16_384
    cuda.allow(UNINDEXED, 12 * GIB)
    assert batch_budget.default_budget(model) == 4096
