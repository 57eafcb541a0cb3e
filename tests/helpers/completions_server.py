"""A small server that speaks the OpenAI completions API as vLLM does, over a real model of transformers."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
import transformers


class Served:
    """A folder that `transformers` loads, behind HTTP. faults: what this server does otherwise than vLLM.

    "no tokenize", "no logprobs", "other tokens" (a tokenizer that reads other ones), "other template".
    """

    def __init__(self, folder, name="tiny", faults=()):
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        self.name, self.faults, self.lock = name, set(faults), threading.Lock()
        self.paths = []

    def answer(self, path, content):
        """Return status and body."""
        self.paths.append(path)
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
        choices = [self.choice(index, ids, content) for index, ids in enumerate(prompts)]
        return {"object": "text_completion", "model": self.name, "choices": choices,
                "usage": {"prompt_tokens": sum(map(len, prompts)), "completion_tokens": len(prompts)}}  # fmt: skip

    def choice(self, index, ids, content):
        choice = {"index": index, "text": "", "finish_reason": "length", "logprobs": None}
        if content.get("echo") and content.get("logprobs") and "no logprobs" not in self.faults:
            with self.lock, torch.no_grad():
                values = self.model(torch.tensor([ids])).logits[0].log_softmax(-1)
            own = [None, *(float(values[place, token]) for place, token in enumerate(ids[1:]))]
            best = [None, *({str(int(row.argmax())): float(row.max())} for row in values[:-1])]
            last = float(values[-1].max())
            choice["logprobs"] = {"token_logprobs": [*own, last], "top_logprobs": [*best, {"x": last}], "tokens": []}
        return choice


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
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 64  # of connections that wait: clients ask several things at a time

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
