"""The method table: full method name -> handler, for every gRPC transport.

On the way of a request it stands between a transport, which knows bytes and streams, and the two
interfaces `InferenceEngine` and `ModelControl`. It turns messages into their calls and never knows
what a connection is. ModelInfer is the hot path: parse, submit, and a callback that encodes; its
stream is in `infer_stream.py`.

Every method of the service is in the table; those that are not served answer UNIMPLEMENTED with a
sentence.  Source: Open Inference Protocol v2 over gRPC, with Triton's extensions.
"""

from collections.abc import Sequence
from functools import partial
from typing import Final

from google.protobuf.descriptor import MethodDescriptor

import stoker
from stoker.control import ModelControl
from stoker.errors import ServingError, Unsupported
from stoker.inference import Cancel, InferenceEngine
from stoker.protocol import inference_pb2 as pb
from stoker.request import InferResponse
from stoker.telemetry.server_statistics import ServerStatistics, UnroutedReason
from stoker.telemetry.statistics import ModelStatistics
from stoker.tensor import TensorSpec
from stoker.transport.grpc.call import (
    CallContext,
    MessageBytes,
    Method,
    Reply,
    StreamMethod,
    UnaryAnswer,
    UnaryMethod,
    answering,
    unforeseen,
)
from stoker.transport.grpc.codec import decode_request
from stoker.transport.grpc.encode import encode_response
from stoker.transport.grpc.health import HealthBoard, health_methods
from stoker.transport.grpc.infer_stream import InferStreams
from stoker.transport.grpc.known_requests import KnownRequests
from stoker.transport.grpc.reflection import reflection_methods
from stoker.transport.grpc.wire_form import delimited

SERVER_NAME: Final = "stoker"
EXTENSIONS: Final = (
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
)
"""What of Triton's extensions is served, in its spelling and order."""


def method_table(
    engine: InferenceEngine,
    control: ModelControl,
    health: HealthBoard,
    statistics: ServerStatistics | None = None,
    streams: InferStreams | None = None,
) -> dict[str, Method]:
    """Every method that a gRPC transport serves, by its full name (`/package.Service/Method`).

    `statistics` counts the calls that never reach the engine. `streams` answers ModelStreamInfer;
    whoever drains the server stops them.
    """
    statistics = statistics or ServerStatistics()
    streams = streams or InferStreams(engine, statistics)
    return {
        **InferenceMethods(engine, control, statistics, streams).table(),
        **health_methods(health),
        **reflection_methods(),
    }


class InferenceMethods:
    """`inference.GRPCInferenceService` over the two interfaces."""

    def __init__(
        self,
        engine: InferenceEngine,
        control: ModelControl,
        statistics: ServerStatistics,
        streams: InferStreams,
    ) -> None:
        self._engine = engine
        self._control = control
        self._statistics = statistics
        self._known = KnownRequests()
        self._streams = streams

    def table(self) -> dict[str, Method]:
        """The service's methods by full name."""
        served: dict[str, Method] = {
            "ServerLive": answering(pb.ServerLiveRequest, self._server_live),
            "ServerReady": answering(pb.ServerReadyRequest, self._server_ready),
            "ModelReady": answering(pb.ModelReadyRequest, self._model_ready),
            "ServerMetadata": answering(pb.ServerMetadataRequest, self._server_metadata),
            "ModelMetadata": answering(pb.ModelMetadataRequest, self._model_metadata),
            "ModelInfer": UnaryMethod(self._model_infer),
            "ModelStreamInfer": StreamMethod(self._streams.answer),
            "ModelConfig": answering(pb.ModelConfigRequest, self._model_config),
            "ModelStatistics": answering(pb.ModelStatisticsRequest, self._model_statistics),
            "RepositoryIndex": answering(pb.RepositoryIndexRequest, self._repository_index),
        }
        service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
        return {
            f"/{service.full_name}/{method.name}": served.get(method.name) or _unserved(method)
            for method in service.methods
        }

    def _model_infer(
        self, message: MessageBytes, context: CallContext, reply: Reply
    ) -> Cancel | None:
        # Hot path.
        try:
            deadline, is_retry = context.deadline, context.is_retry
            request = self._known.read(message, deadline, is_retry)
            if request is None:
                request = decode_request(message, deadline=deadline, is_retry=is_retry)
                self._known.remember(message, request)
            return self._engine.submit(request, partial(_answer_inference, reply))
        except ServingError as error:
            self._statistics.record_unrouted(UnroutedReason.MALFORMED)
            reply(error.bare())
        except Exception as error:
            reply(unforeseen("ModelInfer", error))
        return None

    def _server_live(self, request: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    def _server_ready(self, request: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._engine.ready().ready)

    def _model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        return pb.ModelReadyResponse(ready=self._engine.ready(request.name, request.version).ready)

    def _server_metadata(self, request: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(
            name=SERVER_NAME, version=stoker.__version__, extensions=EXTENSIONS
        )

    def _model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        metadata = self._engine.metadata(request.name, request.version)
        return pb.ModelMetadataResponse(
            name=metadata.name,
            versions=metadata.versions,
            platform=metadata.platform,
            inputs=_tensors(metadata.inputs),
            outputs=_tensors(metadata.outputs),
        )

    def _model_config(self, request: pb.ModelConfigRequest) -> bytes:
        # The configuration is kept as a serialised message: field 1 of the answer, as it is.
        config = self._engine.config(request.name, request.version).message
        return delimited(1, config)

    def _model_statistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        statistics = self._engine.statistics(request.name, request.version)
        return pb.ModelStatisticsResponse(model_stats=map(statistics_message, statistics))

    def _repository_index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        if request.repository_name:
            raise Unsupported(
                "expected an empty repository_name, since all repositories are served as one, "
                f"got '{request.repository_name}'"
            )
        return pb.RepositoryIndexResponse(
            models=[
                pb.RepositoryIndexResponse.ModelIndex(
                    name=entry.name,
                    version=entry.version,
                    state="" if entry.state is None else entry.state.value,
                    reason=entry.reason,
                )
                for entry in self._control.index(request.ready)
            ]
        )


def _answer_inference(reply: Reply, outcome: InferResponse | ServingError) -> None:
    """Encodes the engine's answer. Hot path."""
    if isinstance(outcome, ServingError):
        reply(outcome)
        return
    answer: UnaryAnswer
    try:
        answer = encode_response(outcome)
    except ServingError as error:
        answer = error.bare()
    except Exception as error:
        answer = unforeseen("ModelInfer", error)
    reply(answer)


def _unserved(method: MethodDescriptor) -> UnaryMethod:
    """A method of the protocol that answers UNIMPLEMENTED with a sentence."""
    sentence = f"{method.name} is part of the protocol, but this server does not serve it"

    def refuse(message: MessageBytes, context: CallContext, reply: Reply) -> None:
        reply(Unsupported(sentence))

    return UnaryMethod(refuse)


def _tensors(specs: Sequence[TensorSpec]) -> list[pb.ModelMetadataResponse.TensorMetadata]:
    return [
        pb.ModelMetadataResponse.TensorMetadata(
            name=spec.name, datatype=spec.datatype.wire, shape=spec.shape
        )
        for spec in specs
    ]


def statistics_message(counted: ModelStatistics) -> pb.ModelStatistics:
    """One version's numbers as the protocol's message: every duration is there, if only as 0."""

    def duration(count: int, ns: int) -> pb.StatisticDuration:
        return pb.StatisticDuration(count=count, ns=ns)

    runs = counted.compute_count
    return pb.ModelStatistics(
        name=counted.model,
        version=str(counted.version),
        last_inference=counted.last_inference_ms,
        inference_count=counted.inference_count,
        execution_count=counted.execution_count,
        inference_stats=pb.InferStatistics(
            success=duration(counted.success_count, counted.success_ns),
            fail=duration(counted.failure_count, counted.failure_ns),
            queue=duration(counted.success_count, counted.queue_ns),
            compute_input=duration(runs, counted.input_ns),
            compute_infer=duration(runs, counted.infer_ns),
            compute_output=duration(runs, counted.output_ns),
            cache_hit=duration(0, 0),
            cache_miss=duration(0, 0),
        ),
        batch_stats=[
            pb.InferBatchStatistics(
                batch_size=rows,
                compute_input=duration(batch.count, batch.input_ns),
                compute_infer=duration(batch.count, batch.infer_ns),
                compute_output=duration(batch.count, batch.output_ns),
            )
            for rows, batch in sorted(counted.batches.items())
        ],
    )
