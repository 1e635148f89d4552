"""Library tests: plain functions in files that both runtimes can import.

Each file is collected once, by reading it, and each function reported once for each runtime.
One process per file and runtime runs them; a test that crashes or hangs it fails alone, since
the next one finds a new process.
"""

import ast
import select
import subprocess
import time
from pathlib import Path

import pytest
from runtimes import ROOT, RUNTIMES, command, environment

RUNNER = Path(__file__).with_name("runner.py")
MARK = b"\x1e"
TIMEOUT = 30  # of one test


def pytest_pycollect_makemodule(module_path, parent):
    return LibraryFile.from_parent(parent, path=module_path)


class LibraryFile(pytest.File):
    def collect(self):
        heap, functions = "160k", []
        for node in ast.parse(self.path.read_text()).body:
            match node:
                case ast.FunctionDef(name=name) if name.startswith("test_"):
                    functions.append(node)
                case ast.Assign(targets=[ast.Name("HEAP")], value=ast.Constant(size)):
                    heap = size
        self.runners = []
        for runtime in RUNTIMES:
            runner = Runner(command(runtime, RUNNER, self.path.stem, heap=heap))
            self.runners.append(runner)
            for function in functions:
                yield LibraryTest.from_parent(
                    self, name=f"{function.name}[{runtime}]", function=function, runner=runner
                )

    def teardown(self):
        for runner in self.runners:
            runner.stop()


class LibraryTest(pytest.Item):
    def __init__(self, *, function, runner, **kwargs):
        super().__init__(**kwargs)
        self.function = function
        self.runner = runner

    def runtest(self):
        self.runner.run(self.function.name)

    def repr_failure(self, excinfo, style=None):
        if isinstance(excinfo.value, Failed):
            # The last line names the error: first, pytest's summary shows it too.
            output = str(excinfo.value).strip()
            return f"{output.splitlines()[-1]}\n\n{output}"
        return super().repr_failure(excinfo, style)

    def reportinfo(self):
        return self.path, self.function.lineno - 1, self.name


class Failed(Exception):
    pass


class Runner:
    def __init__(self, command):
        self.command = command
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            cwd=ROOT,
            env=environment(),
        )

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def run(self, name):
        if not self.process:
            self.start()
        self.process.stdin.write(name.encode() + b"\n")
        output, result = self.answer(time.monotonic() + TIMEOUT)
        if result != b"passed":
            raise Failed(output.decode(errors="replace"))

    def answer(self, deadline):
        stdout = self.process.stdout
        output = b""
        while select.select([stdout], [], [], max(0, deadline - time.monotonic()))[0]:
            chunk = stdout.read(65536)
            if not chunk:
                status = self.process.wait()
                self.stop()
                return output + b"\nthe process ended with status %d" % status, b"ended"
            output += chunk
            body, mark, result = output.rpartition(MARK)
            if mark and result.endswith(b"\n"):
                return body, result.strip()
        self.stop()
        return output + b"\nno result within %d s" % TIMEOUT, b"hung"
