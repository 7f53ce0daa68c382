"""Other runtimes for an exported model, each as a call on tensors."""

from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

import torch
from torch import Tensor

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
RUNTIMES = ("onnxruntime", "openvino")


class Session(Protocol):
    """A model in another runtime.

    Attributes:
        note: how it runs, where that is not as usual; else "".
    """

    note: str

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The outputs for these inputs, in the model's order."""
        ...


class OnnxRuntime:
    """ONNX Runtime on the processor, with as many threads as torch has.

    Args:
        model: the file's content.
    """

    def __init__(self, model: bytes) -> None:
        runtime = import_module("onnxruntime")
        self.note = ""
        options = runtime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = torch.get_num_threads()
        # Its threads would go on spinning into whatever is timed next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._names = [each.name for each in self._session.get_inputs()]

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Run it."""
        given = dict(zip(self._names, (tensor.numpy() for tensor in tensors), strict=True))
        return [torch.from_numpy(each) for each in self._session.run(None, given)]


class OpenVino:
    """OpenVINO on the processor, in float32, with as many threads as torch has.

    Its compiler of subgraphs fails on some models, transformers' Mask2Former among them: these are compiled
    without it, and ``note`` says so.

    Raises:
        RuntimeError: it cannot compile the model either way, with its reason in one line.
    """

    def __init__(self, model: bytes) -> None:
        openvino: Any = import_module("openvino")
        options = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        core = openvino.Core()
        self.note = ""
        try:
            graph = core.read_model(model)
            try:
                self._compiled = core.compile_model(graph, "CPU", options)
            except RuntimeError:
                self._compiled = core.compile_model(graph, "CPU", {**options, "SNIPPETS_MODE": "DISABLE"})
                self.note = "without its compiler of subgraphs, which fails on this model"
        except RuntimeError as error:
            # It begins with the places in its own sources that the error passed through.
            lines = [line.strip() for line in str(error).splitlines()]
            said = [line for line in lines if line and not line.startswith("Exception from")]
            raise RuntimeError(" ".join(said[:2]) or "no message") from None

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Run it."""
        found = self._compiled([tensor.numpy() for tensor in tensors])
        return [torch.from_numpy(found[output]) for output in self._compiled.outputs]


def make_session(runtime: str, model: bytes) -> Session:
    """A model in one of :data:`RUNTIMES`.

    Raises:
        ValueError: its package is not installed.
    """
    check_packages(runtime)
    return OnnxRuntime(model) if runtime == "onnxruntime" else OpenVino(model)


def check_packages(runtime: str = "onnxruntime") -> None:
    """See that the packages of an export, and of a runtime, are there.

    Raises:
        ValueError: one is missing, with what to install.
    """
    missing = [name for name in dict.fromkeys((*PACKAGES, runtime)) if _version(name) is None]
    if not missing:
        return
    wanted = ["'segmeter[export]'"] if set(missing) & set(PACKAGES) else []
    wanted += [name for name in missing if name not in PACKAGES]
    words = " and ".join([", ".join(missing[:-1]), missing[-1]] if len(missing) > 1 else missing)
    verb = "is" if len(missing) == 1 else "are"
    raise ValueError(f"{words} {verb} not installed: pip install {' '.join(wanted)}")


def versions(names: Sequence[str] = ("torch", *PACKAGES)) -> dict[str, str | None]:
    """What is installed of them."""
    return {name: _version(name) for name in names}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
