"""Code in new processes that have loaded the op and done nothing yet; torch is loaded once for all."""

import contextlib
import io
import multiprocessing
import os
import traceback
from multiprocessing.connection import Connection

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["segmeter.cuda_ops.op"])


class Fresh:
    """A copy of a process in which the op has been imported and never called; it runs ``code``."""

    def __init__(self, code: str, **variables: str) -> None:
        self.answer, of_copy = _CONTEXT.Pipe(duplex=False)
        self.process = _CONTEXT.Process(target=_run, args=(code, variables, of_copy))
        self.process.start()
        # Were the copy to die, reading would end.
        of_copy.close()

    def communicate(self) -> tuple[str, str]:
        """What it wrote to its standard output and error, a traceback included."""
        try:
            out, err = self.answer.recv()
        finally:
            self.process.join()
        return out, err


def _run(code: str, variables: dict[str, str], answer: Connection) -> None:
    os.environ.update(variables)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            exec(code, {})
        except BaseException:
            traceback.print_exc()
    answer.send((out.getvalue(), err.getvalue()))
