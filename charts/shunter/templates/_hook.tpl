{{/* One job, its account and its rights. Arguments: root, name, on, wide, args */}}
{{- define "shunter.hook" -}}
{{- $root := .root }}
{{- $kind := ternary "ClusterRole" "Role" .wide }}
{{- $full := printf "shunter-%s" .name }}
{{- $role := ternary (printf "%s-%s" $full $root.Release.Namespace) $full .wide }}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ $full }}
  namespace: {{ $root.Release.Namespace }}
  {{- include "shunter.hookMetadata" (dict "root" $root "on" .on "weight" "-2") | nindent 2 }}
automountServiceAccountToken: false
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}
metadata:
  name: {{ $role }}
  {{- if not .wide }}
  namespace: {{ $root.Release.Namespace }}
  {{- end }}
  {{- include "shunter.hookMetadata" (dict "root" $root "on" .on "weight" "-2") | nindent 2 }}
rules: {{- include "shunter.rules" (list $root .name) | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}Binding
metadata:
  name: {{ $role }}
  {{- if not .wide }}
  namespace: {{ $root.Release.Namespace }}
  {{- end }}
  {{- include "shunter.hookMetadata" (dict "root" $root "on" .on "weight" "-1") | nindent 2 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: {{ $kind }}, name: {{ $role }}}
subjects:
  - {kind: ServiceAccount, name: {{ $full }}, namespace: {{ $root.Release.Namespace }}}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ $full }}
  namespace: {{ $root.Release.Namespace }}
  {{- include "shunter.hookMetadata" (dict "root" $root "on" .on "weight" "0") | nindent 2 }}
spec:
  backoffLimit: 2
  activeDeadlineSeconds: {{ $root.Values.hooks.timeoutSeconds }}
  template:
    metadata:
      labels: {{- include "shunter.podLabels" (list $root "hook") | nindent 8 }}
    spec:
      restartPolicy: Never
      serviceAccountName: {{ $full }}
      automountServiceAccountToken: true
      {{- with $root.Values.imagePullSecrets }}
      imagePullSecrets: {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext: {{- include "shunter.podSecurity" $root | nindent 8 }}
      {{- include "shunter.nodes" (list $root dict) | nindent 6 }}
      containers:
        - name: hook
          image: {{ include "shunter.image" $root }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          args: {{- concat (list "hook" .name) .args | toYaml | nindent 12 }}
          resources:
            requests: {cpu: 50m, memory: 128Mi}
            limits: {memory: 256Mi}
          securityContext: {{- include "shunter.containerSecurity" $root | nindent 12 }}
{{- end }}

{{/* Arguments: root, on, weight */}}
{{- define "shunter.hookMetadata" -}}
labels: {{- include "shunter.labels" (list .root "hook") | nindent 2 }}
annotations:
  helm.sh/hook: {{ .on }}
  helm.sh/hook-weight: {{ .weight | quote }}
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
