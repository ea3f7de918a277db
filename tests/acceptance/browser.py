"""A real Chromium, spoken to over its DevTools protocol, and the sites that it visits."""

import fcntl
import http.server
import json
import os
import select
import shutil
import subprocess
import tempfile
import threading
import time
from collections import deque
from urllib.parse import urlsplit

from support import PATIENCE, TARGET

# Chromium reads commands from descriptor 3, and writes answers and events to descriptor 4.
PIPES = 'exec "$@" 3<&"$COMMANDS" 4>&"$EVENTS"'
# Reports of a page that does not stop.
MOST_REPORTS = 50
# A name that leads to this machine, as an attacker's may.
REBOUND = "rebound.test"


class Browser:
    """Chromium without a window and with an empty profile."""

    def __init__(self):
        program = os.environ.get("JOBTRACK_TEST_CHROMIUM") or shutil.which("chromium")
        if program is None:
            raise AssertionError("chromium is missing, so PAGES ARE NOT TESTED; tests/run.sh installs it")
        self._folder = tempfile.TemporaryDirectory(prefix="chromium-", dir=TARGET, ignore_cleanup_errors=True)
        self._log = tempfile.TemporaryFile("w+")
        theirs, self._commands = os.pipe()
        self._events, their_events = os.pipe()
        # Not 3 or 4, so that the shell can put them there.
        given = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs, their_events)]
        command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        # Certificates of the tests are of no authority that it knows.
        command += ["--ignore-certificate-errors"]
        command += ["--no-first-run", "--disable-background-networking", "--disable-component-update"]
        command += [f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1", f"--user-data-dir={self._folder.name}"]
        command += ["--remote-debugging-pipe", "about:blank"]
        self.process = subprocess.Popen(
            ["bash", "-c", PIPES, "bash", *command],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=os.environ | {"COMMANDS": str(given[0]), "EVENTS": str(given[1])},
            pass_fds=given,
        )
        for end in (theirs, their_events, *given):
            os.close(end)
        self._received = b""
        self._answers = {}
        self._pages = {}
        self._last = 0

    def open(self):
        """Opens a page that is blank so far."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._pages[session] = Page(self, session, target)
        return self._pages[session]

    def call(self, method, session=None, **parameters):
        """Sends a command and returns its answer."""
        self._last += 1
        number = self._last
        command = {"id": number, "method": method, "params": parameters}
        if session is not None:
            command["sessionId"] = session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        self.wait(lambda: number in self._answers, method)
        answer = self._answers.pop(number)
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        return answer["result"]

    def wait(self, condition, purpose):
        """Reads what Chromium says until the condition holds."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            self._receive(deadline, purpose)

    def _receive(self, deadline, purpose):
        ready, _, _ = select.select([self._events], [], [], max(0, deadline - time.monotonic()))
        part = os.read(self._events, 1 << 16) if ready else b""
        if not part:
            state = "has ended" if ready else "says nothing more"
            self._log.seek(0)
            raise AssertionError(f"Chromium {state}, waiting for {purpose}; its log:\n{self._log.read()}")
        *whole, self._received = (self._received + part).split(b"\0")
        for message in map(json.loads, whole):
            if "id" in message:
                self._answers[message["id"]] = message
            elif (page := self._pages.get(message.get("sessionId"))) is not None:
                page.happened(message["method"], message["params"])

    def close(self):
        """Ends it and deletes its profile."""
        try:
            if self.process.poll() is None:
                self.call("Browser.close")
                self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self._commands)
            os.close(self._events)
            self._log.close()
            self._folder.cleanup()


class Page:
    """A page, which says by `report(…)` what happens in it."""

    def __init__(self, browser, session, target):
        self._browser, self._session, self._target = browser, session, target
        self._reports = deque()
        self._requests = {}
        self.errors = []
        for domain in ("Page", "Runtime", "Network"):
            self._call(f"{domain}.enable")
        self._call("Runtime.addBinding", name="reported")
        self.before("globalThis.report = (...what) => reported(JSON.stringify(what));")

    def _call(self, method, **parameters):
        return self._browser.call(method, self._session, **parameters)

    def before(self, script):
        """Runs a script in each document before those of the document."""
        self._call("Page.addScriptToEvaluateOnNewDocument", source=script)

    def visit(self, address):
        """Goes to an address. Returns when the answer has begun."""
        answer = self._call("Page.navigate", url=address)
        if "errorText" in answer:
            raise AssertionError(f"{address}: {answer['errorText']}")

    def evaluate(self, script):
        """Runs a script, whose value may be a promise, and returns its value."""
        answer = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def next(self):
        """Waits for the next report and returns it, a list."""
        self._browser.wait(lambda: self._reports, f"a report; errors: {self.errors}")
        return self._reports.popleft()

    def until(self, *last):
        """Returns the reports up to the last of these, each a tuple, for which it waits."""
        awaited, reports = list(map(list, last)), []
        while awaited:
            report = self.next()
            reports.append(report)
            if report in awaited:
                awaited.remove(report)
            if len(reports) == MOST_REPORTS:
                raise AssertionError(f"these do not come: {awaited}, but {reports}")
        return reports

    def protocols(self, address):
        """The protocols of the answers to requests for addresses that begin so: http/1.1, h2."""
        return {
            request["protocol"]
            for request in self._requests.values()
            if request["url"].startswith(address) and request["status"]
        }

    def streams(self):
        """The statuses of the answers to requests of EventSource, by address; None: there was none."""
        found = {}
        for request in self._requests.values():
            if request["type"] == "EventSource":
                found.setdefault(request["url"], []).append(request["status"])
        return found

    def happened(self, method, event):
        """Remembers an event of Chromium."""
        match method:
            case "Runtime.bindingCalled":
                self._reports.append(json.loads(event["payload"]))
            case "Runtime.exceptionThrown":
                self.errors.append(event["exceptionDetails"])
            case "Network.requestWillBeSent":
                request = {"url": event["request"]["url"], "type": event["type"], "status": None}
                self._requests[event["requestId"]] = request
            case "Network.responseReceived":
                answer = event["response"]
                self._requests[event["requestId"]] |= {"status": answer["status"], "protocol": answer.get("protocol")}

    def close(self):
        self._browser.call("Target.closeTarget", targetId=self._target)


class Site:
    """A site with an origin of its own. `files` are read at each request: path to content type and bytes."""

    def __init__(self):
        self.files = {}
        # Of Node's packages only, so that pages can import them.
        self.packages = TARGET / "node" / "node_modules"
        site = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self):
                path = urlsplit(self.path).path
                if path not in site.files:
                    return super().do_GET()
                kind, body = site.files[path]
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        def handler(*arguments):
            return Handler(*arguments, directory=str(self.packages))

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def add(self, path, text, kind="text/html; charset=utf-8"):
        """Adds a file, and returns its address."""
        self.files[path] = kind, text if isinstance(text, bytes) else text.encode()
        return self.origin + path

    def close(self):
        self._server.shutdown()
        self._server.server_close()
