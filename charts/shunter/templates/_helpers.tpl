{{/* Labels of one part. Arguments: list $ "gateway" */}}
{{- define "shunter.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: shunter
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "shunter.labels" -}}
{{- $root := index . 0 -}}
{{ include "shunter.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: shunter
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Of pods: without versions, so that only a change of the pod itself replaces it. */}}
{{- define "shunter.podLabels" -}}
{{ include "shunter.selectorLabels" . }}
app.kubernetes.io/part-of: shunter
{{- with (index . 0).Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "shunter.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* What pod security `restricted` asks of a pod. */}}
{{- define "shunter.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* What pod security `restricted` asks of a container, and a root file system nobody writes to. */}}
{{- define "shunter.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Resources with their quantities as strings: servers before 1.22 refuse numbers when applying. */}}
{{- define "shunter.resources" -}}
{{- range $kind, $quantities := . }}
{{ $kind }}:
{{- range $name, $quantity := $quantities }}
  {{ $name }}: {{ $quantity | toString | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* Nodes that every pod of the chart may run on, but where a part says otherwise. Arguments: root,
and the part's own values. */}}
{{- define "shunter.nodes" -}}
{{- $root := index . 0 -}}
{{- $own := index . 1 -}}
{{- with $own.nodeSelector | default $root.Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.tolerations | default $root.Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where the pods of one part run. Arguments: list $ "gateway" */}}
{{- define "shunter.placement" -}}
{{- $values := index (index . 0).Values (index . 1) -}}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- include "shunter.nodes" (list (index . 0) $values) }}
affinity:
{{- if $values.affinity }}
{{- toYaml $values.affinity | nindent 2 }}
{{- else }}
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels: {{- include "shunter.selectorLabels" . | nindent 14 }}
      - weight: 50
        podAffinityTerm:
          topologyKey: topology.kubernetes.io/zone
          labelSelector:
            matchLabels: {{- include "shunter.selectorLabels" . | nindent 14 }}
{{- end }}
{{- end }}

{{/* Pods of the release's parts, as a NetworkPolicy names them. Arguments: list $ "gateway" ... */}}
{{- define "shunter.peers" -}}
{{- $root := index . 0 }}
{{- range rest . }}
- podSelector:
    matchLabels: {{- include "shunter.selectorLabels" (list $root .) | nindent 6 }}
{{- end }}
{{- end }}

{{/* API versions that the cluster has. Rendered without one, Helm claims all that it knows, and only
--kube-version tells of an old one. */}}
{{- define "shunter.pdbApiVersion" -}}
{{- $new := and (.Capabilities.APIVersions.Has "policy/v1") (semverCompare ">=1.21-0" .Capabilities.KubeVersion.Version) -}}
{{ ternary "policy/v1" "policy/v1beta1" $new }}
{{- end }}

{{- define "shunter.hpaApiVersion" -}}
{{- $new := and (.Capabilities.APIVersions.Has "autoscaling/v2") (semverCompare ">=1.23-0" .Capabilities.KubeVersion.Version) -}}
{{ ternary "autoscaling/v2" "autoscaling/v2beta2" $new }}
{{- end }}

{{/* The Secret with the gateways' key file; empty: they are open. */}}
{{- define "shunter.keysSecret" -}}
{{- if eq .Values.gateway.auth.mode "generated" -}}
shunter-api-key
{{- else if eq .Values.gateway.auth.mode "existing" -}}
{{ required "gateway.auth.mode is existing: gateway.auth.existingSecret must name a Secret with the key file under keys.yaml" .Values.gateway.auth.existingSecret }}
{{- end -}}
{{- end }}

{{/* TLS between the scheduler and those who call it. */}}
{{- define "shunter.schedulerTls.args" -}}
{{- if .Values.scheduler.tls.secretName }}
- --scheduler-ca=/etc/shunter/scheduler-tls/ca.crt
{{- if .Values.scheduler.tls.clientSecretName }}
- --scheduler-cert=/etc/shunter/scheduler-tls/tls.crt
- --scheduler-key=/etc/shunter/scheduler-tls/tls.key
{{- end }}
{{- end }}
{{- end }}

{{- define "shunter.schedulerTls.mount" -}}
{{- if .Values.scheduler.tls.secretName }}
- {name: scheduler-tls, mountPath: /etc/shunter/scheduler-tls, readOnly: true}
{{- end }}
{{- end }}

{{/* Callers get the authority's certificate, never the scheduler's key. */}}
{{- define "shunter.schedulerTls.volume" -}}
{{- with .Values.scheduler.tls }}
{{- if .secretName }}
- name: scheduler-tls
  projected:
    sources:
      - secret: {name: {{ .secretName }}, items: [{key: ca.crt, path: ca.crt}]}
      {{- if .clientSecretName }}
      - secret: {name: {{ .clientSecretName }}, items: [{key: tls.crt, path: tls.crt}, {key: tls.key, path: tls.key}]}
      {{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Called with (list $ LEVEL). The namespace keeps two releases of one cluster apart. */}}
{{- define "shunter.priorityClass" -}}
shunter-{{ index . 1 }}-{{ (index . 0).Release.Namespace }}
{{- end }}
