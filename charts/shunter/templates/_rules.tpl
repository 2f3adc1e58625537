{{/* What the scheduler reads to decide. It writes nothing but its Lease. */}}
{{- define "shunter.rules.scheduler" -}}
- apiGroups: [shunter.dev]
  resources: [modelpools, routingpolicies]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
{{- end }}

{{/* What the operator does to pools and to what it makes of them. No Secrets: engine pods name
theirs, and the kubelet reads them. */}}
{{- define "shunter.rules.operator" -}}
- apiGroups: [shunter.dev]
  resources: [modelpools]
  verbs: [get, list, watch, patch]
- apiGroups: [shunter.dev]
  resources: [routingpolicies]
  verbs: [get, list, watch]
- apiGroups: [shunter.dev]
  resources: [modelpools/status, routingpolicies/status]
  verbs: [patch]
- apiGroups: [shunter.dev] # to own objects whose deletion waits for them
  resources: [modelpools/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch]
- apiGroups: [""]
  resources: [pods/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [events]
  verbs: [create]
{{- if eq .Values.scope "cluster" }}
- apiGroups: [apiextensions.k8s.io] # to hear when the own resources are there
  resources: [customresourcedefinitions]
  verbs: [list, watch]
{{- end }}
{{- end }}

{{/* Of the job before an upgrade. The right to create cannot be bound to names. */}}
{{- define "shunter.rules.upgrade" -}}
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  resourceNames: [modelpools.shunter.dev, routingpolicies.shunter.dev]
  verbs: [get, update]
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  verbs: [create]
{{- end }}

{{/* Of the job before the removal. */}}
{{- define "shunter.rules.removal" -}}
- apiGroups: [shunter.dev]
  resources: [modelpools]
  verbs: [get, list, patch, delete]
{{- end }}
