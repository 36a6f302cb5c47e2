"""The output folder of a measurement, the processes that it runs, and the time that is left.

Rows are JSON lines, one object each, with a `kind`; table.py says which there are. They are written as they come, so that a
measurement that is stopped leaves what it has.
"""
import json
import os
import signal
import subprocess
import tempfile
import threading
import time

# what of a process's messages is kept
LOG_BYTES = 200_000


class Recorder:
    """The output folder, and the time that is left."""

    def __init__(self, out, seconds, page):
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.rows, self.page, self.mutex = out, [], page, threading.Lock()
        self.deadline = time.monotonic() + seconds
        for name in ("results.jsonl", "log.txt"):
            (out / name).write_text("")

    def left(self):
        return self.deadline - time.monotonic()

    def emit(self, **row):
        with self.mutex:
            self.rows.append(row)
            with open(self.out / "results.jsonl", "a") as file:
                file.write(json.dumps(row) + "\n")

    def tables(self):
        with self.mutex:
            (self.out / "table.md").write_text(self.page(self.rows), encoding="utf-8")

    def execute(self, step, what, command, limit, env):
        """Runs a process. Returns its exit status, None if it did not start or was stopped, and its output so far, None if
        no time was left to start it, which is then a line."""
        limit = min(limit, self.left())
        if limit < 5:
            self.emit(kind="skip", step=step, what=what, reason="no time is left")
            return None, None
        start = time.monotonic()
        code, outcome = None, ""
        # files, not pipes: what a stopped process has written stays readable
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as messages:
            try:
                # a session of its own, so that stopping it stops its helpers as well
                child = subprocess.Popen([str(c) for c in command], stdout=output, stderr=messages, env=env,
                                         stdin=subprocess.DEVNULL, start_new_session=True)
            except OSError as error:
                outcome = str(error)
            else:
                try:
                    code = child.wait(timeout=limit)
                    outcome = "done" if code == 0 else f"exit status {code}"
                except subprocess.TimeoutExpired:
                    outcome = f"stopped after {limit:.0f} s"
                finally:
                    if child.poll() is None:
                        os.killpg(child.pid, signal.SIGKILL)
                        child.wait()
            output.seek(0)
            messages.seek(0)
            text = output.read().decode(errors="replace")
            log = messages.read()[-LOG_BYTES:].decode(errors="replace")
        seconds = time.monotonic() - start
        self.emit(kind="step", step=step, what=what, seconds=round(seconds, 1), outcome=outcome)
        with self.mutex, open(self.out / "log.txt", "a", encoding="utf-8") as file:
            file.write(f"== {step} {what}: {outcome}, {seconds:.1f} s\n$ {' '.join(map(str, command))}\n{log}\n")
        last = "" if code == 0 else "".join(f"\n    {line}" for line in log.strip().splitlines()[-3:])
        # one write, as steps may run processes at the same time
        print(f"{step:10} {what:32} {seconds:6.1f} s  {outcome}{last}\n", end="", flush=True)
        return code, text
