"""What each method demands of its caller."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from rpz.auth.v1 import policy_pb2

from rpz_auth.errors import ConfigurationError

_PATH = re.compile(r"/([^/\s]+)/([^/\s]+)")
SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,128}", re.ASCII)
"""One scope (RFC 6749 §3.3 `scope-token`), of a length that leaves room for others in a token."""


class Demand(enum.Enum):
    """The three kinds of policy."""

    PUBLIC = "public"
    CLIENT = "client"
    SCOPES = "scopes"


@dataclass(frozen=True, slots=True)
class Policy:
    """What one method demands: nothing, an OAuth 2 client that it authenticates itself, or scopes."""

    demand: Demand
    scopes: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Refuse a demand for scopes that names none: every caller would meet it.

        Raises:
            ConfigurationError: Scopes and demand do not go together, or a scope breaks RFC 6749 §3.3.
        """
        if (self.demand is Demand.SCOPES) != bool(self.scopes):
            raise ConfigurationError(
                "name at least one scope, or use PUBLIC where anybody may call; not both"
            )
        for scope in self.scopes:
            if not SCOPE.fullmatch(scope):
                raise ConfigurationError(f"{scope!r} is not a scope: write each by itself, without spaces")

    def __str__(self) -> str:
        return " ".join(sorted(self.scopes)) or self.demand.value


PUBLIC = Policy(Demand.PUBLIC)
"""Anybody may call; credentials are not looked at."""

CLIENT = Policy(Demand.CLIENT)
"""The method authenticates the OAuth 2 client itself. For the authority's own token endpoints."""


def scopes(*required: str) -> Policy:
    """Demand every one of these scopes.

    Raises:
        ConfigurationError: None was named (say `PUBLIC` where that is meant), or one is not a scope.
    """
    return Policy(Demand.SCOPES, frozenset(required))


class PolicyTable(Mapping[str, Policy]):
    """From a method's path (`/package.Service/Method`) to its policy. What is not in it is refused."""

    def __init__(self, policies: Mapping[str, Policy]) -> None:
        """Take policies by path."""
        self._policies = dict(policies)

    def __getitem__(self, path: str) -> Policy:
        return self._policies[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._policies)

    def __len__(self) -> int:
        return len(self._policies)

    def __str__(self) -> str:
        """A line for each method, as printed at start-up."""
        width = max(map(len, self._policies), default=0)
        return "\n".join(f"{path:<{width}}  {policy}" for path, policy in sorted(self._policies.items()))


def read_policies(services: Iterable[str], table: Mapping[str, Policy]) -> PolicyTable:
    """Collect the policies of services from their descriptors, and of others from a table.

    Args:
        services: Full names (`orders.v1.OrderService`) of services whose generated module is imported.
        table: For services that one cannot change: the full name of a service that is in no
            descriptor's charge here, or the path of one method, to a policy.

    Raises:
        ConfigurationError: A service is unknown; a method has no policy, or one that is neither
            public nor client nor a list of scopes; a table's key is neither a service nor a path, or
            would change nothing: a method that its service does not have, a service that is in `services`.
    """
    if isinstance(services, str):
        raise ConfigurationError(f"services is a list of names: write services=[{services!r}]")
    policies: dict[str, Policy] = {}
    described = tuple(services)
    for name in described:
        service = _find_service(name)
        for method in service.methods:
            path = f"/{service.full_name}/{method.name}"
            policies[path] = table[path] if path in table else _method_policy(service, method)
    for key, policy in table.items():
        if key.startswith("/"):
            _check_path(key)
            policies[key] = policy
        else:
            service = _find_service(key)
            if service.full_name in described:
                raise ConfigurationError(
                    f"{key} is both in services= and in policies=: name single methods there, by path"
                )
            for method in service.methods:
                policies.setdefault(f"/{service.full_name}/{method.name}", policy)
    if not policies:
        raise ConfigurationError("name the services to protect, as in services=['orders.v1.OrderService']")
    return PolicyTable(policies)


def _find_service(name: str) -> ServiceDescriptor:
    try:
        return descriptor_pool.Default().FindServiceByName(name)
    except KeyError:
        raise ConfigurationError(
            f"no service {name!r} is known: give its full name, and import its generated _pb2 module first"
        ) from None


def _check_path(path: str) -> None:
    match = _PATH.fullmatch(path)
    if match is None:
        raise ConfigurationError(f"{path!r} is not the path of a method: write '/package.Service/Method'")
    try:
        service = descriptor_pool.Default().FindServiceByName(match[1])
    except KeyError:
        return  # a service without descriptors, whose methods only its own code knows
    if match[2] not in service.methods_by_name:
        raise ConfigurationError(f"{service.full_name} has no method {match[2]!r}; mend the path {path!r}")


def _method_policy(service: ServiceDescriptor, method: MethodDescriptor) -> Policy:
    method_options, service_options = method.GetOptions(), service.GetOptions()
    if method_options.HasExtension(policy_pb2.policy):
        return _from_message(method.full_name, method_options.Extensions[policy_pb2.policy])
    if service_options.HasExtension(policy_pb2.service_policy):
        return _from_message(service.full_name, service_options.Extensions[policy_pb2.service_policy])
    raise ConfigurationError(
        f'{method.full_name} has no policy: give it `option (rpz.auth.v1.policy) = {{scopes: "…"}};` '
        "or `{public: true}`, or name it in policies="
    )


def _from_message(name: str, message: policy_pb2.Policy) -> Policy:
    if message.public + message.client + bool(message.scopes) != 1:
        raise ConfigurationError(f"the policy of {name} must be exactly one of public, client and scopes")
    if message.public:
        return PUBLIC
    if message.client:
        return CLIENT
    try:
        return scopes(*message.scopes)
    except ConfigurationError as error:
        raise ConfigurationError(f"the policy of {name}: {error}") from None
