"""The Kubernetes manifests of a run: `scripts/cloud/kubernetes.yaml`, filled in."""

from typing import Any

from bench.cloud import carried
from bench.cloud.job import WORK, CloudJob
from bench.utils.hardware import GIB

DATA = f"{WORK}/data"
SECRET, VARIABLE = "finetune-bench", "BENCH_LAUNCH_SECRET"
# How providers mark nodes that they take back: (label, its value); all taint them with it, too, but for Karpenter.
SPOT_LABELS = (
    ("cloud.google.com/gke-spot", "true"),
    ("karpenter.sh/capacity-type", "spot"),
    ("eks.amazonaws.com/capacityType", "SPOT"),
    ("kubernetes.azure.com/scalesetpriority", "spot"),
)
# Of each node: so many failures that are none of its own are borne.
FAILURES_PER_NODE = 6
# What the objects are known by: https://kubernetes.io/docs/concepts/overview/working-with-objects/common-labels
NAME_LABEL, INSTANCE_LABEL = "app.kubernetes.io/name", "app.kubernetes.io/instance"

Manifest = dict[str, Any]


def filled(job: CloudJob, templates: list[Manifest]) -> list[Manifest]:
    """Return the manifests of a run. templates: of a volume, a ConfigMap, a Service and a Job, which are changed."""
    claim, texts, service, work = templates
    for one in templates:
        one["metadata"] = {"name": job.name, "labels": {NAME_LABEL: "finetune-bench", INSTANCE_LABEL: job.name}}
    several = job.resources.nodes > 1
    claim["spec"]["accessModes"] = ["ReadWriteMany" if several else "ReadWriteOnce"]
    claim["spec"]["resources"]["requests"]["storage"] = f"{job.disk_bytes // GIB}Gi"
    own = job.carried.texts()
    texts["data"] = {_key(place): text for place, text in own.items()}
    service["spec"]["selector"] = {"batch.kubernetes.io/job-name": job.name}
    _fill_job(work["spec"], job)
    _fill_pod(work["spec"]["template"], job)
    return [claim, *([texts] if own else []), *([service] if several else []), work]


def data_pod(job: CloudJob, template: Manifest) -> Manifest:
    """Return the pod by which data are copied onto the volume of a run."""
    template["metadata"] = {"name": f"{job.name}-data"}
    template["spec"]["containers"][0]["image"] = job.image
    template["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] = job.name
    return template


def _key(place: str) -> str:
    """Return the key of a carried file; a ConfigMap's has letters, digits, and `-._` only."""
    folder = place.partition("/")[0]
    return f"{folder[:-1] if folder in ('datasets', 'models') else 'recipe'}.yaml"


def _fill_job(spec: Manifest, job: CloudJob) -> None:
    nodes = job.resources.nodes
    spec["completions"] = spec["parallelism"] = nodes
    spec["backoffLimit"] = FAILURES_PER_NODE * nodes
    if nodes == 1:
        del spec["successPolicy"]


def _fill_pod(template: Manifest, job: CloudJob) -> None:
    spec, needs = template["spec"], job.resources
    template["metadata"] = {"labels": {NAME_LABEL: "finetune-bench", INSTANCE_LABEL: job.name}}
    container, volumes = spec["containers"][0], spec["volumes"]
    container["image"] = job.image
    data = None if job.carried.data is None else DATA
    # Kubernetes replaces $(NAME) in arguments; a double $ is one.
    container["args"] = [word.replace("$", "$$") for word in job.arguments(data)]
    container["env"] += [{"name": name, "value": value} for name, value in _variables(job).items()]
    if job.is_shared:
        source = {"secretKeyRef": {"name": SECRET, "key": VARIABLE}}
        container["env"].append({"name": VARIABLE, "valueFrom": source})
    memory = f"{needs.host_bytes // GIB}Gi"
    gpus = {"nvidia.com/gpu": str(needs.gpus)} if needs.gpus else {}
    container["resources"] = {
        "requests": {"cpu": str(needs.cpus), "memory": memory, **gpus},
        "limits": {"memory": memory, **gpus},
    }
    volumes[0]["persistentVolumeClaim"]["claimName"] = job.name
    volumes[2]["emptyDir"]["sizeLimit"] = f"{job.shared_bytes // GIB}Gi"
    if job.carried.files:
        items = [{"key": _key(place), "path": place} for place in job.carried.files]
        volumes.append({"name": "recipe", "configMap": {"name": job.name, "items": items}})
        container["volumeMounts"].append({"name": "recipe", "mountPath": carried.JOB, "readOnly": True})
    if needs.nodes == 1:
        del spec["subdomain"]
    else:
        spec["subdomain"] = job.name
    _fill_place(spec, job)


def _variables(job: CloudJob) -> dict[str, str]:
    variables = {"CONFIG": job.config, "PROCESSES_PER_NODE": str(job.processes)}
    if job.resources.nodes > 1:
        hosts = (f"{job.name}-{number}.{job.name}" for number in range(job.resources.nodes))
        variables["NODE_HOSTS"] = " ".join(hosts)
    return variables


def _fill_place(spec: Manifest, job: CloudJob) -> None:
    """Say which nodes a pod may run on."""
    affinity: Manifest = {}
    if job.labels:
        terms = [{"matchExpressions": job.labels}]
        affinity["requiredDuringSchedulingIgnoredDuringExecution"] = {"nodeSelectorTerms": terms}
    else:
        del spec["tolerations"]
    if job.request.spot:
        spec.setdefault("tolerations", []).extend(
            {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"} for key, value in SPOT_LABELS
        )
        affinity["preferredDuringSchedulingIgnoredDuringExecution"] = [
            {"weight": 100, "preference": {"matchExpressions": [{"key": key, "operator": "In", "values": [value]}]}}
            for key, value in SPOT_LABELS
        ]
    if affinity:
        spec["affinity"] = {"nodeAffinity": affinity}
