"""What a new resource gets that its owner left out. Pure.

Only what stays right whatever the owner changes later: a default that follows from other fields
would be stored, and contradict them after an edit. Everything else is defaulted where it is read.
"""

from shunter_operator.admission.review import Object, Request, part
from shunter_operator.names import GROUP


def defaults(request: Request) -> list[Object]:
    """RFC 6902 operations; only `add`, of fields that are absent."""
    resource, value = request.resource, request.object
    if (resource.group, resource.resource) != (GROUP, "modelpools") or request.sub_resource:
        return []
    if request.operation != "CREATE" or value is None:
        return []
    return _model_name(value)


def _model_name(pool: Object) -> list[Object]:
    """What clients send as `model` is in the object, so that what shows or compares pools need not
    know the rule. The pool's name never changes; it is still unknown where it is generated."""
    spec, name = part(pool, "spec"), part(pool, "metadata").get("name")
    model = spec.get("model")
    if not isinstance(model, dict) or model.get("name") is not None:
        return []
    if not isinstance(name, str) or not name:
        return []
    return [{"op": "add", "path": "/spec/model/name", "value": name}]
