"""Labels, annotations and derived names: each is spelled here and nowhere else."""

from dataclasses import dataclass

GROUP = "shunter.dev"
VERSION = "v1alpha1"
FIELD_MANAGER = "shunter-operator"
FINALIZER = f"{GROUP}/drain"

LABEL_POOL = f"{GROUP}/pool"
LABEL_PROFILE = f"{GROUP}/profile"
LABEL_REVISION = f"{GROUP}/revision"
# Of a pod that serves: the disruption budget holds its evictions.
LABEL_BUSY = f"{GROUP}/busy"
# Of a Deployment and its pods, where its profile does not do everything.
LABEL_ROLE = f"{GROUP}/role"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED_BY = "shunter"

# Of everything that is applied: a digest of what was asked for.
ANNOTATION_APPLIED = f"{GROUP}/applied"
# Of a Deployment: how many of its replicas stand in for preferred profiles.
ANNOTATION_SPILLED = f"{GROUP}/spilled-replicas"
# Of a Deployment: how many of its replicas replace pods whose node is about to go.
ANNOTATION_SURGE = f"{GROUP}/surge-replicas"
# Of a Deployment: what it gives up for a pool of a higher priority.
ANNOTATION_RECLAIMED = f"{GROUP}/reclaimed"
# Of a pod template and its pods: a digest of the template.
ANNOTATION_TEMPLATE = f"{GROUP}/template"
# Of a pod: since when it is being emptied, and why.
ANNOTATION_DRAIN_SINCE = f"{GROUP}/drain-since"
ANNOTATION_DRAIN_REASON = f"{GROUP}/drain-reason"
# Of a pod: since when its node has been about to go.
ANNOTATION_LEAVE_SINCE = f"{GROUP}/leave-since"
# Kubernetes' own: pods with the lowest cost are deleted first (from 1.22 on).
ANNOTATION_DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
DRAINED_DELETION_COST = "-1000"
# Of a pod, where the cluster does not know deletion costs: unready pods are deleted first.
READINESS_GATE = f"{GROUP}/in-service"

# Of a RoutingPolicy: `allow` has it stored although a rule names what is not there (yet).
ANNOTATION_MISSING_REFERENCES = f"{GROUP}/missing-references"

ENGINE_CONTAINER = "engine"
ENGINE_PORT_NAME = "http"
DEFAULT_ENGINE_PORT = 8000


@dataclass(frozen=True, slots=True, order=True)
class Ref:
    """One object of the cluster."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class PoolKey:
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def ref(self) -> Ref:
        return Ref("ModelPool", self.namespace, self.name)


def deployment_name(pool: str, profile: str) -> str:
    return f"{pool}-{profile}"


def service_name(pool: str) -> str:
    """A Service's name begins with a letter, a pool's may begin with a digit."""
    return pool if pool[0].isalpha() else f"pool-{pool}"[:63].rstrip("-")


def selector(pool: str) -> str:
    """Selects the pods of a pool, as `kubectl get pods -l` takes it."""
    return f"{LABEL_POOL}={pool}"
