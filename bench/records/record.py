"""The run record: its types, atomic writing, reading. Reports read nothing else; importing it loads no torch."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from bench.errors import Status
from bench.records import causes
from bench.utils import secret_formats

# 2 added `warnings`, and keys that are not there in a record of schema 1; a record of schema 1 is read as it is.
SCHEMA = 2
Number = float | int | None
Values = Number | list[Any]


class Part(BaseModel):
    """Base of the record's parts: unknown keys refused, so that a foreign file is not taken for a record."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), ser_json_inf_nan="null")


class Score(Part):
    """One metric value with its interval. Lists for values per label; low and high are null where none is defined.

    ceiling: of a metric of words, the value if every question that has an answer were answered by a gold one.
    unrewardable: how many of these questions get no full marks even so.
    higher_is_better: as the metric's own file says; null for a metric of the evaluate library, and in older records.
    """

    value: Values
    low: Values = None
    high: Values = None
    interval: str | None = None
    examples: int
    signature: str
    ceiling: Number = None
    unrewardable: int | None = None
    higher_is_better: bool | None = None


class RecipePart(Part):
    """The recipe as written, as resolved, and what replaced a card's or a file's values.

    made_cards: "model", "dataset" -> the card that was made for a name without one, and where its values are from.
    series_hash: the hash without `data.train_examples` and `data.fold`, which runs over sizes and folds share; null of
    a run that has neither, whose own hash is the same.
    """

    path: str
    as_written: dict[str, Any] = {}
    resolved: dict[str, Any] = {}
    overrides: list[str] = []
    card_overrides: dict[str, Any] = {}
    made_cards: dict[str, Any] = {}
    hash: str | None = None
    series_hash: str | None = None


class Comparability(Part):
    """Records with equal keys were scored on the same examples in the same way."""

    key: str
    parts: dict[str, str | None]


class Launch(Part):
    """Parallelism and precision in force, read back from live objects. memory_cap_gib: of each GPU, if capped.

    command: the words of the launcher, or of the run itself without one.
    """

    world_size: int
    num_machines: int
    distributed_type: str
    backend: str | None = None
    zero_stage: int | None = None
    offload_optimizer: str | None = None
    offload_parameters: str | None = None
    mixed_precision: str
    device: str
    global_batch: int
    per_device_batch: int
    accumulation: int
    memory_cap_gib: Number = None
    command: list[str] = []


class Environment(Part):
    """Versions and hardware."""

    python: str
    platform: str
    packages: dict[str, str]
    devices: list[str]
    cpu_threads: int | None = None
    driver: str | None = None
    git: dict[str, Any] | None = None


class SplitPart(Part):
    """One split as it was used."""

    examples: int
    fingerprint: str
    labels: dict[str, int]
    tokens: dict[str, float]
    truncated: int
    dropped: dict[str, int] = {}


class TrainSubset(Part):
    """The part of the training split that was learned from, drawn by `seed`. labels: rows of each label."""

    examples: int
    of: int
    seed: int
    labels: dict[str, int] = {}


class Fold(Part):
    """The fold that was held out and scored, of the rows of splits that were dealt into folds by `seed`.

    fingerprint: of these rows and of how they were dealt; runs of the same folds share it.
    """

    fold: int
    folds: int
    of: list[str]
    seed: int
    examples: int
    train_examples: int
    fingerprint: str


class Data(Part):
    """The data set. train_subset, fold: of a run that learned from a part of it (the recipe's key `data`)."""

    id: str
    revision: str | None = None
    labels: list[str] = []
    splits: dict[str, SplitPart] = {}
    train_subset: TrainSubset | None = None
    fold: Fold | None = None


class Model(Part):
    """The model as built, read back from it. adapter: what is in force of a PEFT adapter, read from its layers."""

    id: str
    revision: str | None = None
    weights: str
    class_: str
    attention: str | None
    parameters: dict[str, int]
    dtypes: dict[str, int]
    newly_initialized: list[str] = []
    trainable_names: int | None = None
    adapter: dict[str, Any] | None = None

    model_config = ConfigDict(
        extra="forbid", protected_namespaces=(), alias_generator=lambda n: n.rstrip("_"), populate_by_name=True
    )


class Prompts(Part):
    """Prompts of a language model. manifests: split -> SHA-256 over (id, hash of its prompt's tokens), by id.

    signature: what stands in the signature of every score. example: the first prompt, as the model reads it.
    frame_hash: of what a chat template writes around the messages. date: the one that it writes, if any.
    shot_manifests: as manifests, of the ids of each example's own shots, which stand in the prediction lines.
    answers: stage -> split -> counts of written answers.
    """

    format: str
    answer: str
    signature: str
    template_hash: str
    frame_hash: str | None = None
    date: str | None = None
    shots: int = 0
    draw: str | None = None
    shot_ids: list[str] = []
    example: str = ""
    manifests: dict[str, str] = {}
    shot_manifests: dict[str, str] = {}
    answers: dict[str, dict[str, dict[str, Number]]] = {}


class TrainingPart(Part):
    """Training as it went: steps done, losses, and why it ended.

    final_loss: of the last step alone. in_force: what was asked for, and found in the live objects ("asked", "found").
    skipped_steps: under fp16, how many of the steps its loss scaler left without an update; loss_scale: after the last
    of these. class_weights: label -> its weight in the loss.
    """

    engine: str
    steps: int
    epochs: float
    stopped_by: str
    best_step: int | None = None
    best_value: Number = None
    first_loss: Number = None
    final_loss: Number = None
    learning_rate_final: Number = None
    skipped_steps: int | None = None
    loss_scale: Number = None
    in_force: dict[str, dict[str, Any]] = {}
    class_weights: dict[str, float] = {}


class Resumed(Part):
    """A resumption from a checkpoint. status, reason: how the previous run ended, as far as its record knew."""

    at: str
    from_step: int
    status: Status | None = None
    reason: str | None = None


class Advice(Part):
    """A change that would make a run fit: an override or a launch option, as it is typed; and its cost."""

    change: str
    costs: str


class OutOfMemory(Part):
    """An out-of-memory failure, and what would fit. In bytes; null where unknown.

    memory: whose, a GPU's or the host's. device: the GPU's name. limit: what sets the capacity. step: the one that was
    being done. rows, length: shape of the micro-batch in hand, pads included. asked: the allocation that failed.
    allocated: what torch held on the GPU; on the host, what counted against the limit. before: the same before the
    model was built. sharers: processes of the machine that share the limit. others: what other processes held on the
    GPU. text: the error's, where it names no sizes. predicted_gib: the plan's need of the heaviest micro-batch.
    largest_rows: of a micro-batch that fits, by the plan. unadvised: why there is no advice, or what is odd about it.
    """

    rank: int = 0
    host: str | None = None
    phase: str
    step: int | None = None
    rows: int | None = None
    length: int | None = None
    memory: Literal["gpu", "host"] = "host"
    device: str | None = None
    limit: str | None = None
    asked_bytes: int | None = None
    capacity_bytes: int | None = None
    allocated_bytes: int | None = None
    before_bytes: int | None = None
    sharers: int = 1
    others_bytes: int | None = None
    text: str | None = None
    predicted_gib: Number = None
    largest_rows: int | None = None
    advice: list[Advice] = []
    unadvised: str | None = None


class Published(Part):
    """A published result, and the run's own value. inside: whether that lies in the range; null without a value."""

    low: float
    high: float
    source: str
    measures: str | None = None
    value: Number = None
    inside: bool | None = None


class Kept(Part):
    """A score on the same examples before and after a training. p, low, high: of the difference, after - before.

    lost, gained: examples that were right only before, or only after, where answers are right or wrong.
    """

    metric: str
    before: Number
    after: Number
    difference: Number
    low: Number = None
    high: Number = None
    p: Number = None
    test: str
    lost: int | None = None
    gained: int | None = None


class Retention(Part):
    """Scores on other data than a run's own, by stage. name: as the recipe has it. kept: once both stages are scored.

    fingerprint: SHA-256 of the rows or the text. signature: of the prompts, or of the windows of a running text.
    labels, multi_label, scheme: of the data set, by which its predictions are read.
    """

    name: str
    data: str
    split: str | None = None
    examples: int
    fingerprint: str
    signature: str | None = None
    labels: list[str] = []
    multi_label: bool = False
    scheme: str | None = None
    scores: dict[str, dict[str, Score]] = {}
    kept: Kept | None = None


class BackendSample(Part):
    """Examples of a split that torch scored beside a backend. compared: log-likelihoods and answers.

    largest: difference of a log-likelihood, in nats; null where answers are written alone. changed: answers that
    differ. beyond: values and answers that differ by more than what is allowed; one fails the run's check.
    """

    examples: int
    compared: int
    largest: Number = None
    changed: int
    beyond: int
    allowed: str


class Backend(Part):
    """Program that scored and wrote in place of torch. version: null of a server that tells none.

    server: its address, null where the model was in the run's own process. model: under which name, or from where.
    samples: split -> what torch gave beside it.
    """

    name: str
    version: str | None = None
    server: str | None = None
    model: str
    options: dict[str, Any] = {}
    samples: dict[str, BackendSample] = {}


class Temperature(Part):
    """A temperature fitted after training, and the scores of probabilities that are taken with it.

    split, examples: what it was fitted on; loss_before, loss_after: there. scores: split -> metric -> score; those
    without a temperature are the record's own. reliability: as the record's, by split.
    """

    value: Number
    split: str
    examples: int
    loss_before: Number
    loss_after: Number
    scores: dict[str, dict[str, Score]] = {}
    reliability: dict[str, list[list[Number]]] = {}


class Check(Part):
    """One of the run's own checks; a failed one makes the run `invalid`."""

    name: str
    ok: bool
    detail: str = ""


class RunWarning(Part):
    """A finding that a reader must see before the scores: shown at the top of the report and on the console.

    code: names the kind, e.g. "label_not_in_training". sentence: what was found, with its counts.
    """

    code: str
    sentence: str


class PhaseTime(Part):
    """Seconds of one phase, without the phases inside it."""

    name: str
    seconds: float


class EnergyPart(Part):
    """Joules that the devices took, by their own counters; see bench/records/energy.py.

    sources: "gpu" and "cpu" -> what was read. phases: phase -> "gpu_joules" and "cpu_joules" over all processes, null
    where not measured; the same per 100 examples and per million tokens; and "per_rank". missing: a kind, or
    "<phase>, <kind>" -> why there is no number.
    """

    sources: dict[str, str] = {}
    phases: dict[str, dict[str, Any]] = {}
    missing: dict[str, str] = {}


class Record(Part):
    """Everything that a run leaves for reports. Fields are filled in as the run proceeds.

    study_title: of the study.yaml beside the recipe, as a report's title has it.
    speed: the fast paths in force, by their keys in the recipe. memory_predicted: see runner/memory_prediction.py.
    sharded_phases: of a model whose parameters are sharded in training: phase -> whether it was sharded there too, or
    whole on each process, and why.
    imported: of a result that another tool left: "tool", "file" and its "sha256"; null for a run of this harness.
    published: split -> metric -> what others found there, from the recipe; published_before: before training.
    reliability: stage -> split -> of each bin of `ece` the examples, their mean probability, the share that is right.
    retention: part of `evaluation.also`, by which its predictions are named -> its scores before and after training.
    files: SHA-256 of the recipe's file, of the cards and drop-ins in use, and of accelerate's and DeepSpeed's config
    files, as "<kind>/<file name>". selected_on: scored splits whose data also chose the best step or the settings;
    their scores are marked wherever they are shown.
    """

    schema_: int = SCHEMA
    status: Status = "crashed"
    reason: str | None = "the run did not come to its end"
    failed_in: str | None = None
    imported: dict[str, str] | None = None
    name: str
    study: str = ""
    study_title: str | None = None
    method: str = ""
    seed: int | None = None
    started_at: str
    finished_at: str | None = None
    recipe: RecipePart
    comparability: Comparability | None = None
    launch: Launch | None = None
    environment: Environment | None = None
    data: Data | None = None
    model: Model | None = None
    prompts: Prompts | None = None
    backend: Backend | None = None
    scores: dict[str, dict[str, dict[str, Score]]] = {}
    baselines: dict[str, dict[str, dict[str, Number]]] = {}
    retention: dict[str, Retention] = {}
    reliability: dict[str, dict[str, list[list[Number]]]] = {}
    temperature: Temperature | None = None
    published: dict[str, dict[str, Published]] = {}
    published_before: dict[str, dict[str, Published]] = {}
    selected_on: list[str] = []
    training: TrainingPart | None = None
    resumed: list[Resumed] = []
    speed: dict[str, Any] = {}
    sharded_phases: dict[str, str] = {}
    throughput: dict[str, dict[str, Any]] = {}
    memory: dict[str, dict[str, Any]] = {}
    memory_predicted: dict[str, Any] | None = None
    energy: EnergyPart | None = None
    oom: OutOfMemory | None = None
    phases: list[PhaseTime] = []
    checks: list[Check] = []
    warnings: list[RunWarning] = []
    notes: list[str] = []
    artifacts: dict[str, str] = {}
    files: dict[str, str] = {}

    model_config = ConfigDict(
        extra="forbid",
        protected_namespaces=(),
        alias_generator=lambda n: n.rstrip("_"),
        populate_by_name=True,
        ser_json_inf_nan="null",
    )

    def check(self, name: str, ok: bool, detail: str = "") -> None:
        """Add one of the run's own checks."""
        self.checks.append(Check(name=name, ok=ok, detail=detail))

    def warn(self, code: str, sentence: str) -> None:
        """Warn of what may mislead a reader of the scores, e.g. a label that the training split lacks.

        What usually causes it, and what to do, is put behind the sentence where that is known.
        """
        warning = RunWarning(code=code, sentence=causes.explained(code, sentence))
        if warning not in self.warnings:
            self.warnings.append(warning)

    def warn_of(self, *found: RunWarning | None) -> None:
        """Warn of what was found, if anything was; see `warn`."""
        for warning in found:
            if warning is not None:
                self.warn(warning.code, warning.sentence)

    def note(self, text: str) -> None:
        """Note a fallback, a truncation, a dropped example: anything that must not be silent."""
        text = secret_formats.remove(text)
        if text not in self.notes:
            self.notes.append(text)
