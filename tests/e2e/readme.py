"""Do the README's commands work, word for word? `python tests/e2e/readme.py [README.md]`.

Runs, in order, every line `$ ...` of its ```console blocks:
- `make up` stays up behind the commands after it and is stopped by Ctrl-C at the end;
- a command under which the README shows `^C` gets Ctrl-C after a while and must end with status 0;
- one under which the README shows output must print something;
- `. .venv/bin/activate` and `export` hold for the commands that follow.
Not run: what is for a machine with Docker, and what the checks run anyway.
"""

# ruff: noqa: T201

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ELSEWHERE = re.compile(r"(git clone|cd |docker |sudo |make (test|check|e2e-compose|bench)\b)")
STATE = re.compile(r"(\. |source |export )")
AUDIENCE_SECONDS, LIMIT_SECONDS, UP_SECONDS = 20, 600, 300


@dataclass
class Command:
    """A command of the README and the output shown under it."""

    text: str
    shown: str = ""

    @property
    def interrupted(self) -> bool:
        """Whether the README shows that one stops it with Ctrl-C."""
        return "^C" in self.shown


def commands(text: str) -> list[Command]:
    """The commands of the console blocks."""
    found: list[Command] = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                found.append(Command(line[2:].split("  # ")[0].strip()))
            elif found and line.strip():
                found[-1].shown += line + "\n"
    return found


def start(text: str, before: list[str], output: int | None) -> subprocess.Popen[str]:
    """Start it in a shell and a process group of its own."""
    script = "\n".join((*before, text))
    return subprocess.Popen(
        ["bash", "-c", script], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, text=True, start_new_session=True
    )


def interrupt(child: subprocess.Popen[str]) -> int:
    """Ctrl-C; gives the status."""
    os.killpg(child.pid, signal.SIGINT)
    return child.wait(30)


def check(command: Command, before: list[str]) -> str | None:
    """Run it; gives what is wrong, or None."""
    child = start(command.text, before, subprocess.PIPE)
    try:
        said, _ = child.communicate(timeout=AUDIENCE_SECONDS if command.interrupted else LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGINT)
        said, _ = child.communicate(timeout=30)
        if not command.interrupted:
            return f"not done after {LIMIT_SECONDS} s"
    print(said, end="")
    if child.returncode != 0:
        return f"status {child.returncode}"
    return "the README shows output, but there was none" if command.shown.strip() and not said.strip() else None


def bring_up(before: list[str]) -> subprocess.Popen[str]:
    """`make up`, once everything is up."""
    log = ROOT / "var" / "readme-up.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("w") as output:
        child = start("make up", before, output.fileno())
    deadline = time.monotonic() + UP_SECONDS
    while "Everything is up" not in log.read_text():
        if child.poll() is not None or time.monotonic() > deadline:
            print(log.read_text())
            if child.poll() is None:
                interrupt(child)
            sys.exit("error: `make up` did not come up")
        time.sleep(0.2)
    return child


def main() -> None:
    """Check the README."""
    readme = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "README.md"
    found = commands(readme.read_text())
    before: list[str] = []
    wrong: list[str] = []
    up = None
    try:
        for command in found:
            began = time.monotonic()
            if ELSEWHERE.match(command.text):
                print(f"-- not run here: {command.text}")
                continue
            if command.text.startswith("redis-cli") and not shutil.which("redis-cli"):
                print(f"-- not run, there is no redis-cli: {command.text}")
                continue
            print(f"== {command.text}", flush=True)
            if STATE.match(command.text):
                before.append(command.text)
            elif command.text == "make up":
                up = bring_up(before)
            elif problem := check(command, before):
                wrong.append(f"{command.text}: {problem}")
            print(f"   ({time.monotonic() - began:.0f} s)", flush=True)
    finally:
        if up is not None and interrupt(up) not in (0, 130, -signal.SIGINT):  # make passes Ctrl-C on to its own status
            wrong.append("make up: did not stop well")
    if up is not None and "Everything is stopped." not in (ROOT / "var" / "readme-up.log").read_text():
        wrong.append("make up: did not say that it stopped")
    if not found or wrong:
        sys.exit("error: README: " + ("; ".join(wrong) or "no commands found"))
    print(f"README: {len(found)} commands, all well")


if __name__ == "__main__":
    main()
