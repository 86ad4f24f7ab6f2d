"""The grpcio transport's options in the words of gRPC core."""

import math

from stoker.transport.grpc.grpcio import GrpcioOptions


def test_options_become_arguments_of_the_channel() -> None:
    arguments = dict(
        GrpcioOptions(
            max_message_bytes=5, max_connection_age_s=300.0, max_concurrent_streams=7
        ).channel_arguments()
    )
    assert arguments["grpc.max_receive_message_length"] == 5
    assert arguments["grpc.max_connection_age_ms"] == 300_000
    assert arguments["grpc.max_concurrent_streams"] == 7
    assert arguments["grpc.so_reuseport"] == 0
    assert "grpc.max_connection_age_grace_ms" not in arguments


def test_an_infinite_connection_age_is_not_set() -> None:
    arguments = dict(GrpcioOptions(max_connection_age_s=math.inf).channel_arguments())
    assert "grpc.max_connection_age_ms" not in arguments
