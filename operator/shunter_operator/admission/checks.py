"""What a ModelPool or RoutingPolicy that is about to be stored has wrong. Pure.

The checks are those of `shunter validate`, in the same code.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from shunter_api.base import API_VERSION
from shunter_api.load import AnyResource, Documents, located, parse_object
from shunter_api.modelpool import ModelPool
from shunter_api.positions import field_text
from shunter_api.problems import ConfigurationError, Problem
from shunter_api.routingpolicy import RoutingPolicy
from shunter_api.validate import Known, check_between, check_each
from shunter_operator.admission.review import Findings, Object, Request, part
from shunter_operator.conflicts import names_taken
from shunter_operator.names import ANNOTATION_MISSING_REFERENCES, GROUP

RESOURCES = ("modelpools", "routingpolicies")
SCALE = "scale"
ALLOW = "allow"


@dataclass(frozen=True, slots=True)
class Cell:
    """Every resource that is stored and is not being deleted; what does not read is left out."""

    pools: tuple[ModelPool, ...] = ()
    policies: tuple[RoutingPolicy, ...] = ()

    def pool(self, namespace: str, name: str) -> ModelPool | None:
        key = f"{namespace}/{name}"
        return next((pool for pool in self.pools if pool.metadata.key == key), None)

    def without(self, resource: AnyResource) -> "Cell":
        """All that a resource is compared with."""
        match resource:
            case ModelPool():
                key = resource.metadata.key
                return replace(self, pools=tuple(p for p in self.pools if p.metadata.key != key))
            case RoutingPolicy():
                key = resource.metadata.key
                kept = tuple(p for p in self.policies if p.metadata.key != key)
                return replace(self, policies=kept)
            case _:
                return self


def examine(request: Request, cell: Cell | None, known: Known) -> Findings:
    """`cell` None: others are not known, and nothing is compared with them."""
    new = request.object
    if request.resource.group != GROUP or request.resource.resource not in RESOURCES or not new:
        return Findings()
    if request.sub_resource == SCALE:
        return _scale(request, new, cell)
    if request.sub_resource or not _asks_anew(request, new):
        return Findings()
    resource, own = _read(new)
    if resource is None:
        return Findings(own)
    own = tuple(check_each(_documents(resource), known))
    if cell is None:
        return Findings(own)
    clashes = tuple(sorted(set(_clashes(resource, cell))))
    before = _read(request.old_object)[0] if request.old_object else None
    # A place may have moved within its list, so that the message alone is compared.
    old = {problem.message for problem in _clashes(before, cell)} if before is not None else set()
    return Findings(
        own,
        clashes=tuple(problem for problem in clashes if problem.message not in old),
        standing=tuple(problem for problem in clashes if problem.message in old),
    )


def lenient(request: Request, fresh: bool) -> bool:
    """Whether clashes are only told. Not where what is stored could not be read anew; nor in a dry
    run, which stores none of the things that are to be there together; nor where a policy says that
    its pools come later. A number of replicas comes with nothing else."""
    annotations = part(part(request.object, "metadata"), "annotations")
    later = annotations.get(ANNOTATION_MISSING_REFERENCES) == ALLOW
    is_policy = request.resource.resource == "routingpolicies"
    whole_set = request.dry_run and request.sub_resource != SCALE
    return not fresh or whole_set or (is_policy and later)


def advice(request: Request) -> str:
    """What else can be done about clashes."""
    if request.resource.resource != "routingpolicies":
        return ""
    return (
        "apply what the rule names first, or let it come later with the annotation "
        f"{ANNOTATION_MISSING_REFERENCES}: {ALLOW}"
    )


def _asks_anew(request: Request, new: Object) -> bool:
    """Whether something is asked of the operator that was not asked before."""
    if request.operation == "CREATE":
        return True
    leaves = "deletionTimestamp" in part(new, "metadata")
    return not leaves and new.get("spec") != (request.old_object or {}).get("spec")


def _read(value: Object) -> tuple[AnyResource | None, tuple[Problem, ...]]:
    try:
        return parse_object(value, ""), ()
    except ConfigurationError as error:
        return None, error.problems


def _documents(resource: AnyResource, others: Cell = Cell()) -> Documents:
    """The resource last, so that it is the one that is blamed. It has no origin, others have."""
    pools = sorted(others.pools, key=lambda pool: pool.metadata.age_order)
    policies = [located(p, f"namespace {p.metadata.namespace}") for p in others.policies]
    older = [located(p, f"namespace {p.metadata.namespace}") for p in pools]
    match resource:
        case ModelPool():
            older.append(located(resource))
        case RoutingPolicy():
            policies.append(located(resource))
    return Documents(tuple(older), tuple(policies))


def _clashes(resource: AnyResource, cell: Cell) -> Iterator[Problem]:
    others = cell.without(resource)
    found = check_between(_documents(resource, others))
    yield from (problem for problem in found if not problem.origin)
    if isinstance(resource, ModelPool):
        for path, message in names_taken(resource, others.pools):
            yield Problem("", 0, field_text(path), message)


def _scale(request: Request, scale: Object, cell: Cell | None) -> Findings:
    """`kubectl scale` writes the pool's replicas, and the pool must bear it: servers that know CEL
    refuse it by themselves. Whether it does rests on the pool as it is now: a clash."""
    replicas = part(scale, "spec").get("replicas", 0)  # absent is 0, as JSON leaves it out
    pool = cell.pool(request.namespace, request.name) if cell is not None else None
    if pool is None or pool.spec.replicas == replicas:
        return Findings()
    given = pool.spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    metadata = {"name": pool.name, "namespace": pool.metadata.namespace}
    _, problems = _read(
        {
            "apiVersion": API_VERSION,
            "kind": "ModelPool",
            "metadata": metadata,
            "spec": {**given, "replicas": replicas},
        }
    )
    return Findings(clashes=tuple(p for p in problems if p.field == "spec.replicas"))
