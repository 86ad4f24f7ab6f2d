"""Clients that others wrote call a real server over TLS: gRPC and REST, each protocol by ALPN."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc  # type: ignore[import-untyped]  # ships no types
from stoker.app import DEMO
from tritonclient.grpc import (
    service_pb2,
    service_pb2_grpc,
)

from tests.certificates import Certificate, self_signed
from tests.conftest import PATIENCE, Endpoints, serving
from tests.digit import BODY, INFER, digit_of
from tests.tools import output_of, require_tool


@dataclass(frozen=True)
class SecuredServer:
    """Where it listens, and what its clients trust."""

    at: Endpoints
    certificate: Certificate

    @property
    def url(self) -> str:
        return f"https://{self.at.http}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredServer]:
    certificate = self_signed(tmp_path_factory.mktemp("tls"))
    with serving("native") as start:
        running = start(DEMO, tls=certificate.server_context())
        yield SecuredServer(running.at, certificate)


@pytest.mark.parametrize(("option", "version"), [("--http2", "2"), ("--http1.1", "1.1")])
def test_curl_gets_its_digit_by_the_protocol_that_it_asks_for(
    server: SecuredServer, option: str, version: str
) -> None:
    curl = [require_tool("curl"), "-s", "--cacert", str(server.certificate.certificate), option]
    written = ["-w", "\n%{http_version} %{http_code}", "-d", f"@{BODY}"]
    answer, _, facts = output_of(*curl, *written, server.url + INFER).rpartition("\n")
    assert facts == f"{version} 200"
    assert digit_of(answer) == [7]


def test_curl_that_trusts_nobody_is_refused_unless_it_is_told_not_to_look(
    server: SecuredServer,
) -> None:
    curl = [require_tool("curl"), "-s", "-o", "/dev/null"]
    url = f"{server.url}/v2/health/ready"
    done = subprocess.run([*curl, url], timeout=PATIENCE, check=False)
    assert done.returncode == 60  # CURLE_PEER_FAILED_VERIFICATION
    assert output_of(*curl, "-k", "-w", "%{http_code}", url) == "200"


@pytest.mark.parametrize("http2", [True, False])
def test_httpx_gets_answers_and_errors(server: SecuredServer, http2: bool) -> None:
    trusts = server.certificate.client_context()
    with httpx.Client(http2=http2, base_url=server.url, verify=trusts) as client:
        answers = [client.post(INFER, content=BODY.read_bytes()) for _ in range(3)]
        assert {each.http_version for each in answers} == {"HTTP/2" if http2 else "HTTP/1.1"}
        assert [digit_of(each.text) for each in answers] == [[7]] * 3
        assert client.get("/nope").status_code == 404


def test_h2load_has_every_request_answered(server: SecuredServer) -> None:
    h2load = [require_tool("h2load"), "-n", "2000", "-c", "8", "-m", "16", "-d", str(BODY)]
    said = output_of(*h2load, server.url + INFER)
    assert "2000 succeeded, 0 failed, 0 errored, 0 timeout" in said
    assert "2000 2xx" in said


def test_grpcio_calls_over_a_secure_channel(server: SecuredServer) -> None:
    credentials = grpc.ssl_channel_credentials(server.certificate.certificate.read_bytes())
    unlimited = [("grpc.max_receive_message_length", -1)]
    with grpc.secure_channel(server.at.grpc, credentials, unlimited) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=PATIENCE).ready
        texts = [b"x" * 5000] * 4000
        request = service_pb2.ModelInferRequest(model_name="echo")
        text = request.inputs.add(name="text", datatype="BYTES", shape=[len(texts), 1])
        text.contents.bytes_contents.extend(texts)
        calls = [stub.ModelInfer.future(request, timeout=PATIENCE) for _ in range(2)]
        for call in calls:
            answer = call.result()
            whole = b"".join(len(each).to_bytes(4, "little") + each for each in texts)
            assert answer.raw_output_contents[0] == whole
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="nope"), timeout=PATIENCE)
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_plain_channel_gets_nothing_from_a_secured_port(server: SecuredServer) -> None:
    with grpc.insecure_channel(server.at.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=PATIENCE)
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_tritonclient_infers_over_tls(server: SecuredServer) -> None:
    trusted = str(server.certificate.certificate)
    client = triton_grpc.InferenceServerClient(server.at.grpc, ssl=True, root_certificates=trusted)
    try:
        inputs = [triton_grpc.InferInput(f"INPUT{each}", [1, 16], "INT32") for each in range(2)]
        for each in inputs:
            each.set_data_from_numpy(np.arange(16, dtype=np.int32).reshape(1, 16))
        result = client.infer("simple", inputs)
        assert result.as_numpy("OUTPUT0").tolist() == [[2 * each for each in range(16)]]
    finally:
        client.close()
