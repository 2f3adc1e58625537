"""Who is asked before resources are stored, and what they say to a correct one."""

from urllib.parse import quote

from shunter.doctor.facts import CONFIGURATIONS, Object, Place, Unread
from shunter.doctor.read_objects import listed
from shunter_operator.names import GROUP, VERSION
from shunter_runtime.kube_api import KubeApi, KubeError


async def webhooks(api: KubeApi, place: Place) -> tuple[Object, ...] | Unread:
    """Those that are asked about our resources, whoever made them; of the release alone where no
    more may be read."""
    ours: list[Object] = []
    for kind in CONFIGURATIONS:
        path = f"/apis/admissionregistration.k8s.io/v1/{kind.lower()}s"
        found = await listed(api, path)
        if isinstance(found, Unread) and place.webhooks:
            found = await listed(api, path, {"fieldSelector": f"metadata.name={place.webhooks}"})
        if isinstance(found, Unread):
            return found
        ours += [{**item, "kind": kind} for item in found if _about_us(item)]
    return tuple(ours)


def _about_us(configuration: Object) -> bool:
    labels = configuration["metadata"].get("labels") or {}
    return labels.get("app.kubernetes.io/part-of") == "shunter" or any(
        GROUP in rule.get("apiGroups", ())
        for webhook in configuration.get("webhooks") or ()
        for rule in webhook.get("rules") or ()
    )


async def trial(api: KubeApi, place: Place) -> str | Unread:
    """A pool that is only looked at: what the server says against it."""
    path = f"/apis/{GROUP}/{VERSION}/namespaces/{quote(place.namespace)}/modelpools?dryRun=All"
    try:
        answer = await api.ask("POST", path, TRIAL)
    except KubeError as error:
        return Unread(str(error))
    if answer.status in (403, 404):
        return Unread(f"the server does not let this user try one ({answer.status})")
    return "" if answer.status < 300 else answer.body.decode("utf-8", "replace")[:500]


TRIAL: dict[str, object] = {
    "apiVersion": f"{GROUP}/{VERSION}",
    "kind": "ModelPool",
    "metadata": {"name": "shunter-doctor-trial"},
    "spec": {
        "model": {"source": "sim://llama-3.1-8b"},
        "engine": {"type": "simulated"},
        "profiles": [{"name": "l4", "accelerator": "l4-24gb"}],
    },
}
