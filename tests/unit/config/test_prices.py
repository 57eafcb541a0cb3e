"""Prices of devices: the shipped file, one of the user's own over it, and damaged ones."""

import pytest

from bench.config import prices
from bench.errors import RecipeError

GOOD = '{price: 0.5, currency: EUR, source: "our cluster", date: 2026-01-31}'


def written(folder, text):
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_shipped_prices_are_dated_and_name_their_source():
    shipped = prices.load()
    assert shipped.core is None
    assert "NVIDIA A10G" in shipped.gpus
    for name, price in shipped.gpus.items():
        assert prices.hardware.find(name) is not None, f"{name} is not as CUDA reports it"
        assert price.price > 0
        assert price.source


def test_a_file_of_the_user_goes_over_the_shipped_one(tmp_path, monkeypatch):
    path = written(tmp_path, f"gpu_hours:\n  L40S: {GOOD}\n  Someone's GPU: {GOOD}\ncore_hour: {GOOD}\n")
    own = prices.load(path)
    assert own.of_gpu("NVIDIA L40S").currency == own.of_gpu("Someone's GPU").currency == own.core.currency == "EUR"
    assert own.of_gpu("NVIDIA A10G").currency == "USD"
    monkeypatch.setenv("BENCH_COSTS", str(path))
    assert prices.load() == own


def test_a_gpu_without_a_price_is_told_how_to_get_one():
    shipped = prices.load()
    assert shipped.of_gpu("NVIDIA GeForce RTX 4090") is None
    sentence = shipped.why_none("NVIDIA GeForce RTX 4090")
    assert sentence.startswith("no price of NVIDIA GeForce RTX 4090 is known (known: NVIDIA A10G)")
    assert sentence.endswith("give it with --costs FILE or BENCH_COSTS=FILE, in the form of recipes/costs.yaml")


def test_all_problems_of_a_damaged_file_with_their_lines(tmp_path):
    path = written(
        tmp_path,
        "gpu_hours:\n"
        '  L40S: {price: -1, currency: usd, source: "x", date: 2025-13-01}\n'
        '  T4: {prize: 1, currency: USD, source: "", date: 2025-01-01}\n'
        "cpu_hour: 3\n",
    )
    with pytest.raises(RecipeError) as error:
        prices.load(path)
    lines = {line.removeprefix(f"{path}:") for line in str(error.value).splitlines()}
    assert lines == {
        "2: gpu_hours.L40S.price: expected a number greater than or equal to 0, got -1.",
        "2: gpu_hours.L40S.currency: 'usd' is no currency; write its three capital letters, e.g. USD",
        "2: gpu_hours.L40S.date: '2025-13-01' is no date; write year, month and day, e.g. 2024-07-26",
        "3: gpu_hours.T4.prize: unknown key. Did you mean 'price'?",
        "3: gpu_hours.T4.source: expected a text that is not empty, got ''.",
        "4: cpu_hour: unknown key. Did you mean 'gpu_hours'?",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu_hours: [1]\n", ":1: gpu_hours: expected a mapping of keys to values, got [1]."),
        (
            "gpu_hours:\n  T4: {price: 1, source: x, date: 2025-01-01}\n",
            ":2: gpu_hours.T4.currency: this key is required",
        ),
        ("gpu_hours: {\n", ":2: not valid YAML: "),
        (
            f"gpu_hours:\n  A10G: {GOOD}\n  NVIDIA A10G: {GOOD}\n",
            ":3: gpu_hours.NVIDIA A10G: the same GPU as 'A10G', NVIDIA A10G; leave one of them",
        ),
        (f"gpu_hours:\n  A100: {GOOD}\n", ":2: gpu_hours.A100: the device 'A100' could be "),
        (f"gpu_hours:\n  ' ': {GOOD}\n", ":2: gpu_hours. : a GPU's name is expected, as CUDA reports it"),
        (
            f"core_hour: {GOOD.replace('2026', '2999')}\n",
            ":1: core_hour.date: '2999-01-31' is yet to come; write the day on which the price was looked up",
        ),
        (f"core_hour: {GOOD.replace('our cluster', '  ')}\n", ":1: core_hour.source: who lists the price?"),
    ],
)
def test_one_problem(text, message, tmp_path):
    path = written(tmp_path, text)
    with pytest.raises(RecipeError) as error:
        prices.load(path)
    assert str(error.value).startswith(f"{path}{message}")


def test_no_such_file(tmp_path):
    with pytest.raises(RecipeError, match="there is no such file"):
        prices.load(tmp_path / "nothing.yaml")
