{{/* The rules of one part: those of files/rules.yaml, which is also what `shunter doctor` checks.
Arguments: list $ "operator" */}}
{{- define "shunter.rules" -}}
{{- $root := index . 0 }}
{{- range index ($root.Files.Get "files/rules.yaml" | fromYaml) (index . 1) }}
{{- if eq (.scope | default $root.Values.scope) $root.Values.scope }}
{{ list (omit . "scope") | toYaml | replace "$(NAMESPACE)" $root.Release.Namespace }}
{{- end }}
{{- end }}
{{- end }}
