"""utils/shipped.py and utils/arguments.py: files of the package, and paths as options."""

import argparse
from pathlib import Path

import pytest

from bench.cli.main import main
from bench.errors import SetupError
from bench.utils import arguments, git, shipped
from bench.utils.files import ROOT
from tests.helpers.cases import together


def test_a_checkout_has_its_own_files():
    assert shipped.is_checkout()
    assert shipped.folder("recipes") == ROOT / "recipes"


def test_an_installed_package_has_a_copy_and_no_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(shipped, "INSTALLED", tmp_path)
    assert not shipped.is_checkout()
    assert shipped.folder("recipes") == tmp_path / "recipes"
    with pytest.raises(SetupError, match="not a checkout of its repository"):
        git.git("rev-parse", "HEAD")


def test_a_path_option_knows_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert arguments.path("~/runs") == tmp_path / "runs"
    assert arguments.path("a/~") == Path("a/~")
    for text, words in (("", "an empty path"), ("~nobody-of-this-name/x", "~nobody-of-this-name/x: ")):
        with pytest.raises(argparse.ArgumentTypeError, match=words):
            arguments.path(text)


@together(
    "words", [["report", ".", "-o", ""], ["sweep", "tiny/bert-full", "--out="], ["run", "tiny/bert-full", "--out", ""]]
)
def test_commands_refuse_an_empty_path(words, capsys):
    with pytest.raises(SystemExit) as raised:
        main(words)
    assert raised.value.code == 2
    assert "an empty path; for the working folder write ." in capsys.readouterr().err


def test_a_working_folder_that_is_gone_is_a_sentence(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for words in (["check", "tiny/bert-full"], ["list"], ["run", "tiny/bert-full"]):
        assert main(words) == 2
        assert capsys.readouterr().err == "error: the working folder is no longer there; change into another one\n"
