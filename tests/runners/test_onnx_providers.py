"""Who computes a graph, by what onnxruntime tells of a session: a stand-in here, for want of accelerators."""

from dataclasses import dataclass

import pytest

from edgebench.core.errors import ModelError, UsageError
from edgebench.runners.onnx_providers import Provider, _device_id, proof

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
ON_CPU = Provider(name="cpu", full_name=CPU)
ON_CUDA = Provider(name="cuda", full_name=CUDA, device_id=1)


@dataclass
class Node:
    op_type: str


@dataclass
class Subgraph:
    ep_name: str
    nodes: list[Node]

    def get_nodes(self) -> list[Node]:
        return self.nodes


@dataclass
class Session:
    """What is asked of a session, with nodes as "operator@provider"."""

    providers: list[str]
    nodes: str

    def get_providers(self) -> list[str]:
        return self.providers

    def get_provider_graph_assignment_info(self) -> list[Subgraph]:
        placed = [word.split("@") for word in self.nodes.split()]
        return [Subgraph(f"{place}ExecutionProvider", [Node(operator)]) for operator, place in placed]


def test_shapes_may_be_anyones_and_the_share_is_told() -> None:
    nodes = "Shape@CPU Gather@CPU MatMulNBits@CUDA GroupQueryAttention@CUDA MatMul@CUDA Mul@CUDA Sub@CUDA"
    assert proof(Session([CUDA, CPU], nodes), ON_CUDA) == {
        "providers": [CUDA, CPU],
        "n_nodes": 7,
        "provider_node_share": 5 / 7,
    }


@pytest.mark.parametrize(
    ("providers", "nodes", "message"),
    [
        ([CPU], "MatMul@CPU Add@CPU", "was given 0 of the graph's 1 .*, CPUExecutionProvider does them"),
        ([CUDA, CPU], "MatMul@CUDA Attention@CPU Add@CUDA", "was given 1 of the graph's 2"),
        ([CPU, CUDA], "MatMul@CUDA", "was given 1 of the graph's 1"),
        ([CUDA, CPU], "Add@CUDA", "was given 0 of the graph's 0"),
        ([CUDA, CPU], "", "was given 0 of the graph's 0"),
    ],
)
def test_work_that_went_elsewhere_is_an_error(providers: list[str], nodes: str, message: str) -> None:
    with pytest.raises(ModelError, match=f"the execution provider cuda {message}"):
        proof(Session(providers, nodes), ON_CUDA)


def test_the_cpu_is_proved_in_the_same_way() -> None:
    assert proof(Session([CPU], "MatMul@CPU Add@CPU"), ON_CPU)["provider_node_share"] == 1
    with pytest.raises(ModelError, match="AzureExecutionProvider does them"):
        proof(Session([CPU], "MatMul@Azure"), ON_CPU)


def test_a_device_is_told_to_providers_that_have_several() -> None:
    assert ON_CUDA.options == {"device_id": "1"}
    assert ON_CUDA.memory == ("cuda", 1)
    assert (ON_CPU.options, ON_CPU.memory) == ({}, ("cpu", 0))


def test_a_gpu_is_an_index_among_those_in_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert (_device_id(None), _device_id("2")) == (0, 2)
    with pytest.raises(UsageError, match="by index, not as 'GPU-1f'"):
        _device_id("GPU-1f")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert _device_id("1") == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1f")  # the run's own, alone in sight
    assert _device_id("GPU-1f") == _device_id("3") == 0
