"""The gRPC services: parse, call the manager, build the reply."""

from typing import Any

import grpc.aio

Context = grpc.aio.ServicerContext[Any, Any]
