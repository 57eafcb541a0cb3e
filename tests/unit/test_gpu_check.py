"""scripts/gpu_check without a GPU: its arguments, records, continuation, budget, wheels and report."""

import io
import json
import subprocess
import sys
import zipfile
from importlib import metadata
from types import SimpleNamespace

import pytest

from scripts import gpu_check, stub_gpu_branches, stub_gpu_cases
from scripts.gpu_checks import cases as gpu_cases
from scripts.gpu_checks import report, running, stub, wheels
from tests.helpers.cases import together

WHERE = {"device": "NVIDIA X", "capability": "9.0", "memory_gib": 141.0, "python": "3.12.3", "torch": "2.11.0",
         "transformers": "5.17.0", "peft": "0.19.0", "accelerate": "1.15.0", "commit": "a" * 40}  # fmt: skip
RESULT = {"ok": True, "columns": ["family", "error"], "rows": [["bert | x", "1e-3"]], "notes": ["a note"]}


def a_case(name="varlen-kernel", **others):
    given = {"part": "correctness", "arguments": ("varlen",), "expected_s": 5, "limit_s": 20}
    return gpu_cases.Case(name=name, **(given | others))


def run_all(chosen, out, where=WHERE, budget_s=100.0, small=False):
    return running.run_all(chosen, out, where, budget_s=budget_s, small=small, after_each=lambda: None)


# ---------------------------------------------------------------- cases and command lines


def test_cases_are_named_once_and_correctness_comes_first():
    found = gpu_cases.cases()
    assert len({case.name for case in found}) == len(found)
    parts = [case.part for case in found]
    assert parts == sorted(parts, key=gpu_cases.PARTS.index)
    assert set(parts) == set(gpu_cases.PARTS)
    assert all(case.limit_s >= case.expected_s for case in found)


def test_every_case_is_a_command_line_of_its_module():
    import importlib

    from scripts import gpu_fit

    workers = {part: importlib.import_module(f"scripts.gpu_checks.{part}") for part in ("correctness", "peers")}
    for case in gpu_cases.cases():
        if case.part == "memory":
            assert case.name in {one.name for one in gpu_fit.cases()}
        else:
            assert case.arguments[0] in workers[case.part].KINDS
            assert all(word in workers["correctness"].DTYPES for word in case.arguments[1:])
        assert running.command(case, small=True)[-1] == "--small"


def test_list_prints_what_is_chosen(capsys):
    assert gpu_check.main(["--list", "--part", "peers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(line.startswith("peers") for line in lines)


def test_without_a_gpu_it_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(running, "describe", lambda: WHERE | {"device": "cpu"})
    monkeypatch.setattr(gpu_check, "SITE", tmp_path / "none")
    assert gpu_check.main(["--out", str(tmp_path / "out")]) == 2
    assert "no CUDA device is to be seen here" in capsys.readouterr().err


# ---------------------------------------------------------------- records


def test_a_record_is_kept_after_each_case_and_what_is_over_is_not_run_again(tmp_path, monkeypatch):
    ran = []

    def run(case, small, limit_s):
        ran.append(case.name)
        return {"status": "timeout" if case.name == "slow" else "ok", "seconds": 1.0, "result": RESULT}

    monkeypatch.setattr(running, "run", run)
    chosen = [a_case("one"), a_case("slow"), a_case("absent", needs=("no_such_module",))]
    assert run_all(chosen, tmp_path) == []
    assert ran == ["one", "slow"]
    assert running.read(tmp_path, "absent")["reason"] == "not installed: no_such_module"
    # What was not over is tried again; all of it on another device, of another commit, at other sizes.
    run_all(chosen, tmp_path)
    assert ran == ["one", "slow", "slow"]
    for where, small in ((WHERE | {"device": "other"}, False), (WHERE | {"commit": "b"}, False), (WHERE, True)):
        assert not running.is_over(chosen[0], tmp_path, where, small)


def test_a_stop_loses_nothing_and_is_in_the_record(tmp_path, monkeypatch):
    def run(case, small, limit_s):
        if case.name == "two":
            raise running.Stopped
        return {"status": "ok", "seconds": 1.0}

    monkeypatch.setattr(running, "run", run)
    with pytest.raises(running.Stopped):
        run_all([a_case("one"), a_case("two"), a_case("three")], tmp_path)
    assert [running.read(tmp_path, name)["status"] for name in ("one", "two")] == ["ok", "stopped"]
    assert running.read(tmp_path, "three") is None
    assert not running.is_over(a_case("two"), tmp_path, WHERE, small=False)


def test_no_case_is_begun_for_which_the_budget_is_too_small(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(running, "run", lambda case, small, limit_s: given.append(limit_s) or {"status": "ok"})
    left = run_all([a_case("long", expected_s=200, limit_s=400), a_case("short", limit_s=400)], tmp_path, budget_s=100)
    assert left == ["long"]
    assert given[0] <= 100


def test_on_a_stub_gpu_a_case_has_run_and_nothing_was_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "run", lambda case, *_: {"status": case.name, "seconds": 1.0})
    where = WHERE | {"device": "NVIDIA X (stub GPU)"}
    chosen = [a_case("ok"), a_case("failed"), a_case("compiled", not_on_stub="nothing is compiled")]
    run_all(chosen, tmp_path, where)
    assert [running.read(tmp_path, case.name)["status"] for case in chosen] == ["ran", "failed", "skipped"]
    assert running.read(tmp_path, "compiled")["reason"] == "a stub GPU can't: nothing is compiled"
    assert running.why_skipped(chosen[2], stub=False) is None
    assert all(running.is_over(case, tmp_path, where, small=False) for case in chosen)
    assert (stub.holds(False), stub.word(False), stub.word(True)) == (False, "differs", "same")
    monkeypatch.setattr(stub_gpu_branches, "ignore_numbers", lambda: None)
    monkeypatch.setattr(stub.cuda, "name", lambda _: where["device"])
    monkeypatch.setattr(stub, "_compares", [True])
    stub.prepare(SimpleNamespace(type="cuda"))
    assert (stub.holds(False), stub.word(False)) == (True, "ran; not compared")


def test_a_torn_record_counts_as_none(tmp_path):
    (tmp_path / "one.json").write_text('{"status": "o', encoding="utf-8")
    assert running.read(tmp_path, "one") is None


@together(
    "text, code, status",
    [
        ("noise\n" + json.dumps(RESULT), 0, "ok"),
        (json.dumps(RESULT), 1, "failed"),
        (json.dumps(RESULT | {"ok": False}), 1, "failed"),
        ("Traceback\nRuntimeError: no", 1, "failed"),
        ("", -11, "failed"),
        ("[1]", 0, "failed"),
        ("3", 0, "failed"),
    ],
)
def test_the_last_line_is_judged(text, code, status):
    assert running.judged(text, code)["status"] == status


def test_a_process_is_ended_at_its_limit_with_its_children(monkeypatch):
    script = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); time.sleep(60)"  # fmt: skip  # noqa: E501
    monkeypatch.setattr(running, "command", lambda case, small: [sys.executable, "-c", script])
    found = running.run(a_case(), False, 1.0)
    assert (found["status"], found["reason"]) == ("timeout", "did not end within 1 s")


@together(
    "plain, fast, good",
    [(1e-3, 1e-3, True), (1e-3, 1.9e-3, True), (1e-3, 3e-3, False), (0.0, 0.0, True),
     (float("inf"), float("inf"), False), (float("inf"), 0.0, False), (1e-3, float("nan"), False)],
)  # fmt: skip
def test_a_fast_path_may_be_twice_as_far_off_and_must_be_a_number(plain, fast, good):
    from scripts.gpu_checks import correctness

    assert correctness.holds(plain, fast) is good


# ---------------------------------------------------------------- report


def record(name, **others):
    part = next(case.part for case in gpu_cases.cases() if case.name == name)
    given = {"name": name, "part": part, "small": False, "stub": False, "status": "ok", "seconds": 3.2, **WHERE}
    return given | others


def test_the_report_is_made_of_the_records_in_the_order_of_the_cases(tmp_path):
    assert "No GPU has been measured yet." in report.render(tmp_path)
    running.write(tmp_path, record("label-scoring", status="skipped", reason="not installed: lm_eval"))
    running.write(tmp_path, record("varlen-kernel", result=RESULT, seconds=2.0))
    text = report.render(tmp_path)
    assert "NVIDIA X, 141 GiB, compute capability 9.0; Python 3.12.3, torch 2.11.0" in text
    assert "2 of " in text
    assert "1 ok, 0 failed, 1 skipped, 0 not ended" in text
    assert "| bert &#124; x | 1e-3 |" in text
    assert "* a note" in text
    assert text.index("varlen-kernel") < text.index("label-scoring")
    assert report.STUB not in text


def test_numbers_of_a_stub_gpu_and_of_small_sizes_are_labelled(tmp_path):
    running.write(tmp_path, record("varlen-kernel", stub=True, small=True, status=running.RAN))
    text = report.render(tmp_path)
    assert "1 of 21 cases: 0 ok, 0 failed, 0 skipped, 1 ran to the end, not compared, 0 not ended." in text
    assert report.STUB in text
    assert report.SMALL in text


def test_the_shipped_report_is_that_of_its_records():
    shipped = (gpu_check.ROOT / "reports" / "gpu.md").read_text(encoding="utf-8")
    assert shipped == report.render(gpu_check.ROOT / "reports" / "gpu_check")


# ---------------------------------------------------------------- wheels


def test_what_the_image_has_is_not_fetched():
    needs = {
        "transformers": ["numpy>=1", "typer"], "torch": ["sympy"], "accelerate": [], "peft": [], "typer": ["pydantic"],
        "datasets": ["numpy", "dill<1", "fsspec[http]", "pandas; python_version < '3'"],
        "fsspec": ["aiohttp; extra == 'http'"],
        "aiohttp": ["yarl"], "pydantic": ["pydantic-core==2"],
    }  # fmt: skip
    there = {"torch", "transformers", "accelerate", "peft", "numpy", "typer", "sympy", "fsspec"}
    found = wheels.closure(["datasets", "pydantic", "torch"], there, lambda name: needs.get(name, []))
    assert found == {"datasets", "dill", "aiohttp", "yarl", "pydantic", "pydantic-core"}


def test_all_that_is_fetched_has_a_version():
    names = wheels.wanted()
    assert {"bitsandbytes", "deepspeed", "trl", "datasets", "evaluate", "pyarrow", "pydantic", "lm-eval"} <= set(names)
    assert not set(wheels.PRESENT) & set(names)
    assert "numpy" not in names
    assert set(names) <= set(wheels.versions())


def test_a_package_that_is_not_installed_is_named():
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    with pytest.raises(wheels.WheelError, match="trl is not installed here"):
        wheels.closure(["trl"], set(), missing)


def sized(folder, **sizes):
    for name, size in sizes.items():
        (folder / f"{name}-1-py3-none-any.whl").write_bytes(b"x" * size)
    return sorted(folder.glob("*.whl"))


def test_parts_hold_at_most_the_limit_and_every_wheel_once(tmp_path):
    found = wheels.parts(sized(tmp_path, a=50, b=40, c=30, d=10, e=20), limit=60)
    assert all(sum(path.stat().st_size for path in part) <= 60 for part in found)
    assert sorted(path for part in found for path in part) == sorted(tmp_path.glob("*.whl"))
    assert len(found) == 3
    with pytest.raises(wheels.WheelError, match=r"a-1-py3-none-any\.whl has"):
        wheels.parts(tmp_path.glob("*.whl"), limit=45)


def test_bitsandbytes_is_cut_to_one_version_of_cuda(tmp_path):
    wheel = tmp_path / "bitsandbytes-1-py3-none-any.whl"
    names = ["bitsandbytes/__init__.py", "bitsandbytes/libbitsandbytes_cpu.so",
             "bitsandbytes/libbitsandbytes_cuda118.so",
             "bitsandbytes/libbitsandbytes_cuda130.so", "bitsandbytes-1.dist-info/METADATA"]  # fmt: skip
    with zipfile.ZipFile(wheel, "w") as content:
        for name in names:
            content.writestr(name, name)
        content.writestr("bitsandbytes-1.dist-info/RECORD", "\n".join(f"{name},," for name in names))
    wheels.cut(wheel, wheels.other_cuda)
    with zipfile.ZipFile(wheel) as content:
        kept = [name for name in names if "cuda118" not in name]
        assert content.namelist() == [*kept, "bitsandbytes-1.dist-info/RECORD"]
        listed = [line.split(",")[0] for line in io.StringIO(content.read(content.namelist()[-1]).decode())]
    assert listed == [*kept, "bitsandbytes-1.dist-info/RECORD"]


def test_fetching_lays_parts_and_says_what_can_not_be_had(tmp_path, monkeypatch):
    monkeypatch.setattr(wheels, "wanted", lambda: ["dill", "xxhash"])
    calls = []

    def pip(command, **_):
        calls.append(command)
        name, _, version = command[-1].partition("==")
        if name == "xxhash" and "download" in command:
            return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution found")
        folder = command[command.index("--dest" if "download" in command else "--wheel-dir") + 1]
        (wheels.Path(folder) / f"{name}-{version}-py3-none-any.whl").write_bytes(b"x")
        return subprocess.CompletedProcess(command, 0, "", "")

    wheels.fetch(tmp_path / "wheels", pip)
    fetched = sorted(path.name.split("-")[0] for path in (tmp_path / "wheels" / "part1").iterdir())
    assert fetched == ["dill", "liger", "xxhash"]
    assert [path.name for path in (tmp_path / "wheels").iterdir()] == ["part1"]
    fetches = [("download" in call, "wheel" in call) for call in calls]
    assert fetches == [(True, False), (True, False), (False, True), (True, False)]
    assert not any("://" in word for call in calls for word in call)
    with pytest.raises(wheels.WheelError, match="is not empty"):
        wheels.fetch(tmp_path / "wheels", pip)

    def refused(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no")

    with pytest.raises(wheels.WheelError, match=r"dill==\S+ can't be fetched: ERROR: no"):
        wheels.fetch(tmp_path / "others", refused)


def test_wheels_are_unpacked_unless_the_image_has_them(tmp_path, monkeypatch):
    folder, site = tmp_path / "part1", tmp_path / "site"
    folder.mkdir()
    for name in ("not_there_at_all", "numpy"):
        with zipfile.ZipFile(folder / f"{name}-1-py3-none-any.whl", "w") as content:
            content.writestr(f"{name}.py", "")
    wheels.install([folder], site)
    assert [path.name for path in site.iterdir()] == ["not_there_at_all.py"]
    with pytest.raises(wheels.WheelError, match="holds no wheels"):
        wheels.install([site], site)
    (folder / "torn-1-py3-none-any.whl").write_bytes(b"PK")
    with pytest.raises(wheels.WheelError, match="can't be unpacked"):
        wheels.install([folder], site)


# ---------------------------------------------------------------- other tools


def test_what_liger_puts_into_a_models_module_does_not_stay(monkeypatch):
    from transformers.models.llama import modeling_llama

    from scripts.gpu_checks import peers

    own = modeling_llama.apply_rotary_pos_emb

    def patching(model, folder):
        modeling_llama.apply_rotary_pos_emb = None
        return peers.Turn(seconds=1.0, tokens=1, first_loss=1.0)

    model = modeling_llama.LlamaForCausalLM.__new__(modeling_llama.LlamaForCausalLM)
    assert peers._with_liger(patching)(model, None).tokens == 1
    assert modeling_llama.apply_rotary_pos_emb is own
    monkeypatch.setattr(peers, "has", lambda name: False)
    assert peers._no_liger(model) == "liger_kernel is not installed"


# ---------------------------------------------------------------- branches on a stub GPU


def test_branches_are_named_once_and_resolve():
    from bench.config import resolve

    found = stub_gpu_cases.cases()
    assert len({case.name for case in found}) == len(found) > 100
    names = {case.name for case in found}
    for case in found:
        assert case.after is None or case.after in names
        assert case.device in stub_gpu_cases.DEVICES
        resolve.load(gpu_check.ROOT / "recipes" / f"{case.recipe}.yaml", case.overrides)
    # One of each generation that is asked for, in a precision that it has.
    assert {case.device for case in found} == set(stub_gpu_cases.DEVICES)


def test_what_is_not_heeded_on_a_stub_is_there():
    import importlib

    for module, name, _ in stub_gpu_branches.NUMBERS:
        owner = importlib.import_module(module)
        for part in name.split("."):
            owner = getattr(owner, part)
        assert callable(owner)
    for module, name in stub_gpu_branches.FINITE:
        assert hasattr(importlib.import_module(module), name)
    assert callable(importlib.import_module("bench.models.kernels.padding_probe")._judge)
    for name in stub_gpu_branches.LIBRARIES:
        assert importlib.util.find_spec(name) is not None


def test_results_are_kept_one_by_one_and_rendered(tmp_path, monkeypatch):
    file = tmp_path / "branches.json"
    monkeypatch.setattr(stub_gpu_branches, "versions", lambda: {"torch": "2.13.0"})
    first, other, skipped = [case for case in stub_gpu_cases.cases() if case.name in ("full", "tags", "PiSSA")]
    monkeypatch.setattr(stub_gpu_branches, "_commit", lambda: "0123456789")
    make = stub_gpu_branches._result
    stub_gpu_branches.keep(make(other, "failed", status="crashed", reason="a | b"), file)
    stub_gpu_branches.keep(make(first, "ran", status="invalid", fallbacks=("pads: RuntimeError",)), file)
    stub_gpu_branches.keep(make(skipped, "skipped", reason=skipped.skipped), file)
    text = stub_gpu_branches.render(file)
    assert "3 runs: 1 ran, 0 were refused as they must be, 1 failed, 1 can't be run on a stub;" in text
    assert "| tags | RTX 4090 | bf16 | a \\| b |" in text
    assert "to its end, numbers aside" in text
    assert "Runs by commit: 0123456789 2." in text
    assert "pads: RuntimeError" in text
    # A run that is made again takes the place of the old one.
    stub_gpu_branches.keep(make(other, "ran", status="ok"), file)
    assert "3 runs: 2 ran, 0 were refused as they must be, 0 failed" in stub_gpu_branches.render(file)
    left = stub_gpu_branches.chosen_cases(None, None, True, file)
    assert len(left) == len(stub_gpu_cases.cases()) - 3


def test_the_shipped_page_of_branches_is_that_of_its_results():
    shipped = stub_gpu_branches.FILE.with_suffix(".md").read_text(encoding="utf-8")
    assert shipped == stub_gpu_branches.render()


def test_a_resumed_branch_brings_the_one_that_was_stopped():
    found = stub_gpu_branches.chosen_cases(["resumed, head"], None, False, stub_gpu_branches.FILE)
    assert [case.name for case in found] == ["stopped, head", "resumed, head"]


def test_the_stub_is_named_by_the_caller(monkeypatch, capsys):
    monkeypatch.delenv("STUB_GPU", raising=False)
    with pytest.raises(SystemExit):
        stub_gpu_branches.main(["--case", "full"])
    assert "--stub DIR, or STUB_GPU=DIR" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        stub_gpu_branches.main(["--case", "no such"])
    assert "there is no case 'no such'" in capsys.readouterr().err
