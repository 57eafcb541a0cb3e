"""A small server that speaks the OpenAI completions API as vLLM does, over a real model of transformers."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
import transformers


class Served:
    """A folder that `transformers` loads, behind HTTP. faults: what this server does otherwise than vLLM.

    "no tokenize", "no logprobs", "other tokens" (a tokenizer that reads other ones), "other template", "no token ids",
    "short context" (answers of at most two tokens), "own stop" (a stop text), "gives up", "fewer choices", "cuts
    prompts", "hangs", "no JSON", "an error", "odd form", "near" (log-probabilities half a nat off).
    """

    def __init__(self, folder, name="tiny", faults=()):
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        self.name, self.faults, self.lock = name, set(faults), threading.Lock()
        self.paths, self.released = [], threading.Event()

    def answer(self, path, content):
        """Return status and body."""
        self.paths.append(path)
        if path == "/version":
            return 200, {"version": "0.0.test"}
        if path == "/v1/completions" and "hangs" in self.faults:
            self.released.wait(20)
        if path == "/v1/completions" and "an error" in self.faults:
            return 500, {"error": {"message": "the engine is dead"}}
        if path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": self.name, "object": "model"}]}
        if content.get("model") != self.name:
            return 404, {"error": {"message": f"The model `{content.get('model')}` does not exist."}}
        if path == "/tokenize" and "no tokenize" not in self.faults:
            tokens = self.tokens(content)
            return 200, {"count": len(tokens), "max_model_len": 128, "tokens": tokens}
        if path == "/v1/chat/completions":
            return 200, {"choices": [], "usage": {"prompt_tokens": len(self.tokens(content))}}
        if path == "/v1/completions":
            return 200, self.completed(content)
        return 404, {"detail": "Not Found"}

    def tokens(self, content):
        if "messages" in content:
            template = "{{ messages[0].content }}" if "other template" in self.faults else None
            text = self.tokenizer.apply_chat_template(
                content["messages"], tokenize=False, add_generation_prompt=True, chat_template=template
            )
            content = {"prompt": text, "add_special_tokens": False}
        ids = self.tokenizer(content["prompt"], add_special_tokens=content.get("add_special_tokens", True))["input_ids"]
        return [*ids, 1] if "other tokens" in self.faults else ids

    def completed(self, content):
        prompts = content["prompt"]
        if isinstance(prompts, str):
            prompts = [self.tokens({"prompt": prompts})]
        elif isinstance(prompts[0], int):
            prompts = [prompts]
        if content.get("return_tokens_as_token_ids"):
            choices = [self.written(index, ids, content) for index, ids in enumerate(prompts)]
        else:
            choices = [self.choice(index, ids, content) for index, ids in enumerate(prompts)]
        choices = choices[1:] if "fewer choices" in self.faults else choices
        if "cuts prompts" in self.faults:
            prompts = [ids[1:] for ids in prompts]
        return {"object": "text_completion", "model": self.name, "choices": choices,
                "usage": {"prompt_tokens": sum(map(len, prompts)), "completion_tokens": len(prompts)}}  # fmt: skip

    def choice(self, index, ids, content):
        choice = {"index": index, "text": "", "finish_reason": "length", "logprobs": None}
        if content.get("echo") and content.get("logprobs") and "no logprobs" not in self.faults:
            with self.lock, torch.no_grad():
                values = self.model(torch.tensor([ids])).logits[0].log_softmax(-1)
            far = 0.5 * ("near" in self.faults)
            own = [None, *(float(values[place, token]) - far for place, token in enumerate(ids[1:]))]
            best = [None, *({str(int(row.argmax())): float(row.max())} for row in values[:-1])]
            last = float(values[-1].max())
            choice["logprobs"] = {"token_logprobs": [*own, last], "top_logprobs": [*best, {"x": last}], "tokens": []}
            if "odd form" in self.faults:
                choice["logprobs"] = [own]
        return choice

    def written(self, index, ids, content):
        """Write greedily, as vLLM does with these parameters: the end token is among the tokens."""
        asked = {name: content[name] for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")}
        assert asked == {"temperature": 0, "top_p": 1, "top_k": -1, "min_p": 0, "repetition_penalty": 1}
        assert content["ignore_eos"]
        limit = 2 if "short context" in self.faults else content["max_tokens"]
        tokens = greedy(self.model, ids, set(content["stop_token_ids"]), limit, self.lock)
        stopped = bool(tokens) and tokens[-1] in content["stop_token_ids"]
        choice = {"index": index, "text": "", "finish_reason": "stop" if stopped else "length", "stop_reason": None}
        choice["stop_reason"] = tokens[-1] if stopped else None
        if "own stop" in self.faults:
            choice |= {"finish_reason": "stop", "stop_reason": "###"}
            tokens = [token for token in tokens if token not in content["stop_token_ids"]]
        if "gives up" in self.faults:
            choice["finish_reason"] = "abort"
        names = [str(token) if "no token ids" in self.faults else f"token_id:{token}" for token in tokens]
        return choice | {"logprobs": {"tokens": names, "token_logprobs": [0.0] * len(tokens), "top_logprobs": None}}


def greedy(model, ids, ends, limit, lock=None):
    """Return new tokens, one forward of the whole text for each, with the end token."""
    tokens = []
    with lock or contextlib.nullcontext(), torch.no_grad():
        while len(tokens) < limit and not (tokens and tokens[-1] in ends):
            tokens.append(int(model(torch.tensor([[*ids, *tokens]])).logits[0, -1].argmax()))
    return tokens


@contextlib.contextmanager
def serving(served):
    """Serve on a free port of this machine; gives the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply({})

        def do_POST(self):
            self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def reply(self, content):
            status, body = served.answer(self.path, content)
            data = b"<html>" if "no JSON" in served.faults else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 64  # of connections that wait: clients ask several things at a time

    served.released.clear()
    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        served.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
