"""Tasks of lm-evaluation-harness: where their files are, what these say, and the task itself as lm_eval builds it.

What a file says is read here, without building anything; documents, prompts and few-shot examples are lm_eval's own.
"""

import functools
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.config import foreign_code
from bench.config.data_source import Source
from bench.errors import SetupError, did_you_mean

INSTALL = 'lm-evaluation-harness is not installed: pip install "finetune-bench[lm_eval]"'
# lm_eval's own default, whatever the seed of a run: few-shot examples are those of its own scores.
FEWSHOT_SEED = 1234
_NAME = re.compile(r"^(task|group):[ \t]*[\"']?([^\s\"'\[#]+)", re.MULTILINE)


@dataclass(frozen=True)
class Function:
    """A function that a task's file names with `!function`; it is not imported here. file: which file names it."""

    name: str
    file: Path

    def __repr__(self) -> str:
        """Return it as it is written in the file, wherever that lies."""
        return f"!function {self.name}"


@dataclass(frozen=True, kw_only=True)
class TaskFile:
    """A task's file. settings: its keys, with those of the files that it includes. functions: all that it names."""

    path: Path
    settings: dict[str, Any]
    functions: tuple[Function, ...]

    @property
    def name(self) -> str:
        """The name of the task."""
        return str(self.settings.get("task", self.path.stem))

    @property
    def is_group(self) -> bool:
        """Return whether it names other tasks, or a class, and not the settings of one task."""
        keys = self.settings
        return "group" in keys or "class" in keys or not isinstance(keys.get("task", ""), str)

    @property
    def is_own(self) -> bool:
        """Return whether it is one of lm_eval's own tasks."""
        return self.path.is_relative_to(folder())

    @property
    def foreign(self) -> tuple[str, ...]:
        """The functions that files outside of lm_eval's package name, and data that a script would load."""
        functions = (item.name for item in self.functions if not item.file.is_relative_to(folder()))
        return tuple(dict.fromkeys([*functions, *_data_scripts(self)]))


@functools.cache
def folder() -> Path:
    """Return the folder of lm_eval's tasks, of which no code runs. Raises SetupError where it is not installed."""
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise SetupError(INSTALL)
    return Path(next(iter(spec.submodule_search_locations))).resolve() / "tasks"


@functools.cache
def _known() -> dict[str, tuple[str, Path]]:
    """Return name -> (what it is, "task" or "group", and its file) of all that lm_eval brings."""
    known: dict[str, tuple[str, Path]] = {}
    for path in sorted(folder().rglob("*.yaml")):
        found = _NAME.search(path.read_text(encoding="utf-8", errors="replace"))
        if found is not None:
            known.setdefault(found[2], (found[1], path))
    return known


def find(spec: str) -> Path:
    """Return the file of a task: of a name that lm_eval knows, or of a path that ends in .yaml or has a folder.

    Raises SetupError for what is neither.
    """
    if spec.endswith((".yaml", ".yml")) or "/" in spec or spec.startswith((".", "~")):
        path = Path(spec).expanduser()
        folder()  # whatever the path, lm_eval is needed
        if not path.is_file():
            raise SetupError(f"there is no task file {spec!r} in {Path.cwd()}; expected the YAML file of a task")
        return path.resolve()
    kind, path = _known().get(spec, ("", Path()))
    if kind == "task":
        return path
    if kind == "group":
        raise SetupError(f"{spec!r} is a group of tasks, which lm_eval scores one by one; name one task of it")
    tasks = [name for name, (kind, _) in _known().items() if kind == "task"]
    raise SetupError(f"lm_eval knows no task {spec!r}.{_hint(spec, tasks)}")


def _hint(name: str, known: list[str]) -> str:
    near = did_you_mean(name, known)
    return near if "Did you mean" in near else f" It knows {len(known):,}: lm-eval ls tasks"


def of(source: Source) -> TaskFile:
    """Return the file of a card's task. Raises SetupError where it is missing, or its code is not confirmed.

    A card that a recipe writes itself comes here unchecked, so a group, which lm_eval builds from other files or from
    settings within it, is refused here too.
    """
    path = Path(str(source.folder)) / _file_name(source) if source.folder else None
    task = read(path if path is not None else find(str(source.id)))
    if task.is_group:
        raise SetupError(f"the task file {task.path} holds a group of tasks, or a class: name the file of one task")
    foreign = task.foreign
    if foreign and not (source.trust_remote_code and foreign_code.is_confirmed()):
        raise SetupError(
            f"the task file {task.path} runs Python code that is not lm_eval's own ({', '.join(foreign)}); where you "
            f"trust it, set dataset.source.trust_remote_code: true and confirm it with {foreign_code.FLAG} on the "
            "command line"
        )
    return task


def _data_scripts(task: TaskFile) -> list[str]:
    """Return a dataset_path that is a Python script, a folder with one of its name, or the reader of pickle files."""
    if task.is_own:
        return []
    named = str(task.settings.get("dataset_path") or "")
    path = Path(named).expanduser()
    is_script = path.suffix == ".py" or (path / f"{path.resolve().name}.py").is_file() or named == "pandas"
    return [f"dataset_path {named!r:.200}"] if is_script or _asks_for_code(task.settings) else []


def _asks_for_code(settings: dict[str, Any]) -> bool:
    options = settings.get("dataset_kwargs")
    return isinstance(options, dict) and bool(options.get("trust_remote_code"))


def _file_name(source: Source) -> str:
    named = source.files.get("task", ())
    return named if isinstance(named, str) else "".join(named[:1])


def read(path: Path) -> TaskFile:
    """Read a task's file and those that it includes. Raises SetupError for one that is missing or no such file."""
    functions: list[Function] = []
    settings = _merged(path.resolve(), functions, ())
    return TaskFile(path=path.resolve(), settings=settings, functions=tuple(functions))


def _merged(path: Path, functions: list[Function], seen: tuple[Path, ...]) -> dict[str, Any]:
    if path in seen:
        raise SetupError(f"the task file {path} includes itself")

    class _Loader(yaml.SafeLoader):
        """Notes functions, and imports none."""

    def _function(loader: yaml.SafeLoader, node: Any) -> Function:
        functions.append(Function(str(loader.construct_scalar(node)), path))
        return functions[-1]

    _Loader.add_constructor("!function", _function)
    try:
        with path.open(encoding="utf-8") as stream:
            loader = _Loader(stream)
            content = loader.get_single_data()
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        text = " ".join(str(error).split())[:200]
        raise SetupError(f"the task file {path} can't be read: {text}") from error
    if not isinstance(content, dict):
        raise SetupError(f"the task file {path} holds {type(content).__name__}, not the keys of a task")
    merged: dict[str, Any] = {}
    included = content.pop("include", [])
    for name in included if isinstance(included, list) else [included]:
        merged |= _merged((path.parent / str(name)).resolve(), functions, (*seen, path))
    merged.pop("task_list", None)
    return {**merged, **content}


@functools.lru_cache(maxsize=4)
def build(path: Path) -> Any:
    """Return lm_eval's task object of a file, with its data loaded.

    Templates of files outside of lm_eval's package are run in jinja's sandbox. Metrics that lm_eval would load with the
    evaluate library are left out: none of them is computed. Raises SetupError for data that can't be had, and for
    settings that lm_eval refuses.
    """
    import datasets
    import lm_eval.utils
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks.manager import load_yaml

    datasets.disable_progress_bars()
    task = read(path)
    if not task.is_own:
        plain = lm_eval.utils.env
        sandbox = ImmutableSandboxedEnvironment(
            loader=plain.loader, undefined=plain.undefined, keep_trailing_newline=plain.keep_trailing_newline
        )
        sandbox.filters.update(plain.filters)
        lm_eval.utils.env = sandbox
    try:
        manager = TaskManager(include_defaults=False)
        # With functions, lm_eval itself must find them.
        settings = load_yaml(path) if task.functions else dict(task.settings)
        (built,) = manager.load(_buildable(settings, task))["tasks"].values()
    except Exception as error:  # of any kind: of datasets, of lm_eval, of a template
        text = " ".join((str(error) or type(error).__name__).split())[:300]
        raise SetupError(f"lm_eval can't build the task {task.name!r}: {type(error).__name__}: {text}") from error
    return built


def _buildable(settings: dict[str, Any], task: TaskFile) -> dict[str, Any]:
    """Return a task's settings, with the metrics that lm_eval has itself; data files beside its file are absolute."""
    beside, listed = task.path.parent, settings.get("metric_list")
    if isinstance(listed, list):
        settings["metric_list"] = [item for item in listed if _is_registered(item)]
        if listed and not settings["metric_list"]:
            raise SetupError("its metrics would all be loaded by the evaluate library; none of them is supported")

    def _absolute(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: _absolute(item) for key, item in value.items()}
        if isinstance(value, list):
            return [_absolute(item) for item in value]
        there = beside / str(value)
        return str(there) if isinstance(value, str) and not task.is_own and there.exists() else value

    options = dict(settings.get("dataset_kwargs") or {})
    for key in ("data_files", "data_dir"):
        if key in options:
            options[key] = _absolute(options[key])
    if options:
        settings["dataset_kwargs"] = options
    # Keys of lm_eval's index, not of a task.
    return {key: value for key, value in settings.items() if key not in ("tag", "group", "task_list")}


def _is_registered(item: Any) -> bool:
    """Return whether a metric of a task is lm_eval's own.

    It loads all others with the evaluate library, so runs the code of a Hub space or of a file: each name that it has
    not registered, and with `hf_evaluate` any.
    """
    import lm_eval.api.metrics  # noqa: F401  # registers them
    from lm_eval.api.registry import metric_registry

    if not isinstance(item, dict) or callable(item.get("metric")):
        return True  # lm_eval refuses it, or it is a function, which was confirmed
    name = item.get("metric")
    return isinstance(name, str) and name in metric_registry and not item.get("hf_evaluate")


def documents(task: Any, split: str) -> Any:
    """Return the documents of one of the source's splits, as lm_eval processes them. Raises SetupError without it."""
    if split not in task.dataset:
        raise SetupError(f"the task {task.config.task!r} has no split {split!r}.{did_you_mean(split, task.dataset)}")
    found, process = task.dataset[split], task.config.process_docs
    return found if process is None else process(found)


def asks_by_choice(task: Any) -> bool:
    """Return whether a task has a prompt for each choice, and one text behind them, as Winogrande has."""
    return task.OUTPUT_TYPE == "multiple_choice" and bool(task.multiple_input)
