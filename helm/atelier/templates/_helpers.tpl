{{- define "atelier.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "atelier.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "atelier.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "atelier.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* What never changes in a release's life: selectors are immutable. */ -}}
{{- define "atelier.selector" -}}
app.kubernetes.io/name: {{ include "atelier.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .group }}
atelier/queues: {{ . }}
{{- end }}
{{- end -}}

{{- define "atelier.labels" -}}
{{ include "atelier.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "atelier.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "atelier.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "atelier.keysSecret" -}}
{{- ternary (printf "%s-keys" (include "atelier.fullname" .)) .Values.keys.existingSecret .Values.keys.generate -}}
{{- end -}}

{{- /* root, override: an image whose fields win where they are given */ -}}
{{- define "atelier.image" -}}
{{- $own := .override | default dict -}}
{{- $repository := $own.repository | default .root.Values.image.repository -}}
{{- $another := and $own.repository (ne $own.repository .root.Values.image.repository) -}}
{{- $digest := $own.digest | default (ternary "" .root.Values.image.digest (or (not (empty $own.tag)) (not (empty $another)))) -}}
{{- if $digest -}}
{{ $repository }}@{{ $digest }}
{{- else -}}
{{ $repository }}:{{ $own.tag | default .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- /* YAML's numbers are floats to Helm; 1048576 must not become 1.048576e+06. */ -}}
{{- define "atelier.scalar" -}}
{{- if kindIs "float64" . -}}{{ int64 . }}{{- else -}}{{ . }}{{- end -}}
{{- end -}}

{{- /* root, name, value, secret, key: one variable from a Secret; optional unless `required` */ -}}
{{- define "atelier.secretEnv" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret }}
      key: {{ .name }}
      {{- if not .required }}
      optional: true
      {{- end }}
{{- end -}}

{{- define "atelier.storeEnv" -}}
{{- $secret := .Values.stores.existingSecret -}}
{{ include "atelier.secretEnv" (dict "name" "DATABASE_URL" "secret" $secret "required" true) }}
{{ include "atelier.secretEnv" (dict "name" "REDIS_URL" "secret" $secret "required" true) }}
{{ include "atelier.secretEnv" (dict "name" "MONGO_URL" "secret" $secret "required" true) }}
{{ include "atelier.secretEnv" (dict "name" "REDIS_QUEUE_URL" "secret" $secret) }}
{{ include "atelier.secretEnv" (dict "name" "DATABASE_READ_URL" "secret" $secret) }}
{{- if not .Values.files.url }}
{{ include "atelier.secretEnv" (dict "name" "FILES_URL" "secret" $secret "required" true) }}
{{- end }}
{{- end -}}

{{- define "atelier.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "atelier.containerSecurity" -}}
runAsNonRoot: true
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- /* A gateway ends by itself within its drain; ready says whether it may be given anybody. Stores don't count: one that is
away is away for every pod, and rooms go on without most. */ -}}
{{- define "atelier.probes" -}}
startupProbe:
  httpGet: {path: /livez, port: http}
  periodSeconds: 2
  timeoutSeconds: 3
  failureThreshold: 30
readinessProbe:
  httpGet: {path: "/readyz?exclude=stores", port: http}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 2
livenessProbe:
  httpGet: {path: /livez, port: http}
  periodSeconds: 10
  timeoutSeconds: 3
  failureThreshold: 3
{{- end -}}

{{- define "atelier.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "atelier.selector" . | nindent 8 }}
  - maxSkew: 1
    topologyKey: topology.kubernetes.io/zone
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "atelier.selector" . | nindent 8 }}
{{- end -}}

{{- define "atelier.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}
