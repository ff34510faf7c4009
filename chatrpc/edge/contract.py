"""What may be called through the edge, read from the generated contract.

Routes, limits and statistics follow the descriptors, so a method added to the contract needs no second list
here: a streaming one gets a stream's limits because it streams.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass

import chatapi.v1

# Service names of the standard gRPC services that the server offers beside the contract.
HEALTH = "grpc.health.v1.Health"
REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


@dataclass(frozen=True, slots=True)
class Service:
    """One gRPC service: its full name, and its method names by kind."""

    name: str
    unary: tuple[str, ...]
    streaming: tuple[str, ...]

    @property
    def prefix(self) -> str:
        """Beginning of the path of each of its methods."""
        return f"/{self.name}/"


def chat_services() -> tuple[Service, ...]:
    """The services of `chatapi.v1`, by name."""
    found = []
    for module in pkgutil.iter_modules(chatapi.v1.__path__, prefix="chatapi.v1."):
        if not module.name.endswith("_service_pb2"):
            continue
        for service in importlib.import_module(module.name).DESCRIPTOR.services_by_name.values():
            streaming = {m.name for m in service.methods if m.client_streaming or m.server_streaming}
            found.append(
                Service(
                    name=service.full_name,
                    unary=tuple(m.name for m in service.methods if m.name not in streaming),
                    streaming=tuple(m.name for m in service.methods if m.name in streaming),
                )
            )
    return tuple(sorted(found, key=lambda service: service.name))


def standard_services() -> tuple[Service, ...]:
    """Health and both versions of reflection."""
    return (
        Service(name=HEALTH, unary=("Check",), streaming=("Watch",)),
        *(Service(name=name, unary=(), streaming=("ServerReflectionInfo",)) for name in REFLECTION),
    )
