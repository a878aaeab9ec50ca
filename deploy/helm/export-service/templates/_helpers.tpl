{{- define "export.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-{{ .Chart.Name }}{{ end -}}
{{- end }}

{{- define "export.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "export.labels" -}}
{{ include "export.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "export.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "export.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "export.containerSecurity" -}}
readOnlyRootFilesystem: true
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
{{- end }}

{{- /* Environment: settings of all, then of the group; secrets as files. Arguments: root, env. */}}
{{- define "export.env" -}}
{{- range $name, $value := merge (dict) .env .root.Values.env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- range $name, $_ := .root.Values.secretFiles }}
- name: {{ $name }}_FILE
  value: /run/secrets/export/{{ $name }}
{{- end }}
{{- end }}

{{- define "export.secretVolume" -}}
{{- with .Values.secretFiles }}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      {{- range $name, $secret := . }}
      - secret:
          name: {{ $secret.name }}
          items: [{key: {{ $secret.key | quote }}, path: {{ $name }}}]
      {{- end }}
{{- end }}
{{- end }}

{{- define "export.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* Mistakes that the schema of the values cannot see. */}}
{{- define "export.check" -}}
{{- $seen := dict }}
{{- range $name, $group := .Values.groups }}
  {{- range $group.roles }}
    {{- if hasKey $seen . }}
      {{- fail (printf "groups.%s.roles: %s is in groups.%s already; a role may be in one group only" $name . (get $seen .)) }}
    {{- end }}
    {{- $_ := set $seen . $name }}
  {{- end }}
{{- end }}
{{- range $role := list "connector" "plan" "download" "tally" "callback" "snapshot" "watch" }}
  {{- if not (hasKey $seen $role) }}{{ fail (printf "groups: no group has the role %s; jobs would not end" $role) }}{{ end }}
{{- end }}
{{- if .Values.autoscaling.enabled }}
{{- range $name, $scale := .Values.autoscaling.groups }}
  {{- $group := get $.Values.groups $name }}
  {{- if not $group }}{{ fail (printf "autoscaling.groups.%s: there is no such group" $name) }}{{ end }}
  {{- if $scale.queueLength }}
    {{- if not (has "connector" $group.roles) }}
      {{- fail (printf "autoscaling.groups.%s.queueLength: only the group with the connector reads the queue" $name) }}
    {{- end }}
  {{- else }}
    {{- $setting := ternary "EXPORT_TOPICS_TASK_PARTITIONS" "EXPORT_TOPICS_PARTITIONS" (has "download" $group.roles) }}
    {{- $partitions := get $.Values.env $setting | default (ternary "8" "4" (has "download" $group.roles)) | int }}
    {{- if gt (int $scale.max) $partitions }}
      {{- fail (printf "autoscaling.groups.%s.max: %d pods for %d partitions; lower it, or raise %s" $name (int $scale.max) $partitions $setting) }}
    {{- end }}
  {{- end }}
{{- end }}
{{- end }}
{{- end }}
