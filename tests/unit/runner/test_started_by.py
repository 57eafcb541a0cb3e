"""runner/started_by.py: which command started a run, and which config files that command read."""

import hashlib
import sys
from pathlib import Path

from bench.runner import started_by
from bench.utils.files import ROOT


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_launcher_is_known_with_and_without_its_interpreter():
    words = ["launch", "--config_file", "a.yaml", "bench/run.py", "x"]
    assert started_by.launcher_words(["/env/bin/python", "/env/bin/accelerate", *words]) == ["accelerate", *words]
    assert started_by.launcher_words(["/env/bin/torchrun", "run.py"]) == ["torchrun", "run.py"]
    module = ["/env/bin/python", "-u", "-m", "accelerate.commands.launch"]
    assert started_by.launcher_words([*module, *words[1:]]) == ["accelerate", *words]
    assert started_by.launcher_words(["python", "-m", "torch.distributed.run", "run.py"]) == ["torchrun", "run.py"]
    own = ["/env/bin/python", "-P", "/x/bench/launch.py", "--config_file", "cpu.yaml", "/x/bench/run.py", "r"]
    assert started_by.launcher_words(own) == ["accelerate", "launch", *own[3:]]
    assert started_by.launcher_words(["python", "/x/launch.py", "run.py"]) == []
    assert started_by.launcher_words(["python", "torch.distributed.run"]) == []
    assert started_by.launcher_words(["bash", "-c", "accelerate launch"]) == []
    assert started_by.launcher_words([]) == []


def test_the_commands_own_words_without_secrets(monkeypatch):
    token = "hf_" + "a1B2" * 9
    monkeypatch.setattr(sys, "argv", ["/folder/run.py", "tiny/bert-full", f"note={token}"])
    assert started_by.command() == ["run.py", "tiny/bert-full", "note=<removed>"]


def test_files_of_the_project_are_named_from_its_top_wherever_it_lies(monkeypatch):
    config = str(ROOT / "accelerate_configs" / "cpu.yaml")
    monkeypatch.setattr(sys, "argv", [str(ROOT / "bench" / "run.py"), f"--include={ROOT / 'tests'}", config])
    assert started_by.command() == ["run.py", "--include=tests", "accelerate_configs/cpu.yaml"]
    words = ["accelerate", "launch", "--config_file", "accelerate_configs/cpu.yaml", "bench/run.py"]
    monkeypatch.chdir("/")
    assert started_by.config_files(words) == {"accelerate/cpu.yaml": sha256(Path(config))}


def test_config_files_are_hashed(tmp_path, monkeypatch):
    monkeypatch.delenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", raising=False)
    zero = tmp_path / "zero3.json"
    zero.write_text("{}", encoding="utf-8")
    config = tmp_path / "mine.yaml"
    config.write_text(f"deepspeed_config:\n  deepspeed_config_file: {zero}\n", encoding="utf-8")
    both = {"accelerate/mine.yaml": sha256(config), "deepspeed/zero3.json": sha256(zero)}
    for words in (["--config_file", str(config)], [f"--config-file={config}"]):
        assert started_by.config_files(["accelerate", "launch", *words, "bench/run.py", "x"]) == both
    config.write_text("use_cpu: true\n", encoding="utf-8")
    words = ["accelerate", "launch", "--config_file", str(config), "bench/run.py"]
    assert started_by.config_files(words) == {"accelerate/mine.yaml": sha256(config)}
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(zero))
    assert started_by.config_files(["torchrun", "run.py"]) == {"deepspeed/zero3.json": sha256(zero)}


def test_the_default_config_is_read_without_an_option(tmp_path, monkeypatch):
    monkeypatch.delenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", raising=False)
    monkeypatch.setattr(started_by, "default_config_file", str(tmp_path / "default_config.yaml"))
    # What follows the script is the run's own.
    words = ["accelerate", "launch", "bench/run.py", "--config_file", "other.yaml"]
    assert started_by.config_files(words) == {}
    (tmp_path / "default_config.yaml").write_text("{}", encoding="utf-8")
    assert list(started_by.config_files(words)) == ["accelerate/default_config.yaml"]
