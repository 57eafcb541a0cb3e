"""Each fast path against the plain one, on the device that there is.

    python -m scripts.gpu_checks.correctness KIND [bf16|fp16] [--small]

The measure is the plain path in float32: a fast path in 16 bits may be twice as far from it as the plain path in the
same precision. A path that a family does not take, with its reason, is a row and no failure: nothing is compared there.
The last line is JSON.
"""

import argparse
import contextlib
import copy
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from bench.evaluation import likelihood
from bench.evaluation.generation import Generator
from bench.evaluation.generation import plain as generate_alone
from bench.models.kernels import answer_only_loss, packed_attention, padding_free
from bench.models.losses import summed_loss
from scripts.gpu_checks import stub

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Times the plain path's own error; and an error that is nothing, in float32.
TIMES, NOTHING = 2.0, 1e-5
# Of a loss, a single number, whose own error may be anything below the last bit of 16.
LOSS = 2e-3
# Of answers in 16 bits, the share that may differ: a near tie falls the other way by the last bit.
OTHER_ANSWERS = 0.2
VOCABULARY = 2000
# Tokens of the texts of a batch: equal ones, very short ones, long ones beyond a sliding window.
LENGTHS = (200, 1, 7, 64, 64, 33, 200, 129)
WINDOW = 48
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
    "num_attention_heads": 4, "max_position_embeddings": 512,
}  # fmt: skip
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
GROUPED = {"num_key_value_heads": 2}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
LAYERS = ("sliding_attention", "full_attention")
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": NO_DROPOUT,
    "roberta": {**NO_DROPOUT, "max_position_embeddings": 514},
    "modernbert": {"local_attention": WINDOW, "global_attn_every_n_layers": 2},
    "distilbert": {},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "llama": GROUPED,
    "mistral": {**GROUPED, "sliding_window": WINDOW},
    "gemma2": {**GROUPED, "head_dim": 64, "sliding_window": WINDOW},
    "gemma3_text": {**GROUPED, "head_dim": 64, "sliding_window": WINDOW},
    "qwen3": {**GROUPED, "head_dim": 64},
}
# Names by which some families call the same sizes.
RENAMED = {
    "distilbert": {"hidden_size": "dim", "intermediate_size": "hidden_dim", "num_hidden_layers": "n_layers",
                   "num_attention_heads": "n_heads"},
    "gpt2": {"hidden_size": "n_embd", "intermediate_size": "n_inner", "num_hidden_layers": "n_layer",
             "num_attention_heads": "n_head", "max_position_embeddings": "n_positions"},
}  # fmt: skip
ENCODERS = ("bert", "roberta", "modernbert", "distilbert")
DECODERS = tuple(name for name in FAMILIES if name not in ENCODERS)


@dataclass(kw_only=True)
class Outcome:
    """Result of a worker, in its last line."""

    ok: bool
    columns: list[str]
    rows: list[list[Any]]
    notes: list[str]


def build(family: str, device: torch.device, small: bool) -> Any:
    """Return a model of random weights in float32, large enough for texts to get different answers."""
    settings = {**SIZES, **(SMALL if small else {}), **FAMILIES[family]}
    if "head_dim" in settings and small:
        settings["head_dim"] = 16
    if family.startswith("gemma"):
        settings["layer_types"] = [LAYERS[place % 2] for place in range(settings["num_hidden_layers"])]
        settings["query_pre_attn_scalar"] = settings["head_dim"]
    settings = {RENAMED.get(family, {}).get(name, name): value for name, value in settings.items()}
    torch.manual_seed(13)
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    config = transformers.AutoConfig.for_model(family, **settings, **tokens, initializer_range=0.05, use_cache=False)
    kind = transformers.AutoModelForMaskedLM if family in ENCODERS else transformers.AutoModelForCausalLM
    return kind.from_config(config, dtype=torch.float32).to(device).eval()


def texts(device: torch.device, small: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask [texts, tokens], padded on the right."""
    lengths = [max(1, length // 4) for length in LENGTHS] if small else list(LENGTHS)
    drawn = torch.Generator().manual_seed(13)
    ids = torch.randint(10, VOCABULARY, (len(lengths), max(lengths)), generator=drawn)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return (ids * mask).to(device), mask.long().to(device)


def autocast(device: torch.device, precision: str | None) -> Any:
    """Return the context of a precision; None is float32."""
    if precision is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


def error(found: torch.Tensor, reference: torch.Tensor) -> float:
    """Return the difference's norm, as a share of the reference's; infinite where it is not a number."""
    share = float((found.float() - reference.float()).norm() / reference.float().norm())
    return share if math.isfinite(share) else math.inf


def holds(plain: float, fast: float, nothing: float = NOTHING) -> bool:
    """Return whether a fast path's error is allowed beside the plain one's: two that are no numbers are not alike."""
    return math.isfinite(fast) and math.isfinite(plain) and fast <= TIMES * plain + nothing


@contextlib.contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Count, inside of the `with`, the calls of each kernel of attention without pads."""
    calls: dict[str, int] = {}
    kernel = packed_attention.PackedAttention
    own = {name: item for name, item in vars(kernel).items() if callable(item) and not name.startswith("_")}

    def _counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            out = function(*args, **options)
            if torch.is_tensor(out):  # what only asks is no kernel
                calls[name] = calls.get(name, 0) + 1
            return out

        return call

    try:
        for name, function in own.items():
            setattr(kernel, name, _counting(name, function))
        yield calls
    finally:
        for name, function in own.items():
            setattr(kernel, name, function)


# ---------------------------------------------------------------- kinds


def varlen(device: torch.device, _: str | None, small: bool) -> Outcome:
    """Compare torch's kernel for texts of any length with one call of SDPA for each text, in float32."""
    rows, ok = [], True
    if device.type != "cuda":
        return Outcome(ok=True, columns=[], rows=[], notes=["the kernel is there for CUDA alone"])
    from torch.nn.attention.varlen import varlen_attn

    lengths = [1, 7, 64, 33, 129] if small else [1, 7, 64, 33, 129, 511, 1024]
    ends = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32, device=device)
    for precision in DTYPES:
        for width, keys, causal, window in ((64, 4, True, None), (128, 2, True, None), (64, 4, False, None),
                                            (64, 2, True, 16), (256, 1, True, None)):  # fmt: skip
            label = [precision, width, f"4/{keys}", "yes" if causal else "no", window or "none"]
            try:
                plain, fast = _varlen(varlen_attn, ends, lengths, DTYPES[precision], width, keys, causal, window)
            except (RuntimeError, TypeError, ValueError) as problem:
                ok = False
                rows.append([*label, "", "", str(problem).splitlines()[0]])
                continue
            good = all(holds(one, two) for one, two in zip(plain, fast, strict=True))
            ok &= stub.holds(good)
            shown = [" / ".join(f"{value:.1e}" for value in values) for values in (plain, fast)]
            rows.append([*label, *shown, stub.word(good)])
    columns = ["precision", "head width", "heads", "causal", "window", "SDPA: output / gradient", "varlen", "result"]
    return Outcome(ok=ok, columns=columns, rows=rows, notes=[])


def _varlen(
    kernel: Any, ends: Any, lengths: list[int], dtype: torch.dtype, width: int, keys: int, causal: bool, window: Any
) -> tuple[list[float], list[float]]:
    """Return errors (output, gradient of the queries) of SDPA in this type, and of the kernel."""
    drawn = torch.Generator(device=ends.device).manual_seed(13)
    total = sum(lengths)
    query, key, value, direction = (
        torch.randn(total, heads, width, generator=drawn, device=ends.device) for heads in (4, keys, keys, 4)
    )

    def by_text(query: Any, key: Any, value: Any) -> torch.Tensor:
        found = []
        for one, two, three in zip(*(part.split(lengths) for part in (query, key, value)), strict=True):
            places = torch.arange(one.shape[0], device=one.device)
            far = places[:, None] - places
            seen = (far >= 0) if causal else torch.ones_like(far, dtype=torch.bool)
            seen = seen if window is None else seen & (far < window)
            heads = [part.transpose(0, 1)[None] for part in (one, two, three)]
            out = torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=seen, enable_gqa=True)
            found.append(out[0].transpose(0, 1))
        return torch.cat(found)

    def by_kernel(query: Any, key: Any, value: Any) -> torch.Tensor:
        far = -1 if window is None else window - 1
        sides = (far, 0 if causal else far)
        longest = max(lengths)
        return kernel(query, key, value, ends, ends, longest, longest, scale=width**-0.5, window_size=sides,
                      enable_gqa=keys != 4)  # fmt: skip

    def _both(run: Any, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        given = [part.to(dtype).requires_grad_() for part in (query, key, value)]
        out = run(*given)
        (gradient,) = torch.autograd.grad((out.float() * direction).sum(), given[:1])
        return out.detach(), gradient

    reference, plain, fast = _both(by_text, torch.float32), _both(by_text, dtype), _both(by_kernel, dtype)
    return ([error(one, two) for one, two in zip(found, reference, strict=True)] for found in (plain, fast))  # type: ignore[return-value]


def padding_free_kind(device: torch.device, precision: str | None, small: bool) -> Outcome:
    """Compare hidden states and gradients of ten families without pads with the padded ones."""
    rows, ok = [], True
    for family in FAMILIES:
        model = build(family, device, small)
        reference, plain = _states(model, None, small), _states(model, precision, small)
        reason = padding_free.attach(model)
        if reason is not None:
            rows.append([family, "", "", "", f"runs padded: the model {reason}"])
            # A family that is known to run without pads has to.
            ok = False
            continue
        with counted() as calls:
            fast = _states(model, precision, small)
        errors = [[error(one, two) for one, two in zip(found, reference, strict=True)] for found in (plain, fast)]
        good = all(holds(one, two) for one, two in zip(*errors, strict=True))
        ok &= stub.holds(good)
        shown = [" / ".join(f"{value:.1e}" for value in values) for values in errors]
        kernels = ", ".join(f"{name} x {count}" for name, count in calls.items())
        rows.append([family, *shown, kernels, stub.word(good)])
        del model
    columns = ["family", "plain: hidden states / gradients", "padding-free", "kernels", "result"]
    return Outcome(ok=ok, columns=columns, rows=rows, notes=[])


def _states(model: Any, precision: str | None, small: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the hidden states of real tokens, and all gradients of a sum of them, each as one tensor."""
    device = next(model.parameters()).device
    ids, mask = texts(device, small)
    with autocast(device, precision):
        hidden = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
    real = hidden[mask.bool()]
    direction = torch.linspace(-1, 1, real.shape[-1], device=device)
    parameters = [one for one in model.base_model.parameters() if one.requires_grad]
    gradients = torch.autograd.grad((real.float() * direction).sum() / real.shape[0], parameters, allow_unused=True)
    flat = torch.cat([one.float().flatten() for one in gradients if one is not None])
    return real.detach(), flat


def answers(device: torch.device, precision: str | None, small: bool) -> Outcome:
    """Compare the loss on answers and its gradients with those of all logits."""
    rows, ok = [], True
    for family in DECODERS:
        model = build(family, device, small)
        reference, plain = _losses(model, None, small, False), _losses(model, precision, small, False)
        reason = answer_only_loss.attach(model)
        if reason is not None:
            ok = False
            rows.append([family, "", "", f"all logits: the model {reason}"])
            continue
        fast = _losses(model, precision, small, True)
        errors = [[error(one, two) for one, two in zip(found, reference, strict=True)] for found in (plain, fast)]
        (plain_loss, plain_gradients), (fast_loss, fast_gradients) = errors
        good = holds(plain_loss, fast_loss, LOSS) and holds(plain_gradients, fast_gradients)
        ok &= stub.holds(good)
        shown = [" / ".join(f"{value:.1e}" for value in values) for values in errors]
        rows.append([family, *shown, stub.word(good)])
    columns = ["family", "all logits: loss / gradients", "answers only", "result"]
    return Outcome(ok=ok, columns=columns, rows=rows, notes=[])


def _losses(model: Any, precision: str | None, small: bool, fast: bool) -> tuple[torch.Tensor, torch.Tensor]:
    device = next(model.parameters()).device
    ids, mask = texts(device, small)
    # The last tokens of a text are its answer.
    places = mask.sum(1, keepdim=True) - 1 - torch.arange(ids.shape[1], device=device)
    labels = torch.where((places >= 0) & (places < 4) & (mask.sum(1, keepdim=True) > 4), ids, -100)
    count = int((labels[:, 1:] != -100).sum())
    with autocast(device, precision):
        if fast:
            loss = model(input_ids=ids, attention_mask=mask, labels=labels, num_answers=count).loss
        else:
            logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
            wanted = labels[:, 1:]
            loss = summed_loss(logits[wanted != -100], wanted[wanted != -100])
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss / count, parameters, allow_unused=True)
    flat = torch.cat([one.float().flatten() for one in gradients if one is not None])
    return loss.detach() / count, flat


def prefix(device: torch.device, precision: str | None, small: bool) -> Outcome:
    """Compare log-likelihoods of labels behind a shared prefix with those of one row for each label."""
    rows, ok = [], True
    drawn = torch.Generator().manual_seed(13)
    shared = torch.randint(10, VOCABULARY, (30 if small else 150,), generator=drawn).tolist()
    items = []
    for length in (5, 9, 9, 30, 3, 17):
        own = torch.randint(10, VOCABULARY, (length,), generator=drawn).tolist()
        items.append(likelihood.Item(context=(*shared, *own), continuations=((11,), (12, 13), (12, 14))))
    for family in DECODERS:
        model = build(family, device, small)
        with torch.no_grad():
            reference = _sums([likelihood.plain(model, item) for item in items])
            with autocast(device, precision):
                plain = _sums([likelihood.plain(model, item) for item in items])
        scorer = likelihood.Scorer(
            model, items, pad_token_id=0, autocast=lambda: autocast(device, precision), checked=0
        )
        found: dict[int, likelihood.Answer] = {}
        for numbers in scorer.batches:
            found |= dict(zip(numbers, scorer.run(numbers), strict=True))
        fast = _sums([found[number] for number in range(len(items))])
        errors = error(plain, reference), error(fast, reference)
        good = holds(*errors)
        ok &= stub.holds(good)
        result = "; ".join(scorer.notes) or stub.word(good)
        rows.append([family, *(f"{value:.1e}" for value in errors), result])
    columns = ["family", "one by one", "shared prefix", "result"]
    return Outcome(ok=ok, columns=columns, rows=rows, notes=[])


def _sums(found: list[likelihood.Answer]) -> torch.Tensor:
    return torch.tensor([answer.sums for answer in found])


def generation(device: torch.device, precision: str | None, small: bool) -> Outcome:
    """Compare texts that are written for many prompts at once with those that transformers writes one by one."""
    rows, ok = [], True
    drawn = torch.Generator().manual_seed(13)
    shared = torch.randint(10, VOCABULARY, (20 if small else 100,), generator=drawn).tolist()
    prompts = [[*shared, *torch.randint(10, VOCABULARY, (length,), generator=drawn).tolist()]
               for length in (3, 40, 7, 7, 21, 12, 30, 5)]  # fmt: skip
    count = 4 if small else 16
    for family in DECODERS:
        model = build(family, device, small)
        settings = {"max_new_tokens": count, "pad_token_id": 0}
        # Tokens that some prompts are answered with end those answers early.
        free = [generate_alone(model, prompt, end_token_ids=set(), **settings).tokens for prompt in prompts[::2]]
        ends = {"end_token_ids": {answer[count // 2] for answer in free}, **settings}
        for kind in (None, precision):

            def within(kind: str | None = kind) -> Any:
                return autocast(device, kind)

            generator = Generator(model, prompts, **ends, autocast=within)
            found: dict[int, Any] = {}
            for numbers in generator.batches:
                found |= dict(zip(numbers, generator.run(numbers), strict=True))
            with torch.no_grad(), within():
                alone = [generate_alone(model, prompt, **ends).tokens for prompt in prompts]
            others = sum(found[number].tokens != tokens for number, tokens in enumerate(alone))
            good = others == 0 if kind is None else others <= OTHER_ANSWERS * len(prompts)
            ok &= stub.holds(good)
            result = "; ".join(generator.notes) or stub.word(good)
            rows.append([family, kind or "float32", f"{others} of {len(prompts)}", result])
    return Outcome(ok=ok, columns=["family", "precision", "other texts", "result"], rows=rows, notes=[])


def four_bit(device: torch.device, precision: str | None, small: bool) -> Outcome:
    """Compare 4-bit layers with the same weights in float32, and a 4-bit body without pads with the padded one."""
    from bitsandbytes import functional, nn

    assert precision is not None
    rows, ok = [], True
    for kind in ("nf4", "fp4"):
        for nested in (True, False):
            layer = nn.Linear4bit(256, 512, bias=False, compute_dtype=DTYPES[precision], quant_type=kind,
                                  compress_statistics=nested)  # fmt: skip
            torch.manual_seed(13)
            layer.weight = nn.Params4bit(torch.randn(512, 256), requires_grad=False, quant_type=kind,
                                         compress_statistics=nested)  # fmt: skip
            layer = layer.to(device)
            held = functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
            given = torch.randn(64, 256, device=device)
            reference = given @ held.T
            plain = given.to(DTYPES[precision]) @ held.T.to(DTYPES[precision])
            errors = error(plain, reference), error(layer(given.to(DTYPES[precision])), reference)
            good = holds(*errors)
            ok &= stub.holds(good)
            rows.append([f"layer, {kind}{', double' if nested else ''}", *(f"{value:.1e}" for value in errors),
                         stub.word(good)])  # fmt: skip
    model = build("llama", device, small)
    _quantize(model, precision)
    model.enable_input_require_grads()
    plain_states = _states_by_input(model, precision, small)
    reason = padding_free.attach(model)
    if reason is not None:
        return Outcome(ok=False, columns=[], rows=rows, notes=[f"a 4-bit body runs padded: the model {reason}"])
    fast_states = _states_by_input(model, precision, small)
    # Both are in 16 bits; there is no float32 of this body. Rounding of a few layers is some percent.
    apart = error(fast_states, plain_states)
    good = apart < 0.05
    ok &= stub.holds(good)
    rows.append(["body without pads against padded", "", f"{apart:.1e}", stub.word(good)])
    columns = ["what", "the same weights, plain", "4 bits", "result"]
    return Outcome(ok=ok, columns=columns, rows=rows, notes=[])


def _quantize(model: Any, precision: str) -> None:
    """Put the linear layers of a model's body into NF4."""
    from bitsandbytes import nn

    for module in list(model.base_model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Linear:
                held = nn.Linear4bit(child.in_features, child.out_features, bias=False, quant_type="nf4",
                                     compute_dtype=DTYPES[precision])  # fmt: skip
                held.weight = nn.Params4bit(child.weight.data.cpu(), requires_grad=False, quant_type="nf4")
                setattr(module, name, held.to(child.weight.device))


def _states_by_input(model: Any, precision: str, small: bool) -> torch.Tensor:
    device = next(model.parameters()).device
    ids, mask = texts(device, small)
    with torch.no_grad(), autocast(device, precision):
        return model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]


KINDS: dict[str, Callable[[torch.device, str | None, bool], Outcome]] = {
    "varlen": varlen, "padding-free": padding_free_kind, "answers": answers, "prefix": prefix,
    "generation": generation, "four-bit": four_bit,
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run one kind; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("precision", nargs="?", choices=DTYPES)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args(arguments)
    transformers.logging.set_verbosity_error()
    # TF32 in the reference would hide what 16 bits lose.
    torch.backends.cuda.matmul.allow_tf32 = False
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    stub.prepare(device)
    found = KINDS[options.kind](device, options.precision, options.small)
    print(json.dumps(copy.copy(found.__dict__)))
    return 0 if found.ok else 1


if __name__ == "__main__":
    sys.exit(main())
