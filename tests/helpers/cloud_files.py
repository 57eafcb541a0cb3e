"""Checks of files for clouds: by the schemas of Kubernetes and SkyPilot, and by what no schema says."""

import json
import re

import jsonschema
import kubernetes_validate
import yaml

from tests.helpers.launching import ROOT

# What SkyPilot's own loader is asked by `scripts/cloud/check`; its schema was written by the same script.
SKYPILOT = json.loads((ROOT / "tests" / "helpers" / "skypilot_schema.json").read_text(encoding="utf-8"))
VERSIONS = ("1.31", "1.37")
LABEL, LABEL_VALUE = (
    re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?"),
    re.compile(r"([A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?)?"),
)
QUANTITY = re.compile(r"[1-9]\d*(Mi|Gi|m)?")


def any_case(validator, names, instance, schema):
    """SkyPilot's own keyword: one of some names, in capitals or not."""
    if instance.lower() not in [name.lower() for name in names]:
        yield jsonschema.ValidationError(f"{instance!r} is not one of {names}")


Validator = jsonschema.validators.extend(jsonschema.Draft7Validator, {"case_insensitive_enum": any_case})


def check_task(task):
    """Raises ValidationError for a task that SkyPilot refuses."""
    Validator(SKYPILOT["task"]).validate(task)
    Validator(SKYPILOT["resources"]).validate(task.get("resources", {}))


def skypilot(path):
    """The task in a file, which SkyPilot accepts."""
    task = yaml.safe_load(path.read_text(encoding="utf-8"))
    check_task(task)
    for where in task["file_mounts"].values():
        if isinstance(where, dict):
            Validator(SKYPILOT["storage"]).validate(where)
    for text in (task["run"], task.get("setup", "")):
        assert "\t" not in text
    return task


def kubernetes(path):
    """Kind -> manifest of a file, which Kubernetes accepts, and in which what is named is there."""
    manifests = {}
    for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        for version in VERSIONS:
            kubernetes_validate.validate(manifest, version, strict=True)
        assert manifest["kind"] not in manifests
        assert LABEL.fullmatch(manifest["metadata"]["name"])
        assert all(LABEL_VALUE.fullmatch(value) for value in manifest["metadata"].get("labels", {}).values())
        manifests[manifest["kind"]] = manifest
    claim = manifests["PersistentVolumeClaim"]
    assert QUANTITY.fullmatch(claim["spec"]["resources"]["requests"]["storage"])
    pod = manifests["Job"]["spec"]["template"] if "Job" in manifests else manifests["Pod"]
    _check_pod(pod["spec"], claim["metadata"]["name"])
    if "Job" in manifests:
        _check_job(manifests, pod["spec"])
    return manifests


def _check_pod(spec, claim):
    volumes, (container,) = {one["name"]: one for one in spec["volumes"]}, spec["containers"]
    assert volumes["work"]["persistentVolumeClaim"]["claimName"] == claim
    assert [one["name"] for one in container["volumeMounts"]] == list(volumes)
    for kind, asked in container["resources"].items():
        assert all(QUANTITY.fullmatch(size) for size in asked.values()), (kind, asked)
    assert all(isinstance(one.get("value", ""), str) for one in container.get("env", []))
    names = [one["name"] for one in container.get("env", [])]
    assert len(names) == len(set(names))


def _check_job(manifests, spec):
    job, nodes = manifests["Job"]["spec"], manifests["Job"]["spec"]["completions"]
    name = manifests["Job"]["metadata"]["name"]
    assert job["parallelism"] == nodes
    assert len(f"{name}-{nodes - 1}-abcde") <= 63
    (container,) = spec["containers"]
    variables = {one["name"]: one for one in container["env"]}
    assert ("Service" in manifests) == ("subdomain" in spec) == ("successPolicy" in job) == (nodes > 1)
    if nodes > 1:
        service = manifests["Service"]
        assert service["metadata"]["name"] == spec["subdomain"]
        assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
        hosts = [f"{name}-{number}.{spec['subdomain']}" for number in range(nodes)]
        assert variables["NODE_HOSTS"]["value"].split() == hosts
    several = nodes * int(variables["PROCESSES_PER_NODE"]["value"]) > 1
    assert ("BENCH_LAUNCH_SECRET" in variables) == several
    if several:
        assert "value" not in variables["BENCH_LAUNCH_SECRET"]
    asked = container["resources"]
    assert asked["requests"]["memory"] == asked["limits"]["memory"]
    recipe = next((one for one in spec["volumes"] if one["name"] == "recipe"), None)
    assert (recipe is not None) == ("ConfigMap" in manifests)
    if recipe is not None:
        assert recipe["configMap"]["name"] == manifests["ConfigMap"]["metadata"]["name"]
        assert [one["key"] for one in recipe["configMap"]["items"]] == list(manifests["ConfigMap"]["data"])
