"""Chromium, driven through a pipe by its DevTools protocol: a page as its readers have it, with mouse, keyboard and console."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from host import require

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--remote-debugging-pipe",
]


class Browser:
    """One page; `messages` are those of its console, `requests` the addresses that it loaded."""

    def __init__(self, commands: int, answers: int) -> None:
        self.commands, self.answers = commands, answers
        self.number, self.session, self.received = 0, "", b""
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: object) -> Any:
        """Sends a command, and keeps the events that come before its answer."""
        self.number += 1
        session = {"sessionId": self.session} if self.session else {}
        command = {"id": self.number, "method": method, "params": parameters} | session
        os.write(self.commands, json.dumps(command).encode() + b"\0")
        while True:
            message = self.next()
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def next(self) -> dict[str, Any]:
        while b"\0" not in self.received:
            part = os.read(self.answers, 1 << 16)
            assert part, "the browser has ended"
            self.received += part
        text, _, self.received = self.received.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message

    def open(self, path: Path, width: int = 1200, height: int = 900) -> None:
        """Loads a file, to its end."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.events.clear()
        self.ask("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self.next())

    def evaluate(self, expression: str) -> Any:
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def prefer(self, scheme: str, media: str = "") -> None:
        """Asks for light or dark colours, on a screen or on paper."""
        self.ask(
            "Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}]
        )

    def move(self, x: float, y: float) -> None:
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, text: str = "") -> None:
        self.ask("Input.dispatchKeyEvent", type="keyDown", key=key, text=text)
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=key)

    @property
    def messages(self) -> list[dict[str, Any]]:
        self.evaluate("0")
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [event for event in self.events if event["method"] in kinds]

    @property
    def requests(self) -> list[str]:
        return [
            event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"
        ]


@contextmanager
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    require(program, "there is no chromium")
    theirs, commands = os.pipe()
    answers, written = os.pipe()
    with TemporaryDirectory() as profile:
        # The protocol wants these two numbers.
        line = f'exec "$@" 3<&{theirs} 4>&{written}'
        command = ["bash", "-c", line, "bash", str(program), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(
            command, pass_fds=(theirs, written), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(theirs)
        os.close(written)
        try:
            made = Browser(commands, answers)
            yield made
            made.session = ""
            made.ask("Browser.close")
            process.wait(30)
        finally:
            process.kill()
            process.wait()
            os.close(commands)
            os.close(answers)
