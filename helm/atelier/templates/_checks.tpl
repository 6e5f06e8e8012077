{{- /* What no schema can say. Each message names the value and what to do. */ -}}
{{- define "atelier.checks" -}}
{{- $v := .Values -}}
{{- $folder := hasPrefix "file://" $v.files.url -}}
{{- if and $folder (not $v.files.existingClaim) }}{{ fail "files.existingClaim: file:// needs a ReadWriteMany volume that all pods share" }}{{ end -}}
{{- if and $v.files.existingClaim (not $folder) }}{{ fail "files.existingClaim: only for a files.url that begins with file://" }}{{ end -}}
{{- $wanted := list "archive" "backup" "cleanup" "callback" -}}
{{- $served := list -}}
{{- range $name, $group := $v.workers -}}
{{- if $group -}}{{- $served = concat $served $group.queues -}}{{- end -}}
{{- end -}}
{{- range $wanted -}}
{{- if not (has . $served) }}{{ fail (printf "workers: no group serves the queue %s" .) }}{{ end -}}
{{- end -}}
{{- with $v.gateway.autoscaling -}}
{{- if and .enabled (lt (int .maxReplicas) (int .minReplicas)) }}{{ fail "gateway.autoscaling: maxReplicas is below minReplicas" }}{{ end -}}
{{- end -}}
{{- if $v.code.enabled -}}
{{- with $v.code.autoscaling -}}
{{- if and .enabled (lt (int .maxReplicas) (int .minReplicas)) }}{{ fail "code.autoscaling: maxReplicas is below minReplicas" }}{{ end -}}
{{- end -}}
{{- if and $v.code.ownHostUsers $v.code.hostUsers }}{{ fail "code.ownHostUsers: needs code.hostUsers: false, or programs would run beside root of the host" }}{{ end -}}
{{- if and $v.code.procMount $v.code.hostUsers }}{{ fail "code.procMount: needs code.hostUsers: false" }}{{ end -}}
{{- if and (eq $v.code.sandboxTier "full") (not $v.code.ownHostUsers) }}{{ fail "code.sandboxTier: `full` needs code.ownHostUsers: true and a runtime with writable cgroups (README.md)" }}{{ end -}}
{{- if and (eq $v.code.seccompProfile.type "RuntimeDefault") (not $v.code.runtimeClassName) }}{{ fail "code.seccompProfile: RuntimeDefault forbids the namespaces that programs are locked into; say Localhost or Unconfined, or set code.runtimeClassName" }}{{ end -}}
{{- end -}}
{{- /* Nothing is found while the chart is only rendered, or before the Secret is there: then NOTES.txt says what it must have. */ -}}
{{- if not $v.keys.generate -}}
{{- $held := lookup "v1" "Secret" .Release.Namespace $v.keys.existingSecret -}}
{{- if and $held (not (hasKey ($held.data | default dict) "CALLBACK_SECRET")) }}{{ fail (printf "keys.existingSecret: the Secret %s has no CALLBACK_SECRET, and without it the group of workers that serves `callback` does not start" $v.keys.existingSecret) }}{{ end -}}
{{- end -}}
{{- if and $v.ingress.enabled (not $v.ingress.host) }}{{ fail "ingress.host: is needed with ingress.enabled" }}{{ end -}}
{{- end -}}
