"""Headless Chromium, driven through its debugging pipe: messages in JSON, each followed by a zero byte."""

import fcntl
import json
import os
import select
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

ANSWER_S = 60.0  # until a message
NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--mute-audio")


def chromium_path() -> str | None:
    """The program, if the machine has it and bash, which hands it the pipes."""
    return next(filter(None, map(shutil.which, NAMES)), None) if shutil.which("bash") else None


class Chromium:
    """One page in a browser of its own, as a context manager."""

    def __init__(self, profile: Path) -> None:
        program = chromium_path()
        assert program is not None
        (near_in, self._out), (self._in, near_out) = os.pipe(), os.pipe()
        theirs_in, theirs_out = (fcntl.fcntl(near, fcntl.F_DUPFD, 10) for near in (near_in, near_out))  # not 3 or 4
        script = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        options = [*OPTIONS, f"--user-data-dir={profile}", "--remote-debugging-pipe"]
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", program, *options],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for descriptor in (near_in, near_out, theirs_in, theirs_out):
            os.close(descriptor)
        self._rest, self._id, self._session = b"", 0, ""
        self.blocked: list[str] = []  # what the browser logged: refused by the policy, not found, failed
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def open(self, url: str) -> None:
        """Open a page and wait until it is loaded."""
        self._call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page; a promise is awaited."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = 30.0) -> None:
        """Wait in the page until a JavaScript condition is true."""
        poll = f"""new Promise((resolve) => {{
          const end = Date.now() + {1000 * seconds};
          const look = () => ({condition}) ? resolve(true) : Date.now() > end ? resolve(false) : setTimeout(look, 20);
          look();
        }})"""
        assert self.run(poll), condition

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._id += 1
        message = {"id": self._id, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._id:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            if answer.get("method") == "Log.entryAdded":
                self.blocked.append(answer["params"]["entry"]["text"])

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._in], [], [], ANSWER_S)[0], "the browser does not answer"
            data = os.read(self._in, 1 << 16)
            assert data, "the browser has ended"
            self._rest += data
        text, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message

    def __enter__(self) -> "Chromium":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._out)  # which ends the browser
        with suppress(subprocess.TimeoutExpired):  # on a busy machine it may need longer
            self._process.wait(10)
        self._process.kill()
        self._process.wait()
        os.close(self._in)
