"""The command line without loading torch anew; that the program starts at all is tested elsewhere."""

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from unittest import mock

# What nearly every command loads: once here, not once in each copy of this process.
import segmeter.harness.audit.run
import segmeter.harness.weights.load  # noqa: F401
from segmeter.commands.main import main
from tests.helpers.places import ROOT

Done = subprocess.CompletedProcess[str]


def here(*arguments: object, cwd: Path = ROOT) -> Done:
    """What ``segmeter ARGUMENTS`` prints and how it ends, in this process, which keeps its counts."""
    words, out, err = [str(argument) for argument in arguments], io.StringIO(), io.StringIO()
    own_path = mock.patch.object(sys, "path", list(sys.path))
    with contextlib.chdir(cwd), own_path, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = _ended(words)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def forked(*arguments: object, cwd: Path = ROOT) -> Done:
    """The same in a copy of this process, for commands that leave threads or settings behind."""
    words = [str(argument) for argument in arguments]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            _copy(words, cwd, out.fileno(), err.fileno())
        _, status = os.waitpid(child, 0)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(words, os.waitstatus_to_exitcode(status), out.read(), err.read())


def _copy(words: list[str], cwd: Path, out: int, err: int) -> None:
    code = 99
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.chdir(cwd)
        with os.fdopen(1, "w", closefd=False) as stdout, os.fdopen(2, "w", closefd=False) as stderr:
            sys.stdout, sys.stderr = stdout, stderr
            code = _ended(words)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        # Nothing of the tests' own is tidied up by the copy.
        os._exit(code)


def _ended(words: list[str]) -> int:
    try:
        main(words)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
