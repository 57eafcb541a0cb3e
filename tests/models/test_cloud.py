"""`bench cloud`: files that Kubernetes and SkyPilot accept, ask for what the forecast says, and start the same run."""

import os
import re
import shlex

import pytest
import yaml

from bench import __version__
from bench.cli import main
from bench.cloud import carried, folder
from bench.config import registry, resolve
from bench.errors import RecipeError
from bench.utils import shipped
from tests.helpers import cloud_files
from tests.helpers.launching import ROOT

OWN = "own/récipe $(HOME).yaml"
# Braces, quotes, blanks, a dollar and another alphabet: in YAML, in a shell and in a pod's arguments.
ODD = 'limit={"train": 24, "test": 16}'
CARD = """
task: text_classification
source: {kind: csv, folder: data, files: {train: a.csv, test: a.csv}}
licence: x
splits: {train: train, test: test}
columns: {text: text, label: label}
labels: [a, b]
"""
RECIPE = """# Übung ${BUCKET}
dataset: mine
model: tiny_bert
method: full
training: {steps: 1, global_batch: 4, learning_rate: 1e-3}
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of one's own, with a card, data, and a recipe of an odd name."""
    here = tmp_path / "my stüdy"
    for name in ("own", "datasets", "data"):
        (here / name).mkdir(parents=True)
    (here / "datasets" / "mine.yaml").write_text(CARD, encoding="utf-8")
    (here / OWN).write_text(RECIPE, encoding="utf-8")
    rows = "".join(f"text {number},{'ab'[number % 2]}\n" for number in range(32))
    (here / "data" / "a.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    monkeypatch.chdir(here)
    return here


def cloud(*words, code=0):
    """Runs the command, whose files go to `out`."""
    assert main.main(["cloud", *words, *(() if "-o" in words else ("-o", "out"))]) == code


def files_of(place="out"):
    """(Kubernetes' manifests, SkyPilot's task), both checked."""
    place = ROOT.__class__(place)
    return cloud_files.kubernetes(place / "kubernetes.yaml"), cloud_files.skypilot(place / "skypilot.yaml")


def started(manifests, task, there=ROOT):
    """The arguments of bench/run.py in a pod and in SkyPilot, as they arrive there."""
    spec = manifests["Job"]["spec"]["template"]["spec"]["containers"][0]
    assert spec["command"] == ["scripts/cloud/on_node"]
    assert os.access(there / spec["command"][0], os.X_OK)
    words = shlex.split(task["run"].splitlines()[-1])
    assert words[:2] == ["exec", spec["command"][0]]
    return [word.replace("$$", "$") for word in spec["args"]], words[2:]


def container_of(manifests):
    return manifests["Job"]["spec"]["template"]["spec"]["containers"][0]


def matched(manifests):
    """The labels that a pod's node must have."""
    affinity = manifests["Job"]["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return {one["key"]: (one["operator"], *one["values"]) for one in term["matchExpressions"]}


def test_a_shipped_recipe_on_one_gpu(project, capsys):
    cloud("tiny/bert-full", ODD, "--gpu", "24GiB", "--seed", "7")
    manifests, task = files_of()
    assert set(manifests) == {"PersistentVolumeClaim", "Job"}
    name = task["name"]
    assert name.startswith("tiny-tiny-bert-full-seed7-")
    words = ["recipes/tiny/bert-full.yaml", "--seed", "7", "--out", f"/work/runs/{name}", ODD]
    assert started(manifests, task) == (words, words)
    asked = container_of(manifests)
    assert asked["image"] == f"finetune-bench:{__version__}"
    assert asked["resources"]["limits"]["nvidia.com/gpu"] == "1"
    # 0.5 GiB, of which the driver keeps some, and units for bf16.
    assert matched(manifests) == {"nvidia.com/gpu.memory": ("Gt", "1308"), "nvidia.com/gpu.compute.major": ("Gt", "7")}
    assert task["resources"]["accelerators"] == dict.fromkeys(
        ["A10", "A10G", "L4", "RTX3090", "RTX4090", "RTXA5000"], 1
    )
    assert (task["workdir"], task["resources"]["use_spot"], task["envs"]["CONFIG"]) == (str(ROOT), False, "gpu1")
    assert task["envs"]["BUCKET"] is None
    assert "secrets" not in task
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("fits: ")
    assert [line for line in said if line.startswith("written: ")] == [
        f"written: out/{one}" for one in sorted(os.listdir("out"))
    ]
    # The record comes back through the pod that holds the volume; nothing is copied onto it.
    assert set(cloud_files.kubernetes(ROOT.__class__("out/data.yaml"))) == {"PersistentVolumeClaim", "Pod"}
    copies = [line.split(" && ")[0].strip() for line in said if "kubectl cp" in line]
    assert copies == [f"kubectl cp {name}-data:/work/runs/{name} runs/{name}"]
    assert [line for line in said if line.startswith("  kubectl apply")] == [
        f"  kubectl apply -f out/kubernetes.yaml   # its log: kubectl logs -f job/{name}",
        f"  kubectl apply -f out/data.yaml && kubectl wait --for=condition=Ready --timeout=15m pod/{name}-data",
    ]
    for path in ("out/kubernetes.yaml", "out/skypilot.yaml"):
        with open(path, encoding="utf-8") as stream:
            assert f"# {said[0]}\n# {said[1]}\n" in stream.read()
    # The same once more is no change.
    cloud("tiny/bert-full", ODD, "--gpu", "24GiB", "--seed", "7")


def test_a_recipe_of_one_s_own_starts_the_same_run_there(project, tmp_path, capsys):
    cloud(OWN, "evaluation.splits=[test]", "--gpu", "A10G", "--spot")
    manifests, task = files_of()
    pod, sky = started(manifests, task)
    resolved = resolve.load(ROOT.__class__(OWN), ("evaluation.splits=[test]",))
    items = next(one for one in manifests["Job"]["spec"]["template"]["spec"]["volumes"] if one["name"] == "recipe")
    by_pod = {one["path"]: manifests["ConfigMap"]["data"][one["key"]] for one in items["configMap"]["items"]}
    by_sky = {place: path for place, path in task["file_mounts"].items() if place.startswith("/job/")}
    assert {f"/job/{place}" for place in by_pod} == set(by_sky)
    for number, (words, data) in enumerate(((pod, "/work/data"), (sky, "/data"))):
        there = tmp_path / f"machine{number}"
        for place, text in by_pod.items():
            (there / place).parent.mkdir(parents=True, exist_ok=True)
            (there / place).write_text(text, encoding="utf-8")
            assert ROOT.joinpath(by_sky[f"/job/{place}"]).read_text(encoding="utf-8") == text
        assert words[0].startswith("/job/own/")
        assert words[-1] == f'dataset.source.folder="{data}"'
        moved = words[-1].replace(data, str(project / "data"))
        again = resolve.load(there / words[0].removeprefix("/job/"), (*words[5:-1], moved), int(words[2]))
        assert (again.hash, again.name) == (resolved.hash, resolved.name)
    assert task["file_mounts"]["/data"] == str(project / "data")
    assert set(cloud_files.kubernetes(ROOT.__class__("out/data.yaml"))) == {"PersistentVolumeClaim", "Pod"}
    assert matched(manifests) == {"nvidia.com/gpu.product": ("In", "NVIDIA-A10G")}
    assert task["resources"]["accelerators"] == {"A10G": 1}
    assert task["resources"]["use_spot"]
    spec = manifests["Job"]["spec"]["template"]["spec"]
    assert {"cloud.google.com/gke-spot", "nvidia.com/gpu"} < {one["key"] for one in spec["tolerations"]}
    said = capsys.readouterr().out
    assert f"kubectl cp '{project / 'data'}' {task['name']}-data:/work/data" in said


@pytest.mark.parametrize("name", ["a$CONFIG.yaml", "${BUCKET}.yaml"])
def test_a_path_in_which_skypilot_would_put_something_is_refused(name, project, capsys):
    (project / OWN).rename(project / "own" / name)
    cloud(f"own/{name}", "--gpu", "24GiB", code=2)
    assert "SkyPilot puts a variable in the place of" in capsys.readouterr().err
    assert not os.path.exists("out")


def test_the_volume_has_room_for_the_data(project):
    with (project / "data" / "more.bin").open("wb") as stream:
        stream.truncate(30 * 2**30)  # a hole
    cloud(OWN, "--gpu", "24GiB", "seed=5")
    manifests, task = files_of()
    assert manifests["PersistentVolumeClaim"]["spec"]["resources"]["requests"]["storage"] == "43Gi"
    assert task["resources"]["disk_size"] == 103
    assert started(manifests, task)[0][1:3] == ["--seed", "5"]


def test_several_nodes_meet_by_names_and_share_a_secret(project, capsys):
    words = ("sst2/llama32_1b-full", "--nodes", "2", "--gpus-per-node", "4", "--zero", "3", "--gpu", "H100")
    cloud(*words, "--image", "registry.example.com:5000/me/bench:1.2", "--name", "my-run")
    manifests, task = files_of()
    assert set(manifests) == {"PersistentVolumeClaim", "Service", "Job"}
    assert manifests["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]
    asked = container_of(manifests)
    assert asked["resources"]["requests"]["nvidia.com/gpu"] == "4"
    values = {one["name"]: one.get("value") for one in asked["env"]}
    assert (values["CONFIG"], values["NODE_HOSTS"]) == ("zero3", "my-run-0.my-run my-run-1.my-run")
    assert (task["num_nodes"], task["secrets"], task["resources"]["image_id"]) == (
        2, {"BENCH_LAUNCH_SECRET": None}, "docker:registry.example.com:5000/me/bench:1.2",
    )  # fmt: skip
    assert "workdir" not in task
    assert task["run"].startswith("cd /opt/finetune-bench\n")
    shared = next(one for one in manifests["Job"]["spec"]["template"]["spec"]["volumes"] if one["name"] == "shm")
    assert shared["emptyDir"] == {"medium": "Memory", "sizeLimit": "4Gi"}
    # Weights and their states of 1.2 billion parameters: 2 GiB of each process, and what is put together to be saved.
    assert 16 <= int(asked["resources"]["limits"]["memory"].removesuffix("Gi")) <= 40
    said = capsys.readouterr().out
    assert "kubectl create secret generic finetune-bench --from-literal=BENCH_LAUNCH_SECRET=" in said
    assert "docker build" not in said


@pytest.mark.parametrize(
    ("words", "config"),
    [
        (("tiny/bert-full", "--gpu", "T4"), "gpu1_fp16"),
        (("tiny/bert-full", "--gpu", "24GiB", "--gpus-per-node", "2"), "ddp"),
        (("tiny/bert-full", "--gpu", "24GiB", "--nodes", "2", "--zero", "1"), "zero1"),
        (("tiny/bert-full", "--gpu", "24GiB", "--nodes", "2", "--fsdp"), "fsdp2"),
        (("tiny/bert-full", "--gpu", "T4", "--nodes", "2", "--zero", "2"), "zero2_fp16"),
        (("tiny/bert-full", "--gpu", "24GiB", "--nodes", "2", "--zero", "3", "--offload", "cpu"), "zero3_offload_cpu"),
        (("tiny/llama-zero_shot", "--gpu", "24GiB"), "gpu1"),
        (("tiny/none-tfidf",), "cpu"),
    ],
)
def test_each_parallelism_has_its_config(words, config, project):
    cloud(*words)
    manifests, task = files_of()
    assert task["envs"]["CONFIG"] == config
    assert {one["name"]: one.get("value") for one in container_of(manifests)["env"]}["CONFIG"] == config
    assert ("nvidia.com/gpu" in container_of(manifests)["resources"]["limits"]) == (config != "cpu")
    assert ("accelerators" in task["resources"]) == (config != "cpu")


def test_a_run_that_does_not_fit_is_not_written(project, capsys):
    cloud("sst2/roberta_base-full", "--gpu", "3GiB", code=3)
    said = capsys.readouterr().out
    assert said.startswith("does not fit: ")
    assert "to make it fit at 128 tokens: training.per_device_batch=" in said
    assert said.endswith("no file was written\n")
    assert not os.path.exists("out")


def test_a_recipe_without_checkpoints_gets_some_and_says_so(project, capsys):
    cloud("tiny/bert-full", "checkpoints.every_minutes=null", "--gpu", "24GiB")
    pod, _ = started(*files_of())
    assert [word for word in pod if word.startswith("checkpoints")] == ["checkpoints.every_minutes=10"]
    assert "checkpoints.every_minutes=10: the recipe writes no checkpoints" in capsys.readouterr().out


REFUSED = [
    (("no/such", "--gpu", "24GiB"), "there is no such file, and no recipe of this name"),
    (("tiny/bert-full", "--gpu", "nothing"), "the device 'nothing' is not known here"),
    (("tiny/bert-full", "--gpu=-3GiB"), "is not a size of memory"),
    (("tiny/bert-full",), "--gpu is not given"),
    (("tiny/bert-full", "--gpu", "MI300X"), "no NVIDIA GPU"),
    (("tiny/bert-full", "--gpu", "M2 Max 64GB"), "no NVIDIA GPU"),
    (("tiny/bert-full", "--gpu", "24GiB", "--nodes", "3"), "can't be split over 3 processes"),
    (("tiny/bert-full", "--gpu", "24GiB", "--nodes", "1001"), "--nodes 1001: at most 1000"),
    (("tiny/bert-full", "--gpu", "24GiB", "--zero", "4"), "there is no ZeRO stage 4"),
    (("tiny/bert-full", "--gpu", "24GiB", "--zero", "2", "--fsdp"), "two ways to shard"),
    (("tiny/bert-full", "--gpu", "24GiB", "--nodes", "2", "--zero", "1", "--offload", "cpu"), "'zero1_offload_cpu'"),
    (("tiny/bert-full", "--gpu", "T4", "--nodes", "2", "--fsdp"), "no accelerate config 'fsdp2_fp16'"),
    (("tiny/bert-full", "--gpu", "24GiB", "--image", "my image"), "--image 'my image' is not the name of a"),
    (("tiny/bert-full", "--gpu", "24GiB", "--name", "Große_Namen"), "for example grosse-namen"),
    (("tiny/bert-full", "--gpu", "24GiB", "--name", ""), "for example run"),
    (("tiny/bert-full", "--gpu", "24GiB", "--seed", "-1"), "--seed: expected a number greater than or equal to 0"),
    (("tiny/bert-full", "wrong.key=1", "--gpu", "24GiB"), "wrong: unknown key"),
    (("tiny/none-tfidf", "--nodes", "2"), "runs on one node"),
    (("tiny/llama-qlora", "method.compute_dtype=bfloat16", "--gpu", "T4"), "a run is refused there: "),
    ((OWN, "--gpu", "24GiB", "-o", "data/a.csv"), "data/a.csv is a file"),
    ((OWN, "--gpu", "24GiB", "dataset.source.folder=nowhere"), "nowhere, is not there"),
    (("tiny/bert-full", "dataset=data/a.csv", "--gpu", "24GiB"), "named by a path on this machine; write a card of it"),
    (("studies/imdb", "--gpu", "24GiB"), "is a study, and the files are for one run"),
    ((str(ROOT / "recipes/studies/imdb/study.yaml"), "--gpu", "24GiB"), "study.yaml is a study, and the files are for"),
    (("own", "--gpu", "24GiB"), "own is a folder, and the files are for one run"),
    (("tiny/bert-full", "--gpu", "24GiB", "--image", f"registry.io/hf_{'a' * 34}/x"), "--image has what looks like"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "said"), REFUSED)
def test_what_can_t_be_sent_is_a_sentence(words, said, project, capsys):
    cloud(*words, code=2)
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert len(error.splitlines()) == 1
    assert not os.path.exists("out")


def test_the_advice_for_data_of_this_machine_is_followed_to_the_end(project, capsys):
    (project / OWN).write_text(RECIPE.replace("dataset: mine", "dataset: data/a.csv"), encoding="utf-8")
    cloud(OWN, "--gpu", "24GiB", code=2)
    command, place = re.search(r"\(finetune-bench (card DATA) > (.*)\), whose", capsys.readouterr().err).groups()
    assert main.main(command.replace("DATA", "data/a.csv").split()) == 0
    (target,) = shlex.split(place.replace("NAME", "written"))
    ROOT.joinpath(target).write_text(capsys.readouterr().out, encoding="utf-8")
    (project / OWN).write_text(RECIPE.replace("dataset: mine", "dataset: written"), encoding="utf-8")
    cloud(OWN, "--gpu", "24GiB")
    assert f"kubectl cp {shlex.quote(str(project / 'data'))} " in capsys.readouterr().out


def test_secrets_are_in_no_file(project, capsys):
    token = "hf_" + "aB3" * 12
    cloud("tiny/bert-full", f"dataset.homepage={token}", "--gpu", "24GiB", code=2)
    (project / OWN).write_text(f"# {token}\n{RECIPE}", encoding="utf-8")
    cloud(OWN, "--gpu", "24GiB", code=2)
    errors = capsys.readouterr().err
    assert errors.count("what looks like a token or a password; give it as a secret of the platform") == 2
    assert token not in errors
    assert not os.path.exists("out")


def test_what_is_on_this_machine_alone_is_named(project, monkeypatch, capsys):
    (project / "own" / "text.txt").write_text("a text\n" * 50, encoding="utf-8")
    (project / "methods").mkdir()
    monkeypatch.setenv(registry.INCLUDE, str(project))
    also = f"evaluation.also=[{{perplexity: {project / 'own' / 'text.txt'}}}]"
    (project / OWN).write_text(RECIPE.replace("tiny_bert", "tiny_gpt2"), encoding="utf-8")
    card = project / "datasets" / "mine.yaml"
    card.write_text(f"{CARD}prompt: {{template: '{{text}}'}}\n", encoding="utf-8")
    resolved = resolve.load(project / OWN, ("objective=text", also))
    with pytest.raises(RecipeError) as caught:
        carried.of(resolved)
    said = str(caught.value).splitlines()
    assert len(said) == 2
    assert "drop-ins of --include or BENCH_INCLUDE" in said[0]
    assert "evaluation.also: " in said[1]


@pytest.mark.parametrize("kind", ["edited", "a link", "a folder", "not text", "a run"])
def test_nothing_is_overwritten(kind, project, capsys):
    cloud("tiny/bert-full", "--gpu", "24GiB")
    path = project / "out" / "skypilot.yaml"
    before = path.read_bytes()
    if kind == "edited":
        path.write_bytes(before + b"# mine\n")
    elif kind == "not text":
        path.write_bytes(b"\xff\xfe")
    elif kind == "a run":
        (project / "out" / "record.json").write_text("{}", encoding="utf-8")
    else:
        path.unlink()
        path.mkdir() if kind == "a folder" else path.symlink_to(project / OWN)
    (project / "out" / "kubernetes.yaml").unlink()
    held = {one: one.read_bytes() for one in project.rglob("*") if one.is_file()}
    cloud("tiny/bert-full", "--gpu", "24GiB", code=2)
    assert "give another" in capsys.readouterr().err
    assert {one: one.read_bytes() for one in project.rglob("*") if one.is_file()} == held


def test_other_files_in_the_folder_stay(project):
    (project / "out").mkdir()
    (project / "out" / "notes.txt").write_text("mine", encoding="utf-8")
    cloud("tiny/bert-full", "--gpu", "24GiB")
    assert sorted(os.listdir("out")) == ["data.yaml", "kubernetes.yaml", "notes.txt", "skypilot.yaml"]


def test_a_gpu_without_a_name_in_skypilot_has_no_task(project, capsys):
    cloud("tiny/bert-full", "--gpu", "RTX3060")
    assert sorted(os.listdir("out")) == ["data.yaml", "kubernetes.yaml"]
    assert "SkyPilot: it has no name for such a GPU (RTX3060)" in capsys.readouterr().out


def test_an_installed_package_needs_an_image(project, monkeypatch, capsys):
    monkeypatch.setattr(shipped, "is_checkout", lambda: False)
    monkeypatch.setattr(shipped, "folder", lambda name: ROOT / name)
    cloud("tiny/bert-full", "--gpu", "24GiB", code=2)
    assert "--image is not given" in capsys.readouterr().err
    cloud("tiny/bert-full", "--gpu", "24GiB", "--image", "bench:1")
    assert files_of()[1]["resources"]["image_id"] == "docker:bench:1"


def test_the_templates_are_what_the_schemas_ask_for():
    """They can be used by hand, too; names of SkyPilot's accelerators have no blanks."""
    cloud_folder = ROOT / "scripts" / "cloud"
    manifests = {one["kind"]: one for one in yaml.safe_load_all((cloud_folder / "kubernetes.yaml").read_text("utf-8"))}
    assert list(manifests) == ["PersistentVolumeClaim", "ConfigMap", "Service", "Job"]
    task = cloud_files.skypilot(cloud_folder / "skypilot.yaml")
    assert "${BUCKET}" in task["file_mounts"]["/work"]["name"]
    assert folder.KUBERNETES in os.listdir(cloud_folder)
    for wrong in ({"num_node": 1}, {"resources": {"use_spots": True}}):
        with pytest.raises(Exception, match="Additional properties"):
            cloud_files.check_task(wrong)
