"""Resources that are wrong in one way each, and what must be said about them."""

import copy
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]

POOL: Object = {
    "apiVersion": "shunter.dev/v1alpha1",
    "kind": "ModelPool",
    "metadata": {"name": "chat"},
    "spec": {
        "model": {"source": "sim://llama-3.1-8b", "aliases": ["default"]},
        "engine": {"type": "simulated"},
        "profiles": [
            {
                "name": "h100",
                "accelerator": "h100-sxm-80gb",
                "replicas": {"min": 1, "max": 8},
                "costPerHour": "2.50",
                "nodeSelector": {"nvidia.com/gpu.product": "H100"},
                "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "64Gi"}},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            },
            {"name": "l4", "accelerator": "l4", "replicas": {"min": 2}},
        ],
        "scaling": {"spillAfter": "30s"},
        "slo": {"ttft": "500ms", "tpot": "50ms", "attainment": "0.95"},
        "podTemplate": {"spec": {"priorityClassName": "serving", "containers": []}},
    },
}
POLICY: Object = {
    "apiVersion": "shunter.dev/v1alpha1",
    "kind": "RoutingPolicy",
    "metadata": {"name": "main"},
    "spec": {
        "classes": [{"name": "gold", "priority": 100, "ttft": "300ms"}],
        "rules": [
            {
                "name": "gold",
                "when": {"headers": {"x-tier": "gold"}, "promptTokens": {"over": 10}},
                "class": "gold",
                "route": [{"pool": "chat", "weight": 9}, {"pool": "code"}],
                "fallback": ["code"],
            },
            {"name": "rest"},
        ],
    },
}


@dataclass(frozen=True)
class Bad:
    """`field` is where code finds it; `rule` is the CEL message where a schema cannot say it."""

    name: str
    base: Object
    path: tuple[str | int, ...]
    value: Any
    field: str
    code_says: str
    rule: str = ""

    @property
    def object(self) -> Object:
        made = copy.deepcopy(self.base)
        inner: Any = made
        for key in self.path[:-1]:
            inner = inner[key]
        inner[self.path[-1]] = self.value
        return made


_PROFILE: tuple[str | int, ...] = ("spec", "profiles", 0)
_LABEL_KEY = (
    "a key must be a name as labels have, with or without a prefix such as example.com/, "
    "at most 317 characters"
)
_DURATION_BOUNDS = "must be more than 0s and at most 720h"


def _pool(name: str, path: tuple[str | int, ...], value: Any, says: str, **more: str) -> Bad:
    return Bad(name, POOL, path, value, more.pop("field", _text(path)), says, **more)


def _policy(name: str, path: tuple[str | int, ...], value: Any, says: str, **more: str) -> Bad:
    return Bad(name, POLICY, path, value, more.pop("field", _text(path)), says, **more)


def _text(path: tuple[str | int, ...]) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).removeprefix(".")


def _source(engine: str, source: str, schemes: str) -> Bad:
    says = f"engine type {engine} loads a model from {schemes}"
    value = {**POOL["spec"], "engine": {"type": engine}, "model": {"source": source}}
    rule = f"{says}; change model.source"
    return Bad(f"{engine} with {source}", POOL, ("spec",), value, "spec", says, rule)


def _roles(name: str, roles: tuple[str, ...], more: Object, says: str) -> Bad:
    profiles = [{"name": f"p{n}", "accelerator": "l4", "role": r} for n, r in enumerate(roles)]
    return Bad(
        name, POOL, ("spec",), {**POOL["spec"], "profiles": profiles, **more}, "spec", says, says
    )


def _model(name: str, model: Object, says: str) -> Bad:
    """Of an engine that takes every source."""
    value = {**POOL["spec"], "engine": {"type": "openai"}, "model": model}
    return Bad(name, POOL, ("spec",), value, "spec.model", says, says)


# The API server refuses these on every version, by schema alone.
BY_SCHEMA = (
    _pool("no such scheme", ("spec", "model", "source"), "ftp://x", "model source"),
    _pool("a tokenizer out of reach", ("spec", "model", "tokenizer"), "s3://b/x",
          "a tokenizer source"),
    _pool("no such engine", ("spec", "engine", "type"), "triton", "'vllm', 'sglang', 'llamacpp'"),
    _pool("no such accelerator", (*_PROFILE, "accelerator"), "h1000", "did you mean"),
    _pool("no profile", ("spec", "profiles"), [], "at least 1 item"),
    _pool("a name with capitals", (*_PROFILE, "name"), "H100", "Kubernetes name"),
    _pool("too many replicas", (*_PROFILE, "replicas", "max"), 5000, "less than or equal to 1000"),
    _pool("fewer than none", (*_PROFILE, "replicas", "min"), -1, "greater than or equal to 0"),
    _pool("money as a number", (*_PROFILE, "costPerHour"), 2.5, "in quotes"),
    _pool("a quantity with a space", (*_PROFILE, "resources", "limits"), {"cpu": "1 core"},
          "a quantity is a number", field="spec.profiles[0].resources.limits.cpu"),
    _pool("a label value with a space", (*_PROFILE, "nodeSelector"), {"a": "b c"},
          "letters, digits", field="spec.profiles[0].nodeSelector.a"),
    _pool("a duration without a unit", ("spec", "scaling", "spillAfter"), "30", "500ms, 2s"),
    _pool("a duration as a number", ("spec", "slo", "ttft"), 5, "500ms, 2s"),
    _pool("no such mode", ("spec", "scaling", "mode"), "auto", "'Auto' or 'Manual'"),
    _pool("a priority beyond the scale", ("spec", "scaling", "priority"), 1001, "equal to 1000"),
    _pool("none may be held", ("spec", "scaling", "scaleToZero"), {"maxHeld": 0},
          "greater than or equal to 1", field="spec.scaling.scaleToZero.maxHeld"),
    _pool("a context too short", ("spec", "model", "contextLength"), 1, "equal to 64"),
    _pool("a file out of its folder", ("spec", "engine", "files"),
          [{"name": "../a", "content": ""}], "a text like",
          field="spec.engine.files[0].name"),
    _pool("a port too high", ("spec", "engine", "port"), 70_000, "equal to 65535"),
    _pool("an image with a space", ("spec", "engine", "image"), "a b", "a text like"),
    _pool("a nameless secret", ("spec", "model", "credentialsSecretRef"), {"key": "a"},
          "is missing", field="spec.model.credentialsSecretRef.name"),
    _pool("a nameless cache", ("spec", "model", "cache"), {}, "is missing",
          field="spec.model.cache.pvc"),
    _policy("a class without priority", ("spec", "classes"), [{"name": "gold"}], "is missing",
            field="spec.classes[0].priority"),
    _policy("a weight below 0", ("spec", "rules", 0, "route", 0, "weight"), -1, "equal to 0"),
    _policy("a tenant without weight", ("spec", "tenants"), [{"name": "a", "weight": 0}],
            "equal to 1", field="spec.tenants[0].weight"),
    _policy("a tenant without a name", ("spec", "tenants"), [{"name": ""}], "at least 1 char",
            field="spec.tenants[0].name"),
    _policy("nothing may run", ("spec", "tenants"), [{"name": "a", "maxConcurrent": 0}],
            "equal to 1", field="spec.tenants[0].maxConcurrent"),
    _policy("half a token", ("spec", "tenants"), [{"name": "a", "tokensPerMinute": 0.5}],
            "integer", field="spec.tenants[0].tokensPerMinute"),
    _policy("a timeout of words", ("spec", "admission"), {"queueTimeout": "soon"}, "500ms, 2s",
            field="spec.admission.queueTimeout"),
)  # fmt: skip

# These need CEL; older servers leave them to the operator.
BY_RULE = (
    _pool("a pool name with a digit first", ("metadata", "name"), "7b", "a letter first",
          rule="metadata.name is the name of a Service: lower-case letters, digits and -, a letter "
          "first, no - at the end, at most 63 characters"),
    _pool("replicas in Auto", ("spec", "replicas"), 3, "set scaling.mode to Manual",
          rule="replicas is decided by the scheduler; set scaling.mode to Manual to give it, or "
          "bound it with profiles[].replicas"),
    _pool("more replicas than there may be", ("spec",),
          {**POOL["spec"], "scaling": {"mode": "Manual"}, "replicas": 11},
          "replicas is 11, and the profiles' replicas.max add up to 10", field="spec.replicas",
          rule="replicas is more than the profiles' replicas.max add up to; give fewer or raise a "
          "max"),
    _pool("to zero with a min above it", ("spec", "scaling"), {"scaleToZero": {}},
          "needs profiles that may have no instance",
          rule="scaleToZero needs profiles that may have no instance; set replicas.min of every "
          "profile to 0"),
    _pool("to zero with a floor", ("spec", "scaling"), {"scaleToZero": {}, "floor": 1},
          "exclude each other",
          rule="scaleToZero and a floor exclude each other; leave one of them out"),
    _pool("a floor above every max", ("spec", "scaling"), {"floor": 11},
          "floor is 11, and the profiles' replicas.max add up to 10",
          rule="floor is more than the profiles' replicas.max add up to; lower it or raise a max"),
    _pool("max below min", (*_PROFILE, "replicas"), {"min": 3, "max": 2}, "less than min",
          rule="max is less than min; raise max or lower min"),
    _pool("two profiles of one name", ("spec", "profiles", 1, "name"), "h100",
          "two profiles are called 'h100'", field="spec.profiles",
          rule="two profiles have the same name; give each a name of its own"),
    _pool("two variables of one name", ("spec", "engine", "env"),
          [{"name": "A", "value": "1"}, {"name": "A"}], "two variables are called 'A'",
          rule="two variables have the same name; give each a name of its own"),
    _pool("two files of one name", ("spec", "engine", "files"),
          [{"name": "a", "content": "1"}, {"name": "a", "content": "2"}],
          "two files are called 'a'",
          rule="two files have the same name; give each a name of its own"),
    _source("vllm", "sim://llama-3.1-8b", "hf://, s3://, oci://, pvc:// or file://"),
    _source("sglang", "pypi://a/b.gguf", "hf://, s3://, oci://, pvc:// or file://"),
    _source("llamacpp", "sim://llama", "hf://, s3://, oci://, pvc://, pypi:// or file://"),
    _source("simulated", "hf://a/b", "sim://"),
    _source("numpy", "sim://llama-3.1-8b", "hf://, s3://, oci://, pvc://, pypi:// or file://"),
    *(
        _pool(f"{engine} with a folder", ("spec",),
              {**POOL["spec"], "engine": {"type": engine}, "model": {"source": "hf://a/b"}},
              "end model.source in its /NAME.gguf", field="spec",
              rule="engine types llamacpp and numpy load one file: end model.source in its "
              "/NAME.gguf")
        for engine in ("llamacpp", "numpy")
    ),
    _roles("nobody who decodes", ("Prefill", "Prefill"), {},
           "every profile has role Prefill, and none would decode; give one of them role Decode or "
           "Any"),
    _roles("nobody who prefills", ("Decode", "Decode"), {},
           "every profile has role Decode, and none would take prompts; give one of them role "
           "Prefill or Any"),
    _roles("roles of an engine that keeps its requests", ("Prefill", "Decode"),
           {"engine": {"type": "openai"}},
           "engine type openai cannot hand a running request over, which a role asks for; leave "
           "role out of the profiles, or change engine.type"),
    _roles("a prefill profile without moves", ("Prefill", "Any"), {"migration": {"mode": "Off"}},
           "a profile of role Prefill hands its requests over, and migration.mode Off moves none; "
           "set migration.mode to Auto or Replay, or the role to Any"),
    _model("a path out of a claim", {"source": "pvc://weights/../x"},
           "expected pvc://CLAIM or pvc://CLAIM/PATH, no part of which begins with a dot"),
    _model("a bucket with capitals", {"source": "s3://Weights/llama"},
           "expected s3://BUCKET/PREFIX or s3://BUCKET/KEY.gguf, no part beginning with a dot"),
    _model("a cache of nothing", {"source": "file:///models/a", "cache": {"pvc": "weights"}},
           "cache keeps what is fetched, of hf://, s3://, oci:// and pypi://; leave it out"),
    _model("a secret for nothing",
           {"source": "pvc://weights/a", "credentialsSecretRef": {"name": "hf"}},
           "credentialsSecretRef opens hf://, s3:// and oci://; leave it out"),
    _model("a key for s3", {"source": "s3://weights/a",
                            "credentialsSecretRef": {"name": "s3", "key": "token"}},
           "credentialsSecretRef.key is for hf://; elsewhere the keys of the Secret have set "
           "names"),
    _model("a registry without a repository", {"source": "oci://ghcr.io"},
           "expected oci://REGISTRY/REPOSITORY with :TAG or @DIGEST, or one /FILE.gguf of it"),
    _model("a repository without an organisation", {"source": "hf://gpt2"},
           "expected hf://ORG/NAME or hf://ORG/NAME@REVISION, or one /FILE.gguf of it"),
    _pool("a price beyond reason", (*_PROFILE, "costPerHour"), "100000.01", "equal to 100000",
          rule="must be at most 100000"),
    _pool("an attainment of all", ("spec", "slo", "attainment"), "1", "less than 1",
          rule='must be more than 0 and less than 1, such as "0.99"'),
    _pool("a duration of nothing", ("spec", "scaling", "spillAfter"), "0s", "greater than 0",
          rule=_DURATION_BOUNDS),
    _pool("a duration too long", ("spec", "scaling", "spillAfter"), "721h", "less than or equal",
          rule=_DURATION_BOUNDS),
    _pool("a label that is no name", (*_PROFILE, "nodeSelector"), {"a b": "c"}, "a name as labels",
          field="spec.profiles[0].nodeSelector.a b", rule=_LABEL_KEY),
    _pool("a toleration with a useless value", (*_PROFILE, "tolerations"),
          [{"key": "a", "operator": "Exists", "value": "b"}], "takes no value",
          field="spec.profiles[0].tolerations[0]",
          rule="operator Exists takes no value; leave value out or use Equal"),
    _pool("a toleration of nothing", (*_PROFILE, "tolerations"), [{"value": "b"}], "needs a key",
          field="spec.profiles[0].tolerations[0]",
          rule="operator Equal needs a key; give one or use Exists"),
    _pool("seconds without NoExecute", (*_PROFILE, "tolerations"),
          [{"key": "a", "operator": "Exists", "tolerationSeconds": 3}], "NoExecute only",
          field="spec.profiles[0].tolerations[0]",
          rule="tolerationSeconds counts for the effect NoExecute only"),
    _policy("a policy name with a dot", ("metadata", "name"), "a.b", "Kubernetes name",
            rule="metadata.name is lower-case letters, digits and -, no - at the ends, at most 63 "
            "characters"),
    _policy("two tenants of one name", ("spec", "tenants"), [{"name": "a"}, {"name": "a"}],
            "two tenants are called 'a'", field="spec",
            rule="two tenants have the same name; give each a name of its own"),
    _policy("an empty when", ("spec", "rules", 0, "when"), {"models": []}, "says nothing",
            rule="says nothing; give models, headers, tenants or promptTokens, or leave `when` out "
            "to match every request"),
    _policy("no weight", ("spec", "rules", 0, "route"), [{"pool": "a", "weight": 0}],
            "every weight is 0",
            rule="every weight is 0; give at least one pool a weight of 1 or more"),
    _policy("a header that is none", ("spec", "rules", 0, "when", "headers"), {"a b": "c"},
            "name of an HTTP header", field="spec.rules[0].when.headers.a b",
            rule="a key must be the name of an HTTP header, at most 128 characters"),
    _policy("two classes of one name", ("spec", "classes"),
            [{"name": "a", "priority": 1}, {"name": "a", "priority": 2}],
            "two classes are called 'a'", field="spec",
            rule="two classes have the same name; give each a name of its own"),
    _policy("two rules of one name", ("spec", "rules", 1, "name"), "gold",
            "two rules are called 'gold'", field="spec",
            rule="two rules have the same name; give each a name of its own"),
)  # fmt: skip
