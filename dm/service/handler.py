"""What interceptors share: another function in a handler's place, of the same kind and for the same messages."""

from collections.abc import Callable
from typing import Any

import grpc

Method = Callable[..., Any]


def wrapped(
    handler: "grpc.RpcMethodHandler[Any, Any]",
    *,
    single: Callable[[Method], Method],
    stream: Callable[[Method], Method],
) -> "grpc.RpcMethodHandler[Any, Any]":
    """``single`` wraps a method that answers once, ``stream`` one that answers by an async generator."""
    codec = handler.request_deserializer, handler.response_serializer
    if handler.unary_unary:
        return grpc.unary_unary_rpc_method_handler(single(handler.unary_unary), *codec)
    if handler.unary_stream:
        return grpc.unary_stream_rpc_method_handler(stream(handler.unary_stream), *codec)
    if handler.stream_stream:
        return grpc.stream_stream_rpc_method_handler(stream(handler.stream_stream), *codec)
    raise TypeError("no service here takes a stream and answers once")
