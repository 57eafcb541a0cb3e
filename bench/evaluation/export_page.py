"""Writes the part of an exported folder's README that shows how to load and use the model, with code that runs."""

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config import registry
from bench.config.cards import GENERATION_TASK, LM_EVAL_TASK, Prompt
from bench.config.recipe import Prompting
from bench.data.prompts.encode import PromptEncoder
from bench.data.prompts.template import Renderer
from bench.reporting import markdown as md

TEMPLATE = "chat_template_of_the_run.jinja"
# In the code of a page; this module itself prints nothing.
_SHOW = "print"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The model as a library loads it, against the run's own. difference: the largest one of a log-probability.

    of_data: the examples are of the run's data, not made-up sentences.
    """

    loader: str
    num_examples: int
    of_data: bool
    difference: float

    @property
    def sentence(self) -> str:
        """The figure in words."""
        examples = "examples of the run's data" if self.of_data else "sentences (the run's data were not there)"
        return (
            f"Loaded by {self.loader}: the largest difference of a log-probability from the run's own model, on "
            f"{self.num_examples} {examples}, is {self.difference:.2g}."
        )


def usage(
    description: dict[str, Any],
    tokenizer: Any,
    out: Path,
    compared: list[Comparison],
    *,
    is_adapter: bool,
    is_merged: bool,
) -> str:
    """Return the section: how to load and predict, and how near that is to what the run scored.

    A chat template that writes the date is written into the folder, at the run's date.
    """
    loader = compared[0].loader
    parts = ["## How to use it", _code(_loading(loader, compared, is_adapter=is_adapter))]
    if description["objective"] == "text":
        parts += _prompted(description, tokenizer, out)
    else:
        parts += _with_head(description, loader)
    parts.append("\n".join(f"* {line}" for line in _facts(description, compared, is_merged=is_merged)))
    if is_adapter and (out / "base").is_dir():
        parts.append(
            "`base/` is the base model with this task's head and label names, which libraries do not store with an "
            "adapter. `adapter_config.json` names it by its full path: change `base_model_name_or_path` there when the "
            "folder is moved, or export with `--merge`."
        )
    return md.joined(parts)


def _facts(description: dict[str, Any], compared: list[Comparison], *, is_merged: bool) -> list[str]:
    lines = [one.sentence for one in compared]
    if description["quantization"] is not None:
        how = "merged into it in 16 or 32 bits" if is_merged else "on the base model that is named here"
        lines.append(f"The run trained and scored the adapter on a base model in 4 bits; here it is {how}.")
    lines.append(
        f"The run read at most {description['max_length']} tokens of an example, and so does `truncation=True`."
    )
    return lines


def _code(text: str) -> str:
    return f"```python\n{text}```"


def _loading(loader: str, compared: list[Comparison], *, is_adapter: bool) -> str:
    lines = [
        f"from transformers import {loader}, AutoTokenizer",
        "",
        'folder = "."  # this folder',
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        f"model = {loader}.from_pretrained(folder).eval()",
    ]
    for other in compared[1:]:
        lines.append(f"# or: from peft import {other.loader}; model = {other.loader}.from_pretrained(folder).eval()")
    return "\n".join(lines) + "\n"


def _with_head(description: dict[str, Any], loader: str) -> list[str]:
    if description["task"] == "multiple_choice":
        together = loader != "AutoModelForSequenceClassification"
        asked = ', "What happened?"' if description.get("pairs") else ""
        shown = f'{_SHOW}(choose("The glass fell.", ["It broke.", "It flew away."]{asked}))'
        code = inspect.cleandoc(_CHOICES).replace("LOGITS", _GROUPED if together else _SINGLE)
        return [_code(f"import torch\n\n\n{code}\n\n\n{shown}\n"), _CHOICES_NOTE]
    pairs = bool(description.get("pairs"))
    if loader == "AutoModelForSequenceClassification":
        how = {True: "sigmoid", False: "softmax"}[description["multi_label"]]
        how = "none" if len(description["labels"]) <= 1 else how
        given = '{"text": "A text.", "text_pair": "Another one."}' if pairs else '"A text."'
        text = (
            "from transformers import pipeline\n\n"
            f'classify = pipeline("text-classification", model=folder, top_k=None, function_to_apply="{how}")\n'
            f"{_SHOW}(classify({given}, truncation=True))\n"
        )
        said = f"A label is given from a probability of {description['threshold']} on." if how == "sigmoid" else ""
        return [_code(text), said] if said else [_code(text)]
    if loader == "AutoModelForTokenClassification":
        text = 'from transformers import pipeline\n\ntag = pipeline("token-classification", model=folder)\n'
        return [_code(f'{text}{_SHOW}(tag("Words of a sentence."))\n')]
    if loader == "AutoModelForQuestionAnswering":
        shown = f'{_SHOW}(answer("Who wrote it?", "Ada wrote it."))'
        most = f"\nMOST_TOKENS = {description['spans']['max_answer_length']}  # of an answer\n"
        return [_code(f"import torch\n{most}\n{inspect.cleandoc(_SPANS)}\n\n{shown}\n"), _SPANS_NOTE]
    return []


_CHOICES = """
def choose(text, choices, question=None):
    seconds = [f"{question} {choice}" if question else choice for choice in choices]
    encoded = tokenizer([text] * len(choices), seconds, truncation="longest_first", padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = LOGITS
    probabilities = logits.softmax(-1).tolist()
    return dict(zip(choices, probabilities))
"""
_GROUPED = "model(**{name: ids[None] for name, ids in encoded.items()}).logits[0]"
_SINGLE = "model(**encoded).logits[:, 0]"
_CHOICES_NOTE = "Each choice is read behind the text, and scored by itself; probabilities are those among the choices."

_SPANS = """
def answer(question, passage):
    encoded = tokenizer(question, passage, truncation="only_second", return_tensors="pt", return_offsets_mapping=True)
    offsets = encoded.pop("offset_mapping")[0]
    inside = torch.tensor([part == 1 for part in encoded.sequence_ids(0)])
    with torch.no_grad():
        outputs = model(**encoded)
    starts, ends = (logits[0].masked_fill(~inside, -torch.inf) for logits in (outputs.start_logits, outputs.end_logits))
    in_order = torch.ones(len(ends), len(ends)).triu().tril(MOST_TOKENS - 1).bool()
    sums = (starts[:, None] + ends[None, :]).masked_fill(~in_order, -torch.inf)
    first, last = divmod(int(sums.argmax()), len(ends))
    return passage[offsets[first][0] : offsets[last][1]]
"""
_SPANS_NOTE = (
    "This reads one window of a passage and always answers; the run reads long passages by windows, and for data with "
    "unanswerable questions compares with the score of no answer (`bench predict` does that)."
)


def _prompted(description: dict[str, Any], tokenizer: Any, out: Path) -> list[str]:
    """Return the prompts of the run as code: the same tokens as it scored, and how it read the answer."""
    prompting = Prompting.model_validate(description["prompting"], strict=False)
    if (done := _beyond_code(description["task"], prompting)) is not None:
        return [f"The run {done}, for which there is no code here: use `bench predict` on the run's own folder."]
    prompt = Prompt.model_validate(description["prompt"], strict=False)
    task, labels = registry.load_task(description["task"]), description["labels"]
    renderer = Renderer(prompt, tokenizer, chat=prompting.format == "chat", trained=True, date=prompting.date)
    encoder = PromptEncoder(
        tokenizer=tokenizer,
        renderer=renderer,
        wording=task.wording(prompt, labels, description["multi_label"]),
        family=description["model_card"]["family"],
        max_length=description["max_length"],
        max_new_tokens=prompting.max_new_tokens if prompting.answer == "generate" else None,
    )
    is_writer = prompting.answer == "generate" or not encoder.wording.choices
    words = [prompt.answers.get(name, name) for name in labels]
    constants = {"TEMPLATE": prompt.template, "INSTRUCTION": prompt.instruction, "SEPARATOR": prompt.separator}
    constants["LABELS"] = ", ".join(words) if task.READS == "labels" else prompt.none
    code = ["import re", "", "import torch", ""]
    code += [f"{name} = {value!r}" for name, value in constants.items()]
    code += ["", *_prompt_function(renderer, out)]
    both_sides = description["model_card"]["family"] == "encoder_decoder"
    if is_writer:
        ends = sorted({*encoder.end_ids[-1:], tokenizer.eos_token_id})
        code += _writing(prompting.max_new_tokens, ends, both_sides=both_sides)
        read = "first number of the first line" if task.READS == "numbers" else "first line"
        said = f"The run generates greedily, up to the end token or a line break, and reads the {read} as the answer."
    else:
        code += _scoring(encoder, words, labels, prompting.normalization, both_sides=both_sides)
        said = "The run answers with the label whose words are the likeliest after the prompt."
    notes = [said, "Prompts are those that the model was trained on and scored with."]
    if prompting.calibration != "none" and not is_writer:
        notes.append(
            "The run's scores are also calibrated by texts without content, which the code above leaves out: "
            "probabilities differ from the record's."
        )
    return [_code("\n".join(code) + "\n"), " ".join(notes)]


def _beyond_code(task: str, prompting: Prompting) -> str | None:
    """Return what a run does that the code of `_prompted` would do otherwise, or None."""
    if registry.literals("tasks", task)["READS"] == "choices":
        return "scores each choice of a question by its likelihood after the prompt"
    if task in (GENERATION_TASK, LM_EVAL_TASK):
        return "writes whole texts, by its data's own way to ask and to end"
    if prompting.chat_template_kwargs:
        return f"tells the chat template {', '.join(prompting.chat_template_kwargs)}"
    return None


def _prompt_function(renderer: Renderer, out: Path) -> list[str]:
    lines = [
        "def prompt_of(text, text_pair=''):",
        "    fields = {'text': text, 'text_pair': text_pair, 'labels': LABELS}",
        "    fill = lambda template: re.sub(r'\\{(\\w+)\\}', lambda match: fields.get(match[1], match[0]), template)",
        "    instruction = INSTRUCTION.replace('{labels}', LABELS)",
        "    question = (instruction + SEPARATOR if instruction else '') + fill(TEMPLATE)",
    ]
    if renderer.frame is None:
        how = "add_special_tokens=True, split_special_tokens=True"
        return [*lines, "    return question", "", f"def tokens(text): return tokenizer(text, {how}).input_ids", ""]
    template = ""
    if renderer.frame.writes_date:
        (out / TEMPLATE).write_text(renderer.frame.fixed, encoding="utf-8")
        template = f", chat_template=open(f'{{folder}}/{TEMPLATE}').read()"
    lines += [
        "    turns = [{'role': 'user', 'content': question}]",
        f"    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True{template})",
        "",
        "def tokens(text):",
        "    ids = tokenizer(text, add_special_tokens=False).input_ids",
        "    added = tokenizer('a').input_ids[:1]",
        "    begins = added == [tokenizer.bos_token_id] and ids[:1] != added  # a template may write it itself",
        "    return added + ids if begins else ids",
    ]
    return [*lines, ""]


def _writing(most: int, ends: list[int], *, both_sides: bool) -> list[str]:
    own = "written[0, 1:]" if both_sides else "written[0, len(ids):]"
    return [
        "def answer(text, text_pair=''):",
        "    ids = tokens(prompt_of(text, text_pair))",
        f"    options = dict(do_sample=False, max_new_tokens={most}, eos_token_id={ends})",
        "    with torch.no_grad():",
        "        written = model.generate(torch.tensor([ids]), pad_token_id=tokenizer.pad_token_id, **options)",
        f"    said = tokenizer.decode({own}, skip_special_tokens=True).strip()",
        "    return said.split('\\n')[0].strip()",
        "",
        f"{_SHOW}(answer('A text.', 'Another one.'))",
    ]


def _scoring(
    encoder: PromptEncoder, words: list[str], labels: list[str], normalization: str, *, both_sides: bool
) -> list[str]:
    end = encoder.end_ids if encoder.scores_end else []
    lead = "" if both_sides else encoder.renderer.lead
    answers = dict(zip(labels, [lead + word for word in words], strict=True))
    sizes = {"none": "1", "tokens": "len(own)", "characters": f"len(answer) - {len(lead)}"}[normalization]
    lines = [
        f"ANSWERS = {answers!r}  # as they follow the prompt",
        f"END = {end!r}",
        "",
        "def scores(text, text_pair=''):",
    ]
    lines += ["    prompt = prompt_of(text, text_pair)"]
    if both_sides:
        lines += [
            "    ids, sums = torch.tensor([tokens(prompt)]), []",
            "    for answer in ANSWERS.values():",
            "        own = tokenizer(answer, add_special_tokens=False).input_ids + END",
            "        with torch.no_grad():",
            "            rows = model(input_ids=ids, labels=torch.tensor([own])).logits[0].double().log_softmax(-1)",
            f"        sums.append(sum(float(rows[place, token]) for place, token in enumerate(own)) / ({sizes}))",
        ]
    else:
        lines += [
            "    start, whole = tokens(prompt), {name: tokens(prompt + answer) for name, answer in ANSWERS.items()}",
            "    # Tokens may join prompt and answer: all answers are scored from the first token that is not common.",
            "    alike = [len(set(row)) == 1 for row in zip(start, *whole.values())]",
            "    shared = alike.index(False) if False in alike else len(start)",
            "    sums = []",
            "    for name, answer in ANSWERS.items():",
            "        ids, own = whole[name] + END, whole[name][shared:] + END",
            "        with torch.no_grad():",
            "            rows = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)",
            "        places = range(shared, len(ids))",
            f"        sums.append(sum(float(rows[place - 1, ids[place]]) for place in places) / ({sizes}))",
        ]
    lines += [
        "    return dict(zip(ANSWERS, torch.tensor(sums).softmax(0).tolist()))",
        "",
        f"{_SHOW}(scores('A text.', 'Another one.'))",
    ]
    return lines


def code_blocks(page: str) -> list[str]:
    """Return the Python of a README, in order."""
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)
