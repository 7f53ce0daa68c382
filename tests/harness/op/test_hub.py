"""The Hub's kernel project: the layout that kernel-builder documents, and a package that works by itself."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from segmeter.commands.main import main
from segmeter.harness.op.hub import NAME, PACKAGE, project

# As kernel-builder's schema of edition 5 has them; it refuses every other key.
GENERAL = {"name", "version", "edition", "license", "backends", "hub", "upstream", "source", "cuda"}
BACKENDS = {"cpu", "cuda", "metal", "rocm", "xpu"}
# Of what kernel-builder makes of this file for a build: all that the package may rely on.
OPS = """
import torch
_OPS_NAME = "{name}"
ops = getattr(torch.ops, _OPS_NAME)
def add_op_namespace_prefix(op_name):
    return f"{{_OPS_NAME}}::{{op_name}}"
"""
# The library loads a kernel by its path, under a name of its own; two builds may share a process.
PROGRAM = """
import importlib.util, sys
from pathlib import Path
import torch

def load(folder):
    spec = importlib.util.spec_from_file_location(folder.name, folder / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[folder.name] = module
    spec.loader.exec_module(module)
    return module

first, second = (load(Path(each)) for each in sys.argv[1:])
torch.manual_seed(0)
shapes, starts = torch.tensor([[4, 5], [2, 3]]), torch.tensor([0, 20])
inputs = [torch.randn(2, 26, 2, 8), shapes, starts, torch.rand(2, 7, 2, 2, 3, 2), torch.rand(2, 7, 2, 2, 3)]
reference = sys.modules[first.__name__ + ".reference"]
expected = reference.forward(inputs[0], shapes, *inputs[3:])
for kernel in (first, second):
    found = kernel.ms_deform_attn(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    layer = kernel.layers.MultiScaleDeformableAttention()
    same = layer(inputs[0], shapes, [(4, 5), (2, 3)], starts, *inputs[3:])
    torch.testing.assert_close(same, found)
    grads = kernel.ms_deform_attn_backward(*inputs, torch.ones_like(found))
    wanted = reference.backward(torch.ones_like(found), inputs[0], shapes, *inputs[3:])
    for grad, want in zip(grads, wanted):
        torch.testing.assert_close(grad, want, rtol=1e-4, atol=1e-4)
    on_meta = kernel.ms_deform_attn(*(each.to("meta") for each in inputs))
    assert on_meta.shape == found.shape and on_meta.is_meta
    names = ("schema", "faketensor", "autograd_registration")
    op = sys.modules[kernel.__name__ + ".op"].forward_op
    leaves = [each.clone().requires_grad_(each.is_floating_point()) for each in inputs]
    torch.library.opcheck(op, leaves, test_utils=tuple("test_" + name for name in names))
assert "segmeter" not in sys.modules
print(torch.ops._first_build.ms_deform_attn.default, torch.ops._second_build.ms_deform_attn.default)
"""


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    return project("someone")


def test_the_layout_is_the_one_that_kernel_builder_documents(files: dict[str, str]) -> None:
    build = tomllib.loads(files["build.toml"])
    assert set(build) == {"general", "torch-noarch"} and set(build["general"]) <= GENERAL
    assert re.fullmatch(r"[a-z][-a-z0-9]*[a-z0-9]", build["general"]["name"])
    assert build["general"]["edition"] == 5 and set(build["general"]["backends"]) <= BACKENDS
    assert build["general"]["hub"] == {"repo-id": f"someone/{NAME}"}
    assert "genKernelFlakeOutputs" in files["flake.nix"] and "CARD.md" in files
    package = [name for name in files if name.startswith(f"torch-ext/{PACKAGE}/")]
    assert f"torch-ext/{PACKAGE}/__init__.py" in package
    # Files of other kinds would not be taken along.
    assert {name.rpartition(".")[2] for name in package} == set(build["torch-noarch"]["pyext"])
    assert any(name.startswith("tests/test_") for name in files)


def test_the_package_imports_nothing_but_torch_the_standard_library_and_itself(files: dict[str, str]) -> None:
    allowed = {*sys.stdlib_module_names, "torch"}
    for name, text in files.items():
        if not name.startswith("torch-ext/") or not name.endswith(".py"):
            continue
        for node in ast.walk(ast.parse(text)):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            assert {each.partition(".")[0] for each in names} <= allowed, name
        assert "segmeter::" not in re.sub(r'"""(.|\n)*?"""', "", text), name


def test_two_builds_work_in_one_process_without_this_package(files: dict[str, str], tmp_path: Path) -> None:
    folders = []
    for name in ("_first_build", "_second_build"):
        folders.append(tmp_path / name)
        for path, text in files.items():
            if path.startswith(f"torch-ext/{PACKAGE}/"):
                at = folders[-1] / path.removeprefix(f"torch-ext/{PACKAGE}/")
                at.parent.mkdir(parents=True, exist_ok=True)
                at.write_text(text)
        (folders[-1] / "_ops.py").write_text(OPS.format(name=name))
    command = [sys.executable, "-c", PROGRAM, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "_first_build.ms_deform_attn.default",
        "_second_build.ms_deform_attn.default",
    ]


def test_the_command_writes_a_new_folder_and_never_into_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str) -> int:
        with pytest.raises(SystemExit) as stopped:
            main(["op", "hub", *words])
        return int(stopped.value.code or 0)

    out = tmp_path / "kernel"
    assert run("--owner", "someone", "--out", str(out)) == 0
    written = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert written == set(project("someone"))
    capsys.readouterr()
    assert run("--owner", "someone", "--out", str(out)) == 2
    assert "is there already" in capsys.readouterr().err
    assert run("--owner", "some one", "--out", str(tmp_path / "other")) == 2
    assert "--owner" in capsys.readouterr().err and not (tmp_path / "other").exists()
