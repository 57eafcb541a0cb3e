"""Not a test: in a fresh process, with nothing but transformers, peft and safetensors, scores texts with saved models.

Argument: a JSON file with {"run folder": [texts]}; prints {"run folder": [[probabilities]]}. Imports nothing of bench.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file


def load(folder, description):
    names = {
        "id2label": dict(enumerate(description["labels"])),
        "label2id": {name: index for index, name in enumerate(description["labels"])},
    }
    family = transformers.AutoModelForSequenceClassification
    if description["objective"] == "text":
        written = description["model_card"]["family"]
        classes = {"decoder": "AutoModelForCausalLM", "encoder_decoder": "AutoModelForSeq2SeqLM"}
        names, family = {}, getattr(transformers, classes[written])
    if description["pooling"] is not None:
        return transformers.AutoModel.from_pretrained(folder)
    if not (folder / "adapter_config.json").exists():
        return family.from_pretrained(folder)
    import peft

    extra = {}
    if description["quantization"]:
        settings = {**description["quantization"], "llm_int8_skip_modules": description["unquantized"]}
        extra = {"quantization_config": transformers.BitsAndBytesConfig(**settings)}
    model = peft.PeftModel.from_pretrained(family.from_pretrained(folder / "base", **names, **extra), folder)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # bitsandbytes computes in bfloat16 on such a processor, whatever compute type was asked for.
            module.support_avx512bf16_for_cpu = False
    return model


def answer_probabilities(model, tokenizer, description, text):
    """The prompt by hand, and each answer behind it by one plain forward."""
    prompt = description["prompt"]
    asked = f"{prompt['instruction']}\n\n{prompt['template'].replace('{text}', text)}"
    context = tokenizer(asked)["input_ids"]
    found = []
    for label in description["labels"]:
        if description["model_card"]["family"] == "encoder_decoder":
            ids = tokenizer(label, add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([context]), labels=torch.tensor([ids])).logits[0]
            found.append(logits.float().log_softmax(-1)[range(len(ids)), ids].sum())
            continue
        ids = tokenizer(f"{asked} {label}")["input_ids"]
        assert ids[: len(context)] == context
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
        found.append(sum(logits[place - 1, ids[place]] for place in range(len(context), len(ids))))
    return torch.stack(found).softmax(-1).tolist()


def probabilities(folder, texts):
    description = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = load(folder, description).eval()
    rows = []
    for text in texts:
        if description["objective"] == "text":
            rows.append(answer_probabilities(model, tokenizer, description, text))
            continue
        inputs = tokenizer(text, truncation=True, max_length=description["max_length"], return_tensors="pt")
        with torch.no_grad():
            output = model(**inputs)
        if description["pooling"] is not None:
            head = load_file(folder / "probe.safetensors")
            hidden = output.last_hidden_state[0]
            features = hidden[0] if description["pooling"] == "first" else hidden.mean(0)
            logits = head["weight"] @ features + head["bias"]
        else:
            logits = output.logits[0]
        rows.append((logits.sigmoid() if description["multi_label"] else logits.softmax(-1)).tolist())
    return rows


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    answers = {folder: probabilities(Path(folder) / "model", texts) for folder, texts in asked.items()}
    assert not any(name == "bench" or name.startswith("bench.") for name in sys.modules)
    print(json.dumps(answers))
