"""What `helm test` runs: the gateway is ready, asks for keys where it should, and answers."""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

WAIT_S = 60.0
GATEWAY = os.environ["GATEWAY"]
KEY_FILE = os.environ.get("API_KEY_FILE")
KEY = Path(KEY_FILE).read_text().strip() if KEY_FILE else ""
# The question is whether it answers; its certificate may name another host.
ANY_CERTIFICATE = ssl._create_unverified_context()


def ask(path, body=None):
    headers = {"content-type": "application/json"}
    if KEY:
        headers["authorization"] = f"Bearer {KEY}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(GATEWAY + path, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=30, context=ANY_CERTIFICATE) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def expect(wanted, path, body=None):
    deadline = time.monotonic() + WAIT_S
    while True:
        status, text = ask(path, body)
        if status == wanted:
            sys.stdout.write(f"{path}: {status} {text[:500].strip()}\n")
            return text
        if time.monotonic() > deadline:
            sys.exit(f"{path}: {status} {text[:500].strip()}, wanted {wanted}")
        time.sleep(1)


expect(200, "/ready")
if os.environ["AUTH"] == "existing":
    expect(401, "/v1/models")
else:
    expect(200, "/v1/models")
    if model := os.environ["MODEL"]:
        message = {"role": "user", "content": "Say hello."}
        question = {"model": model, "max_tokens": 16, "messages": [message]}
        answer = json.loads(expect(200, "/v1/chat/completions", question))
        if not answer["choices"][0]["message"]["content"]:
            sys.exit(f"an empty answer: {answer}")
