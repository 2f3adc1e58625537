"""What the service refuses, each with its gRPC status; `server.py` turns them into one.

ServiceError
├── InvalidArgument      INVALID_ARGUMENT     the caller's message makes no sense
├── NotFound             NOT_FOUND            no such request or instance
├── AlreadyExists        ALREADY_EXISTS       a request of that id is there
├── PlacementTimeout     DEADLINE_EXCEEDED    no placement within the caller's deadline
├── TooMany              RESOURCE_EXHAUSTED   a bound of the service is reached
├── SlowGateway          RESOURCE_EXHAUSTED   a gateway does not read what it is sent
├── Superseded           ABORTED              the gateway opened a newer session
├── ShuttingDown         UNAVAILABLE          connect to another scheduler
└── Standby              UNAVAILABLE          connect to the leader
"""

import grpc


class ServiceError(Exception):
    code = grpc.StatusCode.INTERNAL


class InvalidArgument(ServiceError):
    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(ServiceError):
    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(ServiceError):
    code = grpc.StatusCode.ALREADY_EXISTS


class PlacementTimeout(ServiceError):
    code = grpc.StatusCode.DEADLINE_EXCEEDED


class TooMany(ServiceError):
    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class SlowGateway(ServiceError):
    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Superseded(ServiceError):
    code = grpc.StatusCode.ABORTED


class ShuttingDown(ServiceError):
    code = grpc.StatusCode.UNAVAILABLE


class Standby(ServiceError):
    code = grpc.StatusCode.UNAVAILABLE
