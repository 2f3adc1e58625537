"""The pod template that a Deployment is to have, where it may have one already. Pure."""

from typing import Any

from shunter_api.profile import Profile
from shunter_operator.diagnose import cause_of
from shunter_operator.draining import Situation
from shunter_operator.manifests import pod_template, template_digest
from shunter_operator.merge import digest, strategic_merge
from shunter_operator.names import ANNOTATION_TEMPLATE, Ref, deployment_name
from shunter_operator.values import Manifest
from shunter_operator.weights import FETCH_CONTAINER


def template_of(at: Situation, profile: Profile) -> Manifest:
    """As it is where only the operator's own image has become a newer one: engines do not load
    hundreds of gigabytes anew because of what fetched them. What is restarted anyway gets it, and
    where no pod is well there is nothing to spare."""
    made = pod_template(at.desired, profile, at.environment)
    alive = [p for p in at.observed.pods if p.profile == profile.name and not p.deleting]
    if all(cause_of(pod) is not None for pod in alive):
        return made
    key = at.desired.key
    ref = Ref("Deployment", key.namespace, deployment_name(key.name, profile.name))
    live = (at.observed.objects.get(ref) or {}).get("spec", {}).get("template") or {}
    before, ours = _fetch_image(live), at.environment.image
    if _fetch_image(made) != ours or _repository(before) != _repository(ours):
        return made  # another image is somebody's wish
    kept = _with_fetch_image(made, before)
    live_digest = (live["metadata"].get("annotations") or {}).get(ANNOTATION_TEMPLATE)
    return kept if template_digest(kept) == live_digest else made


def _with_fetch_image(template: Manifest, image: str) -> Manifest:
    fetch = {"initContainers": [{"name": FETCH_CONTAINER, "image": image}]}
    metadata = template["metadata"]
    annotations = {k: v for k, v in metadata["annotations"].items() if k != ANNOTATION_TEMPLATE}
    made = {
        **template,
        "metadata": {**metadata, "annotations": annotations},
        "spec": strategic_merge(template["spec"], fetch),
    }
    annotations[ANNOTATION_TEMPLATE] = digest(made)
    return made


def _fetch_image(template: Manifest) -> str:
    containers: list[Any] = (template.get("spec") or {}).get("initContainers") or []
    return next((str(c.get("image", "")) for c in containers if c["name"] == FETCH_CONTAINER), "")


def _repository(image: str) -> str:
    """Without tag and digest."""
    path, slash, name = image.partition("@")[0].rpartition("/")
    return f"{path}{slash}{name.partition(':')[0]}"
