"""A stand-in for vLLM's server: same command line and routes, no model. Token t of an answer is the last of the prompt
plus t. What it is asked for and how it is to fail are files in the folder `FAKE_VLLM`.
"""

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer

NOTES = Path(os.environ.get("FAKE_VLLM", "."))
DIE, STALL, REFUSE = 100, 101, 102  # first token of a prompt that makes it end, stand still, refuse
SLOW, SLOW_S = 103, 0.05


def note(name, value):
    with open(NOTES / name, "a") as file:
        file.write(f"{value}\n")


class Handler(BaseHTTPRequestHandler):
    num_steps = 0

    def do_GET(self):
        labels = '{engine="0",model_name="base"}'
        cache = 'vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="100"} 1.0'
        lines = [
            f"vllm:iteration_tokens_total_count{labels} {self.num_steps}.0",
            f"vllm:generation_tokens_total{labels} {self.num_steps}.0",
            f"vllm:kv_cache_usage_perc{labels} 0.25",
            cache,
        ]
        self.answer(200, "\n".join(lines) + "\n")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {os.environ['VLLM_API_KEY']}":
            return self.answer(401, "{}")
        if self.path != "/v1/completions":
            note(self.path.rpartition("/")[2], body["lora_name"])
            return self.answer(200, "ok")
        note("requests", json.dumps(body))
        if body["prompt"][0] == REFUSE:
            error = {"message": "the request is not to its taste", "code": 400}
            return self.answer(400, json.dumps({"error": error}))
        return self.stream(body)

    def stream(self, body):
        self.send_response(200)
        self.end_headers()
        for index in range(body["max_tokens"]):
            if index == 1 and body["prompt"][0] == DIE:
                os._exit(7)
            if index == 1 and body["prompt"][0] == STALL:
                time.sleep(60)
            if body["prompt"][0] == SLOW:
                time.sleep(SLOW_S)
            Handler.num_steps += 1
            reason = "length" if index == body["max_tokens"] - 1 else None
            choice = {"token_ids": [body["prompt"][-1] + index], "finish_reason": reason, "text": ""}
            self.wfile.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def answer(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def address_string(self):
        return "unix"

    def log_message(self, *_):
        pass


class Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


if __name__ == "__main__":
    note("pids", os.getpid())
    (NOTES / "environment").write_text(json.dumps(dict(os.environ)))
    (NOTES / "command").write_text(json.dumps(sys.argv))
    if (NOTES / "broken").exists():
        sys.exit("no memory for a single block")
    if (NOTES / "slow").exists():
        print("still loading", flush=True)
        time.sleep(60)
    with Server(sys.argv[sys.argv.index("--uds") + 1], Handler) as server:
        server.serve_forever()
