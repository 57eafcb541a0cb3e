"""METEOR in a process that finds WordNet, and in one that does not."""

import os
import subprocess
import sys

import pytest

from tests.helpers.launching import ROOT

# Four nouns, in the file format of wndb(5WN): two of them are one synset. The first field is the byte offset.
SYNSETS = (("car", "auto"), ("cat",), ("dog",))
WITH_WORDNET = """
import sys

def refuse(*arguments, **options):
    raise OSError("no network in this test")

import socket
socket.socket.connect = socket.getaddrinfo = refuse
from bench.metrics.meteor import Meteor

metric = Meteor(keep_in_memory=True)
pairs = [("auto", "car"), ("cat", "dog"), ("my red auto", "my red car")]
values = [metric.compute(predictions=[one], references=[[other]])["meteor"] for one, other in pairs]
print(metric.signatures()["meteor"], *values)
"""


def write_wordnet(folder):
    folder.mkdir(parents=True)
    for part in ("noun", "verb", "adj", "adv"):
        for name in (f"data.{part}", f"index.{part}", f"{part}.exc"):
            (folder / name).write_text("")
    for name in ("cntlist.rev", "index.sense"):
        (folder / name).write_text("")
    (folder / "lexnames").write_text("00\tadj.all\t3\n01\tadj.pert\t3\n02\tadv.all\t4\n03\tnoun.Tops\t1\n")
    (folder / "data.adj").write_text("  1 WordNet 9.9 Copyright of this test\n")
    data, index = "", []
    for words in SYNSETS:
        named = " ".join(f"{word} 0" for word in words)
        index += [f"{word} n 1 0 1 0 {len(data):08}  \n" for word in words]
        data += f"{len(data):08} 03 n {len(words):02x} {named} 000 | a noun\n"
    (folder / "data.noun").write_text(data)
    (folder / "index.noun").write_text("".join(sorted(index)))


@pytest.mark.parametrize("installed", [True, False])
def test_meteor_takes_synonyms_where_wordnet_is_and_says_so(installed, tmp_path):
    if installed:
        write_wordnet(tmp_path / "corpora" / "wordnet")
    places = {"NLTK_DATA": str(tmp_path), "HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf")}
    finished = subprocess.run(
        [sys.executable, "-c", WITH_WORDNET],
        env=os.environ | places | {"HF_HUB_OFFLINE": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    signature, *values = finished.stdout.split()
    assert ("matches:words,stems,wordnet_9.9|" in signature) is installed
    assert ("matches:words,stems,no_synonyms|" in signature) is not installed
    without = (1 - 0.5 / 2**3) * 2 / 3
    expected = [0.5, 0, 1 - 0.5 / 3**3] if installed else [0, 0, without]
    assert [float(value) for value in values] == pytest.approx(expected)
